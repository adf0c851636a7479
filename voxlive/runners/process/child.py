"""Inside a runner's process: it loads one model and transcribes files until its socket closes.

Run as a module of its own rather than through multiprocessing, which would import the parent's main
module here too. However the host ends, this process ends: the socket closes, and on Linux the
kernel kills it even in the middle of a call that never returns to Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from voxlive.errors import RequestRefused, VoxliveError
from voxlive.runners.contract import JobProgress
from voxlive.runners.process.wire import (
    CancelJob,
    JobEnded,
    JobUpdate,
    LoadModel,
    RunnerCrashed,
    RunnerReady,
    StartJob,
    Wire,
)
from voxlive.runners.registry import BACKENDS, loader

if TYPE_CHECKING:
    from voxlive.runners.contract import Job, Runner, RunnerSpec, Transcript, Update

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_PROGRESS_EVERY_S = 0.1
_LAST_RITES_S = 5


def main(fd: int) -> None:
    """Serve over the socket ``fd`` until it closes."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # The host ends its runners itself, after it has answered for them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    wire = Wire(fd)
    boot = wire.receive()
    if isinstance(boot, LoadModel):
        _give_way(boot.niceness)
        _Child(wire, boot.spec).serve()


class _Child:
    """The main thread takes commands. The model's thread loads, and works where there is one slot:
    an MLX model runs on the thread that loaded it. More slots have threads of their own.
    """

    def __init__(self, wire: Wire, spec: RunnerSpec) -> None:
        self._wire = wire
        self._spec = spec
        self._running: dict[int, threading.Event] = {}
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._workers = self._model
        self._runner: Runner | None = None

    def serve(self) -> NoReturn:
        """Obey until the socket closes; the process ends here."""
        self._model.submit(self._load)
        while command := self._wire.receive():
            match command:
                case StartJob(ident, job):
                    self._running[ident] = cancelled = threading.Event()
                    self._workers.submit(self._work, ident, job, cancelled)
                case CancelJob(ident) if ident in self._running:
                    self._running[ident].set()
        # A close that hangs must not outlive the host: the alarm's default ends the process.
        signal.alarm(_LAST_RITES_S)
        if self._runner and not self._running:
            self._model.submit(self._runner.close).exception()
        os._exit(0)

    def _load(self) -> None:
        try:
            if BACKENDS[self._spec.backend].mlx:
                from voxlive.runners.mlx_models import check_room

                check_room(self._spec)
            self._runner = loader(self._spec.backend)(self._spec)
            slots = self._runner.slots
        except RequestRefused as refusal:
            self._end(JobEnded(None, refusal))
        except Exception as error:
            log.exception("%s does not load", self._spec.model)
            self._end(RunnerCrashed(None, _reason(error)))
        if slots > 1:
            self._workers = ThreadPoolExecutor(slots, thread_name_prefix="job")
        self._say(RunnerReady(slots, self._runner.stretch_s))

    def _work(self, ident: int, job: Job, cancelled: threading.Event) -> None:
        assert self._runner
        outcome: Transcript | VoxliveError
        try:
            outcome = self._runner.run(job, self._teller(ident), cancelled.is_set)
        except VoxliveError as refusal:
            outcome = refusal
        except Exception as error:
            log.exception("%s failed in a job", self._spec.model)
            self._end(RunnerCrashed(ident, _reason(error)))
        del self._running[ident]
        self._say(JobEnded(ident, outcome))

    def _teller(self, ident: int) -> Callable[[Update], None]:
        """Sends on what a job tells, of its progress the first and then ten a second at most."""
        told_at = float("-inf")

        def tell(update: Update) -> None:
            nonlocal told_at
            if isinstance(update, JobProgress):
                now = time.monotonic()
                if now - told_at < _PROGRESS_EVERY_S:
                    return
                told_at = now
            self._say(JobUpdate(ident, update))

        return tell

    def _say(self, reply: RunnerReady | JobUpdate | JobEnded) -> None:
        # The host may be gone: the main thread sees that and ends the process.
        with contextlib.suppress(OSError):
            self._wire.send(reply)

    def _end(self, reply: JobEnded | RunnerCrashed) -> NoReturn:
        """Say it and be gone: what a model was in the middle of is not to be trusted any more."""
        with contextlib.suppress(OSError):
            self._wire.send(reply)
        sys.stderr.flush()
        os._exit(1)


def _reason(error: Exception) -> str:
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _give_way(niceness: int) -> None:
    """Behind the live sessions in the queue for cores, before them when memory has run out."""
    with contextlib.suppress(OSError):
        niceness = os.nice(niceness)
    # Where Linux weighs sessions of processes, niceness is between those of one session only.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
