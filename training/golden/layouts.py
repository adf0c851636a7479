"""Writes canonical weights as a checkpoint in any of the four layouts in circulation.

The names are spelled out here independently of the loader, so that its tests mean something.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.golden.weights import Array
from voxlive.checkpoints.config import VoxtralConfig

Tensors = Mapping[str, Array]
_BFLOAT16 = "BF16"
_DTYPES = {"F32": np.float32, "F16": np.float16}


@dataclass(frozen=True)
class GoldenLayout:
    """How one layout names, shapes and describes things."""

    names: Callable[[str], str]
    config_file: str
    config: Callable[[VoxtralConfig], dict[str, Any]]
    weights_file: str = "model.safetensors"
    torch_convolutions: bool = False
    half_split_rotary: bool = False


def write_checkpoint(
    folder: Path,
    layout: str,
    config: VoxtralConfig,
    weights: Tensors,
    dtype: str = "F32",
    shards: int = 1,
) -> None:
    """Write config and weights (``dtype`` F32, F16 or BF16) in ``layout``; no tokenizer."""
    style = LAYOUTS[layout]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / style.config_file, style.config(config))
    if layout == "transformers":
        write_json(folder / "preprocessor_config.json", transformers_preprocessor(config))
    tensors = source_tensors(layout, config, weights)
    if shards == 1:
        write_safetensors(folder / style.weights_file, tensors, dtype)
        return
    where = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[shard::shards]}
        write_safetensors(folder / file, part, dtype)
        where |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})


def source_tensors(layout: str, config: VoxtralConfig, weights: Tensors) -> dict[str, Array]:
    """Canonical weights under a layout's names, shapes and rotary order."""
    style = LAYOUTS[layout]
    return {style.names(name): _as_stored(style, config, name, weights[name]) for name in weights}


def _as_stored(style: GoldenLayout, config: VoxtralConfig, name: str, tensor: Array) -> Array:
    if style.torch_convolutions and ".conv" in name and tensor.ndim == 3:
        return tensor.transpose(0, 2, 1)
    if style.half_split_rotary and re.search(r"\.[qk]\.(weight|bias)$", name):
        part = config.encoder if name.startswith("encoder") else config.decoder
        pairs = tensor.reshape(-1, part.head_dim // 2, 2, *tensor.shape[1:])
        return pairs.swapaxes(1, 2).reshape(tensor.shape)
    return tensor


def write_safetensors(path: Path, tensors: Tensors, dtype: str = "F32") -> None:
    """Write tensors as one safetensors file, sorted by name; bfloat16 rounds to nearest even."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, at = [], 0
    for name in sorted(tensors):
        blob = _bytes(tensors[name], dtype)
        end = at + len(blob)
        header[name] = {
            "dtype": dtype,
            "shape": list(tensors[name].shape),
            "data_offsets": [at, end],
        }
        blobs.append(blob)
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(blobs)


def _bytes(tensor: Array, dtype: str) -> bytes:
    if dtype != _BFLOAT16:
        return np.ascontiguousarray(tensor, dtype=_DTYPES[dtype]).tobytes()
    bits = np.ascontiguousarray(tensor, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2))


def _renamer(*rules: tuple[str, str]) -> Callable[[str], str]:
    def rename(name: str) -> str:
        for pattern, replacement in rules:
            renamed, hits = re.subn(f"^{pattern}$", replacement, name)
            if hits:
                return renamed
        raise KeyError(name)

    return rename


def _swap(table: Mapping[str, str], before: str, after: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (before + re.escape(ours) + r"\.(\w+)", after + theirs + r".\2")
        for ours, theirs in table.items()
    )


_MISTRAL_LAYER = {
    "attn_norm": "attention_norm",
    "q": "attention.wq",
    "k": "attention.wk",
    "v": "attention.wv",
    "o": "attention.wo",
    "ffn_norm": "ffn_norm",
    "gate": "feed_forward.w1",
    "down": "feed_forward.w2",
    "up": "feed_forward.w3",
    "ada.linear1": "ada_rms_norm_t_cond.0",
    "ada.linear2": "ada_rms_norm_t_cond.2",
}
_MLX_AUDIO_LAYER = _MISTRAL_LAYER | {
    "gate": "feed_forward_w1",
    "down": "feed_forward_w2",
    "up": "feed_forward_w3",
    "ada.linear1": "ada_rms_norm_t_cond.ada_down",
    "ada.linear2": "ada_rms_norm_t_cond.ada_up",
}
_VOXMLX_LAYER = {
    "attn_norm": "attn_norm",
    "q": "attention.q_proj",
    "k": "attention.k_proj",
    "v": "attention.v_proj",
    "o": "attention.o_proj",
    "ffn_norm": "ffn_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "ada.linear1": "ada_norm.linear_in",
    "ada.linear2": "ada_norm.linear_out",
}
_HF_DECODER_LAYER = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "ada.linear1": "ada_rms_norm.linear1",
    "ada.linear2": "ada_rms_norm.linear2",
}
_HF_ENCODER_LAYER = _HF_DECODER_LAYER | {
    "attn_norm": "self_attn_layer_norm",
    "ffn_norm": "final_layer_norm",
}

_MM = "mm_streams_embeddings.embedding_module."
_mistral_names = _renamer(
    (r"encoder\.conv1\.(\w+)", _MM + r"whisper_encoder.conv_layers.0.conv.\1"),
    (r"encoder\.conv2\.(\w+)", _MM + r"whisper_encoder.conv_layers.1.conv.\1"),
    (r"encoder\.norm\.(\w+)", _MM + r"whisper_encoder.transformer.norm.\1"),
    (r"adapter\.linear1\.(\w+)", _MM + r"audio_language_projection.0.\1"),
    (r"adapter\.linear2\.(\w+)", _MM + r"audio_language_projection.2.\1"),
    (r"decoder\.embed\.(\w+)", _MM + r"tok_embeddings.\1"),
    (r"decoder\.norm\.(\w+)", r"norm.\1"),
    *_swap(
        _MISTRAL_LAYER,
        r"encoder\.layers\.(\d+)\.",
        _MM + r"whisper_encoder.transformer.layers.\1.",
    ),
    *_swap(_MISTRAL_LAYER, r"decoder\.layers\.(\d+)\.", r"layers.\1."),
)
_mlx_audio_names = _renamer(
    (r"encoder\.conv1\.(\w+)", r"encoder.conv_layers_0_conv.conv.\1"),
    (r"encoder\.conv2\.(\w+)", r"encoder.conv_layers_1_conv.conv.\1"),
    (r"encoder\.norm\.(\w+)", r"encoder.transformer_norm.\1"),
    (r"adapter\.linear1\.(\w+)", r"encoder.audio_language_projection_0.\1"),
    (r"adapter\.linear2\.(\w+)", r"encoder.audio_language_projection_2.\1"),
    (r"decoder\.embed\.(\w+)", r"decoder.tok_embeddings.\1"),
    (r"decoder\.norm\.(\w+)", r"decoder.norm.\1"),
    *_swap(_MLX_AUDIO_LAYER, r"encoder\.layers\.(\d+)\.", r"encoder.transformer_layers.\1."),
    *_swap(_MLX_AUDIO_LAYER, r"decoder\.layers\.(\d+)\.", r"decoder.layers.\1."),
)
_voxmlx_names = _renamer(
    (r"encoder\.(conv1|conv2|norm)\.(\w+)", r"encoder.\1.\2"),
    (r"adapter\.linear1\.(\w+)", r"adapter.w_in.\1"),
    (r"adapter\.linear2\.(\w+)", r"adapter.w_out.\1"),
    (r"decoder\.embed\.(\w+)", r"language_model.embed_tokens.\1"),
    (r"decoder\.norm\.(\w+)", r"language_model.norm.\1"),
    *_swap(_VOXMLX_LAYER, r"encoder\.layers\.(\d+)\.", r"encoder.layers.\1."),
    *_swap(_VOXMLX_LAYER, r"decoder\.layers\.(\d+)\.", r"language_model.layers.\1."),
)
_transformers_names = _renamer(
    (r"encoder\.(conv[12])\.(\w+)", r"model.audio_tower.embedder.\1.\2"),
    (r"encoder\.norm\.(\w+)", r"model.audio_tower.norm.\1"),
    (r"adapter\.linear1\.(\w+)", r"model.multi_modal_projector.linear_1.\1"),
    (r"adapter\.linear2\.(\w+)", r"model.multi_modal_projector.linear_2.\1"),
    (r"decoder\.embed\.(\w+)", r"model.language_model.embed_tokens.\1"),
    (r"decoder\.norm\.(\w+)", r"model.language_model.norm.\1"),
    *_swap(_HF_ENCODER_LAYER, r"encoder\.layers\.(\d+)\.", r"model.audio_tower.layers.\1."),
    *_swap(_HF_DECODER_LAYER, r"decoder\.layers\.(\d+)\.", r"model.language_model.layers.\1."),
)


def _audio_encoding(config: VoxtralConfig) -> dict[str, Any]:
    return {
        "sampling_rate": config.audio.sample_rate,
        "frame_rate": config.audio.sample_rate / config.samples_per_token,
        "num_mel_bins": config.audio.mel_bins,
        "hop_length": config.audio.hop,
        "window_size": config.audio.n_fft,
        "global_log_mel_max": config.audio.log_mel_max,
    }


def _encoder_args(config: VoxtralConfig) -> dict[str, Any]:
    encoder = config.encoder
    return {
        "audio_encoding_args": _audio_encoding(config),
        "dim": encoder.dim,
        "n_layers": encoder.layers,
        "n_heads": encoder.heads,
        "n_kv_heads": encoder.heads,
        "head_dim": encoder.head_dim,
        "hidden_dim": encoder.ffn_dim,
        "sliding_window": encoder.window,
        "rope_theta": encoder.rope_theta,
        "norm_eps": encoder.norm_eps,
        "causal": True,
        "use_biases": True,
        "pos_embed": "rope",
        "ffn_type": "swiglu",
        "norm_type": "rms_norm",
    }


def _decoder_args(config: VoxtralConfig) -> dict[str, Any]:
    decoder = config.decoder
    return {
        "dim": decoder.dim,
        "n_layers": decoder.layers,
        "n_heads": decoder.heads,
        "n_kv_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
        "hidden_dim": decoder.ffn_dim,
        "vocab_size": decoder.vocab_size,
        "sliding_window": decoder.window,
        "rope_theta": decoder.rope_theta,
        "norm_eps": decoder.norm_eps,
        "tied_embeddings": True,
        "ada_rms_norm_t_cond": True,
        "ada_rms_norm_t_cond_dim": decoder.ada_dim,
    }


def mistral_config(config: VoxtralConfig) -> dict[str, Any]:
    """params.json; voxmlx keeps the same document as config.json."""
    whisper = {
        "encoder_args": _encoder_args(config),
        "downsample_args": {"downsample_factor": config.downsample},
    }
    return _decoder_args(config) | {"multimodal": {"whisper_model_args": whisper}}


def mlx_audio_config(config: VoxtralConfig) -> dict[str, Any]:
    encoder = _encoder_args(config) | {"downsample_factor": config.downsample}
    return {
        "model_type": "voxtral_realtime",
        "encoder_args": encoder,
        "decoder": _decoder_args(config),
        "transcription_delay_ms": 1000 * config.delay_tokens * config.token_seconds,
    }


def transformers_config(config: VoxtralConfig) -> dict[str, Any]:
    encoder, decoder = config.encoder, config.decoder
    return {
        "architectures": ["VoxtralRealtimeForConditionalGeneration"],
        "model_type": "voxtral_realtime",
        "audio_config": {
            "model_type": "voxtral_realtime_encoder",
            "hidden_size": encoder.dim,
            "num_hidden_layers": encoder.layers,
            "num_attention_heads": encoder.heads,
            "head_dim": encoder.head_dim,
            "intermediate_size": encoder.ffn_dim,
            "sliding_window": encoder.window,
            "rope_parameters": {"rope_theta": encoder.rope_theta, "rope_type": "default"},
            "rms_norm_eps": encoder.norm_eps,
            "num_mel_bins": config.audio.mel_bins,
            "activation_function": "gelu",
            "hidden_act": "silu",
        },
        "text_config": {
            "model_type": "voxtral_realtime_text",
            "hidden_size": decoder.dim,
            "num_hidden_layers": decoder.layers,
            "num_attention_heads": decoder.heads,
            "num_key_value_heads": decoder.kv_heads,
            "head_dim": decoder.head_dim,
            "intermediate_size": decoder.ffn_dim,
            "vocab_size": decoder.vocab_size,
            "sliding_window": decoder.window,
            "rope_parameters": {"rope_theta": decoder.rope_theta, "rope_type": "default"},
            "rms_norm_eps": decoder.norm_eps,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
        },
        "audio_length_per_tok": config.mel_per_token,
        "default_num_delay_tokens": config.delay_tokens,
        "downsample_factor": config.downsample,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": True,
    }


def transformers_preprocessor(config: VoxtralConfig) -> dict[str, Any]:
    audio = config.audio
    return {
        "feature_extractor_type": "VoxtralRealtimeFeatureExtractor",
        "feature_size": audio.mel_bins,
        "sampling_rate": audio.sample_rate,
        "hop_length": audio.hop,
        "n_fft": audio.n_fft,
        "win_length": audio.n_fft,
        "global_log_mel_max": audio.log_mel_max,
    }


LAYOUTS = {
    "mistral": GoldenLayout(
        _mistral_names,
        "params.json",
        mistral_config,
        weights_file="consolidated.safetensors",
        torch_convolutions=True,
    ),
    "mlx-audio": GoldenLayout(_mlx_audio_names, "config.json", mlx_audio_config),
    "voxmlx": GoldenLayout(_voxmlx_names, "config.json", mistral_config),
    "transformers": GoldenLayout(
        _transformers_names,
        "config.json",
        transformers_config,
        torch_convolutions=True,
        half_split_rotary=True,
    ),
}
