"""What a client of Deepgram asks for in the query of ``/v1/listen``, live or with a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from starlette.datastructures import ImmutableMultiDict

from voxlive.checkpoints.languages import UnknownLanguage, language_of
from voxlive.engines.contract import EngineInfo, StreamOptions
from voxlive.errors import BadAudio, ProtocolError
from voxlive.recognisers.vocabulary import usable_terms
from voxlive.streaming.ingest.formats import CONTAINER, AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.streaming.replacements import BadReplacement, Replacements
from voxlive.vad.gate import GateOptions
from voxlive.web.protocols.fields import quoted

_PCM = {"linear16": "s16le", "linear32": "s32le", "mulaw": "mulaw", "alaw": "alaw"}
_CONTAINERS = ("flac", "ogg-opus", "opus")
# Pauses shorter than this lie within words and phrases, and would cut them apart.
_MIN_PAUSE_MS = 300
_MAX_PAUSE_MS = 10_000
# What changes or marks the text. A client that asks for it would take our text for what it is not.
_UNSUPPORTED = {
    "diarize": "this server does not tell speakers apart",
    "diarize_model": "this server does not tell speakers apart",
    "redact": "this server does not redact",
    "profanity_filter": "this server does not filter words",
    "search": "this server does not search in what it hears",
    "detect_entities": "this server does not detect entities",
    "callback": "this server answers on the connection and calls nobody back",
    "summarize": "this server does not summarize",
    "sentiment": "this server does not judge sentiment",
    "topics": "this server does not find topics",
    "custom_topic": "this server does not find topics",
    "intents": "this server does not find intents",
    "custom_intent": "this server does not find intents",
}

_BOOST = re.compile(r":-?[\d.]*$")
_T = TypeVar("_T")
_Params = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DeepgramQuery:
    """A query, read. ``endpointing`` false: pauses are not marked as end points."""

    audio: AudioFormat
    language: str | None
    gate: GateOptions
    endpointing: bool
    utterance_end_ms: int | None
    interim_results: bool
    vad_events: bool
    utterances: bool
    vocabulary: tuple[str, ...] = ()
    replacements: Replacements = field(default_factory=Replacements)

    def options(self, info: EngineInfo) -> SessionOptions:
        """The live session; key terms are a hint, without effect on an engine that takes none."""
        terms = () if info.vocabulary is None else self.vocabulary
        stream = StreamOptions(self.language, drafts=self.interim_results, vocabulary=terms)
        return SessionOptions(self.audio, self.gate, stream, replacements=self.replacements)


def read_query(params: _Params) -> DeepgramQuery:
    """The query's meaning. Raises ProtocolError for what is wrong or cannot be done.

    Hints on formatting have no effect, names that nobody knows are ignored.
    """
    try:
        for name, reason in _UNSUPPORTED.items():
            if params.get(name, "false").lower() not in ("", "false"):
                raise ProtocolError("unsupported_option", f"{reason}: leave out {name}")
        audio = _audio(params)
        if _flag(params, "multichannel") and (audio.encoding == CONTAINER or audio.channels > 1):
            message = "channels are mixed, not told apart: leave out multichannel"
            raise ProtocolError("unsupported_option", message)
        gate, endpointing = _endpointing(params.get("endpointing", "true").lower())
        language = params.get("language")
        return DeepgramQuery(
            audio,
            None if language and language.strip().lower() == "multi" else language_of(language),
            gate,
            endpointing,
            _integer(params, "utterance_end_ms", 1000, 5000, None),
            interim_results=_flag(params, "interim_results"),
            vad_events=_flag(params, "vad_events"),
            utterances=_flag(params, "utterances"),
            vocabulary=_vocabulary(params),
            replacements=_replacements(params),
        )
    except (BadAudio, BadReplacement, UnknownLanguage) as error:
        raise ProtocolError("bad_parameter", str(error)) from error


def _values(params: _Params, name: str) -> list[str]:
    """A name may be given several times."""
    if isinstance(params, ImmutableMultiDict):
        return [str(value) for value in params.getlist(name)]
    return [params[name]] if name in params else []


def _vocabulary(params: _Params) -> tuple[str, ...]:
    """Key terms, and the older keywords without their boost."""
    keywords = (_BOOST.sub("", value) for value in _values(params, "keywords"))
    return usable_terms([*_values(params, "keyterm"), *keywords])


def _replacements(params: _Params) -> Replacements:
    """``find:replacement``; without the second it is left out. Raises BadReplacement."""
    pairs = (value.rpartition(":") for value in _values(params, "replace") if value)
    return Replacements.of({find or text: text if colon else "" for find, colon, text in pairs})


def _audio(params: _Params) -> AudioFormat:
    encoding = params.get("encoding")
    channels = _integer(params, "channels", 1, 1000, 1)
    if encoding is None or encoding in _CONTAINERS:
        return AudioFormat(CONTAINER)
    if encoding not in _PCM:
        known = ", ".join((*_PCM, *_CONTAINERS))
        message = f"encoding must be {known}, or left out for a container, not {quoted(encoding)}"
        raise ProtocolError("bad_parameter", message)
    rate = _integer(params, "sample_rate", 1, 1_000_000, None)
    if rate is None:
        raise ProtocolError("bad_parameter", f"encoding={encoding} needs a sample_rate")
    return AudioFormat(_PCM[encoding], rate, channels)


def _endpointing(value: str) -> tuple[GateOptions, bool]:
    """The gate, and whether its pauses are end points.

    Deepgram's default of 10 ms is no pause to this detector: its own default is taken instead.
    """
    if value in ("true", "false"):
        return GateOptions(), value == "true"
    pause_ms = _number(value)
    if pause_ms is None:
        message = f"endpointing must be false or milliseconds, not {quoted(value)}"
        raise ProtocolError("bad_parameter", message)
    pause_ms = min(max(pause_ms, _MIN_PAUSE_MS), _MAX_PAUSE_MS)
    return replace(GateOptions(), min_silence_ms=pause_ms), True


def _flag(params: _Params, name: str) -> bool:
    value = params.get(name, "false")
    if value.lower() not in ("true", "false"):
        raise ProtocolError("bad_parameter", f"{name} must be true or false, not {quoted(value)}")
    return value.lower() == "true"


def _integer(params: _Params, name: str, low: int, high: int, default: _T) -> int | _T:
    value = params.get(name)
    if value is None:
        return default
    number = _number(value)
    if number is None or not low <= number <= high:
        message = f"{name} must be a whole number from {low} to {high}, not {quoted(value)}"
        raise ProtocolError("bad_parameter", message)
    return number


def _number(value: str) -> int | None:
    return int(value) if value.isdecimal() and len(value) < 10 else None
