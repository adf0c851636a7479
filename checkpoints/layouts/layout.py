"""What a layout has to say: where it keeps each module, and how it stores convolutions and RoPE."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_LAYER = re.compile(r"(^|\.)layers\.(\d+)\.")
_SUFFIX = re.compile(r"\.(weight|bias|scales|biases)$")


@dataclass(frozen=True, eq=False)
class Layout:
    """``modules`` maps canonical module names to the layout's, with ``{}`` for a layer's number.

    ``torch_convolutions``: kernels are [out, in, k] instead of [out, k, in]. ``half_split_rotary``:
    rows of queries and keys pair i with i + head_dim / 2 instead of 2i with 2i + 1. ``renames``
    are beginnings of names that other versions use; ``heads`` are names under which the tied
    embedding may stand a second time.
    """

    name: str
    modules: Mapping[str, str]
    torch_convolutions: bool = False
    half_split_rotary: bool = False
    renames: tuple[tuple[str, str], ...] = ()
    heads: tuple[str, ...] = ()

    def source(self, module: str) -> str:
        """The layout's name of a canonical module such as ``encoder.layers.3.q``."""
        layer = _LAYER.search(module)
        if layer is None:
            return self.modules[module]
        return self.modules[_any_layer(module)].format(layer[2])

    def normalised(self, tensor: str) -> str:
        """A tensor's name as this version of the layout would spell it."""
        for old, new in self.renames:
            if tensor.startswith(old):
                return new + tensor[len(old) :]
        return tensor

    def knows(self, tensor: str) -> bool:
        """Whether the layout has a place for a tensor of this name, whatever the layer."""
        module = _SUFFIX.sub("", self.normalised(tensor))
        return _any_layer(module) in self.modules.values()


def _any_layer(name: str) -> str:
    return _LAYER.sub(r"\1layers.{}.", name, count=1)
