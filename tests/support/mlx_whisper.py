"""Real weights of Whisper in the layout that mlx-audio reads, made of CTranslate2's files.

The same tensors under other names: queries, keys and values part, convolutions turn, and keys lose
a bias that is zero. Tokenizer and documents are written as a conversion for MLX has them.
"""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np

from voxlive.checkpoints.contents import MODEL_BIN, read_bin_header

_TYPES = {"F16": np.float16, "I8": np.int8, "I16": np.int16}
_TIMES = 1501
_NORM = {"gamma": "weight", "beta": "bias"}
_PARTS = {
    "self_attention": "attn",
    "attention": "cross_attn",
    "ffn/linear_0": "mlp1",
    "ffn/linear_1": "mlp2",
}
_OF_LINEAR = {
    ("self_attention", 0): ("query", "key", "value"),
    ("self_attention", 1): ("out",),
    ("attention", 0): ("query",),
    ("attention", 1): ("key", "value"),
    ("attention", 2): ("out",),
}


def write_mlx_whisper(folder: Path, source: Path) -> Path:
    """The model of ``source``, a folder in CTranslate2's layout, in mlx-audio's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = read_tensors(source / MODEL_BIN)
    weights: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        weights |= _renamed(name, value)
    mx.save_safetensors(
        str(folder / "model.safetensors"),
        {name: mx.array(value) for name, value in weights.items()},
    )
    (folder / "config.json").write_text(json.dumps(_config(tensors)))
    heads = json.loads((source / "config.json").read_text())["alignment_heads"]
    (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": heads}))
    write_tokenizer(folder, source / "tokenizer.json", tensors["encoder/conv1/weight"].shape[1])
    return folder


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a ``model.bin`` by name."""
    data = np.memmap(path, np.uint8, "r")
    return {
        name: data[tensor.begin : tensor.end].view(_TYPES[tensor.dtype]).reshape(tensor.shape)
        for name, tensor in read_bin_header(path).items()
    }


def _renamed(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """A tensor under mlx-audio's name, or the tensors that it holds."""
    side, _, rest = name.partition("/")
    if rest.startswith("conv"):
        layer, kind = rest.split("/")
        return {f"{side}.{layer}.{kind}": value.transpose(0, 2, 1) if kind == "weight" else value}
    if rest.startswith("layer_norm/"):
        norm = "ln_post" if side == "encoder" else "ln"
        return {f"{side}.{norm}.{_NORM[rest.rpartition('/')[2]]}": value}
    if name == "decoder/embeddings/weight":
        return {"decoder.token_embedding.weight": value}
    if name == "decoder/position_encodings/encodings":
        return {"decoder.positional_embedding": value}
    if not rest.startswith("layer_"):
        return {}
    layer, _, rest = rest.partition("/")
    return _of_layer(f"{side}.blocks.{layer.removeprefix('layer_')}", rest, value)


def _of_layer(block: str, rest: str, value: np.ndarray) -> dict[str, np.ndarray]:
    part, linear, kind = rest.split("/")
    if linear == "layer_norm":
        norm = "mlp" if part == "ffn" else _PARTS[part]
        return {f"{block}.{norm}_ln.{_NORM[kind]}": value}
    if part == "ffn":
        return {f"{block}.{_PARTS[f'ffn/{linear}']}.{kind}": value}
    names = _OF_LINEAR[part, int(linear.removeprefix("linear_"))]
    found = dict(zip(names, np.split(value, len(names)), strict=True))
    if kind == "bias" and "key" in found:
        assert not found.pop("key").any()
    return {f"{block}.{_PARTS[part]}.{name}.{kind}": one for name, one in found.items()}


def _config(tensors: dict[str, np.ndarray]) -> dict[str, int | str]:
    def layers(side: str) -> int:
        names = (name.split("/")[:2] for name in tensors if name.startswith(f"{side}/layer_"))
        return len({layer for _, layer in names} - {"layer_norm"})

    audio = tensors["encoder/position_encodings/encodings"]
    text = tensors["decoder/position_encodings/encodings"]
    return {
        "model_type": "whisper",
        "n_mels": tensors["encoder/conv1/weight"].shape[1],
        "n_audio_ctx": audio.shape[0],
        "n_audio_state": audio.shape[1],
        "n_audio_head": int(tensors["encoder/num_heads"]),
        "n_audio_layer": layers("encoder"),
        "n_vocab": tensors["decoder/embeddings/weight"].shape[0],
        "n_text_ctx": text.shape[0],
        "n_text_state": text.shape[1],
        "n_text_head": int(tensors["decoder/num_heads"]),
        "n_text_layer": layers("decoder"),
    }


def write_tokenizer(folder: Path, source: Path, mels: int) -> None:
    """The tokenizer of a file, and features of so many mel bins, as a conversion has them."""
    from transformers import WhisperFeatureExtractor, WhisperTokenizerFast

    tokenizer = WhisperTokenizerFast(tokenizer_file=str(source))
    tokenizer.add_tokens([f"<|{at * 0.02:.2f}|>" for at in range(_TIMES)])  # which some leave out
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=mels).save_pretrained(folder)
