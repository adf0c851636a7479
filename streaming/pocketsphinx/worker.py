"""A worker process: one decoder that serves one stream after another.

Run as a module of its own rather than through multiprocessing, which would import the parent's main
module here too: a script of the user's, or the command line with all that it needs. It ends when
the other end of its socket is closed, however that came about.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from multiprocessing.connection import Connection

import numpy as np

from ..engine import Message
from .decode import Recognizer
from .listener import Listener
from .wire import Audio, Command, End, Open, Probe, Reply


def main(fd: int) -> None:
    """Serve over the socket ``fd`` until it closes."""
    # The parent ends its workers itself, after it has drained its sessions.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Connection(fd)
    recognizer = Recognizer()
    recognizer.probe()
    try:
        serve(connection, recognizer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def serve(connection: Connection, recognizer: Recognizer) -> None:
    """Ask for commands and answer them; raises EOFError or OSError when the socket closes."""
    generation = 0
    listener = Listener(recognizer, drafts=False)
    message: Message | None = None
    while True:
        connection.send(Reply(generation, message, ready=True))
        command: Command = connection.recv()
        if isinstance(command, Open):
            generation = command.generation
            listener = Listener(recognizer, drafts=command.drafts)
        message = None
        for following in _answers(command, listener, recognizer):
            if message:
                connection.send(Reply(generation, message, ready=False))
            message = following


def _answers(command: Command, listener: Listener, recognizer: Recognizer) -> Iterable[Message]:
    match command:
        case Audio(pcm, at):
            return listener.audio(np.frombuffer(pcm, "<i2"), at)
        case End(marker):
            return listener.end(marker)
        case Probe() if not recognizer.drafting:
            recognizer.probe()
    return ()


if __name__ == "__main__":
    main(int(sys.argv[1]))
