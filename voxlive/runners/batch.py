"""Files to transcripts for a server or a command: a queue and a process for every model.

    batch = Batch(BatchOptions())                         # inside a running event loop
    said = await batch.transcribe(spec, job, told)        # -> contract.Transcript
    async for item in batch.follow(spec, job):            # Progress | Delta ..., last a Transcript
    await batch.aclose()                                  # no process outlives this

    said = transcribe("speech.wav", "pocketsphinx")       # all of it at once, without an event loop

``told`` is called on the loop with every ``Progress`` and ``Delta``, and must return at once. A job
that fails raises ``VoxliveError``, whose ``status`` and ``code`` are for the wire; one that is
refused at once does so before anything is told. Cancelling the task that waits cancels the job. The
file of a job is its caller's: it must stay until the call has ended, and is never removed here.

A model is loaded by its first job, stays for the next ones, and goes when it has been idle for
``idle_s`` or when another model needs its place. The refusals made here:

| status | code | when |
|---|---|---|
| 503 | queue_full | ``queue`` jobs wait for this model, or wait and arrive for all together |
| 503 | models_busy | ``max_resident`` other models are at work and none ended within ``wait_s`` |
| 507 | insufficient_memory | the model does not fit, or its process has outgrown its limit |
| 500 | model_load_failed | the model does not load, or not within ``load_s`` |
| 500 | runner_crashed | its process ended in the middle of the job |
| 500 | runner_hung | the job told nothing for ``stall_s`` |
| 503 | timeout | it took longer than its audio allows |
| 503 | shutting_down | after ``aclose`` |

Jobs that were in a process beside a guilty one, and have told nothing of their text, are done once
more in the next process.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from voxlive.checkpoints.languages import language_of
from voxlive.checkpoints.resolve import resolve
from voxlive.errors import RequestRefused
from voxlive.runners.catalogue import make_catalogue
from voxlive.runners.contract import Delta, Job, JobProgress, Transcript, Update
from voxlive.runners.memory import Memory, available, lack, refuse_giant
from voxlive.runners.process import ProcessOptions, RunnerProcess
from voxlive.runners.queue import ModelQueue, QueuedJob
from voxlive.runners.refusals import Asked, LoadOptions
from voxlive.runners.scratch import SCRATCH, sweep
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from voxlive.engines.contract import Engine
    from voxlive.runners.contract import RunnerSpec, Task
    from voxlive.values import Samples

_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """``queue`` jobs may wait for a model, which stays for ``idle_s`` when it has nothing to do.

    At most ``max_resident`` models are loaded. ``wait_s``: how long a model waits for memory or for
    its turn before it is refused; ``retry_after_s`` is what such refusals advise.
    """

    queue: int = 16
    idle_s: float = 300.0
    max_resident: int = 2
    wait_s: float = 30.0
    retry_after_s: float = 10.0
    process: ProcessOptions = field(default_factory=ProcessOptions)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is in memory, for the health page and for metrics."""

    spec: RunnerSpec
    pid: int
    running: int
    waiting: int


class Batch:
    """See the module. Belongs to the event loop that it was made in.

    ``memory`` reads the machine's memory.
    """

    def __init__(
        self, options: BatchOptions | None = None, memory: Callable[[], Memory] = available
    ) -> None:
        self._options = options or BatchOptions()
        self._memory = memory
        self._residents: dict[RunnerSpec, ModelQueue] = {}
        self._loading = asyncio.Lock()
        self._changed = asyncio.Event()
        self._closed = False
        sweep()

    def refuse_if_full(self, arriving: int) -> None:
        """Raises RequestRefused if files on their way in leave no place for one.

        Which model they are for is not known before they are here: all of them count.
        """
        waiting = sum(resident.waiting for resident in self._residents.values())
        if waiting + arriving >= self._options.queue:
            message = (
                f"{waiting + arriving} files wait or are on their way already; try again later"
            )
            raise RequestRefused("queue_full", message, retry_after_s=self._options.retry_after_s)

    async def transcribe(
        self, spec: RunnerSpec, job: Job, told: Callable[[Update], None] | None = None
    ) -> Transcript:
        """Transcribe a file. Raises VoxliveError."""
        if self._closed:
            raise RequestRefused("shutting_down", "the server is shutting down")
        resident = self._residents.get(spec)
        if resident is None:
            resident = self._residents[spec] = ModelQueue(
                spec, self._options.queue, self._options.idle_s, self._load, self._notice
            )
        ticket = QueuedJob(job, told)
        resident.add(ticket, self._options.retry_after_s)
        try:
            return await ticket.outcome
        except asyncio.CancelledError:
            resident.drop(ticket)
            raise

    async def follow(
        self, spec: RunnerSpec, job: Job
    ) -> AsyncGenerator[JobProgress | Delta | Transcript, None]:
        """``transcribe`` as it happens; ends after the Transcript. Raises VoxliveError.

        Text that waits for a slow reader is joined, of progress the latest is kept. Close it
        (``aclose``) to cancel the job.
        """
        unread = _Unread()
        task = asyncio.create_task(self.transcribe(spec, job, unread.put))
        task.add_done_callback(lambda _: unread.end())
        try:
            async for update in unread.read():
                yield update
            yield await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        """The models in memory."""
        return tuple(
            Loaded(resident.spec, resident.process.pid, resident.running, resident.waiting)
            for resident in self._residents.values()
            if resident.process
        )

    @property
    def jobs(self) -> Counter[tuple[str, str]]:
        """Jobs "running" and "waiting" by model, also for those that are not in memory yet."""
        jobs = Counter[tuple[str, str]]()
        for resident in self._residents.values():
            jobs[resident.spec.model, "running"] += resident.running
            jobs[resident.spec.model, "waiting"] += resident.waiting
        return jobs

    async def aclose(self) -> None:
        """Fail every job with ``shutting_down``, end every process, and take no more."""
        self._closed = True
        refusal = RequestRefused("shutting_down", "the server is shutting down")
        await asyncio.gather(*(r.aclose(refusal) for r in tuple(self._residents.values())))

    # What residents ask for.

    def _notice(self, resident: ModelQueue) -> None:
        """A resident has changed: perhaps there is room now."""
        if resident.unused:
            self._residents.pop(resident.spec, None)
        self._changed.set()

    async def _load(self, wanted: ModelQueue) -> RunnerProcess:
        """One model at a time: what is free is what the next one finds. Raises RequestRefused."""
        refuse_giant(wanted.spec, self._memory())
        async with self._loading:
            memory = await self._make_room(wanted)
            options = self._options.process
            if options.memory_limit is None:
                limit = memory.free - memory.head_room // 2
                options = replace(options, memory_limit=limit)
            return await RunnerProcess.start(wanted.spec, options, wanted.schedule)

    async def _make_room(self, wanted: ModelQueue) -> Memory:
        """Unload idle models, the longest idle first, until there is room; wait for it, briefly."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.wait_s
        while True:
            memory = self._memory()
            missing = self._missing(wanted, memory)
            if missing is None:
                return memory
            idle = [resident for resident in self._residents.values() if resident.idle]
            if idle:
                await min(idle, key=lambda resident: resident.idle_since).unload()
                continue
            if loop.time() >= deadline:
                raise missing
            self._changed.clear()
            # Memory becomes free without telling anybody.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _POLL_S)

    def _missing(self, wanted: ModelQueue, memory: Memory) -> RequestRefused | None:
        retry = self._options.retry_after_s
        if len(self.loaded) >= self._options.max_resident:
            names = ", ".join(one.spec.model for one in self.loaded)
            message = f"{wanted.spec.model} waits for its place: {names} are at work"
            return RequestRefused("models_busy", message, "model", retry)
        return lack(wanted.spec, memory, retry)


class _Unread:
    """Updates that wait for one reader: joined text and the latest progress, no more."""

    def __init__(self) -> None:
        self._text = ""
        self._progress: JobProgress | None = None
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, update: Update) -> None:
        if isinstance(update, Delta):
            self._text += update.text
        else:
            self._progress = update
        self._changed.set()

    def end(self) -> None:
        self._ended = True
        self._changed.set()

    async def read(self) -> AsyncGenerator[Update, None]:
        while not self._ended:
            await self._changed.wait()
            self._changed.clear()
            text, progress = self._text, self._progress
            self._text, self._progress = "", None
            if text:
                yield Delta(text)
            if progress:
                yield progress


_SAMPLES = AudioFormat("f32le", SAMPLE_RATE, 1)


def transcribe(
    audio: str | Path | Samples,
    model: str | Engine = "pocketsphinx",
    *,
    language: str | None = None,
    task: Task = "transcribe",
    words: bool = False,
    prompt: str | None = None,
    device: Literal["gpu", "cpu"] | None = None,
    offline: bool = False,
) -> Transcript:
    """Transcribe a file, or float32 mono samples [n] at 16 kHz, as ``voxlive transcribe`` does.

    ``model`` is a name, a path or a hub repository, which is fetched unless ``offline``; it is
    loaded in a process of its own for this call. An engine of ``load_engine`` is used as it is and
    stays loaded: ``device`` and ``offline`` are its own matter. ``language`` is a code, a locale or
    an English name; ``words`` asks for word times where a model needs extra work for them.

    Blocks, in an event loop's thread too. Raises OSError for a file that cannot be read,
    VoxliveError for what the model or the audio cannot do and for a model that is not there.
    """
    asked = Asked(task, language_of(language), words)
    with _as_job(audio, asked, prompt) as job:
        if not isinstance(model, str):
            return _with_engine(model, job)
        catalogue = make_catalogue(resolve(model, offline=offline), (), LoadOptions(device))
        spec = catalogue.find(None, asked)
        # A loop may be running in this thread, as in a notebook.
        with ThreadPoolExecutor(1, "transcribe") as thread:
            return thread.submit(asyncio.run, _with_process(spec, job)).result()


@contextmanager
def _as_job(audio: str | Path | Samples, asked: Asked, prompt: str | None) -> Iterator[Job]:
    if isinstance(audio, str | Path):
        path = Path(audio)
        path.open("rb").close()
        yield Job(path, asked.task, asked.language, prompt, words=asked.words)
        return
    if audio.dtype != np.float32 or audio.ndim != 1:
        found = f"{audio.dtype} {list(audio.shape)}"
        raise ValueError(f"samples must be float32 [n] at 16 kHz, full scale being 1; not {found}")
    with SCRATCH.file("samples") as file:
        file.write(audio.astype("<f4", copy=False).tobytes())
        file.flush()
        path = Path(file.name)
        yield Job(path, asked.task, asked.language, prompt, words=asked.words, raw=_SAMPLES)


async def _with_process(spec: RunnerSpec, job: Job) -> Transcript:
    batch = Batch()
    try:
        return await batch.transcribe(spec, job)
    finally:
        await batch.aclose()


def _with_engine(engine: Engine, job: Job) -> Transcript:
    from voxlive.runners.live import LiveRunner
    from voxlive.vad.detector import VoiceDetector
    from voxlive.vad.silero import Silero

    detector = VoiceDetector(Silero())
    try:
        runner = LiveRunner(engine, detector)
        with ThreadPoolExecutor(1, "transcribe") as thread:
            return thread.submit(runner.run, job, lambda _update: None, lambda: False).result()
    finally:
        detector.close()
