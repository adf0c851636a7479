"""The file service behind every endpoint for files: models, jobs, uploads on disk, outcomes.

``FileService`` finds the model of a request, bounds how many files are received at a time, and runs
their jobs. An upload is copied to a temporary file, which the runner's process opens. The functions
turn a job's ``Updates`` into responses.
"""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

from starlette.requests import Request

from voxlive.errors import RequestRefused, VoxliveError
from voxlive.runners.contract import Job, Transcript, Update
from voxlive.runners.outputs.formats import FORMATS, OutputOptions, warnings
from voxlive.runners.refusals import Requirements
from voxlive.runners.scratch import SCRATCH
from voxlive.values import CodedWarning
from voxlive.web.access.middleware import require_grant

if TYPE_CHECKING:
    from voxlive.runners.batch import Batch
    from voxlive.runners.catalogue import Catalogue
    from voxlive.runners.contract import RunnerSpec

_MAX_MODELS = 50
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Updates = AsyncGenerator[Update | Transcript, None]
"""A job's progress and text as they come; the last item is the whole transcript."""


class FileService:
    """The models for files of a server. ``outcomes`` counts files by model and outcome."""

    def __init__(self, batch: Batch, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._batch = batch
        self._receiving = 0

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Reserve a place in the queue while a file is received, before its first byte.

        Raises RequestRefused if the queue or the disk is full.
        """
        self._batch.refuse_if_full(self._receiving)
        self._receiving += 1
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            message = "there is no room on the server's disk for this file; try again later"
            raise RequestRefused("insufficient_storage", message, "file") from error
        finally:
            self._receiving -= 1

    def state(self) -> list[dict[str, object]]:
        """The models in memory, each with its running and waiting files."""
        return [
            {"model": one.spec.model, "running": one.running, "waiting": one.waiting}
            for one in self._batch.loaded
        ]

    @property
    def loaded(self) -> int:
        """How many models are in memory."""
        return len(self._batch.loaded)

    @property
    def jobs(self) -> Counter[tuple[str, str]]:
        """Jobs by model and state, running or waiting."""
        return self._batch.jobs

    async def find(self, model: str | None, requirements: Requirements) -> RunnerSpec:
        """The model of a name, None for the default, if it can do this. Raises RequestRefused."""
        return await asyncio.to_thread(self.catalogue.find, model, requirements)

    async def check_known(self, model: str) -> None:
        """Raises RequestRefused 404 if there is no model of this name."""
        try:
            await self.find(model or None, Requirements())
        except RequestRefused as error:
            if error.status == 404:
                raise

    async def transcribe(self, spec: RunnerSpec, job: Job) -> Transcript:
        """The whole transcript. Raises VoxliveError."""
        with self._counted(spec.model):
            return await self._batch.transcribe(spec, job)

    async def follow(self, spec: RunnerSpec, job: Job) -> Updates:
        """The transcript as it is decoded. Raises VoxliveError."""
        with self._counted(spec.model):
            async with aclosing(self._batch.follow(spec, job)) as updates:
                async for item in updates:
                    yield item

    @contextmanager
    def _counted(self, model: str) -> Iterator[None]:
        """Count a file by its outcome; models beyond ``_MAX_MODELS`` are counted together."""
        if (model, "ok") not in self.outcomes:
            known = len({known for known, _ in self.outcomes})
            model = model if known < _MAX_MODELS else "others"
            self.outcomes[model, "ok"] += 0
        outcome = "cancelled"
        try:
            yield
            outcome = "ok"
        except VoxliveError as error:
            outcome = error.code
            raise
        finally:
            self.outcomes[model, outcome] += 1


def max_duration_s(request: Request) -> float | None:
    """How long the audio of a file from this client may be; None without a limit."""
    grant = require_grant(request)
    minutes = grant.limits.file_minutes if grant else None
    return None if minutes is None else 60 * minutes


@contextmanager
def upload_file() -> Iterator[IO[bytes]]:
    """A temporary file for an upload, removed at the end."""
    with SCRATCH.file("upload") as file:
        yield file


async def copy_upload(upload: BinaryIO, file: IO[bytes]) -> Path:
    """Copy an upload to a file that another process can open. Returns its path."""

    def copy() -> None:
        shutil.copyfileobj(upload, file)
        file.flush()

    await asyncio.to_thread(copy)
    return Path(file.name)


async def closing_after(updates: Updates, resources: ExitStack) -> Updates:
    """The same updates; ``resources``, as the upload's file, are closed after the last."""
    with resources:
        async with aclosing(updates):
            async for item in updates:
                yield item


async def with_warnings(updates: Updates, warnings: tuple[CodedWarning, ...]) -> Updates:
    """The same updates with more warnings in the transcript at the end."""
    async with aclosing(updates):
        async for item in updates:
            if isinstance(item, Transcript):
                yield replace(item, warnings=(*warnings, *item.warnings))
            else:
                yield item


def format_transcript(name: str, transcript: Transcript, options: OutputOptions) -> str:
    """The transcript in a format. Raises RequestRefused for what its model does not provide."""
    return FORMATS[name].write(transcript, options)


def warning_headers(transcript: Transcript) -> dict[str, str]:
    """The transcript's warnings as a header in ASCII JSON, for formats without a field for them."""
    if not transcript.warnings:
        return {}
    return {"x-voxlive-warnings": json.dumps(warnings(transcript))}
