"""What every request about a file shares: its model, its copy on disk, its job and its failures."""

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
from voxlive.runners.contract import Job, JobWarning, Transcript, Update
from voxlive.runners.outputs.formats import FORMATS, OutputOptions, warnings
from voxlive.runners.refusals import Requirements
from voxlive.runners.scratch import SCRATCH
from voxlive.web.access.middleware import require_grant

if TYPE_CHECKING:
    from voxlive.runners.batch import Batch
    from voxlive.runners.catalogue import Catalogue
    from voxlive.runners.contract import RunnerSpec

_MOST_MODELS = 50
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Told = AsyncGenerator[Update | Transcript, None]


class FileService:
    """The batch models of a server. ``outcomes`` counts files by model and what became of them."""

    def __init__(self, batch: Batch, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._batch = batch
        self._arriving = 0

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """While a file is received, which takes a place in the queue before its first byte.

        Raises RequestRefused if there is none, and if the disk is full.
        """
        self._batch.refuse_if_full(self._arriving)
        self._arriving += 1
        try:
            yield
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            message = "there is no room on the server's disk for this file; try again later"
            raise RequestRefused("insufficient_storage", message, "file") from error
        finally:
            self._arriving -= 1

    def state(self) -> list[dict[str, object]]:
        """The models in memory, each with its files at work and waiting."""
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
        """See Batch."""
        return self._batch.jobs

    async def find(self, model: str | None, requirements: Requirements) -> RunnerSpec:
        """The model of a name, if it can do what is asked. Raises RequestRefused."""
        return await asyncio.to_thread(self.catalogue.find, model, requirements)

    async def check_known(self, model: str) -> None:
        """Raises RequestRefused 404 if there is no model of this name, whatever it can do."""
        try:
            await self.find(model or None, Requirements())
        except RequestRefused as error:
            if error.status == 404:
                raise

    async def transcribe(self, spec: RunnerSpec, job: Job) -> Transcript:
        """The whole transcript. Raises VoxliveError."""
        with self._counted(spec.model):
            return await self._batch.transcribe(spec, job)

    async def follow(self, spec: RunnerSpec, job: Job) -> Told:
        """The transcript as it comes; the last item is all of it. Raises VoxliveError."""
        with self._counted(spec.model):
            async with aclosing(self._batch.follow(spec, job)) as told:
                async for item in told:
                    yield item

    @contextmanager
    def _counted(self, model: str) -> Iterator[None]:
        """Count a file under what becomes of it; models beyond ``_MOST_MODELS`` count together."""
        if (model, "ok") not in self.outcomes:
            known = len({known for known, _ in self.outcomes})
            model = model if known < _MOST_MODELS else "others"
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


def longest_s(request: Request) -> float | None:
    """How long the audio of a file from this client may be."""
    grant = require_grant(request)
    minutes = grant.limits.file_minutes if grant else None
    return None if minutes is None else 60 * minutes


@contextmanager
def scratch() -> Iterator[IO[bytes]]:
    """A file that is gone afterwards, whatever happens."""
    with SCRATCH.file("upload") as file:
        yield file


async def copied(upload: BinaryIO, file: IO[bytes]) -> Path:
    """The upload's bytes in a file that another process can open."""

    def copy() -> None:
        shutil.copyfileobj(upload, file)
        file.flush()

    await asyncio.to_thread(copy)
    return Path(file.name)


async def holding(told: Told, held: ExitStack) -> Told:
    """What is told, with its file kept for as long."""
    with held:
        async with aclosing(told):
            async for item in told:
                yield item


async def warned(told: Told, warnings: tuple[JobWarning, ...]) -> Told:
    """What is told, with more warnings in the transcript at its end."""
    async with aclosing(told):
        async for item in told:
            if isinstance(item, Transcript):
                yield replace(item, warnings=(*warnings, *item.warnings))
            else:
                yield item


def written(name: str, said: Transcript, wanted: OutputOptions) -> str:
    """The transcript in a format. Raises RequestRefused for what its model does not know."""
    return FORMATS[name].write(said, wanted)


def warning_headers(said: Transcript) -> dict[str, str]:
    """The transcript's warnings as a header: ASCII JSON, for answers without a place for them."""
    return {"x-voxlive-warnings": json.dumps(warnings(said))} if said.warnings else {}
