"""mlx-audio's speech models but Whisper and Voxtral, a few lines each.

CTC models read their text off the frames in one pass: no tokens to limit, nothing to sample. Some
write who said what and when, over audio as long as can be: labels hold within it. Granite Speech is
instructed in words. NVIDIA's NeMo models have times for their tokens. Qwen3-ASR and what is made of
it take the language by its English name. The others write token by token, from short windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from voxlive.checkpoints.languages import by_code
from voxlive.recognisers.contract import Recognition
from voxlive.recognisers.mlx_audio import outputs
from voxlive.recognisers.mlx_audio.family import (
    Arguments,
    FamilyAdapter,
    FamilyRequest,
    Languages,
    Model,
    Output,
    Tokens,
    language_titles,
    translates,
)
from voxlive.values import Segment, Word

_CTC_WINDOW = 30.0


def only(*codes: str, parameter: str | None = None) -> Languages:
    """A model that knows these; without a ``parameter`` for it, it detects which is spoken."""

    def names(_model: Model) -> Mapping[str, str]:
        return {code: code for code in codes}

    return Languages(names, (parameter,) if parameter else ())


MMS = FamilyAdapter("mms", _CTC_WINDOW, outputs.whole)
GRANITE_CTC = FamilyAdapter("granite_speech5_ctc", _CTC_WINDOW, outputs.whole, languages=only("en"))
GRANITE_NAR = FamilyAdapter("granite_speech_nar", _CTC_WINDOW, outputs.whole)
SENSEVOICE = FamilyAdapter(
    "sensevoice",
    _CTC_WINDOW,
    outputs.whole,
    languages=only("en", "ja", "ko", "yue", "zh", parameter="language"),
    fixed={"use_itn": True},  # with punctuation and figures
)
FIRERED = FamilyAdapter("fireredasr2", _CTC_WINDOW, outputs.whole, languages=only("en", "zh"))


_HALF_HOUR = 1800.0
_LONG_PAUSE = 60.0
_WRITTEN = Tokens(most=32_768)


def _after_instruction(arguments: Arguments, _request: FamilyRequest) -> Arguments:
    """Its prompt is the instruction: what is asked for comes after the one it was trained on."""
    from mlx_audio.stt.models.moss_transcribe_diarize.moss_transcribe_diarize import DEFAULT_PROMPT

    if prompt := arguments.get("prompt"):
        arguments["prompt"] = f"{DEFAULT_PROMPT}\n{prompt}"
    return arguments


VIBEVOICE = FamilyAdapter(
    "vibevoice_asr",
    _HALF_HOUR,
    outputs.diarised,
    tokens=_WRITTEN,
    prompt="context",
    temperature="temperature",
    fixed={"sampling_rate": 24_000},
    rate=24_000,
    speakers=True,
    pause_s=_LONG_PAUSE,
)
MOSS_TRANSCRIBE = FamilyAdapter(
    "moss_transcribe_diarize",
    _HALF_HOUR,
    outputs.diarised,
    tokens=_WRITTEN,
    prompt="prompt",
    temperature="temperature",
    adapt=_after_instruction,
    speakers=True,
    pause_s=_LONG_PAUSE,
)


def _languages(_model: Model) -> Mapping[str, str]:
    from mlx_audio.stt.models.granite_speech.granite_speech import LANGUAGE_CODES

    return by_code(LANGUAGE_CODES)


def _adapt(arguments: Arguments, request: FamilyRequest) -> Arguments:
    """``language`` is the one to translate into; the prompt is a list of words to expect."""
    if prompt := arguments.get("hotwords"):
        arguments["hotwords"] = [prompt]
    if request.options.task == "translate":
        arguments.pop("source_language", None)
        arguments["language"] = "en"
    return arguments


def _adapt_plus(arguments: Arguments, request: FamilyRequest) -> Arguments:
    """Its mode with word times takes no other option."""
    if request.options.words and request.options.task == "transcribe":
        kept = ("max_tokens", "temperature")
        return {name: arguments[name] for name in kept} | {"word_timestamps": True}
    return _adapt(arguments, request)


def _call(model: Model, audio: Any, arguments: Arguments) -> Output:
    """Where it fails to time its words, it is called again for the text alone."""
    from mlx_audio.stt.models.granite_speech.granite_speech import StructuredTranscriptError

    try:
        return model.generate(audio, **arguments)
    except StructuredTranscriptError:
        return model.generate(audio, **arguments | {"word_timestamps": False})


def _timed(output: Output, request: FamilyRequest) -> Recognition:
    """Its words with times, where it was asked for them."""
    found = outputs.whole(output, request)
    words = [word for segment in output.segments or () for word in segment["words"]]
    if not words:
        return found
    timed = tuple(
        Word(
            f" {word['word']}",
            outputs.within(word["start"], request),
            outputs.within(word["end"], request),
        )
        for word in words
    )
    text = "".join(word.text for word in timed)
    return replace(found, segments=(Segment(0, text, timed[0].start, timed[-1].end, timed),))


GRANITE = FamilyAdapter(
    "granite_speech",
    30.0,
    outputs.whole,
    languages=Languages(_languages, ("source_language",)),
    tokens=Tokens(most=4096),
    prompt="hotwords",
    temperature="temperature",
    adapt=_adapt,
    translation_refusal=translates,
)
GRANITE_PLUS = replace(
    GRANITE,
    model_type="granite_speech_plus",
    parse_output=_timed,
    adapt=_adapt_plus,
    call=_call,
    words=True,
)


# Full attention over a stretch: its cost grows with the square of this.
_MINUTES = 120.0


def _prompts(model: Model) -> Mapping[str, str]:
    """A model that is prompted with the language has a key for each, some for a region's."""
    return by_code(sorted(model.prompt_dictionary))


def _canary_languages(model: Model) -> Mapping[str, str]:
    known = model._tokenizer.token2id
    return by_code(code for code in model.config.supported_languages if f"<|{code}|>" in known)


def _into_english(arguments: Arguments, request: FamilyRequest) -> Arguments:
    return arguments | {"target_lang": "en"} if request.options.task == "translate" else arguments


PARAKEET = FamilyAdapter("parakeet", _MINUTES, outputs.aligned, words=True)
PHONON2 = FamilyAdapter("phonon2", _MINUTES, outputs.aligned, words=True)
NEMOTRON = FamilyAdapter(
    "nemotron_asr",
    _MINUTES,
    outputs.aligned,
    languages=Languages(_prompts, ("language",)),
    words=True,
)
CANARY = FamilyAdapter(
    "canary",
    30.0,
    outputs.whole,
    languages=Languages(_canary_languages, ("source_lang", "target_lang"), required=True),
    tokens=Tokens(most=1000),  # of the 1024 places of its decoder
    temperature="temperature",
    adapt=_into_english,
    translation_refusal=translates,
)


def _names(model: Model) -> Mapping[str, str]:
    return by_code(model.config.support_languages or ()) or language_titles()


def _prepare(model: Model, _folder: Path) -> None:
    """A text without its language stays without: mlx-audio would say that it is English."""
    asr = next((own for name in ("_asr", "_model") if (own := vars(model).get(name))), model)
    asr = vars(asr).get("_model", asr)
    object.__setattr__(asr, "extract_language", _extract_language)


def _extract_language(text: str) -> tuple[str | None, str]:
    """``language English<asr_text>Hello`` as the language's name and the text."""
    head, mark, transcript = text.partition("<asr_text>")
    if mark and head.startswith("language "):
        return head.removeprefix("language ").strip(), transcript
    return None, text


QWEN3_ASR = FamilyAdapter(
    "qwen3_asr",
    120.0,
    outputs.whole,
    languages=Languages(_names, ("language",)),
    tokens=Tokens(),
    prompt="system_prompt",
    temperature="temperature",
    after_load=_prepare,
)


_WINDOW = 30.0


def _cohere(model: Model) -> Mapping[str, str]:
    return by_code(model.config.supported_languages)


def _fun(_model: Model) -> Mapping[str, str]:
    from mlx_audio.stt.models.fun_asr_nano.fun_asr_nano import ISO_TO_PROMPT_LANGUAGE

    return by_code(ISO_TO_PROMPT_LANGUAGE)


def _hotwords(arguments: Arguments, _request: FamilyRequest) -> Arguments:
    """One list of words to expect."""
    if prompt := arguments.get("hotwords"):
        arguments["hotwords"] = [prompt]
    return arguments


GLM_ASR = FamilyAdapter(
    "glmasr", _WINDOW, outputs.whole, tokens=Tokens(), temperature="temperature"
)
MOONSHINE = FamilyAdapter(
    "moonshine",
    _WINDOW,
    outputs.whole,
    languages=only("en"),
    tokens=Tokens(most=192),  # the places that it was trained for
    temperature="temperature",
)
COHERE = FamilyAdapter(
    "cohere_asr",
    _WINDOW,
    outputs.whole,
    languages=Languages(_cohere, ("language",), required=True),
    tokens=Tokens(most=1000),  # of the 1024 places of its decoder
    fixed={"batch_size": 1},
)
FUN_ASR = FamilyAdapter(
    "fun_asr_nano",
    _WINDOW,
    outputs.whole,
    languages=Languages(_fun, ("language",)),
    tokens=Tokens(),
    prompt="context",
    temperature="temperature",
)
MIMO = FamilyAdapter(
    "mimo_v2_asr",
    _WINDOW,
    outputs.whole,
    languages=only("en", "zh", parameter="language"),
    tokens=Tokens(),
    temperature="temperature",
)
MING = FamilyAdapter(
    "ming_v3_asr",
    _WINDOW,
    outputs.whole,
    languages=only("en", "zh", parameter="language"),
    tokens=Tokens(),
    prompt="hotwords",
    temperature="temperature",
    adapt=_hotwords,
)
QWEN2_AUDIO = FamilyAdapter(
    "qwen2_audio", _WINDOW, outputs.whole, tokens=Tokens(), temperature="temperature"
)
HIGGS = FamilyAdapter(
    "higgs_audio_3", _WINDOW, outputs.whole, tokens=Tokens(), temperature="temperature"
)
