"""Parakeet, Qwen3-ASR, Voxtral, MMS, Moonshine and SenseVoice, small, in real ones' layouts.

Qwen3-ASR and Voxtral say ``SAID`` whatever they hear: each token of the text has a direction of its
own, and one matrix turns a token's direction into the next one's. The others' weights are random.
"""

import base64
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

SAID = "ab cd."
WIDTH = 32
_SEED = 3


def write_sortformer(folder: Path) -> Path:
    """Streaming Sortformer for four voices, which hears one of them at any time."""
    from mlx_audio.vad.models.sortformer import Model, ModelConfig

    config = {
        "model_type": "sortformer",
        "fc_encoder_config": {
            "hidden_size": WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": WIDTH,
            "subsampling_conv_channels": 8,
        },
        "tf_encoder_config": {
            "d_model": WIDTH,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": WIDTH,
        },
        "modules_config": {"fc_d_model": WIDTH, "tf_d_model": WIDTH},
    }
    mx.random.seed(_SEED)
    model = Model(ModelConfig.from_dict(config))
    out = model.sortformer_modules.single_hidden_to_spks
    out.weight, out.bias = out.weight * 20, out.bias + 3
    return _write(folder, config, dict(tree_flatten(model.parameters())))


def write_parakeet(folder: Path) -> Path:
    """A TDT model as NeMo's conversions are: no model_type, the vocabulary in the config."""
    from mlx_audio.stt.models.parakeet import Model, ModelConfig

    vocabulary = ["<unk>", "▁ab", "c", "▁d", "."]
    durations = [0, 1, 2, 4]
    hidden = {"encoder_hidden": WIDTH, "pred_hidden": WIDTH}
    config = {
        "target": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
        "model_defaults": {"tdt_durations": durations},
        "preprocessor": {
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": 32,
            "n_fft": 512,
            "dither": 1e-5,
        },
        "encoder": {
            "feat_in": 32,
            "n_layers": 1,
            "d_model": WIDTH,
            "n_heads": 2,
            "ff_expansion_factor": 2,
            "subsampling_factor": 8,
            "self_attention_model": "rel_pos",
            "subsampling": "dw_striding",
            "conv_kernel_size": 9,
            "subsampling_conv_channels": 8,
            "pos_emb_max_len": 5000,
        },
        "decoder": {
            "blank_as_pad": True,
            "vocab_size": len(vocabulary),
            "prednet": {"pred_hidden": WIDTH, "pred_rnn_layers": 1},
        },
        "joint": {
            "num_classes": len(vocabulary),
            "vocabulary": vocabulary,
            "num_extra_outputs": len(durations),
            "jointnet": {"joint_hidden": WIDTH, "activation": "relu", **hidden},
        },
        "decoding": {
            "model_type": "tdt",
            "durations": durations,
            "greedy": {"max_symbols": 2},
        },
    }
    mx.random.seed(_SEED)
    model = Model(ModelConfig.from_dict(config))
    return _write(folder, config, dict(tree_flatten(model.parameters())))


def write_qwen3(folder: Path) -> Path:
    """With the names that the published checkpoints have; it begins with the language's name."""
    from mlx_audio.stt.models.qwen3_asr.config import ModelConfig
    from mlx_audio.stt.models.qwen3_asr.qwen3_asr import Qwen3ASRModel

    tokenizer = _write_qwen_tokenizer(folder)
    ids = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "eos_token_id": ids("<|im_end|>"),
    }
    audio = {
        "model_type": "qwen3_asr_audio_encoder",
        "num_mel_bins": 128,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": WIDTH,
        "d_model": WIDTH,
        "output_dim": WIDTH,
        "downsample_hidden_size": 8,
    }
    config = {
        "model_type": "qwen3_asr",
        "support_languages": ["Chinese", "English"],
        "thinker_config": {
            "audio_config": audio,
            "text_config": text,
            "audio_token_id": ids("<|audio_pad|>"),
            "audio_start_token_id": ids("<|audio_start|>"),
            "audio_end_token_id": ids("<|audio_end|>"),
        },
    }
    mx.random.seed(_SEED)
    model = Qwen3ASRModel(ModelConfig.from_dict(config))
    weights = dict(tree_flatten(model.parameters()))
    first = tokenizer.encode("\n")
    chain = [*first, *tokenizer.encode(f"language English<asr_text>{SAID}<|im_end|>")]
    embedding, step = _chain(chain, len(tokenizer))
    weights["model.embed_tokens.weight"] = embedding
    layer = "model.layers.0"
    weights[f"{layer}.self_attn.o_proj.weight"] *= 0
    weights[f"{layer}.mlp.gate_proj.weight"] = 10 * mx.eye(WIDTH)
    weights[f"{layer}.mlp.up_proj.weight"] = mx.eye(WIDTH)
    weights[f"{layer}.mlp.down_proj.weight"] = step
    weights = {f"thinker.{name}": _torch_layout(value) for name, value in weights.items()}
    _write_features(folder)
    return _write(folder, config, weights)


def write_voxtral(folder: Path) -> Path:
    """Voxtral for files, with a cut-down tekken.json; it says SAID after a language or none."""
    from mlx_audio.stt.models.voxtral import Model, ModelConfig

    from voxlive.recognisers.mlx_audio.families.voxtral import VoxtralText

    folder.mkdir(parents=True, exist_ok=True)
    size = write_voxtral_tekken(folder)
    audio = {
        "model_type": "voxtral_encoder",
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": WIDTH,
        "encoder_layers": 1,
        "encoder_attention_heads": 1,
        "encoder_ffn_dim": WIDTH,
        "d_model": WIDTH,
        "num_mel_bins": 128,
    }
    text = {
        "model_type": "llama",
        "vocab_size": size,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    config = {
        "model_type": "voxtral",
        "audio_config": audio,
        "text_config": text,
        "audio_token_id": 24,
        "hidden_size": WIDTH,
        "vocab_size": size,
    }
    mx.random.seed(_SEED)
    model = Model(ModelConfig.from_dict(config))
    weights = dict(tree_flatten(model.parameters()))
    tokens = VoxtralText(folder)
    chain = [tokens.prompt(None)[-1], *tokens.encode(SAID), tokens.eos_token_ids[0]]
    embedding, step = _chain(chain, size)
    weights["language_model.model.embed_tokens.weight"] = embedding
    weights["language_model.lm_head.weight"] = embedding @ step
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        weights[f"language_model.model.layers.0.{part}.weight"] *= 0
    _write_features(folder)
    return _write(folder, config, weights)


def write_mms(folder: Path) -> Path:
    """A wav2vec2 with a head for characters, which are read off its frames."""
    from mlx_audio.stt.models.mms import Model
    from mlx_audio.stt.models.wav2vec.wav2vec import ModelConfig

    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]
    config = {
        "model_type": "wav2vec2",
        "architectures": ["Wav2Vec2ForCTC"],
        "vocab_size": len(vocabulary),
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": WIDTH,
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    }
    mx.random.seed(_SEED)
    weights = dict(tree_flatten(Model(ModelConfig.from_dict(config)).parameters()))
    turned = (".conv.weight", ".conv.weight_v", ".conv.weight_g")
    weights = {
        name: mx.contiguous(value.swapaxes(1, 2)) if name.endswith(turned) else value
        for name, value in weights.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: at for at, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    return _write(folder, config, weights)


def write_moonshine(folder: Path) -> Path:
    """With a decoder that writes token by token, from a waveform that is not padded."""
    from mlx_audio.stt.models.moonshine import Model, ModelConfig

    tokenizer = _write_qwen_tokenizer(folder)
    config = {
        "model_type": "moonshine",
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "encoder_num_hidden_layers": 1,
        "decoder_num_hidden_layers": 1,
        "encoder_num_attention_heads": 2,
        "decoder_num_attention_heads": 2,
    }
    mx.random.seed(_SEED)
    weights = dict(tree_flatten(Model(ModelConfig.from_dict(config)).parameters()))
    weights = {
        name: mx.contiguous(value.transpose(0, 2, 1)) if value.ndim == 3 else value
        for name, value in weights.items()
    }
    return _write(folder, config, weights)


def write_sensevoice(folder: Path) -> Path:
    """With its own list of tokens; language, emotion and event come before the text."""
    from mlx_audio.stt.models.sensevoice.sensevoice import ModelConfig, SenseVoiceSmall

    tokens = ["<unk>", "<s>", "</s>", *["▁a", "▁b", "c", "d", "e"]]
    config = {
        "model_type": "sensevoice",
        "vocab_size": len(tokens),
        "encoder_conf": {
            "output_size": WIDTH,
            "attention_heads": 2,
            "linear_units": WIDTH,
            "num_blocks": 1,
            "tp_blocks": 1,
        },
    }
    mx.random.seed(_SEED)
    model = SenseVoiceSmall(ModelConfig.from_dict(dict(config)))
    weights = {
        name: mx.contiguous(value.transpose(0, 2, 1)) if "fsmn_block" in name else value
        for name, value in tree_flatten(model.parameters())
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokens.json").write_text(json.dumps(tokens))
    return _write(folder, config, weights)


def write_voxtral_tekken(folder: Path, extra: int = 512) -> int:
    """Special tokens by their published ranks, all bytes and ``extra`` merges; the size."""
    from importlib.resources import files

    published = json.loads((files("mistral_common") / "data" / "tekken_240911.json").read_text())
    names = {
        0: "<unk>",
        1: "<s>",
        2: "</s>",
        3: "[INST]",
        4: "[/INST]",
        11: "<pad>",
        24: "[AUDIO]",
        25: "[BEGIN_AUDIO]",
        34: "[TRANSCRIBE]",
    }
    special = [
        {"rank": rank, "token_str": names.get(rank, f"<SPECIAL_{rank}>"), "is_control": True}
        for rank in range(64)
    ]
    vocab = published["vocab"][: 256 + extra]
    size = len(special) + len(vocab)
    config = published["config"] | {
        "default_vocab_size": size,
        "default_num_special_tokens": len(special),
        "num_vocab_tokens": size,
        "version": "v7",
    }
    document = {"config": config, "vocab": vocab, "special_tokens": special}
    (folder / "tekken.json").write_text(json.dumps(document))
    assert base64.b64decode(vocab[97]["token_bytes"]) == b"a"
    return size


def _chain(chain: list[int], size: int) -> tuple[mx.array, mx.array]:
    """Embedding [size, WIDTH], and the matrix from each token's direction to the next one's."""
    assert len(set(chain)) == len(chain) <= WIDTH
    embedding = np.zeros((size, WIDTH), np.float32)
    embedding[chain] = np.eye(WIDTH, dtype=np.float32)[: len(chain)]
    step = np.eye(WIDTH, k=-1, dtype=np.float32) * 10
    return mx.array(embedding), mx.array(step)


def _torch_layout(value: mx.array) -> mx.array:
    return mx.contiguous(value.transpose(0, 3, 1, 2)) if value.ndim == 4 else value


def _write_features(folder: Path) -> None:
    from transformers import WhisperFeatureExtractor

    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)


def _write_qwen_tokenizer(folder: Path):
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2TokenizerFast

    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Qwen2TokenizerFast(
        vocab={character: at for at, character in enumerate(alphabet)}, merges=[]
    )
    words = ["system", "user", "assistant", "language", " English"]
    marks = ["<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"]
    tokenizer.add_tokens([*words, "<asr_text>"])
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.save_pretrained(folder)
    return tokenizer


def _write(folder: Path, config: dict, weights: dict[str, mx.array]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(config))
    return folder
