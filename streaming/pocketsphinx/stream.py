"""A session's place in the PocketSphinx engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..clock import SAMPLE_RATE
from ..engine import Failed
from .wire import MAX_AUDIO, Audio, End

if TYPE_CHECKING:
    import threading

    from ..engine import Samples
    from .slot import Slot

MAX_WAITING_S = 60
"""Seconds of audio that may wait for the worker; a session stops feeding long before."""
TRAIL = SAMPLE_RATE // 5
_OVERRUN = Failed(
    "overrun", f"more than {MAX_WAITING_S} s of audio wait for the recogniser: send it more slowly"
)


class PocketSphinxStream:
    """See the contract. ``flush`` does what ``end_utterance`` does: no state outlives either but
    the cepstral mean, with which the next draft begins.
    """

    def __init__(self, slot: Slot, generation: int, trail: int, lock: threading.Condition) -> None:
        self.trail = trail
        self._slot = slot
        self._generation = generation
        self._lock = lock
        self._overrun = False

    @property
    def pid(self) -> int | None:
        """The worker's process, for diagnosis; None while it is being replaced."""
        with self._lock:
            return self._slot.pid

    def feed(self, audio: Samples, at: int) -> None:
        """See the contract; beyond ``MAX_WAITING_S`` the stream fails with ``overrun``."""
        pcm = np.clip(np.rint(audio * 32768.0), -32768, 32767).astype("<i2")
        with self._lock:
            if not self._slot.has(self._generation) or self._overrun:
                return
            if self._slot.waiting + len(pcm) > MAX_WAITING_S * SAMPLE_RATE:
                self._overrun = True
                self._slot.give_up(_OVERRUN)
                return
            for start in range(0, len(pcm), MAX_AUDIO):
                part = pcm[start : start + MAX_AUDIO]
                self._slot.put(Audio(part.tobytes(), at + start))

    def end_utterance(self, marker: int) -> None:
        """See the contract."""
        with self._lock:
            if self._slot.has(self._generation):
                self._slot.put(End(marker))

    def flush(self, marker: int) -> None:
        """See the contract."""
        self.end_utterance(marker)

    def close(self) -> None:
        """See the contract."""
        with self._lock:
            if self._slot.has(self._generation):
                self._slot.leave()
