"""What an engine's process and its host say to each other: lists of these, pickled.

Both ends are this program. What comes many times a second is a tuple, which pickles fastest.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

from ...checkpoints.errors import CheckpointError
from ..durations import Reading
from ..engine import EngineError, EngineInfo, Message, StreamOptions
from ..options import EngineOptions


@dataclass(frozen=True, slots=True)
class Boot:
    """The first command: load this model; log from ``level`` on."""

    model: str
    options: EngineOptions
    level: int


@dataclass(frozen=True, slots=True)
class Open:
    """A stream, known as ``ident`` from now on; a refusal comes as its ``Failed``."""

    ident: int
    options: StreamOptions


@dataclass(frozen=True, slots=True)
class Check:
    """Asks for the engine's own check; its answer carries the number."""

    number: int
    timeout: float


class Feed(NamedTuple):
    """Float32 samples in this machine's byte order, for ``Stream.feed``."""

    ident: int
    pcm: bytes
    at: int


class Mark(NamedTuple):
    """For ``Stream.flush`` or, without ``flush``, ``Stream.end_utterance``."""

    ident: int
    marker: int
    flush: bool


class Close(NamedTuple):
    """For ``Stream.close``."""

    ident: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine is loaded and warm."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class Refused:
    """The engine cannot be loaded; the process ends."""

    error: EngineError | CheckpointError


@dataclass(frozen=True, slots=True)
class Answer:
    """To the check with this number: what is wrong, if anything."""

    number: int
    fault: str | None


class Pulse(NamedTuple):
    """How far the engine has come; pushed a few times a second while that changes.

    ``obeyed``: commands after the first that it was given; ``busy``: whether they have left it
    anything to do; ``done``: ``Work.done``; ``steps``: how long its steps have taken.
    """

    obeyed: int
    busy: bool
    done: int
    steps: Reading


class Told(NamedTuple):
    """An engine's message to a stream."""

    ident: int
    message: Message


@dataclass(frozen=True, slots=True)
class Logged:
    """What was logged over there."""

    record: logging.LogRecord


Command = Boot | Open | Check | Feed | Mark | Close
Reply = Ready | Refused | Answer | Pulse | Told | Logged
