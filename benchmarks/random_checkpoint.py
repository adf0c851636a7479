"""Write a random Voxtral Realtime checkpoint of the real shape, to load a server with.

    python benchmarks/random_checkpoint.py /tmp/random-4b
    voxlive serve --model /tmp/random-4b

It says nothing sensible, at exactly the real model's cost: 8.9 GB in bf16, in mlx-audio's layout,
or 2.5 GB with ``--quantize``.
Every position says a word: the tokens that are none have no weights, so that others are likelier.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path

import mlx.core as mx
from engine_step import BITS, GROUP, SHAPES, random_weights

from training.golden.layouts import LAYOUTS, write_json
from training.golden.weights import shapes
from voxlive.checkpoints.config import VoxtralConfig

SPECIAL = 1000
BYTES = 256
NAMED = {1: "<s>", 2: "</s>", 32: "[STREAMING_PAD]", 33: "[STREAMING_WORD]"}


def tekken(config: VoxtralConfig) -> dict[str, object]:
    """A tokenizer file of the config's size whose tokens are made-up words."""
    size = config.decoder.vocab_size
    words = [
        bytes([rank]) if rank < BYTES else f" w{rank}".encode() for rank in range(size - SPECIAL)
    ]
    return {
        "config": {"default_vocab_size": size, "default_num_special_tokens": SPECIAL},
        "special_tokens": [
            {"rank": rank, "token_str": NAMED.get(rank, f"<SPECIAL_{rank}>"), "is_control": True}
            for rank in range(SPECIAL)
        ],
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(word).decode()}
            for rank, word in enumerate(words)
        ],
    }


def quantised(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    """The same with matrices in 4 bits, as MLX stores them."""
    found = {}
    for name, tensor in tensors.items():
        source = name.removesuffix(".weight")
        if tensor.ndim == 2 and tensor.shape[1] % GROUP == 0:
            parts = mx.quantize(tensor, group_size=GROUP, bits=BITS)
            kinds = ("weight", "scales", "biases")
            found |= {f"{source}.{kind}": part for kind, part in zip(kinds, parts, strict=True)}
        else:
            found[name] = tensor
    return found


def write(folder: Path, shape: str, *, quantise: bool = False) -> None:
    """Config, weights in bf16 and tokenizer; the layout needs no tensor turned or reordered."""
    folder.mkdir(parents=True, exist_ok=True)
    config, style = SHAPES[shape], LAYOUTS["mlx-audio"]
    mx.random.seed(0)
    weights, _ = random_weights(config, "bf16")
    tensors = {style.names(name): weights.take(name) for name in shapes(config)}
    embedding = style.names("decoder.embed.weight")
    tensors[embedding] = mx.concatenate(
        [
            mx.zeros_like(tensors[embedding][: SPECIAL + BYTES]),
            tensors[embedding][SPECIAL + BYTES :],
        ]
    )
    if quantise:
        tensors = quantised(tensors)
    mx.save_safetensors(str(folder / style.weights_file), tensors)
    write_json(folder / style.config_file, style.config(config))
    (folder / "tekken.json").write_text(json.dumps(tekken(config)))


def main() -> int:
    """Write one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="full")
    parser.add_argument("--quantize", action="store_true", help="matrices in 4 bits")
    args = parser.parse_args()
    write(args.folder, args.shape, quantise=args.quantize)
    return 0


if __name__ == "__main__":
    sys.exit(main())
