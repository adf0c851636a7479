"""The online processor: a synchronous interface to one stream of any engine, for embedding.

The interface is WhisperLiveKit's, so that either side can drive the other's. A driver repeats
``insert_audio_chunk``, ``process_iter``, ``get_buffer``; calls ``start_silence`` and
``end_silence`` around a pause; and ends with ``finish``. No server and no event loop are needed.
Times are seconds since the session's start.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sized
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from voxlive.checkpoints.languages import language_of
from voxlive.engines.contract import Committed, Drafted, Failed, Progressed, Reached, StreamOptions
from voxlive.errors import EngineError
from voxlive.values import SAMPLE_RATE, samples, seconds

if TYPE_CHECKING:
    from voxlive.engines.contract import Engine, Message
    from voxlive.values import Samples, Word

MAX_INSERTED = 600 * SAMPLE_RATE
"""Samples that may be inserted between two calls of ``process_iter``."""
MAX_BACKLOG = 30 * SAMPLE_RATE
"""Samples that may be in the engine before ``process_iter`` waits for it."""
_SENTENCE_ENDS = frozenset(".!?\u3002\uff01\uff1f")


@dataclass(slots=True)
class Token:
    """A word or, in ``get_buffer``, the draft. Times are in seconds; None is what is not known.

    ``text`` carries its own leading space. ``speaker`` -1 means that no speaker is known.
    """

    start: float | None
    end: float | None
    text: str
    probability: float | None = None
    speaker: int = -1
    detected_language: str | None = None

    def is_silence(self) -> bool:
        """Whether it stands for silence: never, here."""
        return False

    def has_punctuation(self) -> bool:
        """Whether a sentence ends with it."""
        return not _SENTENCE_ENDS.isdisjoint(self.text)


@dataclass(frozen=True, slots=True)
class Asr:
    """What drivers read of the recogniser: ``sep`` stands between two words, and is empty."""

    sep: str = ""


class OnlineProcessor:
    """One stream of ``engine``, opened at once: raises EngineFull or UnsupportedOption.

    Words come back once, in order. A wait for the engine ends when it has sent no message for
    ``timeout`` seconds; then, and after a failure of the engine, methods raise EngineError. Bounds:
    ``MAX_INSERTED`` and ``MAX_BACKLOG``. One thread at a time may call ``process_iter``,
    ``start_silence``, ``new_speaker`` and ``finish``; the others never block, and may be called
    from a second one.
    """

    SAMPLING_RATE = SAMPLE_RATE
    asr = Asr()

    def __init__(
        self, engine: Engine, options: StreamOptions | None = None, timeout: float = 60.0
    ) -> None:
        self.end = 0.0
        self._timeout = timeout
        self._inserted: deque[tuple[Samples, int]] = deque()
        self._inserted_upto = 0
        self._waiting = 0
        # Pieces of audio in the engine: the sample at which each ends, and its length.
        self._sent: deque[tuple[int, int]] = deque()
        # Guards what comes from the engine. The stream is never called with it held.
        self._changed = threading.Condition()
        self._words: list[Word] = []
        self._draft = ""
        self._progress = 0
        self._marker = 0
        self._reached = 0
        self._failure: Failed | None = None
        options = options or StreamOptions()
        options = replace(options, language=language_of(options.language))
        self._stream = engine.open(options, self._sink)

    @property
    def audio_buffer(self) -> Sized:
        """Its length is the number of samples inserted and not recognised yet."""
        with self._changed:
            return range(self._waiting + self._in_engine())

    def insert_audio_chunk(self, audio: Samples, audio_stream_end_time: float) -> None:
        """Take float32 mono audio [n] at 16 kHz that ends at this time of the session, in seconds.

        It goes to the engine with the next ``process_iter``. Raises EngineError ``overrun`` when
        more than ``MAX_INSERTED`` samples wait for that.
        """
        with self._changed:
            if self._waiting + len(audio) > MAX_INSERTED:
                raise EngineError(
                    "overrun",
                    f"more than {seconds(MAX_INSERTED):g} s of audio were inserted: "
                    "call process_iter after every chunk",
                )
            at = max(self._inserted_upto, samples(audio_stream_end_time) - len(audio))
            self._inserted.append((np.array(audio, np.float32), at))
            self._inserted_upto = at + len(audio)
            self._waiting += len(audio)
            self.end = seconds(self._inserted_upto)

    def process_iter(self, is_last: bool = False) -> tuple[list[Token], float]:
        """The words committed since the last call, and the time up to which audio is recognised.

        Does not wait for words, only while more than 30 s of audio are in the engine. With
        ``is_last`` it waits until all words are out.
        """
        self._feed()
        if is_last:
            self._flush()
        return self._take()

    def get_buffer(self) -> Token:
        """The draft: what follows the committed words and may still change."""
        with self._changed:
            return Token(None, None, self._draft)

    def start_silence(self) -> tuple[list[Token], float]:
        """The speaker paused: return all words so far."""
        return self.process_iter(is_last=True)

    def end_silence(self, duration: float, offset: float) -> None:
        """A pause of ``duration`` seconds is over; ``offset`` is where the last word ended.

        Neither is used: the times that come with the audio include pauses.
        """

    def new_speaker(self, change: object) -> tuple[list[Token], float]:
        """Another speaker began: return all words so far."""
        del change
        return self.process_iter(is_last=True)

    def finish(self) -> tuple[list[Token], float]:
        """Return all words and give the slot back. The last call."""
        try:
            return self.process_iter(is_last=True)
        finally:
            self.close()

    def warmup(self, audio: Samples, prompt: str = "") -> None:
        """Nothing to do: an engine is warm before it can be opened."""

    def close(self) -> None:
        """Give the slot back without waiting for words. May be called twice."""
        self._stream.close()
        with self._changed:
            self._failure = self._failure or Failed("closed", "the processor is finished")

    def _feed(self) -> None:
        """Feed what was inserted to the engine, a second at a time, as it makes progress."""
        while True:
            self._wait(lambda: self._in_engine() <= MAX_BACKLOG)
            with self._changed:
                if not self._inserted:
                    return
                audio, at = self._inserted.popleft()
                now, rest = audio[:SAMPLE_RATE], audio[SAMPLE_RATE:]
                if len(rest):
                    self._inserted.appendleft((rest, at + len(now)))
                self._waiting -= len(now)
                self._sent.append((at + len(now), len(now)))
            self._stream.feed(now, at)

    def _flush(self) -> None:
        self._marker += 1
        self._stream.flush(self._marker)
        self._wait(lambda: self._reached == self._marker)

    def _wait(self, done: Callable[[], bool]) -> None:
        with self._changed:
            while not done() and not self._failure:
                if not self._changed.wait(self._timeout):
                    why = f"the engine has said nothing for {self._timeout:g} s"
                    raise EngineError("timeout", why)
            self._check()

    def _in_engine(self) -> int:
        """Samples fed that the engine has not processed."""
        while self._sent and self._sent[0][0] <= self._progress:
            self._sent.popleft()
        return sum(length for _, length in self._sent)

    def _take(self) -> tuple[list[Token], float]:
        with self._changed:
            words, self._words = self._words, []
            tokens = [Token(seconds(w.start), seconds(w.end), w.text, w.probability) for w in words]
            return tokens, seconds(self._progress)

    def _check(self) -> None:
        if self._failure:
            raise EngineError(self._failure.code, self._failure.message)

    def _sink(self, message: Message) -> None:
        with self._changed:
            match message:
                case Committed(words):
                    self._words.extend(words)
                case Drafted(text):
                    self._draft = text
                case Progressed(upto):
                    self._progress = max(self._progress, upto)
                case Reached(marker):
                    self._reached = marker
                case Failed():
                    self._failure = message
            self._changed.notify_all()
