"""Models that hear among other things; mlx-vlm serves them.

NVIDIA's models: Parakeet, Canary, Nemotron.

Voxtral Realtime in its four layouts, and Voxtral 3B and 24B.

Whisper: what its sizes say about languages and translation.
"""

from __future__ import annotations

from voxlive.checkpoints.families.evidence import (
    Evidence,
    architecture,
    every,
    file,
    keys,
    model_type,
    no,
    params,
    target,
    value,
)
from voxlive.checkpoints.families.family import MIB, ModelFamily, Shape, Traits
from voxlive.checkpoints.languages import codes_of
from voxlive.checkpoints.layouts import LAYOUTS, recognise_layout
from voxlive.errors import WeightsMismatch

_HF = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
_ROOM = 3072 * MIB

_GEMMA_3N = ModelFamily(
    name="gemma3n",
    title="Gemma 3n",
    kind="multimodal",
    features=frozenset({"prompt", "translate"}),
    tokenizers=_HF,
    room=_ROOM,
    note="it hears 30 seconds at a time: longer audio is cut at pauses",
    shapes=(
        Shape("transformers", (every(model_type("gemma3n"), keys("audio_config")),)),
        Shape(
            "text",
            (model_type("gemma3n", "gemma3n_text"),),
            refused="this conversion has left the audio encoder out: take one with an audio_config",
            transcribes=False,
        ),
    ),
)

_GEMMA_4 = ModelFamily(
    name="gemma4",
    title="Gemma 4",
    kind="multimodal",
    features=frozenset({"prompt", "translate"}),
    tokenizers=_HF,
    room=_ROOM,
    note="it hears 30 seconds at a time: longer audio is cut at pauses",
    shapes=(
        Shape(
            "transformers",
            (every(model_type("gemma4", "gemma4_unified"), keys("audio_config")),),
        ),
        Shape(
            "text",
            (model_type("gemma4", "gemma4_unified", "gemma4_text", "gemma4_unified_text"),),
            refused="this size of it does not hear: take one with an audio_config",
            transcribes=False,
        ),
    ),
)

_QWEN3_OMNI = ModelFamily(
    name="qwen3_omni_moe",
    title="Qwen3-Omni",
    kind="multimodal",
    features=frozenset({"prompt", "translate"}),
    tokenizers=_HF,
    room=_ROOM,
    note="it degenerates on more than 30 seconds at a time: longer audio is cut at pauses",
    shapes=(
        Shape(
            "transformers",
            (
                every(model_type("qwen3_omni_moe"), keys("thinker_config.audio_config")),
                value("thinker_config.model_type", "qwen3_omni_moe_thinker"),
                model_type("qwen3_omni_moe_thinker"),
            ),
        ),
    ),
)

MULTIMODAL = (_GEMMA_3N, _GEMMA_4, _QWEN3_OMNI)


_CLASSES = ("EncDecRNNTBPEModel", "EncDecHybridRNNTCTCBPEModel", "EncDecCTCModelBPE")
_EUROPE = (
    "bg", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hr", "hu", "it", "lt", "lv",
    "mt", "nl", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "uk",
)  # fmt: skip


def _prompted(evidence: Evidence, family: ModelFamily) -> Traits:
    listed = evidence.at("prompt.prompt_dictionary")
    languages = codes_of(listed) if isinstance(listed, dict) else ()
    return Traits(family.features, languages or None, family.sample_rate)


PARAKEET = ModelFamily(
    name="parakeet",
    title="Parakeet",
    features=frozenset({"words"}),
    shapes=(
        Shape("redux", (every(keys("ternary_modules"), model_type("parakeet_tdt")),)),
        Shape(
            "transformers",
            (model_type("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt"),),
            refused="mlx-audio loads Parakeet in NVIDIA's NeMo form alone: take a converted "
            "checkpoint, such as mlx-community/parakeet-tdt-0.6b-v3",
        ),
        Shape(
            "nemo",
            (
                every(target(*_CLASSES), no("model_type")),
                every(target(*_CLASSES), model_type("parakeet")),
            ),
        ),
    ),
)

CANARY = ModelFamily(
    name="canary",
    title="Canary",
    features=frozenset({"translate"}),
    languages=_EUROPE,
    tokenizers=(("tokenizer.model",), ("tokens.txt",), ("config.json:tokenizer.model_base64",)),
    shapes=(
        Shape("mlx", (every(model_type("canary"), keys("encoder")),)),
        Shape("nemo", (every(keys("preprocessor", "encoder", "transf_decoder")),)),
        Shape("nemo", (target("EncDecMultiTaskModel"),)),
    ),
)

NEMOTRON = ModelFamily(
    name="nemotron_asr",
    title="Nemotron ASR",
    features=frozenset({"words"}),
    traits=_prompted,
    shapes=(
        Shape("mlx", (model_type("nemotron_asr"), target("EncDecRNNTBPEModelWithPrompt"))),
        Shape(
            "transformers",
            (every(model_type("nemotron_asr_streaming"), file("tokenizer.json")),),
        ),
        Shape(
            "transformers",
            (model_type("nemotron_asr_streaming", "nemotron3_5_asr"),),
            refused="mlx-audio needs its tokenizer.json and processor_config.json, or a checkpoint "
            "converted for it",
        ),
    ),
)


_REALTIME = model_type("voxtral_realtime")
VOXTRAL_LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "zh")
"""What the released realtime model was trained for; it finds out by itself which is spoken."""


def _delay_condition(evidence: Evidence) -> str | None:
    """The norm that is conditioned on the delay, under any layout's name: no other model has it."""
    names = (f"{layout.source('decoder.layers.0.ada.linear1')}.weight" for layout in LAYOUTS)
    return next((f"tensor {name}" for name in names if name in evidence.shapes), None)


def _voxtral_traits(evidence: Evidence, family: ModelFamily) -> Traits:
    """The layout is the tensors', whatever converter wrote the config."""
    try:
        layout = recognise_layout(evidence.shapes).name
    except WeightsMismatch:
        layout = None
    return Traits(family.features, family.languages, family.sample_rate, layout)


VOXTRAL_REALTIME = ModelFamily(
    name="voxtral_realtime",
    title="Voxtral Realtime",
    kind="voxtral",
    features=frozenset({"words", "live"}),
    languages=VOXTRAL_LANGUAGES,
    tokenizers=(("tekken.json",),),
    room=1024 * MIB,
    traits=_voxtral_traits,
    shapes=(
        Shape(
            "transformers",
            (
                every(_REALTIME, value("audio_config.model_type", "voxtral_realtime_encoder")),
                architecture("VoxtralRealtimeForConditionalGeneration"),
            ),
        ),
        Shape("mlx-audio", (every(_REALTIME, value("encoder_args"), value("decoder")),)),
        # Mistral's document, as params.json or (voxmlx) as config.json: a causal encoder is the
        # realtime model's; the other Voxtrals have a document of the same form.
        Shape(
            "mistral",
            (
                params("multimodal.whisper_model_args.encoder_args.causal", True),
                every(params("multimodal"), params("ada_rms_norm_t_cond", True)),
                _delay_condition,
            ),
        ),
    ),
)

VOXTRAL = ModelFamily(
    name="voxtral",
    title="Voxtral",
    kind="voxtral",
    languages=("de", "en", "es", "fr", "hi", "it", "nl", "pt"),
    tokenizers=(("tekken.json",),),
    room=2048 * MIB,
    shapes=(
        Shape(
            "transformers",
            (
                model_type("voxtral"),
                value("audio_config.model_type", "voxtral_encoder"),
                architecture("VoxtralForConditionalGeneration"),
            ),
        ),
        Shape(
            "mistral",
            (params("multimodal.whisper_model_args"),),
            refused="it has Mistral's file layout, which mlx-audio does not load: take a "
            "checkpoint with a config.json, as the hub's repositories also have",
        ),
    ),
)


WHISPER_LANGUAGES = (
    "af", "am", "ar", "as", "az", "ba", "be", "bg", "bn", "bo", "br", "bs", "ca", "cs", "cy", "da",
    "de", "el", "en", "es", "et", "eu", "fa", "fi", "fo", "fr", "gl", "gu", "ha", "haw", "he", "hi",
    "hr", "ht", "hu", "hy", "id", "is", "it", "ja", "jv", "ka", "kk", "km", "kn", "ko", "la", "lb",
    "ln", "lo", "lt", "lv", "mg", "mi", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn",
    "no", "oc", "pa", "pl", "ps", "pt", "ro", "ru", "sa", "sd", "si", "sk", "sl", "sn", "so", "sq",
    "sr", "su", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl", "tr", "tt", "uk", "ur", "uz", "vi",
    "yi", "yo", "yue", "zh",
)  # fmt: skip
"""What a multilingual Whisper knows."""
_MULTILINGUAL_TOKENS = 51_865
"""English-only models have one token less."""


def _whisper_traits(evidence: Evidence, family: ModelFamily) -> Traits:
    """English-only models translate nothing; shortened decoders (turbo, distil) unlearned it."""
    tokens = _first(evidence, "vocab_size", "n_vocab") or _MULTILINGUAL_TOKENS
    heard = _first(evidence, "encoder_layers", "n_audio_layer") or 0
    written = _first(evidence, "decoder_layers", "n_text_layer") or 0
    multilingual = tokens >= _MULTILINGUAL_TOKENS
    lost = {"translate"} if not multilingual or written < heard else set()
    languages = WHISPER_LANGUAGES if multilingual else ("en",)
    return Traits(family.features - lost, languages, family.sample_rate)


def _first(evidence: Evidence, *paths: str) -> int | None:
    values = (evidence.at(path) for path in paths)
    return next((value for value in values if isinstance(value, int)), None)


WHISPER_FAMILY = ModelFamily(
    name="whisper",
    title="Whisper",
    features=frozenset({"translate", "words", "prompt"}),
    tokenizers=(("tokenizer.json",), ("vocab.json", "merges.txt")),
    traits=_whisper_traits,
    shapes=(
        Shape("mlx", (keys("n_mels", "n_audio_state", "n_text_layer"),)),
        Shape(
            "transformers",
            (
                every(model_type("whisper"), keys("d_model")),
                architecture("WhisperForConditionalGeneration"),
            ),
        ),
    ),
)
