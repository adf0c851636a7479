"""A sink for an engine's stream that a test can wait on, and audio fed in pieces."""

from __future__ import annotations

import queue
from collections.abc import Callable

from voxlive.engines.contract import Committed, Drafted, Message, Reached, Stream
from voxlive.values import Samples, Word

WAIT_S = 120


class StreamRecorder:
    """Give ``recorder.sink`` to ``engine.open``; ``messages`` is what has been waited for."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.sink = self._queue.put

    def until(self, found: Callable[[Message], bool]) -> Message:
        """The next message for which this holds; fails when nothing comes for ``WAIT_S``."""
        while True:
            self.messages.append(self._queue.get(timeout=WAIT_S))
            if found(self.messages[-1]):
                return self.messages[-1]

    def reached(self, marker: int) -> None:
        self.until(lambda message: message == Reached(marker))

    @property
    def silent(self) -> bool:
        """Whether nothing is there that has not been waited for."""
        return self._queue.empty()

    @property
    def words(self) -> list[Word]:
        return words_of(self.messages)

    @property
    def drafts(self) -> list[str]:
        return [m.text for m in self.messages if isinstance(m, Drafted)]


def words_of(messages: list[Message]) -> list[Word]:
    return [word for m in messages if isinstance(m, Committed) for word in m.words]


def text_of(words: list[Word]) -> str:
    return "".join(word.text for word in words)


def feed(stream: Stream, audio: Samples, at: int = 0, step: int = 1600) -> int:
    """Feed audio that begins at ``at`` in pieces; where it ends."""
    for start in range(0, len(audio), step):
        stream.feed(audio[start : start + step], at + start)
    return at + len(audio)
