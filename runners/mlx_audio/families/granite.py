"""IBM's Granite Speech: instructed in words, it translates too; the plus model can time words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....checkpoints.languages import by_code
from ...assembly import Heard
from ...contract import Segment, TimedWord
from ...cutting import CutOptions
from .. import outputs
from ..family import Arguments, Ask, Family, Languages, Model, Output, Tokens


def _languages(_model: Model) -> Mapping[str, str]:
    from mlx_audio.stt.models.granite_speech.granite_speech import LANGUAGE_CODES

    return by_code(LANGUAGE_CODES)


def _can(_model: Model) -> None:
    return None


def _adapt(arguments: Arguments, ask: Ask) -> Arguments:
    """``language`` is the one to translate into; the prompt is a list of words it may hear."""
    if prompt := arguments.get("hotwords"):
        arguments["hotwords"] = [prompt]
    if ask.job.task == "translate":
        arguments.pop("source_language", None)
        arguments["language"] = "en"
    return arguments


def _adapt_plus(arguments: Arguments, ask: Ask) -> Arguments:
    """Its mode with word times takes no other wish."""
    if ask.job.words and ask.job.task == "transcribe":
        kept = ("max_tokens", "temperature")
        return {name: arguments[name] for name in kept} | {"word_timestamps": True}
    return _adapt(arguments, ask)


def _call(model: Model, audio: Any, arguments: Arguments) -> Output:
    """Where it fails to time its words, it is asked again for the text alone."""
    from mlx_audio.stt.models.granite_speech.granite_speech import StructuredTranscriptError

    try:
        return model.generate(audio, **arguments)
    except StructuredTranscriptError:
        return model.generate(audio, **arguments | {"word_timestamps": False})


def _timed(output: Output, ask: Ask) -> Heard:
    """Its words with times, where it was asked for them."""
    heard = outputs.whole(output, ask)
    words = [word for segment in output.segments or () for word in segment["words"]]
    if not words:
        return heard
    timed = tuple(
        TimedWord(f" {word['word']}", *(min(word[at], ask.seconds) for at in ("start", "end")))
        for word in words
    )
    text = "".join(word.text for word in timed)
    return replace(heard, segments=(Segment(0, text, timed[0].start, timed[-1].end, timed),))


GRANITE = Family(
    "granite_speech",
    CutOptions(longest_s=30),
    outputs.whole,
    languages=Languages(_languages, ("source_language",)),
    tokens=Tokens(most=4096),
    prompt="hotwords",
    temperature="temperature",
    adapt=_adapt,
    no_translation=_can,
)
GRANITE_PLUS = replace(
    GRANITE,
    model_type="granite_speech_plus",
    heard=_timed,
    adapt=_adapt_plus,
    call=_call,
    words=True,
)
