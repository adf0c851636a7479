"""What Deepgram's clients send and read, live or with a file: the query of the URL, and JSON.

The JSON's types have no null for a confidence: 0.0 stands for one that the engine does not know.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

from starlette.datastructures import ImmutableMultiDict

from voxlive.checkpoints.languages import UnknownLanguage, language_of
from voxlive.engines.contract import EngineInfo, StreamOptions
from voxlive.errors import BadAudio, ProtocolError
from voxlive.recognisers.vocabulary import usable_terms
from voxlive.speakers.tracker import SpeakerOptions
from voxlive.streaming.crosstalk import MAX_SOURCES
from voxlive.streaming.ingest.formats import CONTAINER, AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.streaming.replacements import BadReplacement, Replacements
from voxlive.turns.tracker import TurnOptionError, TurnOptions
from voxlive.vad.gate import GateOptions
from voxlive.values import Segment, Word, seconds
from voxlive.web.protocols.contract import Denial
from voxlive.web.protocols.fields import quoted

_PCM = {"linear16": "s16le", "linear32": "s32le", "mulaw": "mulaw", "alaw": "alaw"}
_CONTAINERS = ("flac", "ogg-opus", "opus")
# Pauses shorter than this lie within words and phrases, and would cut them apart.
_MIN_PAUSE_MS = 300
_MAX_PAUSE_MS = 10_000
# What changes or marks the text. A client that asks for it would take our text for what it is not.
_UNSUPPORTED = {
    "diarize_model": "speakers are told apart by one model, with diarize",
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

_DECIMAL = re.compile(r"\d{0,2}\.?\d{1,9}")
_BOOST = re.compile(r":-?[\d.]*$")
_T = TypeVar("_T")
_Params = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DeepgramQuery:
    """A query, read. ``endpointing`` false: pauses are not marked as end points.

    ``sources``: the channels by their numbers, where each is recognised by itself.
    """

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
    sources: tuple[str, ...] = ()
    suppress_leaks: bool = True
    diarize: bool = False

    def options(self, info: EngineInfo) -> SessionOptions:
        """The live session; key terms are a hint, without effect on an engine that takes none."""
        terms = () if info.vocabulary is None else self.vocabulary
        stream = StreamOptions(self.language, drafts=self.interim_results, vocabulary=terms)
        return SessionOptions(
            self.audio,
            self.gate,
            stream,
            replacements=self.replacements,
            sources=self.sources,
            suppress_leaks=self.suppress_leaks,
            speakers=self.speakers,
        )

    @property
    def speakers(self) -> SpeakerOptions | None:
        """How voices are told apart, where that is asked for."""
        return SpeakerOptions() if self.diarize else None


def read_query(params: _Params) -> DeepgramQuery:
    """The query's meaning. Raises ProtocolError for what is wrong or cannot be done.

    Hints on formatting have no effect, names that nobody knows are ignored.
    """
    try:
        _refuse_unsupported(params)
        audio = _audio(params)
        multichannel = _flag(params, "multichannel")
        if multichannel and audio.encoding == CONTAINER:
            message = "channels of a container are mixed: send linear16, or leave out multichannel"
            raise ProtocolError("unsupported_option", message)
        sources = range(audio.channels if multichannel and audio.channels > 1 else 0)
        suppress_leaks = _flag(params, "suppress_leaks", len(sources) <= MAX_SOURCES)
        if suppress_leaks and len(sources) > MAX_SOURCES:
            message = f"leaks are suppressed among up to {MAX_SOURCES} channels"
            raise ProtocolError("bad_parameter", message)
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
            sources=tuple(map(str, sources)),
            suppress_leaks=suppress_leaks,
            diarize=_flag(params, "diarize"),
        )
    except (BadAudio, BadReplacement, UnknownLanguage) as error:
        raise ProtocolError("bad_parameter", str(error)) from error


@dataclass(frozen=True, slots=True)
class FluxQuery:
    """A query of Flux, read."""

    audio: AudioFormat
    language: str | None
    turns: TurnOptions
    vocabulary: tuple[str, ...] = ()

    def options(self, info: EngineInfo) -> SessionOptions:
        """The live session; key terms are a hint, without effect on an engine that takes none."""
        terms = () if info.vocabulary is None else self.vocabulary
        stream = StreamOptions(self.language, vocabulary=terms)
        return SessionOptions(self.audio, stream=stream, turns=self.turns)


def read_flux_query(params: _Params) -> FluxQuery:
    """As ``read_query``. Unless it has ``eager_eot_threshold`` no turn ends eagerly."""
    try:
        _refuse_unsupported(params)
        hints = {language_of(hint) for hint in _values(params, "language_hint")}
        return FluxQuery(
            _audio(params),
            hints.pop() if len(hints) == 1 else None,
            TurnOptions(
                _threshold(params, "eot_threshold", 0.5, 0.7),
                _threshold(params, "eager_eot_threshold", 0.3, None),
                _integer(params, "eot_timeout_ms", 500, 10_000, 5000),
                eagerness=None,
            ),
            usable_terms(_values(params, "keyterm")),
        )
    except TurnOptionError as error:
        raise ProtocolError("bad_parameter", TOO_EAGER) from error
    except (BadAudio, UnknownLanguage) as error:
        raise ProtocolError("bad_parameter", str(error)) from error


def key_terms(value: object) -> tuple[str, ...]:
    """Key terms of a message: one, or a list. Raises ValueError."""
    terms = [value] if isinstance(value, str) else value
    if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
        raise ValueError('"keyterms" must be a list of terms')
    return usable_terms(terms)


def _threshold(params: _Params, name: str, low: float, default: _T) -> float | _T:
    value = params.get(name)
    if value is None:
        return default
    if not _DECIMAL.fullmatch(value) or not low <= float(value) <= 0.9:
        message = f"{name} must be a number from {low:g} to 0.9, not {quoted(value)}"
        raise ProtocolError("bad_parameter", message)
    return float(value)


def _refuse_unsupported(params: _Params) -> None:
    for name, reason in _UNSUPPORTED.items():
        if params.get(name, "false").lower() not in ("", "false"):
            raise ProtocolError("unsupported_option", f"{reason}: leave out {name}")


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


def _flag(params: _Params, name: str, default: bool = False) -> bool:
    value = params.get(name, str(default))
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


TOO_EAGER = "eager_eot_threshold must be at most eot_threshold"
_RETRY_AFTER_S = 5
_EDGES = re.compile(r"^\W+|\W+$")
_NAMES = {
    400: "Bad Request",
    401: "INVALID_AUTH",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    408: "SLOW_UPLOAD",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    429: "TOO_MANY_REQUESTS",
    503: "SERVICE_UNAVAILABLE",
}


def now() -> str:
    """The time as the protocol writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def alternative(
    text: str,
    words: Sequence[Word],
    language: str | None = None,
    speakers: Sequence[int | None] = (),
) -> dict[str, object]:
    """One alternative: a text and those of its words whose times are known.

    ``language``: what the model has found out is spoken; ``speakers``: of each word, where voices
    are told apart.
    """
    languages = {"languages": [language]} if language else {}
    rated = _rated(words)
    if speakers:
        rated["words"] = [
            _word(word) if speaker is None else {**_word(word), "speaker": speaker}
            for word, speaker in zip(words, speakers, strict=True)
        ]
    return {"transcript": text.strip(), **rated, **languages}


def utterance(segment: Segment, speaker: int | None) -> dict[str, object]:
    """One entry of ``utterances``, of a segment with times."""
    words = segment.words or ()
    return {
        "id": str(uuid.uuid4()),
        "start": seconds(segment.start or 0),
        "end": seconds(segment.end or 0),
        "channel": 0,
        **({} if speaker is None else {"speaker": speaker}),
        **alternative(segment.text, words, speakers=[speaker] * len(words)),
    }


def _rated(words: Sequence[Word]) -> dict[str, object]:
    return {"confidence": confidence(words), "words": [_word(word) for word in words]}


def confidence(words: Iterable[Word]) -> float:
    """The mean of the confidences that are known."""
    known = [word.probability for word in words if word.probability is not None]
    return round(sum(known) / len(known), 4) if known else 0.0


def _word(word: Word) -> dict[str, object]:
    text = word.text.strip()
    return {
        "word": _EDGES.sub("", text).lower() or text,
        "start": seconds(word.start),
        "end": seconds(word.end),
        "confidence": round(word.probability, 4) if word.probability is not None else 0.0,
        "punctuated_word": text,
    }


def model(name: str, kind: str) -> tuple[str, dict[str, str]]:
    """The served model's identifier and what it is; engines tell no version."""
    ident = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    return ident, {"name": name, "version": "", "arch": kind}


def metadata(
    request_id: str,
    created: str,
    sha256: str,
    duration: float,
    channels: int,
    model_info: tuple[str, dict[str, str]],
) -> dict[str, object]:
    """What a transcript was made from: ``sha256`` of the audio as sent, ``duration`` in seconds.

    ``model_info`` is what ``model`` says of its model.
    """
    ident, description = model_info
    return {
        "transaction_key": "deprecated",
        "request_id": request_id,
        "sha256": sha256,
        "created": created,
        "duration": duration,
        "channels": channels,
        "models": [ident],
        "model_info": {ident: description},
    }


def refusal(status: int, message: str, request_id: str) -> Denial:
    """An error over HTTP. A full server is a 503: clients take any 4xx for final."""
    status = 400 if status == 422 else status  # Deepgram has no 422
    headers = {
        "dg-request-id": request_id,
        "dg-error": message.encode("ascii", "replace").decode(),
        **({"retry-after": str(_RETRY_AFTER_S)} if status == 503 else {}),
    }
    name = _NAMES.get(status, "INTERNAL_SERVER_ERROR")
    return Denial(status, {"err_code": name, "err_msg": message, "request_id": request_id}, headers)
