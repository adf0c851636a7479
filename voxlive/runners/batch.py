"""Files to transcripts for a server or a command: a queue and a process for every model.

    batch = Batch(BatchOptions())                               # inside a running event loop
    transcript = await batch.transcribe(spec, job, on_update)   # -> contract.Transcript
    async for item in batch.follow(spec, job):                  # updates, last a Transcript
    await batch.aclose()                                        # no process outlives this

    transcript = transcribe("speech.wav", "whisper-tiny.en")    # without an event loop

``on_update`` is called on the loop with every ``JobProgress`` and ``Delta``, and must return at
once. A job that fails raises ``VoxliveError``, whose ``status`` and ``code`` are for the wire; one
that is refused at once does so before any update. Cancelling the task that waits cancels the job.
The file of a job is its caller's: it must stay until the call has ended, and is not removed here.

A model is loaded by its first job, stays for the next ones, and is unloaded when it has been idle
for ``idle_s`` or when another model needs its place. The refusals made here:

| status | code | when |
|---|---|---|
| 503 | queue_full | ``queue`` jobs wait for this model, or wait and arrive for all together |
| 503 | models_busy | ``max_resident`` other models are at work and none ended within ``wait_s`` |
| 507 | insufficient_memory | the model does not fit, or its process has outgrown its limit |
| 500 | model_load_failed | the model does not load, or not within ``load_s`` |
| 500 | runner_crashed | its process ended in the middle of the job |
| 500 | runner_hung | the job made no progress for ``stall_s`` |
| 503 | timeout | it took longer than its audio allows |
| 503 | shutting_down | after ``aclose`` |

Jobs that were in a process when another one crashed it, and have no text yet, are retried once in
the next process.
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
from voxlive.runners.process import (
    Memory,
    ProcessOptions,
    RunnerProcess,
    available,
    refuse_oversized,
    refuse_unless_free,
)
from voxlive.runners.queue import ModelQueue, QueuedJob
from voxlive.runners.refusals import LoadOptions, Requirements
from voxlive.runners.scratch import SCRATCH, sweep
from voxlive.speakers.tracker import SpeakerOptions
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from voxlive.engines.contract import Engine
    from voxlive.recognisers.contract import Task
    from voxlive.runners.contract import RunnerSpec
    from voxlive.values import Samples

_POLL_S = 0.5
_SAMPLES = AudioFormat("f32le", SAMPLE_RATE, 1)


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
class LoadedModel:
    """A model that is in memory, for the health page and for metrics."""

    spec: RunnerSpec
    pid: int
    running: int
    waiting: int


class Batch:
    """Queues and processes by model. Belongs to the event loop that it was made in.

    ``memory`` reads the machine's memory.
    """

    def __init__(
        self, options: BatchOptions | None = None, memory: Callable[[], Memory] = available
    ) -> None:
        self._options = options or BatchOptions()
        self._memory = memory
        self._queues: dict[RunnerSpec, ModelQueue] = {}
        self._loading = asyncio.Lock()
        self._changed = asyncio.Event()
        self._closed = False
        sweep()

    def refuse_if_full(self, arriving: int) -> None:
        """Raises RequestRefused if ``arriving`` uploads leave no place for another.

        Which model an upload is for is not known before it is complete: all of them count.
        """
        waiting = sum(queue.waiting for queue in self._queues.values())
        if waiting + arriving >= self._options.queue:
            message = (
                f"{waiting + arriving} files wait or are on their way already; try again later"
            )
            raise RequestRefused("queue_full", message, retry_after_s=self._options.retry_after_s)

    async def transcribe(
        self, spec: RunnerSpec, job: Job, on_update: Callable[[Update], None] | None = None
    ) -> Transcript:
        """Transcribe a file. Raises VoxliveError."""
        if self._closed:
            raise RequestRefused("shutting_down", "the server is shutting down")
        queue = self._queues.get(spec)
        if queue is None:
            queue = self._queues[spec] = ModelQueue(
                spec, self._options.queue, self._options.idle_s, self._load, self._on_queue_changed
            )
        queued = QueuedJob(job, on_update)
        queue.add(queued, self._options.retry_after_s)
        try:
            return await queued.outcome
        except asyncio.CancelledError:
            queue.drop(queued)
            raise

    async def follow(
        self, spec: RunnerSpec, job: Job
    ) -> AsyncGenerator[JobProgress | Delta | Transcript, None]:
        """``transcribe`` as it happens; ends after the Transcript. Raises VoxliveError.

        Text that waits for a slow reader is joined, of progress the latest is kept. Close it
        (``aclose``) to cancel the job.
        """
        unread = _UnreadUpdates()
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
    def loaded(self) -> tuple[LoadedModel, ...]:
        """The models in memory."""
        return tuple(
            LoadedModel(queue.spec, queue.process.pid, queue.running, queue.waiting)
            for queue in self._queues.values()
            if queue.process
        )

    @property
    def jobs(self) -> Counter[tuple[str, str]]:
        """Jobs "running" and "waiting" by model, also for those that are not in memory yet."""
        jobs = Counter[tuple[str, str]]()
        for queue in self._queues.values():
            jobs[queue.spec.model, "running"] += queue.running
            jobs[queue.spec.model, "waiting"] += queue.waiting
        return jobs

    async def aclose(self) -> None:
        """Fail every job with ``shutting_down``, end every process, and take no more."""
        self._closed = True
        refusal = RequestRefused("shutting_down", "the server is shutting down")
        await asyncio.gather(*(r.aclose(refusal) for r in tuple(self._queues.values())))

    # Callbacks of the queues.

    def _on_queue_changed(self, queue: ModelQueue) -> None:
        """A queue has changed: perhaps there is room now."""
        if queue.unused:
            self._queues.pop(queue.spec, None)
        self._changed.set()

    async def _load(self, queue: ModelQueue) -> RunnerProcess:
        """One model at a time, so that free memory is not counted twice. Raises RequestRefused."""
        refuse_oversized(queue.spec, self._memory())
        async with self._loading:
            memory = await self._make_room(queue)
            options = self._options.process
            if options.memory_limit is None:
                limit = memory.free - memory.headroom // 2
                options = replace(options, memory_limit=limit)
            return await RunnerProcess.start(queue.spec, options, queue.schedule)

    async def _make_room(self, queue: ModelQueue) -> Memory:
        """Unload idle models, the longest idle first, until there is room; wait for it, briefly."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.wait_s
        while True:
            memory = self._memory()
            refusal = self._refusal_now(queue, memory)
            if refusal is None:
                return memory
            idle = [other for other in self._queues.values() if other.idle]
            if idle:
                await min(idle, key=lambda other: other.idle_since).unload()
                continue
            if loop.time() >= deadline:
                raise refusal
            self._changed.clear()
            # Memory becomes free without a notification.
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._changed.wait()

    def _refusal_now(self, queue: ModelQueue, memory: Memory) -> RequestRefused | None:
        retry = self._options.retry_after_s
        if len(self.loaded) >= self._options.max_resident:
            names = ", ".join(one.spec.model for one in self.loaded)
            message = f"{queue.spec.model} waits for its place: {names} are at work"
            return RequestRefused("models_busy", message, "model", retry)
        return refuse_unless_free(queue.spec, memory, retry)


class _UnreadUpdates:
    """Updates for one reader: text joined and the latest progress, no more."""

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


def transcribe(
    audio: str | Path | Samples,
    model: str | Engine | None = None,
    *,
    language: str | None = None,
    task: Task = "transcribe",
    words: bool = False,
    prompt: str | None = None,
    diarize: SpeakerOptions | bool = False,
    device: Literal["gpu", "cpu"] | None = None,
    offline: bool = False,
) -> Transcript:
    """Transcribe a file, or float32 mono samples [n] at 16 kHz, as ``voxlive transcribe`` does.

    ``model`` is a name, a path or a hub repository, which is fetched unless ``offline``; None is
    Whisper base if it is here, else tiny.en. It is loaded in a process of its own for this call. An
    engine of ``load_engine`` is used as it is and stays loaded: ``device`` and ``offline`` do not
    apply to it. ``language`` is a code, a locale or an English name; ``words`` asks for word times
    where a model needs extra work for them. ``diarize``: segments have speakers, by their voices
    unless the model tells them itself; it needs ``voxlive models fetch speaker-encoder``.

    Blocks, in an event loop's thread too. Raises OSError for a file that cannot be read,
    VoxliveError for what the model or the audio cannot do and for a model that is not there.
    """
    speakers = (SpeakerOptions() if diarize is True else diarize) or None
    requirements = Requirements(task, language_of(language), words, speakers is not None)
    with _as_job(audio, requirements, prompt, speakers) as job:
        if model is not None and not isinstance(model, str):
            return _with_engine(model, job)
        catalogue = make_catalogue(resolve(model, offline=offline), (), LoadOptions(device))
        spec = catalogue.find(None, requirements)
        # A loop may be running in this thread, as in a notebook.
        with ThreadPoolExecutor(1, "transcribe") as thread:
            return thread.submit(asyncio.run, _with_process(spec, job)).result()


@contextmanager
def _as_job(
    audio: str | Path | Samples,
    requirements: Requirements,
    prompt: str | None,
    speakers: SpeakerOptions | None,
) -> Iterator[Job]:
    words = requirements.words or requirements.speakers
    asked = requirements.task, requirements.language, prompt
    if isinstance(audio, str | Path):
        path = Path(audio)
        path.open("rb").close()
        yield Job(path, *asked, words=words, speakers=speakers)
        return
    if audio.dtype != np.float32 or audio.ndim != 1:
        found = f"{audio.dtype} {list(audio.shape)}"
        raise ValueError(f"samples must be float32 [n] at 16 kHz, full scale being 1; not {found}")
    with SCRATCH.file("samples") as file:
        file.write(audio.astype("<f4", copy=False).tobytes())
        file.flush()
        yield Job(Path(file.name), *asked, words=words, raw=_SAMPLES, speakers=speakers)


async def _with_process(spec: RunnerSpec, job: Job) -> Transcript:
    batch = Batch()
    try:
        return await batch.transcribe(spec, job)
    finally:
        await batch.aclose()


def _with_engine(engine: Engine, job: Job) -> Transcript:
    from voxlive.runners.live import LiveRunner
    from voxlive.runners.speakers import run_with_speakers
    from voxlive.vad.detector import Silero, VoiceDetector

    detector = VoiceDetector(Silero())
    try:
        runner = LiveRunner(engine, detector)
        with ThreadPoolExecutor(1, "transcribe") as thread:
            ignored = (lambda _update: None), (lambda: False)
            return thread.submit(run_with_speakers, runner, job, *ignored).result()
    finally:
        detector.close()
