"""What clients of every wire format may send, and how their messages are read."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import strategies as st
from support.conversations import ENGLISH
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event

from voxlive.streaming.events import Event as SessionEvent
from voxlive.streaming.intake import SessionOptions
from voxlive.web.protocols import PROTOCOLS
from voxlive.web.protocols.contract import Action, CloseSocket, Out, Protocol, Reply
from voxlive.web.protocols.whisper_live import WhisperLiveProtocol
from voxlive.web.protocols.wyoming import SendEvent, WyomingProtocol, error_event

Message = dict[str, Any]


@dataclass
class Reading:
    """``deltas``: the text of increments, by source; ``finals``: the text that was called complete.

    ``answers``: how many flushes and commits have been answered.
    """

    deltas: dict[str, str] = field(default_factory=dict)
    finals: dict[str, str] = field(default_factory=dict)
    answers: int = 0

    def delta(self, text: str, source: str = "") -> None:
        self.deltas[source] = self.deltas.get(source, "") + letters(text)

    def final(self, text: str, source: str = "") -> None:
        self.finals[source] = self.finals.get(source, "") + letters(text)


_values = st.none() | st.booleans() | st.integers(-1, 50_000) | st.text(max_size=4) | st.just([1])
_names = st.sampled_from(
    ["session", "audio", "id", "language", "rate", "format", "data", "source", "final", "model"]
)
_kinds = st.sampled_from(
    ["start", "stop", "flush", "session.update", "input_audio.append", "audio", "Configure", "x"]
)
_GARBAGE: st.SearchStrategy[str | bytes] = st.one_of(
    st.binary(max_size=6),
    st.text(max_size=10),
    st.builds(
        lambda kind, rest: json.dumps({"type": kind, **rest}),
        _kinds,
        st.dictionaries(_names, _values),
    ),
)
_EVENTS = st.builds(
    Event,
    st.sampled_from(["transcribe", "audio-start", "audio-chunk", "audio-stop", "ping", "x"]),
    st.dictionaries(st.sampled_from(["rate", "width", "channels", "language", "text"]), _values),
    st.none() | st.binary(max_size=4),
)


@dataclass(frozen=True)
class Dialect:
    """``frames``: what its clients send, ``garbage``: what they should not.

    ``keeps_open``: text that the client has not committed is not final at the end.
    """

    connect: Callable[[], Protocol]
    frames: st.SearchStrategy[Any]
    read: Callable[[Reading, Message], None]
    garbage: st.SearchStrategy[Any] = _GARBAGE
    keeps_open: bool = False


def letters(text: str) -> str:
    """All but the spacing."""
    return "".join(text.split())


class _WyomingAsText(Protocol):
    """Wyoming's translator with its events as JSON, and a close where its connection ends."""

    name = WyomingProtocol.name
    max_text: ClassVar[int] = 0
    max_binary: ClassVar[int] = 0
    tick_s: ClassVar[float | None] = None

    def __init__(self) -> None:
        self._wyoming = WyomingProtocol(ENGLISH)

    def connected(self) -> list[Out]:
        return []

    def received(self, frame: Any) -> list[Action]:
        actions = self._wyoming.received(frame)
        return [Reply(_show(a.event)) if isinstance(a, SendEvent) else a for a in actions]

    def opened(self, _session: str, options: SessionOptions) -> list[Out]:
        return [*map(_show, self._wyoming.opened(options))]

    def on_event(self, event: SessionEvent) -> list[Out]:
        return [*map(_show, self._wyoming.on_event(event))]

    def tick(self) -> list[Out]:
        return []

    def failed(self, code: str, message: str) -> list[Out]:
        return [_show(error_event(code, message)), CloseSocket(1000)]


def _show(event: Event) -> str:
    return json.dumps({**event.data, "type": event.type})


def _at(place: str, **params: str) -> Callable[[], Protocol]:
    return lambda: PROTOCOLS[place](params, ENGLISH)


def _live(reading: Reading, message: Message) -> None:
    match message["type"]:
        case "words":
            reading.delta("".join(word["text"] for word in message["words"]))
        case "segment":
            reading.final(message["text"])
        case "done":
            assert reading.finals.get("", "") == letters(message["text"])
        case "flushed":
            reading.answers += 1


def _asr(reading: Reading, message: Message) -> None:
    """Every update has all lines in full mode, and the new ones in the other."""
    if message.get("type") in (None, "snapshot"):
        if "lines" in message:
            reading.deltas, reading.finals = {}, {}
        lines = message.get("lines", [])
    else:
        lines = message.get("new_lines", [])
    for line in lines:
        reading.delta(line["text"])
        reading.final(line["text"])


def _realtime(reading: Reading, message: Message) -> None:
    """OpenAI's or vLLM's: which one it is is decided by the first message that makes sense."""
    match message["type"].removeprefix("conversation.item.input_audio_transcription."):
        case "delta" | "transcription.delta":
            reading.delta(message["delta"])
        case "completed":
            reading.final(message["transcript"])
            reading.answers += 1
        case "transcription.done":
            reading.final(message["text"])
            reading.answers += 1
        case "failed":
            reading.answers += 1


def _mistral(reading: Reading, message: Message) -> None:
    match message["type"]:
        case "transcription.text.delta":
            reading.delta(message["text"])
        case "transcription.done":
            reading.final(message["text"])
            reading.answers += 1


def _deepgram(reading: Reading, message: Message) -> None:
    if message["type"] == "Results" and message["is_final"]:
        text = message["channel"]["alternatives"][0]["transcript"]
        reading.delta(text)
        reading.final(text)
        reading.answers += message["from_finalize"]


def _flux(reading: Reading, message: Message) -> None:
    """Each message has all of its turn's text."""
    if message.get("event") == "EndOfTurn":
        reading.delta(message["transcript"])
        reading.final(message["transcript"])


def _whisper(reading: Reading, message: Message) -> None:
    """Every update repeats the complete segments, one of them as incomplete once."""
    done = [s["text"] for s in message.get("segments", []) if s["completed"]]
    text = letters("".join(done))
    if len(text) >= len(reading.finals.get("", "")):
        reading.deltas, reading.finals = {"": text}, {"": text}


def _panel(reading: Reading, message: Message) -> None:
    match message["type"]:
        case "asr_final":
            reading.delta(message["text"], message["source"])
        case "final_summary":
            for final in message["json"]["transcript"]:
                reading.final(final["text"], final["source"])


def _wyoming(reading: Reading, message: Message) -> None:
    match message["type"]:
        case "transcript-chunk":
            reading.delta(message["text"])
        case "transcript":
            reading.final(message["text"])


def _json(kind: str, **values: object) -> str:
    return json.dumps({"type": kind, **values})


def _base64(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


def _some(*fixed: Any, audio: Callable[[bytes], Any]) -> st.SearchStrategy[Any]:
    """One of these, or audio: up to two seconds of it."""
    sounds = st.integers(0, 32_000).map(lambda n: audio(bytes(2 * n)))
    # Mostly audio: a word needs several pieces of it before the client is done.
    given = st.sampled_from(fixed) if fixed else sounds
    return st.sampled_from([sounds] * 7 + [given]).flatmap(lambda one: one)


_START = _json("start", format="s16le")
_BEGIN = _json("start", sample_rate=16_000, format="pcm_s16le")
_COMMIT = _json("input_audio_buffer.commit")
_FINAL = _json("input_audio_buffer.commit", final=True)
_CLIENT_TURNS = {"audio": {"input": {"turn_detection": None}}}
_VAD = {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
_UPDATES = [_json("session.update", session=session) for session in (_CLIENT_TURNS, _VAD)]
_VLLM = _json("session.update", model="any")
_TURNS = _json("session.update", session={"turn_detection": {}})
_OPTIONS = json.dumps({"uid": "u", "audio_format": "int16", "send_last_n_segments": 1000})


def _append(audio: bytes) -> str:
    return _json("input_audio_buffer.append", audio=_base64(audio))


def _mistral_append(audio: bytes) -> str:
    return _json("input_audio.append", audio=_base64(audio))


def _panel_json(audio: bytes) -> str:
    return _json("audio", source="mic", data=_base64(audio))


DIALECTS: Mapping[str, Dialect] = {
    "/v1/live": Dialect(
        _at("/v1/live"), _some(_START, _json("flush", id="a"), _json("stop"), audio=bytes), _live
    ),
    "/asr full": Dialect(_at("/asr"), _some(b"", audio=bytes), _asr),
    "/asr diff": Dialect(_at("/asr", mode="diff"), _some(b"", audio=bytes), _asr),
    "/v1/realtime OpenAI's": Dialect(
        _at("/v1/realtime"), _some(_COMMIT, *_UPDATES, audio=_append), _realtime, keeps_open=True
    ),
    "/v1/realtime vLLM's": Dialect(
        _at("/v1/realtime"), _some(_VLLM, _FINAL, audio=_append), _realtime
    ),
    "/v1/audio/transcriptions/realtime": Dialect(
        _at("/v1/audio/transcriptions/realtime", model="any"),
        _some(_TURNS, _json("input_audio.flush"), _json("input_audio.end"), audio=_mistral_append),
        _mistral,
    ),
    "/v1/listen": Dialect(
        _at("/v1/listen", encoding="linear16", sample_rate="16000", interim_results="true"),
        _some(_json("Finalize"), _json("KeepAlive"), _json("CloseStream"), audio=bytes),
        _deepgram,
    ),
    "/v2/listen": Dialect(
        _at("/v2/listen", encoding="linear16", sample_rate="16000"),
        _some(_json("Configure", thresholds={}), _json("CloseStream"), audio=bytes),
        _flux,
    ),
    "/ws/live-listener": Dialect(
        _at("/ws/live-listener"),
        _some(_BEGIN, _json("stop"), audio=bytes) | _some(audio=_panel_json),
        _panel,
    ),
    "WhisperLive": Dialect(
        lambda: WhisperLiveProtocol({}, ENGLISH),
        _some(_OPTIONS, b"END_OF_AUDIO", audio=bytes),
        _whisper,
    ),
    "Wyoming": Dialect(
        _WyomingAsText,
        _some(
            AudioStart(16_000, 2, 1).event(),
            AudioStop().event(),
            Event("describe"),
            audio=lambda audio: AudioChunk(16_000, 2, 1, audio).event(),
        ),
        _wyoming,
        _EVENTS,
    ),
}
