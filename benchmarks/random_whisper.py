"""Write a random Whisper of large-v3-turbo's shape in mlx-audio's layout, to load a server with.

    PYTHONPATH=tests python benchmarks/random_whisper.py /tmp/random-turbo TOKENIZER_JSON
    voxlive serve --model /tmp/random-turbo --device gpu

It says the same words whatever it hears, ``--tokens`` of them, and is sure of each, at the real
model's cost for a token: 1.6 GB in float16. So no pass is made again, as those of random text are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import ascii_lowercase

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_audio.stt.models.whisper.whisper import Model, ModelDimensions
from support.mlx_whisper import write_tokenizer
from tokenizers import Tokenizer

TURBO = {
    "n_mels": 128,
    "n_audio_ctx": 1500,
    "n_audio_state": 1280,
    "n_audio_head": 20,
    "n_audio_layer": 32,
    "n_vocab": 51866,
    "n_text_ctx": 448,
    "n_text_state": 1280,
    "n_text_head": 20,
    "n_text_layer": 4,
}
_ALIGNMENT_HEADS = [[2, 4], [2, 11], [3, 3], [3, 6], [3, 11], [3, 14]]

_PROMPT = 3
"""Tokens before the text: start, language, task."""
_LOUD = 1000.0
"""How much a position outweighs all that the layers add to it."""


def write(folder: Path, tokenizer: Path, shape: dict[str, int], tokens: int) -> None:
    """``shape`` as in config.json; the tokenizer is any multilingual Whisper's."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.astype(mx.float16)
        for name, value in tree_flatten(Model(ModelDimensions(**shape)).parameters())
        if not name.startswith("_")
    }
    made = Tokenizer.from_file(str(tokenizer))
    spoken = [made.token_to_id(f"\u0120{letter}") for letter in ascii_lowercase]
    said = [spoken[number % len(spoken)] for number in range(tokens)]
    ids = [*said, *[made.token_to_id("<|endoftext|>")] * shape["n_text_ctx"]]
    # The text is that of the positions: each is the token that follows, many times louder.
    at = "decoder.positional_embedding"
    positions = weights[at].shape[0]
    following = mx.array([ids[0]] * (_PROMPT - 1) + ids)[:positions]
    weights[at] = _LOUD * weights["decoder.token_embedding.weight"][following]
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", **shape}))
    heads = [head for head in _ALIGNMENT_HEADS if head[0] < shape["n_text_layer"]]
    (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": heads}))
    write_tokenizer(folder, tokenizer, shape["n_mels"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--layers", type=int, help="fewer of them, and 320 wide, to try it")
    parser.add_argument("--tokens", type=int, default=24, help="of a text: 4 a second of speech")
    options = parser.parse_args()
    shape = dict(TURBO)
    if options.layers:
        shape |= {"n_audio_layer": options.layers, "n_text_layer": max(3, options.layers)}
        shape |= dict.fromkeys(("n_audio_state", "n_text_state"), 320)
    write(options.folder, options.tokenizer, shape, options.tokens)


if __name__ == "__main__":
    main()
