"""Real runners in real processes, for tests: specs, jobs, and a Batch that must leave nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from support.clips import clip
from support.forked import start_parent
from support.weights import TINY_EN, TINY_EN_ID

from voxlive.checkpoints.local_model import read_model
from voxlive.checkpoints.resolve import resolve
from voxlive.errors import VoxliveError
from voxlive.runners.batch import Batch, BatchOptions
from voxlive.runners.contract import Delta, Job, RunnerSpec
from voxlive.runners.process import ProcessOptions
from voxlive.runners.scratch import SCRATCH

TINY_VOXTRAL = Path(__file__).parents[1] / "models" / "tiny-voxtral"


def whisper(name: str = TINY_EN_ID, needed_bytes: int = 0) -> RunnerSpec:
    """Another name is another model, with a process of its own."""
    local = resolve(TINY_EN, offline=True)
    return RunnerSpec(name, "faster_whisper", "whisper", local, needed_bytes=needed_bytes)


def voxtral(folder: Path = TINY_VOXTRAL) -> RunnerSpec:
    return RunnerSpec(
        folder.name, "voxtral_realtime", "voxtral_realtime", read_model(folder), device="cpu"
    )


def job(name: str, **options) -> Job:
    return Job(clip(name).path, **options)


@asynccontextmanager
async def batch(memory=None, process: dict | None = None, **options) -> AsyncIterator[Batch]:
    """A Batch; once it is closed no process and no descriptor of it is left."""
    me = psutil.Process()
    await asyncio.to_thread(int)  # the loop's own threads and descriptors are there now
    assert SCRATCH.path  # and so is what locks this process's folder
    start_parent()
    before, others = me.num_fds(), me.children(recursive=True)
    made = BatchOptions(
        **options, process=ProcessOptions(watch_s=0.1, niceness=0, **(process or {}))
    )
    one = Batch(made, memory) if memory else Batch(made)
    try:
        yield one
    finally:
        await one.aclose()
    # What runners started notices their end for itself.
    await until(lambda: not set(me.children(recursive=True)) - set(others))
    assert not one.loaded
    await until(lambda: me.num_fds() <= before)


async def refused(work: Awaitable[object]) -> VoxliveError:
    """How the work was refused."""
    with pytest.raises(VoxliveError) as caught:
        await work
    return caught.value


async def until(true: Callable[[], object]) -> None:
    """Wait for what another process does; there is nothing to await but its looks."""
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def scratch() -> list[Path]:
    """The folders that runners of this process have for temporary files."""
    return list(SCRATCH.path.glob("runner-*"))


class UpdateRecorder:
    """What a job tells; ``begun`` and ``spoken`` are set by its first update and first text."""

    def __init__(self) -> None:
        self.updates = []
        self.begun = asyncio.Event()
        self.has_text = asyncio.Event()

    def __call__(self, update) -> None:
        self.updates.append(update)
        self.begun.set()
        if isinstance(update, Delta):
            self.has_text.set()

    @property
    def text(self) -> str:
        return "".join(update.text for update in self.updates if isinstance(update, Delta))

    @property
    def progress(self) -> list:
        return [update for update in self.updates if not isinstance(update, Delta)]
