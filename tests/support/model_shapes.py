"""Folders as families of models leave them: documents of real form, weights of four bytes."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HF = {"tokenizer.json": {}, "tokenizer_config.json": {}}
MEL = {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16000}
WHISPER = {"preprocessor_config.json": MEL, "generation_config.json": {}, **HF}
QUANTISED = {"quantization": {"group_size": 64, "bits": 4}}


@dataclass(frozen=True)
class Saved:
    """``code`` is the refusal of a plain request, None if it is allowed."""

    id: str
    config: dict[str, Any] | None
    family: str | None
    backend: str | None
    code: str | None = None
    layout: str | None = None
    files: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, list[int]] = field(default_factory=lambda: {"model.norm.weight": [1]})
    weights: str = "model.safetensors"
    features: tuple[str, ...] | None = None


def write_shape(folder: Path, shape: Saved) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    documents = dict(shape.files)
    if shape.config is not None:
        documents["config.json"] = shape.config
    for name, document in documents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document))
    write_tensors(folder / shape.weights, shape.tensors)
    return folder


def write_tensors(path: Path, tensors: dict[str, list[int]]) -> Path:
    """A safetensors file: one byte per value is enough to be whole."""
    header: dict[str, Any] = {}
    at = 0
    for name, shape in tensors.items():
        size = 1
        for length in shape:
            size *= length
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))
    return path


def whisper(encoder: int = 32, decoder: int = 32, tokens: int = 51866, **more: Any) -> dict:
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "d_model": 1280,
        "encoder_layers": encoder,
        "decoder_layers": decoder,
        "num_mel_bins": 128,
        "vocab_size": tokens,
        **more,
    }


def mlx_whisper(layers: int = 32, text: int = 32, tokens: int = 51866, **more: Any) -> dict:
    return {
        "n_mels": 128,
        "n_audio_ctx": 1500,
        "n_audio_state": 1280,
        "n_audio_head": 20,
        "n_audio_layer": layers,
        "n_vocab": tokens,
        "n_text_ctx": 448,
        "n_text_state": 1280,
        "n_text_head": 20,
        "n_text_layer": text,
        "model_type": "whisper",
        **more,
    }


def nemo(name: str, durations: list[int] | None = None, **more: Any) -> dict:
    defaults = {"tdt_durations": durations} if durations else {}
    return {
        "target": f"nemo.collections.asr.models.{name}",
        "model_defaults": {"enc_hidden": 1024, **defaults},
        "preprocessor": {"sample_rate": 16000, "features": 128},
        "encoder": {"n_layers": 24},
        "decoder": {"vocab_size": 1024},
        "joint": {"num_classes": 1024, "vocabulary": ["a", "b"]},
        **more,
    }


def qwen3(**more: Any) -> dict:
    audio = {"model_type": "qwen3_asr_audio_encoder", "num_mel_bins": 128}
    thinker = {"audio_config": audio, "text_config": {"model_type": "qwen3"}, **more}
    return {
        "model_type": "qwen3_asr",
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "support_languages": ["Chinese", "English", "Cantonese", "German"],
        "thinker_config": thinker,
    }


REALTIME_PARAMS = {
    "dim": 3072,
    "ada_rms_norm_t_cond": True,
    "multimodal": {"whisper_model_args": {"encoder_args": {"causal": True, "dim": 1280}}},
}
VOXTRAL_3B = {
    "model_type": "voxtral",
    "architectures": ["VoxtralForConditionalGeneration"],
    "audio_config": {"model_type": "voxtral_encoder"},
    "text_config": {"model_type": "llama"},
    "audio_token_id": 24,
}
VOXTRAL_3B_PARAMS = {
    "dim": 3072,
    "multimodal": {"whisper_model_args": {"encoder_args": {"causal": False, "dim": 1280}}},
}
TEKKEN = {"tekken.json": {}}
OMNI = {
    "model_type": "qwen3_omni_moe",
    "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
    "thinker_config": {
        "model_type": "qwen3_omni_moe_thinker",
        "audio_config": {"model_type": "qwen3_omni_moe_audio_encoder"},
        "vision_config": {"model_type": "qwen3_omni_moe_vision_encoder"},
        "text_config": {"model_type": "qwen3_omni_moe_text"},
    },
    "talker_config": {},
}
GEMMA_3N = {
    "model_type": "gemma3n",
    "architectures": ["Gemma3nForConditionalGeneration"],
    "audio_config": {"model_type": "gemma3n_audio"},
    "vision_config": {"model_type": "gemma3n_vision"},
    "text_config": {"model_type": "gemma3n_text"},
}
_RNNT = "rnnt_bpe_models.EncDecRNNTBPEModel"
_AUDIO, _STT, _VLM = "voxtral_realtime", "mlx_audio", "mlx_vlm"

SHAPES = [
    # Whisper
    Saved("whisper-hf", whisper(), "whisper", _STT, None, "transformers", WHISPER,
          features=("prompt", "translate", "words")),
    Saved("whisper-hf-turbo", whisper(decoder=4), "whisper", _STT, files=WHISPER,
          features=("prompt", "words")),
    Saved("whisper-hf-distil", whisper(decoder=2), "whisper", _STT, files=WHISPER,
          features=("prompt", "words")),
    Saved("whisper-hf-en", whisper(4, 4, 51864), "whisper", _STT, files=WHISPER,
          features=("prompt", "words")),
    Saved("whisper-hf-slow-tokenizer", whisper(), "whisper", _STT,
          files={"vocab.json": {}, "merges.txt": "", "preprocessor_config.json": MEL}),
    Saved("whisper-mlx", mlx_whisper(), "whisper", _STT, None, "mlx", HF,
          features=("prompt", "translate", "words")),
    Saved("whisper-mlx-4bit-turbo", mlx_whisper(text=4, **QUANTISED), "whisper", _STT, files=HF,
          features=("prompt", "words")),
    Saved("whisper-mlx-no-tokenizer", mlx_whisper(), "whisper", _STT, "model_unhealthy"),
    Saved("whisper-architecture-alone",
          {"architectures": ["WhisperForConditionalGeneration"], "vocab_size": 51865},
          "whisper", _STT, files=WHISPER),
    # Voxtral
    Saved("voxtral-3b", VOXTRAL_3B, "voxtral", _STT, None, "transformers", TEKKEN),
    Saved("voxtral-3b-with-vision", {**VOXTRAL_3B, "vision_config": {"depth": 1}}, "voxtral", _STT,
          files=TEKKEN),
    Saved("voxtral-3b-mistral", None, "voxtral", _STT, "unsupported_checkpoint", "mistral",
          {"params.json": VOXTRAL_3B_PARAMS, **TEKKEN}, weights="consolidated.safetensors"),
    Saved("voxtral-realtime-mistral", None, "voxtral_realtime", _AUDIO, None, "mistral",
          {"params.json": REALTIME_PARAMS, **TEKKEN}, weights="consolidated.safetensors",
          features=("live", "words")),
    Saved("voxtral-realtime-voxmlx", REALTIME_PARAMS, "voxtral_realtime", _AUDIO, files=TEKKEN),
    Saved("voxtral-realtime-mlx-audio",
          {"model_type": "voxtral_realtime", "encoder_args": {"dim": 1280}, "decoder": {}},
          "voxtral_realtime", _AUDIO, None, "mlx-audio", TEKKEN),
    Saved("voxtral-realtime-hf",
          {"model_type": "voxtral_realtime",
           "audio_config": {"model_type": "voxtral_realtime_encoder"},
           "text_config": {"model_type": "voxtral_realtime_text"},
           "default_num_delay_tokens": 6},
          "voxtral_realtime", _AUDIO, None, "transformers", TEKKEN),
    Saved("voxtral-realtime-tensors-alone", {"hidden_size": 1}, "voxtral_realtime", _AUDIO,
          files=TEKKEN,
          tensors={"layers.0.ada_rms_norm_t_cond.0.weight": [1], "norm.weight": [1]}),
    Saved("voxtral-realtime-no-tokenizer", REALTIME_PARAMS, "voxtral_realtime", _AUDIO,
          "model_unhealthy"),
    # NVIDIA
    Saved("parakeet-tdt", nemo(_RNNT, [0, 1, 2, 3, 4]), "parakeet", _STT, None, "nemo",
          features=("words",)),
    Saved("parakeet-rnnt", nemo(_RNNT), "parakeet", _STT),
    Saved("parakeet-ctc", nemo("ctc_bpe_models.EncDecCTCModelBPE"), "parakeet", _STT),
    Saved("parakeet-tdt-ctc",
          nemo("hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel", [0, 1]), "parakeet", _STT),
    Saved("parakeet-hf", {"model_type": "parakeet_tdt", "encoder_config": {}}, "parakeet", _STT,
          "unsupported_checkpoint", "transformers",
          {"preprocessor_config.json": {"feature_extractor_type": "ParakeetFeatureExtractor",
                                        "sampling_rate": 16000}}),
    Saved("parakeet-hf-ctc", {"model_type": "parakeet_ctc"}, "parakeet", _STT,
          "unsupported_checkpoint"),
    Saved("parakeet-redux",
          {"model_type": "parakeet_tdt", "ternary_modules": [], "encoder_config": {}},
          "parakeet", _STT, None, "redux"),
    Saved("canary-mlx", {"model_type": "canary", "encoder": {}, "transf_decoder": {}}, "canary",
          _STT, files={"tokenizer.model": ""}, features=("translate",)),
    Saved("canary-embedded-tokenizer",
          {"model_type": "canary", "encoder": {}, "tokenizer": {"model_base64": "aa"}}, "canary",
          _STT),
    Saved("canary-no-tokenizer", {"model_type": "canary", "encoder": {}}, "canary", _STT,
          "model_unhealthy"),
    Saved("nemotron-hf", {"model_type": "nemotron_asr_streaming", "encoder_config": {}},
          "nemotron_asr", _STT, files=HF),
    Saved("nemotron-hf-bare", {"model_type": "nemotron_asr_streaming"}, "nemotron_asr", _STT,
          "unsupported_checkpoint"),
    Saved("nemotron-mlx",
          {**nemo("rnnt_bpe_models_prompt.EncDecRNNTBPEModelWithPrompt"),
           "model_type": "nemotron_asr"}, "nemotron_asr", _STT),
    # Alibaba
    Saved("qwen3-asr", qwen3(), "qwen3_asr", _STT, None, "transformers", WHISPER,
          features=("prompt",)),
    Saved("qwen3-asr-flat",
          {"model_type": "qwen3_asr", "audio_config": {"model_type": "qwen3_asr_encoder"},
           "text_config": {"model_type": "qwen3"}}, "qwen3_asr", _STT, files=WHISPER),
    Saved("qwen3-aligner", qwen3(model_type="qwen3_forced_aligner"), "qwen3_forced_aligner", _STT,
          "unsupported_model", files=WHISPER),
    Saved("qwen3-aligner-by-head", qwen3(), "qwen3_forced_aligner", _STT, "unsupported_model",
          files=WHISPER, tensors={"thinker.lm_head.weight": [5000, 1]}),
    Saved("qwen3-aligner-by-class",
          {"model_type": "qwen3_asr", "architectures": ["Qwen3ASRForTokenClassification"]},
          "qwen3_forced_aligner", _STT, "unsupported_model", files=WHISPER),
    Saved("qwen3-omni", OMNI, "qwen3_omni_moe", _VLM, None, "transformers", HF),
    Saved("qwen2-audio",
          {"model_type": "qwen2_audio", "audio_config": {"model_type": "qwen2_audio_encoder"},
           "text_config": {"model_type": "qwen2"}}, "qwen2_audio", _STT, files=WHISPER),
    Saved("sensevoice", {"model_type": "sensevoice", "encoder_conf": {}}, "sensevoice", _STT,
          files={"tokens.json": [], "am.mvn": ""}),
    Saved("fun-asr-nano", {"model_type": "fun_asr_nano"}, "fun_asr_nano", _STT,
          files={"Qwen3-0.6B/tokenizer.json": {}}),
    Saved("fun-asr-nano-no-tokenizer", {"model_type": "fun_asr_nano"}, "fun_asr_nano", _STT,
          "model_unhealthy", files=HF),
    # Others
    Saved("glm-asr-mlx",
          {"model_type": "glmasr", "whisper_config": {"d": 1}, "lm_config": {"d": 1}}, "glmasr",
          _STT, None, "mlx", HF),
    Saved("glm-asr-hf",
          {"model_type": "glmasr", "audio_config": {"model_type": "glmasr_encoder"},
           "text_config": {"model_type": "llama"}}, "glmasr", _STT, "unsupported_checkpoint",
          files=HF),
    Saved("vibevoice",
          {"model_type": "vibevoice", "acoustic_tokenizer_config": {"d": 1},
           "semantic_tokenizer_config": {"d": 1}, "decoder_config": {"d": 1}}, "vibevoice_asr",
          _STT, files=HF, features=("prompt", "speakers")),
    Saved("vibevoice-hf",
          {"model_type": "vibevoice_asr", "acoustic_tokenizer_encoder_config": {"d": 1}},
          "vibevoice_asr", _STT, "unsupported_checkpoint", files=HF),
    Saved("wav2vec2-ctc", {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}, "mms",
          _STT, files={"vocab.json": {}}),
    Saved("wav2vec2-encoder", {"model_type": "wav2vec2", "architectures": ["Wav2Vec2Model"]},
          "mms", _STT, "unsupported_model"),
    Saved("lasr", {"model_type": "lasr_ctc", "encoder_config": {}}, "lasr_ctc", _STT,
          "unsupported_checkpoint"),
    Saved("moonshine", {"model_type": "moonshine"}, "moonshine", _STT, files=HF),
    Saved("moonshine-streaming", {"model_type": "moonshine_streaming"}, "moonshine", _STT,
          "unsupported_checkpoint", files=HF),
    Saved("granite", {"model_type": "granite_speech", "text_config": {"model_type": "granite"}},
          "granite_speech", _STT, files=HF, features=("prompt", "translate")),
    Saved("granite-plus", {"model_type": "granite_speech_plus"}, "granite_speech_plus", _STT,
          files=HF, features=("prompt", "translate", "words")),
    Saved("granite-5-ctc", {"model_type": "granite_speech5_ctc"}, "granite_speech5_ctc", _STT,
          files=HF),
    Saved("granite-nar", {"model_type": "granite_speech_nar"}, "granite_speech_nar", _STT,
          files=HF),
    Saved("cohere", {"model_type": "cohere_asr", "encoder": {"n_layers": 48}}, "cohere_asr", _STT,
          files={"tokenizer.model": "", "tokenizer_config.json": {},
                 "special_tokens_map.json": {}}),
    Saved("firered", {"model_type": "fireredasr2"}, "fireredasr2", _STT, files={"dict.txt": ""}),
    Saved("moss-transcribe",
          {"model_type": "moss_transcribe_diarize", "audio_config": {"model_type": "whisper"}},
          "moss_transcribe_diarize", _STT, files=HF, features=("prompt", "speakers")),
    Saved("moss-music", {"model_type": "moss_music"}, "moss_music", _STT, "unsupported_model",
          files=HF),
    Saved("mimo",
          {"model_type": "qwen2", "speech_vocab_size": 1, "local_layers": 1, "audio_channels": 8},
          "mimo_v2_asr", _STT, files=HF),
    Saved("phonon-packed", {"model_type": "phonon"}, "phonon", _STT, "unsupported_checkpoint",
          files=HF, weights="phonon.bps.tar.zst"),
    # Multimodal
    Saved("gemma-3n", GEMMA_3N, "gemma3n", _VLM, None, "transformers", HF),
    Saved("gemma-3n-text", {"model_type": "gemma3n", "text_config": {"d": 1}}, "gemma3n", _VLM,
          "unsupported_model", files=HF),
    Saved("gemma-4", {**GEMMA_3N, "model_type": "gemma4",
                      "audio_config": {"model_type": "gemma4_audio"}}, "gemma4", _VLM, files=HF),
    Saved("gemma-4-deaf",
          {"model_type": "gemma4", "audio_config": None, "vision_config": {"d": 1},
           "text_config": {"d": 1}}, "gemma4", _VLM, "unsupported_model", files=HF),
    Saved("unknown-with-audio-and-vision",
          {"model_type": "phi4_multimodal", "audio_config": {"d": 1}, "vision_config": {"d": 1}},
          None, _VLM, "unsupported_by_backend", files=HF),
    Saved("unknown-with-audio", {"model_type": "seal", "audio_config": {"d": 1}}, None, _VLM,
          "unsupported_by_backend", files=HF),
    Saved("unknown-with-whisper-extractor", {"model_type": "seal"}, None, _STT,
          "unknown_model_type", files=WHISPER),
    # Not for speech
    Saved("llama", {"model_type": "llama", "vocab_size": 32000}, None, None, "unsupported_model",
          files=HF),
    Saved("mistral-text", None, None, None, "unknown_model_type",
          files={"params.json": {"dim": 4096, "n_layers": 32}, **TEKKEN},
          weights="consolidated.safetensors",
          tensors={"layers.0.attention.wq.weight": [1], "norm.weight": [1]}),
    Saved("vision", {"model_type": "qwen2_vl", "vision_config": {"d": 1}, "vocab_size": 1}, None,
          None, "unsupported_model",
          files={"preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessor"}}),
    Saved("no-model-type", {"hidden_size": 8}, None, None, "unknown_model_type", files=HF),
]  # fmt: skip
