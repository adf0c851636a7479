"""What formats of weights lose, on the real ones of a Whisper in CTranslate2's layout.

    PYTHONPATH=tests python benchmarks/weight_formats.py FOLDER

For every linear layer that is stored in float16: the relative error of its product with random
inputs, of which the mean is printed. Affine: so many bits, with a scale and an offset for each 64
weights of a row, as MLX has them. FP8: E4M3, scaled to the largest of a row, or of each 64.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from support.mlx_whisper import MODEL_BIN, read_tensors

Floats = NDArray[np.float32]

GROUP = 64
LARGEST, SMALLEST_EXPONENT, MANTISSA_BITS = 448, -6, 3  # of E4M3


def affine(weight: Floats, bits: int) -> Floats:
    rows = weight.reshape(len(weight), -1, GROUP)
    low = rows.min(-1, keepdims=True)
    step = np.maximum((rows.max(-1, keepdims=True) - low) / (2**bits - 1), 1e-12)
    return np.asarray(np.round((rows - low) / step) * step + low).reshape(weight.shape)


def fp8(weight: Floats, group: int) -> Floats:
    rows = weight.reshape(len(weight), -1, group)
    scale = np.maximum(np.abs(rows).max(-1, keepdims=True) / LARGEST, 1e-12)
    scaled = rows / scale
    exponent = np.floor(np.log2(np.maximum(np.abs(scaled), 2.0**SMALLEST_EXPONENT)))
    step = 2.0 ** (exponent - MANTISSA_BITS)
    return np.asarray(np.round(scaled / step) * step * scale).reshape(weight.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    chance = np.random.default_rng(0)
    errors: dict[str, list[float]] = {}
    for name, tensor in read_tensors(parser.parse_args().folder / MODEL_BIN).items():
        linear = tensor.ndim == 2 and name.endswith("weight") and tensor.dtype == np.float16
        if not linear or tensor.shape[1] % GROUP:
            continue
        weight = tensor.astype(np.float32)
        inputs = chance.standard_normal((GROUP, weight.shape[1])).astype(np.float32)
        exact = inputs @ weight.T
        formats = {
            "affine, 8 bits": affine(weight, 8),
            "FP8, of a row": fp8(weight, weight.shape[1]),
            "FP8, of 64": fp8(weight, GROUP),
            "affine, 4 bits": affine(weight, 4),
        }
        for title, changed in formats.items():
            error = np.linalg.norm(inputs @ changed.T - exact) / np.linalg.norm(exact)
            errors.setdefault(title, []).append(float(error))
    for title, found in errors.items():
        print(f"{title:16} {np.mean(found):.4f} of {len(found)} layers")


if __name__ == "__main__":
    main()
