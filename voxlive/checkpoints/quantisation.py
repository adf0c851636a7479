"""Group-quantised matrices: what their tensors say, and what the config says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from voxlive.checkpoints.config import Section
from voxlive.errors import UnsupportedConfig

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
_WORD_BITS = 32


@dataclass(frozen=True, slots=True)
class Quantisation:
    """``bits`` per value, with a scale and a bias for every ``group_size`` values of a row."""

    group_size: int
    bits: int


@dataclass(frozen=True, slots=True)
class Announced:
    """The config's quantisation: one for all modules, and others for some of them by name."""

    default: Quantisation | None
    modules: Mapping[str, Quantisation]

    def of(self, module: str) -> Quantisation | None:
        """What the config says of a module, or None."""
        return self.modules.get(module, self.default)


def read_quantisation(document: Section) -> Announced:
    """The ``quantization`` of a config; raises UnsupportedConfig for any kind but MLX's affine.

    Its values are numbers for all modules, and objects (or false: left as it is) for single ones.
    """
    key = "quantization" if "quantization" in document else "quantization_config"
    if key not in document:
        return Announced(None, MappingProxyType({}))
    section = document.section(key)
    settings = (name for name, value in section.data.items() if isinstance(value, dict))
    return Announced(
        _settings(section),
        MappingProxyType({name: _settings(section.section(name)) for name in settings}),
    )


def stored_quantisation(columns: int, packed: int, groups: int) -> Quantisation | None:
    """The quantisation of rows of ``columns`` values in ``packed`` words and ``groups`` groups.

    None if there is none that MLX knows.
    """
    if not groups or columns % groups or packed * _WORD_BITS % columns:
        return None
    found = Quantisation(group_size=columns // groups, bits=packed * _WORD_BITS // columns)
    if found.group_size not in GROUP_SIZES or found.bits not in BITS:
        return None
    return found


def _settings(section: Section) -> Quantisation:
    section.require("mode", "affine")
    section.require("quant_method")
    found = Quantisation(section.integer("group_size"), section.integer("bits"))
    if found.group_size not in GROUP_SIZES or found.bits not in BITS:
        raise UnsupportedConfig(
            f"{section.path} asks for {found.bits} bits in groups of {found.group_size}; MLX has "
            f"{BITS} bits in groups of {GROUP_SIZES}"
        )
    return found
