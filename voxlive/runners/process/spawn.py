"""Starts a runner's process, with a socket to talk to it and a folder for its temporary files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from voxlive.processes.process import kill_group

if TYPE_CHECKING:
    from asyncio.subprocess import Process

_COMMAND = (sys.executable, "-P", "-m", "voxlive.runners.process.child")
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class Child:
    """A process that runs ``child``: its socket, and what it and its own children print."""

    process: Process
    replies: asyncio.StreamReader
    commands: asyncio.StreamWriter
    said: asyncio.StreamReader
    ear: asyncio.ReadTransport

    def kill(self) -> None:
        """End it at once, and what it started: it leads a group of its own."""
        if self.process.returncode is None:
            kill_group(self.process.pid)

    def resident_bytes(self) -> int:
        """Memory of it and all its children; 0 once it is gone. Blocks."""
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += one.memory_info().rss
        return total


async def spawn(scratch: Path) -> Child:
    """Start one that shares nothing with this process but the socket. Raises OSError."""
    loop = asyncio.get_running_loop()
    said = asyncio.StreamReader(_LONGEST_LINE)
    with ExitStack() as undo, ExitStack() as theirs:
        ours, inside = socket.socketpair()
        undo.callback(ours.close)
        theirs.callback(inside.close)
        pipe, stderr = os.pipe()
        file = undo.enter_context(os.fdopen(pipe, "rb"))
        theirs.callback(os.close, stderr)
        replies, commands = await asyncio.open_unix_connection(sock=ours)
        undo.callback(commands.close)
        ear, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(said), file)
        undo.callback(ear.close)
        process = await _exec(inside.fileno(), stderr, scratch)
        undo.pop_all()
    return Child(process, replies, commands, said, ear)


async def _exec(fd: int, stderr: int, scratch: Path) -> Process:
    return await asyncio.create_subprocess_exec(
        *_COMMAND,
        str(fd),
        pass_fds=[fd],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
        # Models were fetched before: nothing here may go online.
        env=os.environ | {"TMPDIR": str(scratch), "HF_HUB_OFFLINE": "1"},
    )
