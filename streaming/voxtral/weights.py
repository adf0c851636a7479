"""Carries out a checkpoint's loading plan with MLX, tensor by tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from ...checkpoints.errors import UnsupportedConfig
from ...checkpoints.plan import Plan, Step
from ...checkpoints.quantisation import Quantisation
from ...layers.linear import Weights

_DTYPES = {"F32": mx.float32, "BF16": mx.bfloat16, "F16": mx.float16}
_GROUP_SIZES = (64, 32)


def load_weights(
    plan: Plan, *, dtype: mx.Dtype | None = None, quantize: int | None = None
) -> Weights:
    """Load all tensors on this thread, floating ones as ``dtype`` (None: as most are stored).

    ``quantize`` 4 or 8 quantises linear layers and the embedding that are not quantised already.
    One tensor is read and converted at a time, so that little stands in memory beside the result.
    Raises UnsupportedConfig when a matrix cannot be quantised.
    """
    to = dtype or _DTYPES[plan.dtype]
    new = _to_quantise(plan, quantize) if quantize else {}
    tensors: dict[str, mx.array] = {}
    with _no_buffer_cache():
        for step, stored in _stored(plan):
            module, _, kind = step.target.rpartition(".")
            if kind == "weight" and module in new:
                loaded = _quantise(module, _arranged(step, stored), new[module])
            else:
                loaded = {step.target: _arranged(step, stored)}
            del stored
            floats = {name: _cast(array, to) for name, array in loaded.items()}
            mx.eval(list(floats.values()))
            tensors |= floats
    quantised = {
        name: (how.group_size, how.bits) for name, how in {**plan.quantised, **new}.items()
    }
    return Weights(tensors, quantised, to)


def _stored(plan: Plan) -> Iterator[tuple[Step, mx.array]]:
    """Each step with its array, not read yet; nothing else holds on to the array."""
    files = defaultdict(list)
    for step in plan.steps:
        files[step.tensor.file].append(step)
    for file, steps in files.items():
        lazy = mx.load(str(file))
        assert isinstance(lazy, dict)
        for step in steps:
            yield step, lazy.pop(step.tensor.name)


def _arranged(step: Step, stored: mx.array) -> mx.array:
    """Kernels as [out, k, in], rows of queries and keys as rotary pairs [2i, 2i + 1]."""
    if step.transpose:
        return mx.contiguous(stored.swapaxes(1, 2))
    if step.rotary:
        halves = stored.reshape(-1, 2, step.rotary // 2, *stored.shape[1:])
        return halves.swapaxes(1, 2).reshape(stored.shape)
    return stored


def _cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """Packed words stay what they are."""
    return array if array.dtype == mx.uint32 else array.astype(dtype)


def _to_quantise(plan: Plan, bits: int) -> dict[str, Quantisation]:
    new = {}
    for module, columns in plan.matrices.items():
        if module in plan.quantised:
            continue
        group = next((size for size in _GROUP_SIZES if columns % size == 0), None)
        if group is None:
            raise UnsupportedConfig(
                f"{module} has rows of {columns} values, which make no groups of "
                f"{' or '.join(map(str, _GROUP_SIZES))}: this model cannot be quantised"
            )
        new[module] = Quantisation(group, bits)
    return new


def _quantise(module: str, weight: mx.array, how: Quantisation) -> dict[str, mx.array]:
    packed, scales, zeros = mx.quantize(weight, how.group_size, how.bits)
    return {
        f"{module}.weight": packed,
        f"{module}.scales": scales,
        f"{module}.biases": zeros,
    }


@contextmanager
def _no_buffer_cache() -> Iterator[None]:
    """Buffers freed meanwhile go back to the system: none of them will fit again."""
    before = mx.set_cache_limit(0)
    try:
        yield
    finally:
        mx.set_cache_limit(before)
