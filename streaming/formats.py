"""A transcription as text, JSON or subtitles: one writer per format. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from . import subtitles
from .clock import seconds
from .transcribe import Transcription


def text(said: Transcription) -> str:
    """The words alone."""
    return f"{said.text}\n"


def plain_json(said: Transcription, model: str | None = None) -> str:
    """``text`` and the seconds of audio; the model and the language for Mistral's clients."""
    named = {"model": model, "language": said.language} if model else {}
    return _dump({"text": said.text, **named, "usage": _usage(said)})


def verbose_json(said: Transcription, segments: bool = True, words: bool = True) -> str:
    """Everything that is known, times in seconds; segments and words are listed if wanted."""
    answer: dict[str, Any] = {
        "task": "transcribe",
        "language": said.language,
        "duration": said.duration,
        "text": said.text,
    }
    if segments:
        answer["segments"] = [
            {"id": s.id, "start": seconds(s.start), "end": seconds(s.end), "text": s.text.strip()}
            for s in said.segments
        ]
    if words:
        answer["words"] = [
            {"word": w.text.strip(), "start": seconds(w.start), "end": seconds(w.end)}
            for segment in said.segments
            for w in segment.words
        ]
    return _dump({**answer, "usage": _usage(said)})


def srt(said: Transcription) -> str:
    """SubRip subtitles."""
    return subtitles.srt(subtitles.cues(segment.words for segment in said.segments))


def vtt(said: Transcription) -> str:
    """WebVTT subtitles."""
    return subtitles.vtt(subtitles.cues(segment.words for segment in said.segments))


# Names as in OpenAI's API.
WRITERS: dict[str, Callable[[Transcription], str]] = {
    "json": plain_json,
    "text": text,
    "srt": srt,
    "verbose_json": verbose_json,
    "vtt": vtt,
}


def _usage(said: Transcription) -> dict[str, object]:
    return {"type": "duration", "seconds": math.ceil(said.duration)}


def _dump(answer: dict[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False)
