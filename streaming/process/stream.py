"""One stream of an engine in another process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .wire import Close, Command, Feed, Mark

if TYPE_CHECKING:
    from ..engine import Samples, Sink


class ProcessStream:
    """See the contract. ``send`` takes its commands, ``release`` its number when it is over."""

    def __init__(
        self,
        ident: int,
        trail: int,
        sink: Sink,
        send: Callable[[Command], None],
        release: Callable[[int], None],
    ) -> None:
        self.sink = sink
        self.trail = trail
        self._ident = ident
        self._send = send
        self._release = release
        self._closed = False

    def feed(self, audio: Samples, at: int) -> None:
        """See the contract."""
        self._put(Feed(self._ident, np.asarray(audio, np.float32).tobytes(), at))

    def end_utterance(self, marker: int) -> None:
        """See the contract."""
        self._put(Mark(self._ident, marker, flush=False))

    def flush(self, marker: int) -> None:
        """See the contract."""
        self._put(Mark(self._ident, marker, flush=True))

    def close(self) -> None:
        """See the contract."""
        if not self._closed:
            self._put(Close(self._ident))
            self._closed = True
            self._release(self._ident)

    def _put(self, command: Command) -> None:
        if not self._closed:
            self._send(command)
