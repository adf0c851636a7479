"""Which stored tensor becomes which of the model's, settled before any weight is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .config import VoxtralConfig
from .errors import WeightsMismatch, listed
from .layouts import Layout
from .modules import Module, modules
from .quantisation import Announced, Quantisation, stored_quantisation
from .safetensors import StoredTensor, same_bytes

_LAYER = re.compile(r"\.\d+\.")
FLOATS = ("F32", "BF16", "F16")


@dataclass(frozen=True, slots=True)
class Step:
    """One tensor to load: ``target`` is its canonical name.

    ``transpose`` turns [out, in, k] into [out, k, in]. A ``rotary`` other than 0 is the head_dim
    of rows to bring from half-split order into pairs.
    """

    target: str
    tensor: StoredTensor
    transpose: bool = False
    rotary: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that loading needs to know.

    ``quantised`` gives the modules that are stored quantised; ``matrices`` those that may be
    quantised on loading, with their row lengths. ``dtype`` is what most floats are stored in.
    ``surplus`` are stored tensors that the model has no place for, such as a fine-tune's own.
    """

    config: VoxtralConfig
    steps: tuple[Step, ...]
    quantised: Mapping[str, Quantisation]
    matrices: Mapping[str, int]
    dtype: str
    surplus: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """The size of all these tensors as they are stored."""
        return sum(step.tensor.nbytes for step in self.steps)


def make_plan(
    config: VoxtralConfig,
    layout: Layout,
    tensors: Mapping[str, StoredTensor],
    announced: Announced,
) -> Plan:
    """Match stored tensors with the model's.

    Raises WeightsMismatch with every tensor that is missing, misshaped or of a dtype that no loader
    knows, and when a second copy of the tied embedding differs from it.
    """
    matcher = _Matcher(layout, tensors, announced)
    every = tuple(modules(config))
    for module in every:
        matcher.match(module)
    matcher.drop_heads()
    matcher.finish()
    return Plan(
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
        self, layout: Layout, tensors: Mapping[str, StoredTensor], announced: Announced
    ) -> None:
        self._layout = layout
        self._left = {layout.normalised(name): tensor for name, tensor in tensors.items()}
        self._announced = announced
        self._missing: list[str] = []
        self._wrong: list[str] = []
        self._taken: dict[str, StoredTensor] = {}
        self.steps: list[Step] = []
        self.quantised: dict[str, Quantisation] = {}
        if len(self._left) < len(tensors):
            raise WeightsMismatch("some tensors stand there twice under an old and a new name")

    def match(self, module: Module) -> None:
        source = self._layout.source(module.name)
        quantised = module.matrix and f"{source}.scales" in self._left
        if quantised:
            self._match_quantised(module, source)
        else:
            self._take(module, source, "weight", self._stored_shape(module), FLOATS)
        if module.bias:
            self._take(module, source, "bias", module.shape[:1], FLOATS)

    def _match_quantised(self, module: Module, source: str) -> None:
        rows, columns = module.shape
        scales, packed = self._left[f"{source}.scales"], self._left.get(f"{source}.weight")
        if packed is None:
            self._missing.append(f"{source}.weight")
            return
        found = stored_quantisation(columns, packed.shape[-1], scales.shape[-1])
        said = self._announced.of(source) or found
        if found is None or said != found:
            self._wrong.append(f"{source} (packed {packed.shape}, scales {scales.shape}, {said})")
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
        tensor = self._left.pop(name, None)
        if tensor is None:
            self._missing.append(name)
            return
        if tensor.shape != shape:
            self._wrong.append(f"{tensor.name} (is {tensor.shape}, should be {shape})")
        if tensor.dtype not in dtypes:
            self._wrong.append(f"{tensor.name} (is {tensor.dtype}, should be {'/'.join(dtypes)})")
        self._taken[name] = tensor
        self.steps.append(
            Step(
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
            twin = self._taken.get(f"{embedding}.{name.rpartition('.')[2]}")
            if twin is None or not same_bytes(tensor, twin):
                self._wrong.append(f"{tensor.name} (differs from {embedding}, which it is tied to)")
            del self._left[name]

    def _heads(self) -> Iterator[tuple[str, StoredTensor]]:
        for name, tensor in tuple(self._left.items()):
            if name.rpartition(".")[0] in self._layout.heads:
                yield name, tensor

    @property
    def surplus(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self._left.values())

    def finish(self) -> None:
        """Raise what is wrong.

        What is left over is, where tensors are missing, perhaps them by another name; and where it
        is like what was taken, a part of a larger model than the config says.
        """
        more = surplus_layers(self._left, self._taken)
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


def surplus_layers(left: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Those of the tensors left over that are like the ones taken but for the number of a layer."""
    known = {_LAYER.sub(".", name) for name in taken}
    return [name for name in left if _LAYER.sub(".", name) in known]


def _most_common_dtype(steps: list[Step]) -> str:
    sizes = dict.fromkeys(FLOATS, 0)
    for step in steps:
        if step.tensor.dtype in sizes:
            sizes[step.tensor.dtype] += step.tensor.nbytes
    return max(sizes, key=sizes.__getitem__)
