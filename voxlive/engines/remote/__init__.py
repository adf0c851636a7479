"""An engine in a process of its own, so that it and the sockets do not share one interpreter.

A model's step is hundreds of short calls from Python; beside an event loop with many sessions each
waits for its turn. Apart they also do not die of one another.

Here are the messages between an engine's process and its host. What comes many times a second is a
tuple, which pickles fastest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from voxlive.checkpoints.local_model import LocalModel
from voxlive.engines.contract import (
    EngineInfo,
    EngineOptions,
    HistogramSnapshot,
    Message,
    StreamOptions,
)
from voxlive.errors import CheckpointError, EngineError


@dataclass(frozen=True, slots=True)
class LoadEngine:
    """The first command: load this model."""

    model: LocalModel
    options: EngineOptions


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A stream, known as ``ident`` from now on; a refusal comes as its ``Failed``."""

    ident: int
    options: StreamOptions


@dataclass(frozen=True, slots=True)
class CheckEngine:
    """Asks for the engine's own check; its result carries the number."""

    number: int
    timeout: float


class FeedStream(NamedTuple):
    """Float32 samples in this machine's byte order, for ``Stream.feed``."""

    ident: int
    pcm: bytes
    at: int


class MarkStream(NamedTuple):
    """For ``Stream.flush`` or, without ``flush``, ``Stream.end_utterance``."""

    ident: int
    marker: int
    flush: bool


class CloseStream(NamedTuple):
    """For ``Stream.close``."""

    ident: int


@dataclass(frozen=True, slots=True)
class EngineReady:
    """The engine is loaded and warm."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class EngineRefused:
    """The engine cannot be loaded; the process ends."""

    error: EngineError | CheckpointError


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Of the check with this number: what is wrong, if anything."""

    number: int
    fault: str | None


class EngineProgress(NamedTuple):
    """How far the engine has come; sent a few times a second while that changes.

    ``handled``: commands after the first that it was given; ``busy``: whether they have left it
    anything to do; ``done``: ``Work.done``; ``steps``: how long its steps have taken.
    """

    handled: int
    busy: bool
    done: int
    steps: HistogramSnapshot


class StreamMessage(NamedTuple):
    """An engine's message to a stream."""

    ident: int
    message: Message


EngineCommand = LoadEngine | OpenStream | CheckEngine | FeedStream | MarkStream | CloseStream
EngineReply = EngineReady | EngineRefused | CheckResult | EngineProgress | StreamMessage
