"""What a runner's process and its host say to each other, and how it lies on their socket.

A frame is the length of a pickle, four bytes, and the pickle. Both ends are this program.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
import threading
from dataclasses import dataclass

from voxlive.errors import VoxliveError
from voxlive.runners.contract import Job, RunnerSpec, Transcript, Update

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class LoadModel:
    """The first command: load this model, ``niceness`` steps behind the live sessions."""

    spec: RunnerSpec
    niceness: int


@dataclass(frozen=True, slots=True)
class StartJob:
    """Begin a job; everything said of it carries ``ident``."""

    ident: int
    job: Job


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Nobody waits for this job any more; its end is told all the same."""

    ident: int


@dataclass(frozen=True, slots=True)
class RunnerReady:
    """The model is loaded, takes so many jobs at a time, and hears ``stretch_s`` at once."""

    slots: int
    stretch_s: float


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """A running job gets on."""

    ident: int
    update: Update


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A job's end, or that of loading where ``ident`` is None, which can only be a refusal."""

    ident: int | None
    outcome: Transcript | VoxliveError


@dataclass(frozen=True, slots=True)
class RunnerCrashed:
    """The last words of a process: what was raised in this job, or on loading."""

    ident: int | None
    reason: str


Command = LoadModel | StartJob | CancelJob
Reply = RunnerReady | JobUpdate | JobEnded | RunnerCrashed


def frame(message: Command | Reply) -> bytes:
    """A message as it is sent."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


async def read(reader: asyncio.StreamReader) -> Reply:
    """The next reply; raises IncompleteReadError or ConnectionError at the child's end."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    reply: Reply = pickle.loads(await reader.readexactly(length))  # noqa: S301
    return reply


class Wire:
    """The child's end: any thread sends, one receives. Blocks."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._reader = self._socket.makefile("rb")
        self._sending = threading.Lock()

    def send(self, reply: Reply) -> None:
        """Raises OSError when the host is gone."""
        data = frame(reply)
        with self._sending:
            self._socket.sendall(data)

    def receive(self) -> Command | None:
        """The next command; None when the host is gone."""
        try:
            head = self._reader.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return None
            command: Command = pickle.loads(self._reader.read(*_LENGTH.unpack(head)))  # noqa: S301
        except (OSError, EOFError, pickle.UnpicklingError):
            return None
        return command
