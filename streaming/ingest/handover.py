"""A decoder that blocks, driven by an event loop in lock-step.

The decoder runs on a thread of its own and reads the bytes of one push at a time. A push is over
when the decoder has read them all and asks for more: so what it returns depends on the bytes alone
and not on timing, nothing that can be decoded is held back, and no bytes pile up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from threading import Condition
from typing import TYPE_CHECKING

import numpy as np

from ..clock import SAMPLE_RATE

if TYPE_CHECKING:
    from ..engine import Samples

MAX_HELD = 10 * SAMPLE_RATE


class Handover:
    """What the loop and the decoding thread share.

    Bounds: the bytes of one push wait to be read; when 10 s of sound wait to be taken, the decoder
    waits. ``read``, ``give`` and ``finish`` are called by the thread, the rest by the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = Condition()
        self._stirred = asyncio.Event()
        self._data = memoryview(b"")
        self._blocks: deque[Samples] = deque()
        self._held = 0
        self._hungry = False
        self._ended = False
        self._closed = False
        self._finished = False

    def read(self, size: int, /) -> bytes:
        """The decoder's source: waits for bytes; none after ``end`` or ``close``."""
        with self._changed:
            while not (self._data or self._ended or self._closed):
                self._hungry = True
                self._stir()
                self._changed.wait()
            if self._closed:
                return b""
            piece, self._data = bytes(self._data[:size]), self._data[size:]
            return piece

    def give(self, block: Samples) -> bool:
        """The decoder's sink: waits for room; false once nobody wants more."""
        with self._changed:
            while self._held >= MAX_HELD and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self._blocks.append(block)
            self._held += len(block)
            if len(self._blocks) == 1:
                self._stir()
            return True

    def finish(self) -> None:
        """The decoder will neither read nor give any more."""
        with self._changed:
            self._finished = True
            self._stir()

    def _stir(self) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(self._stirred.set)

    def put(self, data: bytes) -> None:
        """Bytes for the decoder; those that a broken-off push left over come first."""
        with self._changed:
            if not (self._finished or self._closed):
                self._data = memoryview(b"".join((self._data, data)))
                self._hungry = False
                self._changed.notify_all()

    def end(self) -> None:
        """No more bytes will come."""
        with self._changed:
            self._ended = True
            self._hungry = False
            self._changed.notify_all()

    def close(self) -> None:
        """Let the thread go, wherever it is waiting, and forget everything."""
        with self._changed:
            self._closed = True
            self._data = memoryview(b"")
            self._blocks.clear()
            self._stirred.set()
            self._changed.notify_all()

    async def take(self) -> Samples | None:
        """The sound that is ready, waiting for some; None once the decoder wants more bytes."""
        while True:
            with self._changed:
                self._stirred.clear()
                if self._blocks:
                    sound = np.concatenate(self._blocks)
                    self._blocks.clear()
                    self._held = 0
                    self._changed.notify_all()
                    return sound
                if self._hungry or self._finished or self._closed:
                    return None
            await self._stirred.wait()
