"""Batch sizes that steps are built for, so that few graphs are compiled.

Whether this is CUDA, and our own kernels: source files beside the Python that launches them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def padded_size(rows: int) -> int:
    """The batch size that ``rows`` rows are filled up to: a step of ``SIZES``, then of 128."""
    for size in SIZES:
        if rows <= size:
            return size
    return -(-rows // 128) * 128


def padded(rows: Sequence[int], filler: int, *, fixed: bool) -> mx.array:
    """``rows`` on the device, filled up to one of the ``fixed`` batch sizes with ``filler``."""
    fill = padded_size(len(rows)) - len(rows) if fixed else 0
    return on_device((*rows, *[filler] * fill))


@lru_cache(maxsize=256)
def on_device(rows: tuple[int, ...]) -> mx.array:
    """``rows`` as int32, not to be written to. Copied once: on GPUs each copy costs a pause."""
    return mx.array(rows, mx.int32)


@lru_cache(maxsize=256)
def zeros(size: int) -> mx.array:
    """float32 zeros [size] on the device, not to be written to."""
    return mx.zeros(size)


_SHARED = Path(__file__).parent / "half.cu"


def on_cuda() -> bool:
    """Whether the default device is an NVIDIA GPU."""
    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    return bool(on_gpu and mx.cuda.is_available())


def kernel(
    name: str, python: str, body: str, *, inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    """The kernel that calls from ``body`` what the ``.cu`` file beside ``python`` has.

    MLX keeps compiled kernels by name, on disk too, so the name carries a sum of the source.
    """
    source = _SHARED.read_text() + Path(python).with_suffix(".cu").read_text()
    return mx.fast.cuda_kernel(
        name=f"voxlive_{name}_{zlib.crc32((source + body).encode()):08x}",
        input_names=inputs,
        output_names=outputs,
        header=source,
        source=body,
    )
