"""A session that takes a protocol's actions and tells lawful events, at a pace that a test draws.

What the gate decides is told when audio is heard; words, ends of utterances and flushes come
through the engine later, in order. A renewal lets nothing be heard until its flush is through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import strategies as st

from voxlive.streaming.clock import SAMPLE_RATE
from voxlive.streaming.events import (
    Event,
    Flushed,
    SessionClosed,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
    Word,
    Words,
)
from voxlive.streaming.ingest import ENCODINGS
from voxlive.web.protocols.contract import Action, Audio, Flush, Open, Out, Protocol, Renew, Reply

_PAUSE = SAMPLE_RATE // 2


@dataclass
class ScriptedSession:
    """``outs``: everything that the client is sent; ``words``: the texts that were said.

    ``between``: which of ``outs`` were sent while a renewal was on its way.
    """

    protocol: Protocol
    data: st.DataObject
    outs: list[Out] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    between: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.outs += self.protocol.connected()
        self._heard = 0
        self._said = 0
        self._speaking = False
        self._actions: deque[Action] = deque()
        self._engine: deque[Event] = deque()
        self._renewing = False

    def client_says(self, *frames: str) -> None:
        """Frames, as they arrive."""
        for frame in frames:
            for action in self.protocol.received(frame):
                # A reply may overtake audio that waits to be heard, but no other action.
                ahead = any(isinstance(waiting, Reply) for waiting in self._actions)
                if isinstance(action, Reply) and not ahead and self.data.draw(st.booleans(), "now"):
                    self._reply(action, self._actions)
                else:
                    self._actions.append(action)

    def work(self) -> bool:
        """Hear one thing or let one thing through the engine; false when there is nothing to do."""
        can_hear = bool(self._actions) and (
            not self._renewing or isinstance(self._actions[0], Reply)
        )
        if can_hear and (not self._engine or self.data.draw(st.booleans(), "hear")):
            self._do(self._actions.popleft())
        elif self._engine:
            self._tell(self._engine.popleft())
        else:
            return False
        return True

    def shut_down(self) -> None:
        """Drain, and close."""
        while self.work():
            pass
        self._stop_speech()
        while self._engine:
            self._tell(self._engine.popleft())
        self._tell(SessionClosed(self._heard))

    def _do(self, action: Action) -> None:
        match action:
            case Open(options):
                self._audio = options.audio
                self.outs += self.protocol.opened("id", options)
            case Reply():
                self._reply(action, ())
            case Audio(data):
                frames = len(data) // ENCODINGS[self._audio.encoding].dtype.itemsize
                self._hear(frames * SAMPLE_RATE // self._audio.rate)
            case Flush(marker):
                self._engine.append(Flushed(marker))
            case Renew(options, marker):
                self._stop_speech()
                self._engine.append(Flushed(marker))
                self._audio = options.audio
                self._renewing = True

    def _reply(self, reply: Reply, before: Iterable[Action]) -> None:
        if self._renewing or any(isinstance(action, Renew) for action in before):
            self.between.add(len(self.outs))
        self.outs.append(reply.frame)

    def _hear(self, samples: int) -> None:
        begin, self._heard = self._heard, self._heard + samples
        if self._speaking:
            self._utter(begin)
            if samples > _PAUSE and self.data.draw(st.booleans(), "pause"):
                self._speaking = False
                self._tell(SpeechStopped(self._heard - _PAUSE))
                # A pause may be too short for the engine's trail: then the utterance goes on.
                if self.data.draw(st.booleans(), "end"):
                    self._engine.append(UtteranceEnded(self._heard))
        elif samples and self.data.draw(st.booleans(), "speech"):
            self._speaking = True
            self._tell(SpeechStarted(begin))
            self._utter(begin)

    def _utter(self, begin: int) -> None:
        for text in self.data.draw(st.lists(st.text("abé ,", max_size=4), max_size=2), "words"):
            start = max(self._said, begin)
            self._said = max(start, min(self._heard, start + 800))
            self._engine.append(Words(0, (Word(f" {text}", start, self._said),)))

    def _stop_speech(self) -> None:
        if self._speaking:
            self._speaking = False
            self._tell(SpeechStopped(self._heard))
        self._engine.append(UtteranceEnded(self._heard))

    def _tell(self, event: Event) -> None:
        if isinstance(event, Words):
            self.words.append(event.text)
        if isinstance(event, Flushed):
            self._renewing = False
        self.outs += self.protocol.told(event)
