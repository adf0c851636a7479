"""What a WhisperLive client's first message asks for."""

from __future__ import annotations

from dataclasses import dataclass

from ...streaming.engine import StreamOptions
from ...streaming.ingest import AudioFormat
from ...streaming.options import SessionOptions
from ...vad.gate import GateOptionError, GateOptions
from .fields import Json, flag, language, parse_object, show, string, whole

# The options may hold recordings of speakers.
MAX_OPTIONS = 8_000_000
_MOST_SEGMENTS = 1000
_LONGEST_UID = 200
_AUDIO = {"float32": "f32le", "int16": "s16le", "uint8": "u8"}
_GATE = {
    "threshold": "threshold",
    "neg_threshold": "exit_threshold",
    "min_speech_duration_ms": "min_speech_ms",
    "min_silence_duration_ms": "min_silence_ms",
    "speech_pad_ms": "pre_roll_ms",
}
# Below its threshold by so much is where the voice detector of WhisperLive lets speech end.
_HYSTERESIS = 0.15
_NOT_DONE = {
    "enable_translation": "this server does not translate: there will be no translated segments",
    "enable_diarization": "this server does not tell speakers apart",
}


@dataclass(frozen=True, slots=True)
class Wishes:
    """``last``: how many complete segments each update repeats; ``words``: with their words."""

    uid: str | None
    options: SessionOptions
    last: int
    words: bool
    warnings: tuple[str, ...]


def read(frame: str | bytes) -> Wishes:
    """The first frame; raises ValueError in words."""
    try:
        message = parse_object(frame)
    except ValueError as error:
        raise ValueError("the first message must be the options as JSON, then audio") from error
    if message.get("task") == "translate":
        raise ValueError('this server does not translate: "task" must be "transcribe"')
    return Wishes(
        uid=string(message, "uid", _LONGEST_UID),
        options=SessionOptions(_audio(message), _gate(message), StreamOptions(language(message))),
        last=whole(message, "send_last_n_segments", 1, _MOST_SEGMENTS, 10),
        words=flag(message, "word_timestamps", False),
        warnings=tuple(why for name, why in _NOT_DONE.items() if flag(message, name, False)),
    )


def _audio(message: Json) -> AudioFormat:
    asked = message.get("audio_format", "float32")
    if not isinstance(asked, str) or asked not in _AUDIO:
        raise ValueError(f'"audio_format" must be one of {", ".join(_AUDIO)}, not {show(asked)}')
    return AudioFormat(_AUDIO[asked])


def _gate(message: Json) -> GateOptions | None:
    if not flag(message, "use_vad", True):
        return None
    asked = message.get("vad_parameters")
    if asked is None:
        return GateOptions()
    if not isinstance(asked, dict):
        raise ValueError(f'"vad_parameters" must be an object, not {show(asked)}')
    values = {ours: asked[name] for name, ours in _GATE.items() if asked.get(name) is not None}
    threshold = values.get("threshold")
    if isinstance(threshold, int | float):
        values.setdefault("exit_threshold", max(0.01, threshold - _HYSTERESIS))
    try:
        return GateOptions(**values)
    except GateOptionError as error:
        raise ValueError(f"vad_parameters: {error}") from error
