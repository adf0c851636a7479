"""A Whisper of 2 MB that says the same sentence of every window, in the layouts of real ones.

Its weights are made so that the text is known: a position of the decoder stands for a token, and
all attention adds nothing. Names, shapes, tokenizer and special tokens are those of real models.
"""

import json
from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np

STATE, HEADS, MELS = 16, 1, 80
TEXT = " ab cd ef."
SECONDS = 1.5  # from the window's start to the end of what is said in it
BASE = 50257
LANGUAGES = 99
_BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]


def write_whisper(folder: Path, layout: str = "hf", text: str = TEXT, **changes) -> Path:
    """``layout`` is "hf" or "mlx"; ``changes`` to the dims, by mlx's names."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_tokenizer(folder)
    dims = _dims() | changes
    weights = _weights(dims, _script(tokenizer, text))
    if layout == "hf":
        weights = {_hf_name(name): _hf_value(name, value) for name, value in weights.items()}
        config = _hf_config(dims)
    else:
        config = dims | {"model_type": "whisper"}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def drop_tensor(folder: Path, name: str) -> None:
    """Write the weights again without one of them."""
    path = str(folder / "model.safetensors")
    weights = dict(mx.load(path))
    del weights[name]
    mx.eval(weights)
    mx.save_safetensors(path, weights)


def add_tensor(folder: Path, name: str) -> None:
    """Write the weights again with one more."""
    path = str(folder / "model.safetensors")
    weights = dict(mx.load(path)) | {name: mx.zeros(4)}
    mx.eval(weights)
    mx.save_safetensors(path, weights)


def _dims() -> dict:
    return {
        "n_mels": MELS,
        "n_audio_ctx": 1500,
        "n_audio_state": STATE,
        "n_audio_head": HEADS,
        "n_audio_layer": 1,
        "n_vocab": BASE + 1608,
        "n_text_ctx": 448,
        "n_text_state": STATE,
        "n_text_head": HEADS,
        "n_text_layer": 1,
    }


def _script(tokenizer, text: str) -> list[int]:
    """The token said at each position: the language after the start, then the sentence."""
    stamp = tokenizer.convert_tokens_to_ids("<|0.00|>")
    words = tokenizer.encode(text, add_special_tokens=False)
    english, task, end = tokenizer.convert_tokens_to_ids(
        ["<|en|>", "<|transcribe|>", "<|endoftext|>"]
    )
    said = [english, task, stamp, *words, stamp + round(SECONDS / 0.02)]
    return [*said, *[end] * (448 - len(said))]


def _weights(dims: dict, script: list[int]) -> dict[str, mx.array]:
    rng = np.random.default_rng(5)
    vocab = np.zeros((dims["n_vocab"], STATE))
    vocab[list(dict.fromkeys(script))] = np.eye(STATE)[: len(set(script))]
    weights = {
        "decoder.token_embedding.weight": vocab,
        "decoder.positional_embedding": 20 * vocab[script],
        "encoder.conv1.weight": rng.standard_normal((STATE, 3, MELS)) * 0.1,
        "encoder.conv1.bias": np.zeros(STATE),
        "encoder.conv2.weight": rng.standard_normal((STATE, 3, STATE)) * 0.1,
        "encoder.conv2.bias": np.zeros(STATE),
    }
    weights |= _norm("encoder.ln_post") | _norm("decoder.ln", scale=10)
    for side, layers in (("encoder", "n_audio_layer"), ("decoder", "n_text_layer")):
        for layer in range(dims[layers]):
            weights |= _block(f"{side}.blocks.{layer}", side == "decoder", rng)
    return {name: mx.array(np.asarray(value, np.float16)) for name, value in weights.items()}


def _block(name: str, cross: bool, rng: np.random.Generator) -> dict:
    """Attention with random queries and keys whose output is nothing, and an empty MLP."""
    block = {}
    for attention in ("attn", "cross_attn") if cross else ("attn",):
        block |= _norm(f"{name}.{attention}_ln")
        for part in ("query", "key", "value"):
            block[f"{name}.{attention}.{part}.weight"] = rng.standard_normal((STATE, STATE)) * 0.1
        block[f"{name}.{attention}.out.weight"] = np.zeros((STATE, STATE))
        for part in ("query", "value", "out"):
            block[f"{name}.{attention}.{part}.bias"] = np.zeros(STATE)
    block |= _norm(f"{name}.mlp_ln")
    block |= {
        f"{name}.mlp1.weight": np.zeros((4 * STATE, STATE)),
        f"{name}.mlp1.bias": np.zeros(4 * STATE),
        f"{name}.mlp2.weight": np.zeros((STATE, 4 * STATE)),
        f"{name}.mlp2.bias": np.zeros(STATE),
    }
    return block


def _norm(name: str, scale: float = 1) -> dict:
    return {f"{name}.weight": np.full(STATE, scale), f"{name}.bias": np.zeros(STATE)}


_HF_PARTS = (
    ("decoder.positional_embedding", "decoder.embed_positions.weight"),
    ("token_embedding", "embed_tokens"),
    ("ln_post", "layer_norm"),
    ("decoder.ln.", "decoder.layer_norm."),
    (".blocks.", ".layers."),
    (".cross_attn_ln", ".encoder_attn_layer_norm"),
    (".attn_ln", ".self_attn_layer_norm"),
    (".mlp_ln", ".final_layer_norm"),
    (".mlp1", ".fc1"),
    (".mlp2", ".fc2"),
    (".cross_attn.", ".encoder_attn."),
    (".attn.", ".self_attn."),
    (".query", ".q_proj"),
    (".key", ".k_proj"),
    (".value", ".v_proj"),
    ("attn.out.", "attn.out_proj."),
)


def _hf_name(name: str) -> str:
    for ours, theirs in _HF_PARTS:
        name = name.replace(ours, theirs)
    return f"model.{name}"


def _hf_value(name: str, value: mx.array) -> mx.array:
    return mx.contiguous(value.transpose(0, 2, 1)) if value.ndim == 3 else value


def _hf_config(dims: dict) -> dict:
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "d_model": dims["n_text_state"],
        "num_mel_bins": dims["n_mels"],
        "max_source_positions": dims["n_audio_ctx"],
        "max_target_positions": dims["n_text_ctx"],
        "encoder_layers": dims["n_audio_layer"],
        "decoder_layers": dims["n_text_layer"],
        "encoder_attention_heads": dims["n_audio_head"],
        "decoder_attention_heads": dims["n_text_head"],
        "vocab_size": dims["n_vocab"],
    }


def _write_tokenizer(folder: Path):
    """Byte-level BPE with Whisper's 50257 base tokens, of which 50000 are pairs of bytes."""
    from transformers import WhisperFeatureExtractor, WhisperTokenizerFast
    from transformers.models.whisper.tokenization_whisper import LANGUAGES as NAMES

    alphabet = [chr(code) for code in _BYTES]
    alphabet += [chr(256 + n) for n in range(256 - len(alphabet))]
    pairs = list(product(sorted(alphabet, key=chr(288).__ne__), alphabet))[: BASE - 257]
    tokens = [*alphabet, *(a + b for a, b in pairs), "<|endoftext|>"]
    tokenizer = WhisperTokenizerFast(
        vocab={token: ident for ident, token in enumerate(tokens)},
        merges=pairs,
    )
    codes = list(NAMES)[:LANGUAGES]
    names = ["startoftranscript", *codes, "translate", "transcribe", "startoflm", "startofprev"]
    names += ["nospeech", "notimestamps"]
    specials = [f"<|{name}|>" for name in names]
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    tokenizer.add_tokens([f"<|{n * 0.02:.2f}|>" for n in range(1501)])
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=MELS).save_pretrained(folder)
    return tokenizer
