"""Inside a runner's process: it loads one model and transcribes files until its socket closes."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NoReturn, TypeVar

from voxlive.errors import RequestRefused, VoxliveError
from voxlive.processes.process import BatchedSender, read_messages, run_child
from voxlive.runners.contract import (
    CancelJob,
    JobEnded,
    JobProgress,
    JobUpdate,
    LoadModel,
    RunnerCrashed,
    RunnerReady,
    RunnerReply,
    StartJob,
)
from voxlive.runners.routing import BACKENDS, loader

if TYPE_CHECKING:
    from socket import socket

    from voxlive.runners.contract import Job, Runner, RunnerSpec, Transcript, Update

log = logging.getLogger(__name__)

_PROGRESS_EVERY_S = 0.1
_T = TypeVar("_T")
_E = TypeVar("_E", bound=VoxliveError)


def serve(end: socket, sender: BatchedSender[RunnerReply]) -> Callable[[], None] | None:
    """Load the model that the first command names, and do jobs until the socket closes."""
    commands = chain.from_iterable(read_messages(end))
    load = next(commands, None)
    if not isinstance(load, LoadModel):
        return None
    server = RunnerServer(sender, load.spec)
    server.serve(commands)
    return server.close


class RunnerServer:
    """The main thread takes commands. The model's thread loads, and works where there is one slot:
    an MLX model runs on the thread that loaded it. More slots have threads of their own.
    """

    def __init__(self, sender: BatchedSender[RunnerReply], spec: RunnerSpec) -> None:
        self._sender = sender
        self._spec = spec
        self._running: dict[int, threading.Event] = {}
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._workers = self._model
        self._runner: Runner | None = None

    def serve(self, commands: Iterator[object]) -> None:
        """Load the model, and handle commands until there are no more."""
        self._model.submit(self._load)
        for command in commands:
            match command:
                case StartJob(ident, job):
                    self._running[ident] = cancelled = threading.Event()
                    self._workers.submit(self._work, ident, job, cancelled)
                case CancelJob(ident) if ident in self._running:
                    self._running[ident].set()

    def close(self) -> None:
        """Close the model if nothing is under way in it."""
        if self._runner and not self._running:
            self._model.submit(self._runner.close).exception()

    def _load(self) -> None:
        runner = self._run(None, RequestRefused, self._load_runner)
        if isinstance(runner, RequestRefused):
            self._exit_with(JobEnded(None, runner))
        self._runner = runner
        if runner.slots > 1:
            self._workers = ThreadPoolExecutor(runner.slots, thread_name_prefix="job")
        self._sender.put(RunnerReady(runner.slots, runner.stretch_s))

    def _load_runner(self) -> Runner:
        if BACKENDS[self._spec.backend].mlx:
            from voxlive.recognisers.mlx_audio.model import check_gpu_memory

            spec = self._spec
            check_gpu_memory(spec.model, spec.needed_bytes, spec.device)
        return loader(self._spec.backend)(self._spec)

    def _work(self, ident: int, job: Job, cancelled: threading.Event) -> None:
        run = partial(self._transcribe, job, self._report_to(ident), cancelled.is_set)
        outcome: Transcript | VoxliveError = self._run(ident, VoxliveError, run)
        del self._running[ident]
        self._sender.put(JobEnded(ident, outcome))

    def _transcribe(
        self, job: Job, on_update: Callable[[Update], None], cancelled: Callable[[], bool]
    ) -> Transcript:
        assert self._runner
        if job.speakers is None:
            return self._runner.run(job, on_update, cancelled)
        from voxlive.runners.speakers import run_with_speakers

        return run_with_speakers(self._runner, job, on_update, cancelled)

    def _run(self, ident: int | None, refusal: type[_E], work: Callable[[], _T]) -> _T | _E:
        """What ``work`` returns, or the refusal that it raises; anything else ends the process."""
        try:
            return work()
        except refusal as error:
            return error
        except Exception as error:
            doing = "loading" if ident is None else "a job"
            log.exception("%s failed in %s", self._spec.model, doing)
            self._exit_with(RunnerCrashed(ident, _reason(error)))

    def _report_to(self, ident: int) -> Callable[[Update], None]:
        """Sends a job's updates, of its progress the first and then ten a second at most."""
        reported_at = float("-inf")

        def report(update: Update) -> None:
            nonlocal reported_at
            if isinstance(update, JobProgress):
                now = time.monotonic()
                if now - reported_at < _PROGRESS_EVERY_S:
                    return
                reported_at = now
            self._sender.put(JobUpdate(ident, update))

        return report

    def _exit_with(self, reply: JobEnded | RunnerCrashed) -> NoReturn:
        """End the process: what a model was in the middle of is not to be trusted any more."""
        self._sender.put(reply)
        self._sender.flush()
        sys.stderr.flush()
        os._exit(1)


def _reason(error: Exception) -> str:
    message = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


if __name__ == "__main__":
    run_child(serve)
