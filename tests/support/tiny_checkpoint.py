"""The tiny random Voxtral of the goldens as a checkpoint on disk, with a small tokenizer."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

from training.golden.layouts import source_tensors, write_checkpoint, write_safetensors
from training.golden.weights import TINY, random_weights
from voxlive.checkpoints.config import Section
from voxlive.checkpoints.contents import read_header
from voxlive.checkpoints.families.voxtral import recognise_layout
from voxlive.checkpoints.plan import make_plan, read_quantisation

NUM_SPECIAL = 64
NAMED = {0: "<unk>", 1: "<s>", 2: "</s>", 32: "[STREAMING_PAD]", 33: "[STREAMING_WORD]"}
PLAIN = read_quantisation(Section({}, "config.json"))
"""No quantisation."""


def tensors_of(layout):
    """TINY's random weights as a layout stores them."""
    return dict(source_tensors(layout, TINY, random_weights()))


def plan(folder: Path, tensors, dtype="F32", declared=PLAIN):
    """How TINY is loaded from these tensors, written to ``folder``."""
    write_safetensors(folder / "model.safetensors", tensors, dtype)
    header = read_header(folder / "model.safetensors")
    return make_plan(TINY, recognise_layout(header), header, declared)


def write_tiny(folder: Path, layout: str = "mlx-audio", **how) -> Path:
    """A complete checkpoint in ``folder``; ``how`` goes to ``write_checkpoint``."""
    weights = how.pop("weights", None) or random_weights()
    write_checkpoint(folder, layout, TINY, weights, **how)
    write_tekken(folder)
    return folder


def write_tekken(folder: Path, **changes) -> Path:
    """A tekken.json of TINY's size; ``changes`` replace whole top-level entries (None: drop)."""
    document = tekken_document() | changes
    path = folder / "tekken.json"
    path.write_text(json.dumps({key: value for key, value in document.items() if value}))
    return path


def tekken_document() -> dict:
    """Special tokens, every single byte and the first merges of mistral_common's own file."""
    size = TINY.decoder.vocab_size
    special = [
        {"rank": rank, "token_str": NAMED.get(rank, f"<SPECIAL_{rank}>"), "is_control": True}
        for rank in range(NUM_SPECIAL)
    ]
    config = _published()["config"] | {
        "default_vocab_size": size,
        "default_num_special_tokens": NUM_SPECIAL,
        "num_vocab_tokens": size,
        "version": "v11",
    }
    audio = {
        "sampling_rate": 16000,
        "frame_rate": 12.5,
        "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
        "transcription_format": "streaming",
        "transcription_delay_ms": 480.0,
        "streaming_look_ahead_ms": 2.5,
        "streaming_look_back_ms": 52.5,
        "streaming_n_left_pad_tokens": 32,
    }
    vocab = _published()["vocab"][:size]
    return {"config": config, "vocab": vocab, "special_tokens": special, "audio": audio}


@cache
def _published() -> dict:
    return json.loads((files("mistral_common") / "data" / "tekken_240911.json").read_text())
