"""A session that takes a protocol's actions and emits valid events, at a pace that a test draws.

What the gate decides is emitted when audio is taken; words, drafts, ends of utterances and flushes
come through the engine later, in order. No audio is taken while a reconfiguration or an end is on
its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from voxlive.errors import ProtocolError
from voxlive.streaming.events import (
    Event,
    Flushed,
    Lag,
    LiveTranscript,
    SessionClosed,
    SessionError,
    SpeechStarted,
    SpeechStopped,
    TurnClosed,
    UtteranceEnded,
    Words,
)
from voxlive.streaming.ingest.formats import CONTAINER, ENCODINGS, AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.turns.tracker import TurnEnded, TurnStarted
from voxlive.values import SAMPLE_RATE, Word
from voxlive.web.protocols.contract import (
    Action,
    AudioFrame,
    CloseSocket,
    FlushSession,
    OpenSession,
    Out,
    Protocol,
    ReconfigureSession,
    Refuse,
    Reply,
    StopSession,
)

_PAUSE = SAMPLE_RATE // 2


@dataclass
class _Source:
    """One source: where its audio and its words end, in samples."""

    audio: AudioFormat
    transcript: LiveTranscript = field(default_factory=LiveTranscript)
    received: int = 0
    words_end: int = 0
    speaking: bool = False
    turns: int | None = None  # how many there were; None: the session has none
    turn_start: int = 0

    def samples(self, data: bytes) -> int:
        if self.audio.encoding == CONTAINER:
            return len(data)
        width = ENCODINGS[self.audio.encoding].dtype.itemsize * self.audio.channels
        return len(data) // width * SAMPLE_RATE // self.audio.rate


@dataclass
class ScriptedSession:
    """``outs``: everything that the client is sent; ``texts``: the words' texts, by source.

    ``between``: which of ``outs`` were sent while a reconfiguration was on its way. ``flushes``:
    how many have been delivered. ``closed``: the connection is over; ``failed``: before its end.
    Without ``data`` there are no more words, and what waits is delivered in order.
    """

    protocol: Protocol
    data: st.DataObject | None
    outs: list[Out] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    between: set[int] = field(default_factory=set)
    flushes: int = 0
    closed: bool = False
    failed: bool = False

    def __post_init__(self) -> None:
        self._sources: dict[str, _Source] = {}
        self._actions: deque[Action] = deque()
        self._engine: deque[tuple[str, tuple[Word, ...] | str | Event]] = deque()
        self._flushing: deque[bool] = (
            deque()
        )  # of each flush on its way: is it a reconfiguration's?
        self._stopping = self._begun = False
        options = self.protocol.options_from_handshake()
        self._send(self.protocol.connected())
        if options:
            self._open(options, "")

    @property
    def words(self) -> list[str]:
        """The words' texts, of all sources."""
        return [text for texts in self.texts.values() for text in texts]

    @property
    def is_open(self) -> bool:
        return bool(self._sources)

    def client_sends(self, *frames: Any) -> None:
        """Frames, as they arrive."""
        for frame in frames:
            if self.closed:
                return
            with self._ending():
                for action in self.protocol.received(frame):
                    self._queue(action)

    def _queue(self, action: Action) -> None:
        # A reply may overtake audio that waits to be taken, but no other action.
        ahead = any(isinstance(waiting, Reply) for waiting in self._actions)
        if isinstance(action, Reply) and not ahead and self._chance("now"):
            self._reply(action, self._actions)
        else:
            self._actions.append(action)

    def work(self) -> bool:
        """Carry out one action or deliver one engine message; false when there is nothing to do."""
        waits = True in self._flushing or self._stopping
        can_act = bool(self._actions) and (not waits or isinstance(self._actions[0], Reply))
        if self.closed:
            return False
        with self._ending():
            if can_act and (not self._engine or self._chance("act")):
                self._do(self._actions.popleft())
            elif self._engine:
                self._deliver(*self._engine.popleft())
            else:
                return False
        return True

    def tick(self) -> None:
        """What the protocol held back."""
        if not self.closed:
            self._send(self.protocol.tick())

    def shut_down(self, code: str | None = None) -> None:
        """Drain, and close; ``code``: the reason that is reported before the last words."""
        while self.work():
            pass
        if self.closed:
            return
        if not self._begun:
            self._sources[""] = _Source(AudioFormat("s16le", SAMPLE_RATE))
        if code:
            for source in self._sources:
                self._emit(source, SessionError(code, "why", fatal=False))
        for source, state in self._sources.items():
            self._finish(source, state)
        self._stopping = True
        while self.work():
            pass
        self.closed = True

    def fail(self, code: str) -> None:
        """The session, or the connection if it has none yet, ends at once."""
        with self._ending():
            if not self._sources:
                raise ProtocolError(code, "why")
            self.failed = True
            self._emit(next(iter(self._sources)), SessionError(code, "why"))

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """A client that breaks the protocol gets an error and is closed."""
        try:
            yield
        except ProtocolError as error:
            self.failed = True
            self._send(self.protocol.failed(error.code, error.message))
            assert self.closed

    def _chance(self, what: str) -> bool:
        return self.data is not None and self.data.draw(st.booleans(), what)

    def _do(self, action: Action) -> None:
        match action:
            case OpenSession(options, source):
                self._open(options, source)
            case Reply():
                self._reply(action, ())
            case Refuse(code, message):
                self._send(self.protocol.refused(code, message))
            case AudioFrame(data, source):
                self._on_audio(source, self._sources[source].samples(data))
            case FlushSession(marker):
                self._flush("", marker, reconfiguration=False)
            case ReconfigureSession(options, marker):
                self._stop_speech("")
                self._flush("", marker, reconfiguration=True)
                self._sources[""].audio = options.audio
            case StopSession():
                assert self._sources, "a session must be open before it ends"
                self._stopping = True
                for source, state in self._sources.items():
                    self._finish(source, state)

    def _open(self, options: SessionOptions, source: str) -> None:
        assert source not in self._sources, "a session opens once"
        self._sources[source] = _Source(options.audio, turns=0 if options.turns else None)
        self._begun = True
        self._send(self.protocol.opened("id", options))

    def _reply(self, reply: Reply, before: Iterable[Action]) -> None:
        if True in self._flushing or any(
            isinstance(action, ReconfigureSession) for action in before
        ):
            self.between.add(len(self.outs))
        self._send([reply.frame() if callable(reply.frame) else reply.frame])

    def _on_audio(self, source: str, samples: int) -> None:
        state = self._sources[source]
        begin, state.received = state.received, state.received + samples
        if state.speaking:
            self._add_words(source, begin)
            if samples > _PAUSE and self._chance("pause"):
                state.speaking = False
                self._emit(source, SpeechStopped(state.received - _PAUSE))
                self._end_turn(source, state.received - _PAUSE)
                # A pause may be too short for the engine's trail: then the utterance goes on.
                if self._chance("end"):
                    self._engine.append((source, UtteranceEnded(state.received)))
        elif samples and self._chance("speech"):
            state.speaking = True
            self._emit(source, SpeechStarted(begin))
            if state.turns is not None:
                state.turn_start = begin
                self._emit(source, TurnStarted(state.turns, begin))
            self._add_words(source, begin)
        if self._chance("lag"):
            self._emit(source, Lag(samples / SAMPLE_RATE))

    def _add_words(self, source: str, begin: int) -> None:
        if self.data is None:
            return
        state = self._sources[source]
        for text in self.data.draw(st.lists(st.text("abé ,", max_size=4), max_size=2), "words"):
            start = max(state.words_end, begin)
            state.words_end = max(start, min(state.received, start + 800))
            if self._chance("draft"):
                self._engine.append((source, f" {text}"))
            self._engine.append((source, (Word(f" {text}", start, state.words_end),)))

    def _stop_speech(self, source: str) -> None:
        state = self._sources[source]
        if state.speaking:
            state.speaking = False
            self._emit(source, SpeechStopped(state.received))
            self._end_turn(source, state.received)
        self._engine.append((source, UtteranceEnded(state.received)))

    def _end_turn(self, source: str, at: int) -> None:
        """A turn is what a pause ends, here; its words come through the engine."""
        state = self._sources[source]
        if state.turns is not None:
            at = max(at, state.turn_start)
            self._emit(source, TurnEnded(state.turns, at, state.received, 0.9))
            self._engine.append((source, TurnClosed(state.turns, state.turn_start, at)))
            state.turns += 1

    def _flush(self, source: str, marker: str, *, reconfiguration: bool) -> None:
        self._flushing.append(reconfiguration)
        self._engine.append((source, Flushed(marker)))

    def _finish(self, source: str, state: _Source) -> None:
        self._stop_speech(source)
        self._engine.append((source, SessionClosed(state.received)))

    def _deliver(self, source: str, message: tuple[Word, ...] | str | Event) -> None:
        transcript = self._sources[source].transcript
        match message:
            case tuple():
                self._emit(source, transcript.commit(message))
            case str():
                self._emit(source, transcript.set_draft(message))
            case _:
                for event in (transcript.set_draft(""), transcript.close_segment(), message):
                    self._emit(source, event)
        if isinstance(message, Flushed) and not self._flushing.popleft():
            self.flushes += 1
        if isinstance(message, SessionClosed):
            del self._sources[source]
            self._stopping = bool(self._sources)

    def _emit(self, source: str, event: Event | None) -> None:
        if event is None:
            return
        if isinstance(event, Words):
            self.texts.setdefault(source, []).append(event.text)
        self._send(self.protocol.on_source_event(source, event))

    def _send(self, outs: list[Out]) -> None:
        for out in outs:
            assert not self.closed, f"after the close: {out}"
            self.closed = isinstance(out, CloseSocket)
            self.outs.append(out)
