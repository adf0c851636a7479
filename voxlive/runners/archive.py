"""Files of a big archive: in an object store, and over the machines of a Ray cluster.

    for file in list_files("s3://bucket/talks"): ...      # by s3fs, or whatever fsspec knows
    batch = RayBatch("auto", chosen, RayOptions())        # inside a running event loop
    transcript = await batch.transcribe(job, file.url, on_update)

Each file is a task of Ray's, which goes to any machine of the cluster. The process that Ray has for
it there, a **worker**, loads the model with its first file and keeps it for the next ones. A file
whose worker dies is done again by another one.

Ray and s3fs are imported where they are needed: they may not be installed.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from voxlive.checkpoints.resolve import resolve
from voxlive.errors import BadInput, RequestRefused, VoxliveError
from voxlive.runners.batch import Batch, BatchOptions
from voxlive.runners.catalogue import make_catalogue
from voxlive.runners.contract import JobProgress, Transcript
from voxlive.runners.process import ProcessOptions
from voxlive.runners.refusals import LoadOptions, Requirements
from voxlive.runners.scratch import SCRATCH

if TYPE_CHECKING:
    from voxlive.runners.contract import Job, RunnerSpec, Update

log = logging.getLogger(__name__)

_TRIES = 3
_REPORT_S = 1.0
_PIECE = 1 << 20
_CHANGED = ("LastModified", "mtime", "updated", "created")  # as file systems of fsspec call it


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of an object store; ``place`` is below what was named, the time since the epoch."""

    url: str
    place: PurePosixPath
    changed_ns: int


def list_files(url: str) -> list[StoredFile]:
    """What lies below a URL of an object store, by name; one file if it is that. Raises BadInput.

    Who may read there, and where that is, says the environment, as for other programs.
    """
    with _opened(url) as (files, root):
        found = files.find(root, detail=True)
        listed = [
            StoredFile(files.unstrip_protocol(path), _place(path, root), _changed_ns(about))
            for path, about in sorted(found.items())
        ]
    if not listed:
        raise BadInput(f"{url}: there is no such file")
    return listed


@contextmanager
def fetched(job: Job, url: str) -> Iterator[Job]:
    """The job with a copy of what is at the URL, on this machine. Blocks. Raises BadInput."""
    with SCRATCH.file("fetched") as copy:
        with _opened(url) as (files, path), files.open(path, "rb") as source:
            shutil.copyfileobj(source, copy, _PIECE)
        copy.flush()
        yield replace(job, path=Path(copy.name))


@contextmanager
def _opened(url: str) -> Iterator[tuple[Any, str]]:
    """The file system of a URL, and its path there. What fails meanwhile is BadInput."""
    try:
        from fsspec.core import url_to_fs

        yield url_to_fs(url)
    except ImportError as error:
        message = f"{url}: needs another package ({error}): for s3://, pip install 'voxlive[s3]'"
        raise BadInput(message) from error
    except _reading_errors() as error:
        raise BadInput(f"{url}: cannot be read: {error}") from error


def _reading_errors() -> tuple[type[Exception], ...]:
    try:
        from botocore.exceptions import BotoCoreError  # who asks is not known, for one
    except ModuleNotFoundError:
        return OSError, ValueError
    return OSError, ValueError, BotoCoreError


def _place(path: str, root: str) -> PurePosixPath:
    found = PurePosixPath(path)
    return PurePosixPath(found.name) if path == root else found.relative_to(root)


def _changed_ns(about: dict[str, Any]) -> int:
    at = next(about[name] for name in _CHANGED if about.get(name))
    at = at.timestamp() if isinstance(at, datetime) else at
    return int(1e9 * (at if at % 1 else at + 1))  # of whole seconds it is the beginning


@dataclass(frozen=True, slots=True)
class RayOptions:
    """What a file's task takes of its machine while it runs, in cores and GPUs, as Ray counts."""

    cpus: float = 1
    gpus: float = 0


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """What each machine finds its model by: its files are there, or it fetches them."""

    name: str
    load: LoadOptions
    requirements: Requirements
    offline: bool = False

    def find(self) -> RunnerSpec:
        """What loads it on this machine. Raises VoxliveError."""
        local = resolve(self.name, offline=self.offline)
        return make_catalogue(local, (), self.load).find(None, self.requirements)


class RayBatch:
    """As ``Batch``, over a cluster. Belongs to the event loop that it is used in.

    Raises VoxliveError ``ray_failed`` where there is no cluster at the address.
    """

    def __init__(self, address: str, model: ChosenModel, options: RayOptions) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray

            ended = signal.getsignal(signal.SIGTERM)
            ray.init(address, log_to_driver=False, configure_logging=False, namespace="voxlive")
            signal.signal(signal.SIGTERM, ended)  # Ray's would end the process at once
        except ModuleNotFoundError as error:
            message = "Ray is not installed: pip install 'voxlive[cluster]'"
            raise VoxliveError("ray_failed", message) from error
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            message = f"Ray's cluster at {address} is not reached: {error}"
            raise VoxliveError("ray_failed", message) from error
        self._model = model
        self._task = ray.remote(
            num_cpus=options.cpus, num_gpus=options.gpus, max_retries=0, num_returns="streaming"
        )(transcribe_file)

    async def transcribe(
        self, job: Job, url: str, on_update: Callable[[Update], None]
    ) -> Transcript:
        """Transcribe a file at this URL, or where the job says, which is the same place everywhere.

        Raises VoxliveError: ``runner_crashed`` if its worker dies each time.
        """
        from ray.exceptions import RayError, RayTaskError

        for left in reversed(range(_TRIES)):
            try:
                async for ready in self._task.remote(self._model, job, url):
                    match await ready:
                        case JobProgress() as progress:
                            on_update(progress)
                        case Transcript() as transcript:
                            return transcript
                        case VoxliveError() as error:
                            raise error
            except RayError as error:
                if not left or isinstance(error, RayTaskError):
                    message = f"a worker of Ray's failed with this file: {error}"
                    raise RequestRefused("runner_crashed", message) from error
                log.warning("%s: its worker died; it is done again", url or job.path)
        raise AssertionError

    async def aclose(self) -> None:
        """End all tasks, and leave the cluster."""
        import ray

        await asyncio.to_thread(ray.shutdown)


def transcribe_file(
    model: ChosenModel, job: Job, url: str
) -> Iterator[JobProgress | Transcript | VoxliveError]:
    """The task: progress, at most once a second, and last the outcome."""
    try:
        if not url:
            if not job.path.exists():
                where = f"on {socket.gethostname()}, where it has to be in the same place"
                raise BadInput(f"{job.path}: does not exist {where}")
            yield from _follow(_find_runner(model), job)
            return
        with fetched(job, url) as copied:
            yield from _follow(_find_runner(model), copied)
    except VoxliveError as error:
        yield error


_find_runner = functools.cache(ChosenModel.find)


def _follow(spec: RunnerSpec, job: Job) -> Iterator[JobProgress | Transcript]:
    """Of one file, by this worker's batch. Raises VoxliveError."""
    loop, batch = _batch()
    updates: SimpleQueue[Update | None] = SimpleQueue()
    working = asyncio.run_coroutine_threadsafe(batch.transcribe(spec, job, updates.put), loop)
    working.add_done_callback(lambda _: updates.put(None))
    reported_at = float("-inf")
    try:
        while (update := updates.get()) is not None:
            now = time.monotonic()
            if isinstance(update, JobProgress) and now >= reported_at + _REPORT_S:
                reported_at = now
                yield update
        yield working.result()
    finally:
        working.cancel()


@functools.cache
def _batch() -> tuple[asyncio.AbstractEventLoop, Batch]:
    """A worker's, on a thread that lives as long as that."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="batch", daemon=True).start()

    async def make() -> Batch:
        return Batch(BatchOptions(process=ProcessOptions(niceness=0)))  # Ray's worker has one

    return loop, asyncio.run_coroutine_threadsafe(make(), loop).result()
