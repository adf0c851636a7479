"""A transcript as text, JSON or subtitles: one line in a table per format. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from voxlive.errors import RequestRefused
from voxlive.runners.contract import Transcript
from voxlive.runners.outputs import subtitles
from voxlive.runners.outputs.subtitles import CueStyle
from voxlive.values import Segment, seconds, seconds_or_none

# What OpenAI's verbose segments hold beside times and text; null where a model has no such figure.
_DETAILS = ("tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob")


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What a writer is to list: ``model`` is the name that answers carry."""

    model: str
    segments: bool = True
    words: bool = False
    cues: CueStyle = field(default_factory=CueStyle)


def text(transcript: Transcript, _options: OutputOptions) -> str:
    """The words alone."""
    return f"{transcript.text.strip()}\n"


def plain_json(transcript: Transcript, options: OutputOptions) -> str:
    """OpenAI's and Mistral's short answer in one: the text, its model and what was used."""
    answer = {
        "text": transcript.text.strip(),
        "model": options.model,
        "language": transcript.language,
    }
    return _dump({**answer, "usage": usage(transcript)})


def verbose_json(transcript: Transcript, options: OutputOptions) -> str:
    """Everything that is known, times in seconds; segments and words are listed if wanted.

    ``warnings`` is there only if there are some. Raises RequestRefused if words are wanted of a
    model that cannot time them.
    """
    answer: dict[str, Any] = {
        "task": transcript.task,
        "language": transcript.language,
        "duration": transcript.duration,
        "text": transcript.text.strip(),
        "model": options.model,
    }
    if options.segments:
        answer["segments"] = [_segment(segment) for segment in transcript.segments]
    if options.words:
        answer["words"] = [word for segment in transcript.segments for word in _words(segment)]
    if transcript.warnings:
        answer["warnings"] = warnings(transcript)
    return _dump({**answer, "usage": usage(transcript)})


def diarized_json(transcript: Transcript, options: OutputOptions) -> str:
    """Who said what. Raises RequestRefused unless the model labelled every speaker."""
    if any(segment.speaker is None or segment.start is None for segment in transcript.segments):
        message = f"{options.model} does not tell speakers apart; use another response_format"
        raise RequestRefused("no_speakers", message, "response_format")
    listed = [
        {
            "type": "transcript.text.segment",
            "id": str(segment.id),
            "start": seconds_or_none(segment.start),
            "end": seconds_or_none(segment.end),
            "text": segment.text.strip(),
            "speaker": segment.speaker,
        }
        for segment in transcript.segments
    ]
    answer = {
        "task": transcript.task,
        "duration": transcript.duration,
        "text": transcript.text.strip(),
    }
    return _dump({**answer, "segments": listed, "usage": usage(transcript)})


def srt(transcript: Transcript, options: OutputOptions) -> str:
    """SubRip subtitles."""
    return subtitles.srt(_cues(transcript, options))


def vtt(transcript: Transcript, options: OutputOptions) -> str:
    """WebVTT subtitles."""
    return subtitles.vtt(_cues(transcript, options))


@dataclass(frozen=True, slots=True)
class TranscriptFormat:
    """A way to write a transcript. ``word_times``: it is better for words with times."""

    write: Callable[[Transcript, OutputOptions], str]
    media_type: str
    suffix: str
    word_times: bool = False


# Names as in OpenAI's API.
FORMATS: dict[str, TranscriptFormat] = {
    "json": TranscriptFormat(plain_json, "application/json", "json"),
    "text": TranscriptFormat(text, "text/plain", "txt"),
    "srt": TranscriptFormat(srt, "application/x-subrip", "srt", word_times=True),
    "verbose_json": TranscriptFormat(verbose_json, "application/json", "verbose.json"),
    "vtt": TranscriptFormat(vtt, "text/vtt", "vtt", word_times=True),
    "diarized_json": TranscriptFormat(diarized_json, "application/json", "diarized.json"),
}


def usage(transcript: Transcript) -> dict[str, object]:
    """The seconds of audio, and tokens where the model counts them."""
    used: dict[str, object] = {"type": "duration", "seconds": math.ceil(transcript.duration)}
    if transcript.prompt_tokens is not None and transcript.completion_tokens is not None:
        used["prompt_tokens"] = transcript.prompt_tokens
        used["completion_tokens"] = transcript.completion_tokens
        used["total_tokens"] = transcript.prompt_tokens + transcript.completion_tokens
    return used


def warnings(transcript: Transcript) -> list[dict[str, str]]:
    """The warnings as JSON: ``{code, message}`` each."""
    return [{"code": one.code, "message": one.message} for one in transcript.warnings]


def _segment(segment: Segment) -> dict[str, Any]:
    """A segment in OpenAI's shape; ``seek`` is its start in hundredths, as Whisper counts."""
    known = dict(segment.details)
    seek = None if segment.start is None else round(seconds(segment.start) * 100)
    shown = {
        "id": segment.id,
        "seek": known.get("seek", seek),
        "start": seconds_or_none(segment.start),
        "end": seconds_or_none(segment.end),
        "text": segment.text.strip(),
        **{name: known.get(name) for name in _DETAILS},
    }
    return {**shown, "speaker": segment.speaker} if segment.speaker is not None else shown


def _words(segment: Segment) -> list[dict[str, Any]]:
    if segment.words is None:
        message = "this model knows no word times; ask for timestamp_granularities[]=segment"
        raise RequestRefused("no_word_times", message, "timestamp_granularities[]")
    return [
        {"word": word.text.strip(), "start": seconds(word.start), "end": seconds(word.end)}
        for word in segment.words
    ]


def _cues(transcript: Transcript, options: OutputOptions) -> list[subtitles.Cue]:
    try:
        return subtitles.cues(transcript.segments, options.cues, transcript.duration)
    except ValueError as error:
        message = f"{options.model} knows no times, so it makes no subtitles; use text or json"
        raise RequestRefused("no_times", message, "response_format") from error


def _dump(answer: dict[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False)
