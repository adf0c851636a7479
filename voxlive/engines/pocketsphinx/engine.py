"""The PocketSphinx engine: a fixed number of slots, each with a worker process of its own.

PocketSphinx holds Python's lock while it decodes, so every live session has a process. All are
started, loaded and warm before the engine is ready, and are used by one session after another. A
live session's final passes are made in forks of its process, so that its drafts never wait.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from voxlive.engines.contract import DurationHistogram, EngineInfo
from voxlive.engines.pocketsphinx.slot import START_S, TRAIL, PocketSphinxStream, Slot, SlotState
from voxlive.engines.pocketsphinx.wire import SphinxProbe
from voxlive.errors import EngineError, EngineFull, UnsupportedOption
from voxlive.processes.process import cores
from voxlive.processes.supervisor import DEADLINE_S, Supervisor, Work

if TYPE_CHECKING:
    from voxlive.engines.contract import Sink, StreamOptions

SESSIONS_PER_CORE = 2
MOST_SESSIONS = 16
_NOTE = (
    "PocketSphinx is small and runs anywhere, but its accuracy is limited; the accurate model is "
    "one command away: voxlive serve --model voxtral"
)


def default_capacity() -> int:
    """Two sessions per core that this process may use, and no more than 16.

    Speech without a pause was measured to take 0.25 of a core when clean (draft 0.11, final pass
    0.13) and 0.5 to 0.6 in noise 12 dB below it, so that two sessions that listen as much as they
    speak keep a core below one. A worker has 165 MB and its final pass 25 more: 3 GB for 16.
    """
    return min(SESSIONS_PER_CORE * cores(), MOST_SESSIONS)


class PocketSphinxEngine:
    """See the contract. Its constructor blocks until every worker is warm, or raises EngineError.

    A worker that does not get on for ``deadline_s`` is replaced; see ``Slot.deadline_s``.
    """

    def __init__(self, capacity: int, deadline_s: float = DEADLINE_S) -> None:
        if capacity < 1:
            raise UnsupportedOption(f"max_sessions must be at least 1, not {capacity}")
        self.info = EngineInfo(
            "pocketsphinx", "en-us", "cpu", capacity, ("en",), note=_NOTE, trail_margin=TRAIL
        )
        self.steps = DurationHistogram()
        self._down = False
        # One lock for all slots: what is done under it is short, and sinks return at once.
        self._changed = threading.Condition(threading.RLock())
        self._slots = [
            Slot(number, self._changed, self.steps, deadline_s) for number in range(capacity)
        ]
        self._supervisor = Supervisor(self._slots, deadline_s)
        with self._changed:
            self._changed.wait_for(self._started, START_S)
            fault = self._fault()
            if not fault and any(slot.state is not SlotState.WAITING for slot in self._slots):
                fault = f"the recognisers did not load within {START_S:g} s"
        if fault:
            self.shutdown()
            raise EngineError("engine_failed", fault)

    @property
    def in_use(self) -> int:
        """How many slots are taken."""
        with self._changed:
            return sum(slot.taken for slot in self._slots)

    @property
    def pids(self) -> tuple[int, ...]:
        """The workers' processes, for diagnosis; one that is being replaced is left out."""
        with self._changed:
            return tuple(slot.pid for slot in self._slots if slot.pid)

    @property
    def work(self) -> Work:
        """See the contract; each worker is watched for itself."""
        works = [slot.work for slot in self._slots]
        return Work(any(work.busy for work in works), sum(work.done for work in works))

    def open(self, options: StreamOptions, sink: Sink) -> PocketSphinxStream:
        """See the contract. The language is English or none."""
        self.info.validate(options)
        with self._changed:
            if self._down:
                raise EngineError("shutting_down", "the engine was shut down")
            free = [slot for slot in self._slots if not slot.taken]
            if not free:
                raise EngineFull(self.info.capacity)
            slot = min(free, key=lambda slot: slot.state)
            if slot.fault:
                raise EngineError("engine_failed", slot.fault)
            generation = slot.take(sink, drafts=options.drafts)
            trail = self.info.trail(options)
            return PocketSphinxStream(slot, generation, trail, self._changed)

    def check(self, timeout: float) -> str | None:
        """See the contract: by a free worker if there is one, else by one that waits for audio.

        While all are at work, it is enough that none hangs.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            self._changed.wait_for(lambda: self._fault() or self._idle(), timeout)
            fault, idle = self._fault(), self._idle()
            if fault or not idle:
                return fault
            replies = idle.replies
            idle.put(SphinxProbe())
            self._changed.wait_for(
                lambda: idle.replies > replies or idle.state is not SlotState.WORKING,
                deadline - time.monotonic(),
            )
            if idle.replies > replies:
                return None
            if idle.state is SlotState.WORKING:
                return f"a recogniser did not answer within {timeout:g} s"
            return self._fault() or "a recogniser died while it was checked"

    def shutdown(self) -> None:
        """See the contract; streams that are still open fail with ``shutting_down``."""
        self._supervisor.close()
        with self._changed:
            self._down = True
            for slot in self._slots:
                slot.stop()
        for slot in self._slots:
            slot.join()

    def _started(self) -> bool:
        states = [slot.state for slot in self._slots]
        return SlotState.DOWN in states or all(state is SlotState.WAITING for state in states)

    def _idle(self) -> Slot | None:
        waiting = [slot for slot in self._slots if slot.state is SlotState.WAITING]
        return min(waiting, key=lambda slot: slot.taken, default=None)

    def _fault(self) -> str | None:
        if self._down:
            return "the engine was shut down"
        return next((slot.fault for slot in self._slots if slot.fault), None)
