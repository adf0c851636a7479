"""The plan for loading a Voxtral Realtime model: which stored tensor becomes which of the model's.

It is made before any weight is read. Modules have voxlive's own names: linear weights are
[out, in], convolutions [out, k, in], the embedding [vocab, dim]; rotary pairs of queries and keys
lie side by side, and the output projection is the embedding. Matrices may be stored quantised in
groups, as their tensors and the config say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from voxlive.checkpoints.config import DecoderConfig, Section, VoxtralConfig
from voxlive.checkpoints.contents import StoredTensor, same_bytes
from voxlive.checkpoints.families.voxtral import Layout
from voxlive.errors import UnsupportedConfig, WeightsMismatch, listed

FLOATS = ("F32", "BF16", "F16")
BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
_KERNEL = 3
_WORD_BITS = 32
_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True, slots=True)
class Module:
    """``shape`` is its weight's. ``matrix``: linear or embedding, so that it may be quantised.

    ``rotary`` is the head_dim of queries and keys, 0 for others. ``small`` matrices are left as
    they are when weights are quantised on loading.
    """

    name: str
    shape: tuple[int, ...]
    bias: bool = False
    matrix: bool = True
    rotary: int = 0
    small: bool = False


def modules(config: VoxtralConfig) -> Iterator[Module]:
    """Every module of the model, in the order in which audio passes through it."""
    yield from _encoder(config)
    yield from _decoder(config.decoder)


def _encoder(config: VoxtralConfig) -> Iterator[Module]:
    encoder, dim, text = config.encoder, config.encoder.dim, config.decoder.dim
    heads = encoder.heads * encoder.head_dim
    stem = {"conv1": config.audio.mel_bins, "conv2": dim}
    for name, channels in stem.items():
        yield Module(f"encoder.{name}", (dim, _KERNEL, channels), bias=True, matrix=False)
    for layer in range(encoder.layers):
        at = f"encoder.layers.{layer}."
        yield Module(f"{at}attn_norm", (dim,), matrix=False)
        yield Module(f"{at}q", (heads, dim), bias=True, rotary=encoder.head_dim)
        yield Module(f"{at}k", (heads, dim), rotary=encoder.head_dim)
        yield Module(f"{at}v", (heads, dim), bias=True)
        yield Module(f"{at}o", (dim, heads), bias=True)
        yield Module(f"{at}ffn_norm", (dim,), matrix=False)
        yield Module(f"{at}gate", (encoder.ffn_dim, dim))
        yield Module(f"{at}up", (encoder.ffn_dim, dim))
        yield Module(f"{at}down", (dim, encoder.ffn_dim), bias=True)
    yield Module("encoder.norm", (dim,), matrix=False)
    yield Module("adapter.linear1", (text, dim * config.downsample))
    yield Module("adapter.linear2", (text, text))


def _decoder(decoder: DecoderConfig) -> Iterator[Module]:
    dim = decoder.dim
    queries, keys = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    yield Module("decoder.embed", (decoder.vocab_size, dim))
    for layer in range(decoder.layers):
        at = f"decoder.layers.{layer}."
        yield Module(f"{at}attn_norm", (dim,), matrix=False)
        yield Module(f"{at}q", (queries, dim), rotary=decoder.head_dim)
        yield Module(f"{at}k", (keys, dim), rotary=decoder.head_dim)
        yield Module(f"{at}v", (keys, dim))
        yield Module(f"{at}o", (dim, queries))
        yield Module(f"{at}ffn_norm", (dim,), matrix=False)
        yield Module(f"{at}gate", (decoder.ffn_dim, dim))
        yield Module(f"{at}up", (decoder.ffn_dim, dim))
        yield Module(f"{at}down", (dim, decoder.ffn_dim))
        yield Module(f"{at}ada.linear1", (decoder.ada_dim, dim), small=True)
        yield Module(f"{at}ada.linear2", (dim, decoder.ada_dim), small=True)
    yield Module("decoder.norm", (dim,), matrix=False)


@dataclass(frozen=True, slots=True)
class Quantisation:
    """``bits`` per value, with a scale and a bias for every ``group_size`` values of a row."""

    group_size: int
    bits: int


@dataclass(frozen=True, slots=True)
class DeclaredQuantisation:
    """The config's quantisation: one for all modules, and others for some of them by name."""

    default: Quantisation | None
    modules: Mapping[str, Quantisation]

    def of(self, module: str) -> Quantisation | None:
        """What the config says of a module, or None."""
        return self.modules.get(module, self.default)


def read_quantisation(document: Section) -> DeclaredQuantisation:
    """The ``quantization`` of a config; raises UnsupportedConfig for any kind but MLX's affine.

    Its values are numbers for all modules, and objects (or false: left as it is) for single ones.
    """
    key = "quantization" if "quantization" in document else "quantization_config"
    if key not in document:
        return DeclaredQuantisation(None, MappingProxyType({}))
    section = document.section(key)
    settings = (name for name, value in section.data.items() if isinstance(value, dict))
    return DeclaredQuantisation(
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


@dataclass(frozen=True, slots=True)
class LoadStep:
    """One tensor to load: ``target`` is its canonical name.

    ``transpose`` turns [out, in, k] into [out, k, in]. A ``rotary`` other than 0 is the head_dim
    of rows to bring from half-split order into pairs.
    """

    target: str
    tensor: StoredTensor
    transpose: bool = False
    rotary: int = 0


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Everything that loading needs to know.

    ``quantised`` gives the modules that are stored quantised; ``matrices`` those that may be
    quantised on loading, with their row lengths. ``dtype`` is what most floats are stored in.
    ``surplus`` are stored tensors that the model has no place for, such as a fine-tune's own.
    """

    config: VoxtralConfig
    steps: tuple[LoadStep, ...]
    quantised: Mapping[str, Quantisation]
    matrices: Mapping[str, int]
    dtype: str
    surplus: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """The size of all these tensors as they are stored."""
        return sum(step.tensor.nbytes for step in self.steps)

    @property
    def itemsize(self) -> int:
        """Bytes of a value of ``dtype``."""
        return 4 if self.dtype == "F32" else 2

    @property
    def unpacked_nbytes(self) -> int:
        """The same with every quantised matrix as values of ``dtype``."""
        total = 0
        for step in self.steps:
            module, _, kind = step.target.rpartition(".")
            how = self.quantised.get(module)
            if how is None or kind == "bias":
                total += step.tensor.nbytes
            elif kind == "weight":
                total += step.tensor.nbytes * 8 // how.bits * self.itemsize
        return total


def make_plan(
    config: VoxtralConfig,
    layout: Layout,
    tensors: Mapping[str, StoredTensor],
    declared: DeclaredQuantisation,
) -> LoadPlan:
    """Match stored tensors with the model's.

    Raises WeightsMismatch with every tensor that is missing, misshaped or of a dtype that no loader
    knows, and when a second copy of the tied embedding differs from it.
    """
    matcher = _Matcher(layout, tensors, declared)
    every = tuple(modules(config))
    for module in every:
        matcher.match(module)
    matcher.drop_heads()
    matcher.finish()
    return LoadPlan(
        config=config,
        steps=tuple(matcher.steps),
        quantised=MappingProxyType(matcher.quantised),
        matrices=MappingProxyType(
            {module.name: module.shape[1] for module in every if module.matrix and not module.small}
        ),
        dtype=_most_common_dtype(matcher.steps),
        surplus=matcher.surplus,
    )


class _Matcher:
    def __init__(
        self, layout: Layout, tensors: Mapping[str, StoredTensor], declared: DeclaredQuantisation
    ) -> None:
        self._layout = layout
        self._unmatched = {layout.normalised(name): tensor for name, tensor in tensors.items()}
        self._declared = declared
        self._missing: list[str] = []
        self._wrong: list[str] = []
        self._matched: dict[str, StoredTensor] = {}
        self.steps: list[LoadStep] = []
        self.quantised: dict[str, Quantisation] = {}
        if len(self._unmatched) < len(tensors):
            raise WeightsMismatch("some tensors stand there twice under an old and a new name")

    def match(self, module: Module) -> None:
        source = self._layout.source(module.name)
        quantised = module.matrix and f"{source}.scales" in self._unmatched
        if quantised:
            self._match_quantised(module, source)
        else:
            self._take(module, source, "weight", self._stored_shape(module), FLOATS)
        if module.bias:
            self._take(module, source, "bias", module.shape[:1], FLOATS)

    def _match_quantised(self, module: Module, source: str) -> None:
        rows, columns = module.shape
        scales, packed = (
            self._unmatched[f"{source}.scales"],
            self._unmatched.get(f"{source}.weight"),
        )
        if packed is None:
            self._missing.append(f"{source}.weight")
            return
        found = stored_quantisation(columns, packed.shape[-1], scales.shape[-1])
        expected = self._declared.of(source) or found
        if found is None or expected != found:
            self._wrong.append(
                f"{source} (packed {packed.shape}, scales {scales.shape}, {expected})"
            )
            return
        groups = columns // found.group_size
        self._take(module, source, "weight", (rows, packed.shape[-1]), ("U32",))
        self._take(module, source, "scales", (rows, groups), FLOATS)
        self._take(module, source, "biases", (rows, groups), FLOATS)
        self.quantised[module.name] = found

    def _stored_shape(self, module: Module) -> tuple[int, ...]:
        if self._layout.torch_convolutions and len(module.shape) == 3:
            out, kernel, channels = module.shape
            return out, channels, kernel
        return module.shape

    def _take(
        self,
        module: Module,
        source: str,
        suffix: str,
        shape: tuple[int, ...],
        dtypes: tuple[str, ...],
    ) -> None:
        name = f"{source}.{suffix}"
        tensor = self._unmatched.pop(name, None)
        if tensor is None:
            self._missing.append(name)
            return
        if tensor.shape != shape:
            self._wrong.append(f"{tensor.name} (is {tensor.shape}, should be {shape})")
        if tensor.dtype not in dtypes:
            self._wrong.append(f"{tensor.name} (is {tensor.dtype}, should be {'/'.join(dtypes)})")
        self._matched[name] = tensor
        self.steps.append(
            LoadStep(
                target=f"{module.name}.{suffix}",
                tensor=tensor,
                transpose=self._layout.torch_convolutions and len(shape) == 3,
                rotary=module.rotary if self._layout.half_split_rotary else 0,
            )
        )

    def drop_heads(self) -> None:
        """Leave out a second copy of the embedding, if it is one."""
        embedding = self._layout.source("decoder.embed")
        for name, tensor in self._heads():
            twin = self._matched.get(f"{embedding}.{name.rpartition('.')[2]}")
            if twin is None or not same_bytes(tensor, twin):
                self._wrong.append(f"{tensor.name} (differs from {embedding}, which it is tied to)")
            del self._unmatched[name]

    def _heads(self) -> Iterator[tuple[str, StoredTensor]]:
        for name, tensor in tuple(self._unmatched.items()):
            if name.rpartition(".")[0] in self._layout.heads:
                yield name, tensor

    @property
    def surplus(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self._unmatched.values())

    def finish(self) -> None:
        """Raise what is wrong.

        What is left over is, where tensors are missing, perhaps them by another name; and where it
        is like what was taken, a part of a larger model than the config says.
        """
        more = surplus_layers(self._unmatched, self._matched)
        problems = {
            "missing": self._missing,
            "unknown": self.surplus if self._missing or more else (),
            "wrong": self._wrong,
        }
        found = [f"{what}: {listed(names)}" for what, names in problems.items() if names]
        if found:
            raise WeightsMismatch(
                f"the tensors do not fit the config ({self._layout.name} layout): "
                + "; ".join(found)
            )


def surplus_layers(unmatched: Iterable[str], matched: Iterable[str]) -> list[str]:
    """The unmatched tensors that differ from matched ones only in the number of a layer."""
    known = {_LAYER.sub(".", name) for name in matched}
    return [name for name in unmatched if _LAYER.sub(".", name) in known]


def _most_common_dtype(steps: list[LoadStep]) -> str:
    sizes = dict.fromkeys(FLOATS, 0)
    for step in steps:
        if step.tensor.dtype in sizes:
            sizes[step.tensor.dtype] += step.tensor.nbytes
    return max(sizes, key=sizes.__getitem__)
