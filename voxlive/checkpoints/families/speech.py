"""Whisper and the other speech models that mlx-audio serves, a few lines each."""

from __future__ import annotations

from collections.abc import Callable

from voxlive.checkpoints.families.family import (
    MIB,
    Evidence,
    ModelFamily,
    Shape,
    Traits,
    all_of,
    architecture,
    fewer_rows,
    file,
    keys,
    model_type,
    stored,
    tensors,
    value,
)
from voxlive.checkpoints.languages import codes_of

_HF = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
"""What transformers' AutoTokenizer can be made of."""
_LLM = 2048 * MIB
_CONVERSATIONS = (
    "it writes who speaks when, over a conversation as a whole, which an utterance does not have"
)
_ALIGNER_ROWS = 10_000
_ENCODER_ONLY = (
    "it is an encoder without a decoder: mlx-audio cannot make text with it; take a checkpoint "
    "that was trained to transcribe"
)


def _listed(*paths: str) -> Callable[[Evidence, ModelFamily], Traits]:
    """Traits whose languages a config lists, by code or name, at one of these paths."""

    def traits(evidence: Evidence, family: ModelFamily) -> Traits:
        found = next((x for x in map(evidence.at, paths) if isinstance(x, list) and x), None)
        languages = codes_of(found) or None if found else family.languages
        return Traits(family.features, languages, family.sample_rate)

    return traits


_QWEN_LANGUAGES = _listed("support_languages", "thinker_config.support_languages")

ALIGNER = ModelFamily(
    name="qwen3_forced_aligner",
    title="Qwen3-ForcedAligner",
    tokenizers=_HF,
    traits=_QWEN_LANGUAGES,
    shapes=(
        Shape(
            "transformers",
            (
                value("thinker_config.model_type", "qwen3_forced_aligner"),
                model_type("qwen3_forced_aligner"),
                architecture("Qwen3ASRForTokenClassification", "Qwen3ForcedAlignerForTokenClass"),
                all_of(model_type("qwen3_asr"), fewer_rows("lm_head.weight", _ALIGNER_ROWS)),
            ),
            refused="it puts times to a text that is given to it and transcribes nothing: choose "
            "a model that transcribes, such as Qwen3-ASR",
            transcribes=False,
        ),
    ),
)

_QWEN3_ASR = ModelFamily(
    name="qwen3_asr",
    title="Qwen3-ASR",
    features=frozenset({"prompt"}),
    tokenizers=_HF,
    room=_LLM,
    traits=_QWEN_LANGUAGES,
    shapes=(
        Shape(
            "transformers",
            (
                value("thinker_config.model_type", "qwen3_asr", "qwen3_asr_thinker"),
                value("thinker_config.audio_config.model_type", "qwen3_asr_audio_encoder"),
                all_of(model_type("qwen3_asr"), keys("thinker_config")),
            ),
        ),
        Shape("flat", (model_type("qwen3_asr"),)),
    ),
)

_MEGA_ASR = ModelFamily(
    name="mega_asr",
    title="Mega-ASR",
    features=frozenset({"prompt"}),
    tokenizers=_HF,
    room=_LLM,
    traits=_QWEN_LANGUAGES,
    shapes=(Shape("mlx", (model_type("mega_asr"),)),),
)

_GLM_ASR = ModelFamily(
    name="glmasr",
    title="GLM-ASR",
    tokenizers=_HF,
    room=_LLM,
    shapes=(
        Shape("mlx", (all_of(model_type("glmasr", "glm"), keys("whisper_config", "lm_config")),)),
        Shape(
            "transformers",
            (
                all_of(model_type("glmasr"), value("audio_config.model_type", "glmasr_encoder")),
                model_type("glmasr"),
            ),
            refused="mlx-audio reads its config's sizes only from whisper_config and lm_config: "
            "take a converted checkpoint, such as mlx-community/GLM-ASR-Nano-2512-4bit",
        ),
    ),
)

_VIBEVOICE = ModelFamily(
    name="vibevoice_asr",
    not_live=_CONVERSATIONS,
    title="VibeVoice-ASR",
    features=frozenset({"speakers", "prompt"}),
    sample_rate=24_000,
    tokenizers=_HF,
    room=_LLM,
    shapes=(
        Shape(
            "mlx",
            (
                keys("acoustic_tokenizer_config", "semantic_tokenizer_config", "decoder_config"),
                all_of(model_type("vibevoice", "vibevoice_asr"), keys("decoder_config")),
            ),
        ),
        Shape(
            "transformers",
            (model_type("vibevoice_asr"), keys("acoustic_tokenizer_encoder_config")),
            refused="mlx-audio loads Microsoft's own form of it: take a checkpoint whose config "
            "has acoustic_tokenizer_config and decoder_config",
        ),
    ),
)

_WAV2VEC2 = ModelFamily(
    name="mms",
    title="Wav2Vec2, MMS",
    tokenizers=(("vocab.json",),),
    shapes=(
        Shape(
            "transformers",
            (
                all_of(model_type("wav2vec2"), architecture("Wav2Vec2ForCTC")),
                model_type("mms"),
            ),
        ),
        Shape(
            "encoder",
            (model_type("wav2vec2", "wav2vec", "wav2vec2-conformer", "wav2vec2-bert", "hubert"),),
            refused=_ENCODER_ONLY,
            transcribes=False,
        ),
    ),
)

_LASR = ModelFamily(
    name="lasr_ctc",
    title="LASR",
    shapes=(
        Shape(
            "transformers",
            (model_type("lasr_ctc", "lasr_encoder"), architecture("LasrForCTC")),
            refused="mlx-audio loads it, but cannot make text with it: it has no generate() yet",
        ),
    ),
)

_MOONSHINE = ModelFamily(
    name="moonshine",
    title="Moonshine",
    languages=("en",),
    tokenizers=_HF,
    shapes=(
        Shape(
            "streaming",
            (model_type("moonshine_streaming"),),
            refused="mlx-audio knows Moonshine, but not its streaming form: take "
            "UsefulSensors/moonshine-base",
        ),
        Shape("transformers", (model_type("moonshine"),)),
    ),
)

_GRANITE = ModelFamily(
    name="granite_speech",
    title="Granite Speech",
    features=frozenset({"translate", "prompt"}),
    tokenizers=_HF,
    room=_LLM,
    shapes=(Shape("transformers", (model_type("granite_speech"),)),),
)

_GRANITE_PLUS = ModelFamily(
    name="granite_speech_plus",
    title="Granite Speech Plus",
    features=frozenset({"translate", "words", "prompt"}),
    tokenizers=_HF,
    package="granite_speech",
    room=_LLM,
    shapes=(Shape("transformers", (model_type("granite_speech_plus"),)),),
)

_GRANITE_CTC = ModelFamily(
    name="granite_speech5_ctc",
    title="Granite Speech 5 CTC",
    tokenizers=(("tokenizer.json",),),
    shapes=(Shape("transformers", (model_type("granite_speech5_ctc"),)),),
)

_GRANITE_NAR = ModelFamily(
    name="granite_speech_nar",
    title="Granite Speech NAR",
    tokenizers=_HF,
    room=_LLM,
    shapes=(Shape("transformers", (model_type("granite_speech_nar", "granite_speech_nle"),)),),
)

_COHERE = ModelFamily(
    name="cohere_asr",
    title="Cohere Transcribe",
    languages=(
        "ar", "de", "el", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "vi", "zh",
    ),
    tokenizers=(("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),),
    traits=_listed("supported_languages"),
    shapes=(
        Shape("mlx", (all_of(model_type("cohere_asr"), keys("encoder")),)),
        Shape("transformers", (model_type("cohere_asr"),)),
    ),
)  # fmt: skip

_SENSEVOICE = ModelFamily(
    name="sensevoice",
    title="SenseVoice",
    languages=("en", "ja", "ko", "yue", "zh"),
    tokenizers=(("chn_jpn_yue_eng_ko_spectok.bpe.model",), ("tokens.json",)),
    shapes=(Shape("mlx", (model_type("sensevoice"), value("model", "SenseVoiceSmall"))),),
)

_FUN_ASR = ModelFamily(
    name="fun_asr_nano",
    title="Fun-ASR-Nano",
    features=frozenset({"prompt"}),
    tokenizers=(("Qwen3-0.6B/tokenizer.json",), ("Qwen3-0.6B/vocab.json", "Qwen3-0.6B/merges.txt")),
    room=_LLM,
    shapes=(Shape("mlx", (model_type("fun_asr_nano"), value("model", "FunASRNano"))),),
)

_FIRERED = ModelFamily(
    name="fireredasr2",
    title="FireRedASR2",
    languages=("en", "zh"),
    tokenizers=(("dict.txt",), ("train_bpe1000.model",)),
    shapes=(Shape("mlx", (model_type("fireredasr2"),)),),
)

_MOSS_TRANSCRIBE = ModelFamily(
    name="moss_transcribe_diarize",
    not_live=_CONVERSATIONS,
    title="MOSS-Transcribe-Diarize",
    features=frozenset({"speakers", "prompt"}),
    tokenizers=_HF,
    room=_LLM,
    shapes=(Shape("transformers", (model_type("moss_transcribe_diarize"),)),),
)

_MOSS_MUSIC = ModelFamily(
    name="moss_music",
    title="MOSS-Music",
    shapes=(
        Shape(
            "transformers",
            (model_type("moss_music"),),
            refused="it describes music and transcribes no speech",
            transcribes=False,
        ),
    ),
)

_QWEN2_AUDIO = ModelFamily(
    name="qwen2_audio",
    title="Qwen2-Audio",
    tokenizers=_HF,
    room=_LLM,
    shapes=(Shape("transformers", (model_type("qwen2_audio"),)),),
)

_MIMO = ModelFamily(
    name="mimo_v2_asr",
    title="MiMo-ASR",
    tokenizers=_HF,
    room=_LLM,
    shapes=(
        Shape(
            "mlx",
            (
                model_type("mimo", "mimo_v2_asr", "mimo_audio"),
                architecture("MiMoAudioModel", "MiMoV2ASRForCausalLM"),
                keys("speech_vocab_size", "local_layers", "audio_channels"),
            ),
            warning="it also needs its audio tokenizer: in the folder that mlx_manifest.json "
            "names, or in MiMo-Audio-Tokenizer beside it",
        ),
    ),
)

_MING = ModelFamily(
    name="ming_v3_asr",
    title="Ming ASR",
    features=frozenset({"prompt"}),
    tokenizers=(("tokenizer.json",),),
    room=_LLM,
    shapes=(Shape("mlx", (model_type("ming_v3_asr"),)),),
)

_HIGGS = ModelFamily(
    name="higgs_audio_3",
    title="Higgs Audio 3",
    tokenizers=_HF,
    room=_LLM,
    shapes=(
        Shape(
            "mlx", (model_type("higgs_audio_3"), keys("audio_encoder_config", "chunk_size_seconds"))
        ),
    ),
)

_PACKED = (
    "its weights are packed in an archive of its own, which cannot be checked before it is "
    "unpacked: take an unpacked checkpoint"
)
_PHONON = ModelFamily(
    name="phonon",
    title="Phonon",
    features=frozenset({"prompt"}),
    languages=("en",),
    tokenizers=_HF,
    room=_LLM,
    shapes=(
        Shape("unpacked", (all_of(model_type("phonon"), stored()),)),
        Shape("packed", (model_type("phonon"), file("packed_manifest.json")), refused=_PACKED),
    ),
)
_PHONON2 = ModelFamily(
    name="phonon2",
    title="Phonon 2",
    features=frozenset({"words"}),
    shapes=(
        Shape("unpacked", (all_of(model_type("phonon2", "parakeet_tdt_five_value"), stored()),)),
        Shape("packed", (model_type("phonon2", "parakeet_tdt_five_value"),), refused=_PACKED),
    ),
)

# In this order the first to recognise a checkpoint has it: the special before the general.


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
CTRANSLATE2 = "ctranslate2"
"""The layout that faster-whisper reads, and nothing else does."""
_MULTILINGUAL_TOKENS = 51_865
"""English-only models have one token less."""
_EMBEDDINGS = "decoder/embeddings/weight"
_ENCODER_LAYERS = ("encoder_layers", "n_audio_layer")
_DECODER_LAYERS = ("decoder_layers", "n_text_layer")


def _whisper_traits(evidence: Evidence, family: ModelFamily) -> Traits:
    """English-only models translate nothing; shortened decoders (turbo, distil) unlearned it."""
    rows = evidence.shapes.get(_EMBEDDINGS) or (None,)
    tokens = _first(evidence, "vocab_size", "n_vocab") or rows[0] or _MULTILINGUAL_TOKENS
    encoder_layers = _first(evidence, *_ENCODER_LAYERS) or _layers(evidence, "encoder")
    decoder_layers = _first(evidence, *_DECODER_LAYERS) or _layers(evidence, "decoder")
    multilingual = tokens >= _MULTILINGUAL_TOKENS
    lost = {"translate"} if not multilingual or decoder_layers < encoder_layers else set()
    languages = WHISPER_LANGUAGES if multilingual else ("en",)
    return Traits(family.features - lost, languages, family.sample_rate)


def _layers(evidence: Evidence, part: str) -> int:
    """How many layers CTranslate2's tensors have; 0 in other layouts, whose configs say it."""
    names = (name.split("/")[:2] for name in evidence.shapes if name.startswith(f"{part}/layer_"))
    return len({layer for _, layer in names if layer != "layer_norm"})


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
                all_of(model_type("whisper"), keys("d_model")),
                architecture("WhisperForConditionalGeneration"),
            ),
        ),
        Shape(CTRANSLATE2, (tensors("encoder/conv1/weight", _EMBEDDINGS),)),
    ),
)


SPEECH = (
    ALIGNER, _MEGA_ASR, _QWEN3_ASR, _GLM_ASR, _VIBEVOICE, _WAV2VEC2, _LASR, _MOONSHINE,
    _GRANITE_PLUS, _GRANITE_CTC, _GRANITE_NAR, _GRANITE, _COHERE, _SENSEVOICE, _FUN_ASR,
    _FIRERED, _MOSS_TRANSCRIBE, _MOSS_MUSIC, _QWEN2_AUDIO, _MIMO, _MING, _HIGGS, _PHONON,
    _PHONON2,
)  # fmt: skip
