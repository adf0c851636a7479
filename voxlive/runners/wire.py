"""The messages between a runner's process and its host."""

from __future__ import annotations

from dataclasses import dataclass

from voxlive.errors import VoxliveError
from voxlive.runners.contract import Job, RunnerSpec, Transcript, Update


@dataclass(frozen=True, slots=True)
class LoadModel:
    """The first command: load this model."""

    spec: RunnerSpec


@dataclass(frozen=True, slots=True)
class StartJob:
    """Begin a job; every reply about it carries ``ident``."""

    ident: int
    job: Job


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Cancel a job; its ``JobEnded`` comes all the same."""

    ident: int


@dataclass(frozen=True, slots=True)
class RunnerReady:
    """The model is loaded, takes ``slots`` jobs at a time, and ``stretch_s`` of audio at once."""

    slots: int
    stretch_s: float


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """Progress or text of a running job."""

    ident: int
    update: Update


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A job's end, or that of loading where ``ident`` is None, which can only be a refusal."""

    ident: int | None
    outcome: Transcript | VoxliveError


@dataclass(frozen=True, slots=True)
class RunnerCrashed:
    """The last message of a process: what was raised in this job, or on loading."""

    ident: int | None
    reason: str


RunnerCommand = LoadModel | StartJob | CancelJob
RunnerReply = RunnerReady | JobUpdate | JobEnded | RunnerCrashed
