"""Whether this is CUDA, and our own kernels: source files beside the Python that launches them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

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
