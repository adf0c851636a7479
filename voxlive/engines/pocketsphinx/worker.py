"""A worker process: one decoder that serves one stream after another.

It drafts what is said while a fork of it makes the final pass over what was said before. It has one
thread, and ends when the other end of its socket is closed, however that came about. Run as a
module of its own rather than through multiprocessing, which would import the parent's main module
here too: a script of the user's, or the command line with all that it needs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np

from voxlive.engines.contract import Message
from voxlive.engines.pocketsphinx.decode import Recognizer
from voxlive.engines.pocketsphinx.listener import PocketSphinxListener
from voxlive.engines.pocketsphinx.passes import Forked, InPlace
from voxlive.engines.pocketsphinx.wire import (
    Command,
    SphinxAudio,
    SphinxEnd,
    SphinxOpen,
    SphinxProbe,
    SphinxReply,
)
from voxlive.processes.process import ENDING_SIGNALS


def main(fd: int) -> None:
    """Serve over the socket ``fd`` until it closes."""
    # The parent ends its workers itself, after it has drained its sessions.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Linux may weigh sessions of processes: this one's is as nice as its process.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(os.nice(0)))
    connection = Connection(fd)
    recognizer = Recognizer()
    recognizer.probe()
    forked = Forked(recognizer, connection)
    try:
        Worker(connection, recognizer, forked).serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    finally:
        forked.stop()


class Worker:
    """The stream of the moment, between the engine's socket and the pipe of its final pass."""

    def __init__(self, connection: Connection, recognizer: Recognizer, forked: Forked) -> None:
        self._connection = connection
        self._recognizer = recognizer
        self._forked = forked
        self._generation = 0
        self._listener = PocketSphinxListener(recognizer, InPlace(recognizer), drafts=False)

    def serve(self) -> None:
        """Ask for commands and answer them; raises EOFError or OSError when the socket closes.

        While the listener is full it asks for none. Raises PassDied.
        """
        asked = False
        while True:
            if not asked and not self._listener.full:
                self._reply(ready=True)
                asked = True
            readable = wait([self._connection, *self._forked.pipes])
            if readable != [self._connection]:
                self._say(self._listener.collect())
                self._reply()
            else:
                command = self._connection.recv()
                asked = False
                self._say(self._answers(command))

    def _answers(self, command: Command) -> Iterable[Message]:
        match command:
            case SphinxOpen(generation, drafts):
                self._forked.stop()
                self._generation = generation
                passes = self._forked if drafts else InPlace(self._recognizer)
                self._listener = PocketSphinxListener(self._recognizer, passes, drafts=drafts)
            case SphinxAudio(pcm, at):
                return self._listener.audio(np.frombuffer(pcm, "<i2"), at)
            case SphinxEnd(marker):
                return self._listener.end(marker)
            case SphinxProbe() if not self._recognizer.drafting:
                self._recognizer.probe()
        return ()

    def _say(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._reply(message)

    def _reply(self, message: Message | None = None, *, ready: bool = False) -> None:
        passed_s, self._forked.passed_s = self._forked.passed_s, None
        passing = bool(self._forked.pipes)
        self._connection.send(SphinxReply(self._generation, message, ready, passing, passed_s))


if __name__ == "__main__":
    main(int(sys.argv[1]))
