"""Write the checkpoint as mlx-audio lays it out, its matrices in 8 bits in groups of 64.

python -m tiny_voxtral.export WEIGHTS --tokenizer tekken.json --out tests/models/tiny-voxtral
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.tiny_voxtral.model import TinyConfig, TinyDecoderConfig, TinyEncoderConfig, Voxtral

BITS, GROUP = 8, 64


def quantise(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix [out, in] as MLX's affine form: four bytes to a uint32, scales and biases.

    Each group of 64 along the rows is `scale * byte + bias`. Returns [out, in / 4] and twice
    [out, in / 64].
    """
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1), groups.amax(-1)
    scales = ((high - low) / (2**BITS - 1)).clamp_min(1e-8)
    levels = ((groups - low[..., None]) / scales[..., None]).round().clamp(0, 2**BITS - 1)
    packed = levels.to(torch.uint8).flatten(1).contiguous().view(torch.uint32)
    return packed, scales, low


def dequantise(packed: Tensor, scales: Tensor, biases: Tensor) -> Tensor:
    """The matrix again, float32."""
    levels = packed.view(torch.uint8).float().unflatten(1, (-1, GROUP))
    return (levels * scales.float()[..., None] + biases.float()[..., None]).flatten(1)


def exported(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors as mlx-audio has them; a matrix that is not whole groups of 64 stays float32."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if tensor.dim() == 3:
            tensors[name] = tensor.float().transpose(1, 2).contiguous()
        elif tensor.dim() == 2 and tensor.shape[1] % GROUP == 0:
            stem = name.removesuffix(".weight")
            parts = quantise(tensor)
            tensors |= dict(zip((name, f"{stem}.scales", f"{stem}.biases"), parts, strict=True))
        else:
            tensors[name] = tensor.float()
    return tensors


def read_weights(path: Path) -> Voxtral:
    """A network in float32 from a training checkpoint or from an exported one."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        is_exported = (file.metadata() or {}).get("format") == "mlx"
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        if f"{stem}.scales" in tensors:
            state[name] = dequantise(tensor, tensors[f"{stem}.scales"], tensors[f"{stem}.biases"])
        elif tensor.dim() == 3 and is_exported:
            state[name] = tensor.float().transpose(1, 2).contiguous()
        else:
            state[name] = tensor.float()
    layers = len({name.split(".")[2] for name in state if name.startswith("encoder.transformer_l")})
    net = Voxtral(TinyConfig(TinyEncoderConfig(n_layers=layers), TinyDecoderConfig()))
    net.load_state_dict(state)
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    net = read_weights(args.weights)
    tensors = exported(net.state_dict())
    save_file(tensors, args.out / "model.safetensors", metadata={"format": "mlx"})
    document = net.config.document() | {"quantization": {"group_size": GROUP, "bits": BITS}}
    (args.out / "config.json").write_text(json.dumps(document, indent=2) + "\n")
    shutil.copyfile(args.tokenizer, args.out / "tekken.json")
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"{sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
