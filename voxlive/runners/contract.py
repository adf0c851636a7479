"""What the transcription of a file asks for and gives: the contract of every runner.

A runner serves one loaded model in a process of its own. Everything here crosses that process's
boundary, so all of it is frozen and can be pickled; nothing here imports a model's code.
The messages between such a process and its host stand at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from voxlive.checkpoints.local_model import LocalModel
from voxlive.errors import VoxliveError
from voxlive.recognisers.contract import Task
from voxlive.speakers.tracker import SpeakerOptions
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.values import CodedWarning, Segment


@dataclass(frozen=True, slots=True)
class RunnerSpec:
    """Which model a runner serves: all that a fresh process needs to load it.

    ``model`` is its name here, ``backend`` a name of ``runners.routing``, ``family`` how that is
    to load ``local``. ``needed_bytes`` is what the memory gate keeps free for it.
    """

    model: str
    backend: str
    family: str
    local: LocalModel
    needed_bytes: int = 0
    device: Literal["gpu", "cpu"] | None = None
    quantize: int | None = None
    delay_ms: int | None = None
    keep_quantized: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One file to transcribe. ``raw``: it is nothing but PCM in this format.

    ``language`` is a code (``checkpoints.languages``); it, ``prompt`` and ``max_tokens`` may be
    None. ``words`` asks for word times where the model needs extra work for them. Audio longer than
    ``longest_s`` is refused before any is recognised, whatever its container says. ``instruction``
    is for a model that follows instructions, and replaces the one to transcribe. ``speakers``: how
    segments get speakers by their voices, unless the model tells them itself; None: they do not.
    """

    path: Path
    task: Task = "transcribe"
    language: str | None = None
    prompt: str | None = None
    temperature: float = 0.0
    max_tokens: int | None = None
    words: bool = False
    raw: AudioFormat | None = None
    longest_s: float | None = None
    instruction: str | None = None
    speakers: SpeakerOptions | None = None


@dataclass(frozen=True, slots=True)
class JobProgress:
    """``done_s`` of the audio are done. ``total_s`` is None while the length is not known."""

    done_s: float
    total_s: float | None


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of the final text: joined, the deltas are ``Transcript.text``."""

    text: str


Update = JobProgress | Delta


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text of a file: ``text`` is the segments' texts joined.

    ``language`` is the code of the language that the model detected; None for a model that was
    given one, knows one only, or does not report it.
    ``duration`` is the audio's in seconds. Tokens are counted where the model has such;
    ``truncated``: ``Job.max_tokens`` ended the text before the audio did.
    """

    text: str
    segments: tuple[Segment, ...]
    duration: float
    language: str | None = None
    task: Task = "transcribe"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    truncated: bool = False
    warnings: tuple[CodedWarning, ...] = ()


class Runner(Protocol):
    """A loaded model, inside its process. Made by the ``load(spec)`` of its backend's module.

    With one slot ``load``, ``run`` and ``close`` are called on one and the same thread, so that MLX
    arrays stay where they were made. The process never goes online, its TMPDIR is its own and is
    removed with it, and nobody reads what it prints.
    """

    @property
    def slots(self) -> int:
        """How many jobs it can do at a time; if several, each runs on a thread of its own."""
        ...

    @property
    def stretch_s(self) -> float:
        """How many seconds of audio it may recognise between two updates."""
        ...

    def run(
        self, job: Job, on_update: Callable[[Update], None], cancelled: Callable[[], bool]
    ) -> Transcript:
        """Transcribe a file. Blocks; ends early, with any Transcript, soon after ``cancelled()``.

        Raises VoxliveError for what this model or this audio cannot do. Anything else raised is a
        crash of the model, and ends the process.
        """
        ...

    def close(self) -> None:
        """Free what the process's end would not."""
        ...


Load = Callable[[RunnerSpec], Runner]


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
