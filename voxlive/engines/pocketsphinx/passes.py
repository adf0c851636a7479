"""The final pass over an utterance: here and now, or in a fork while the next one is drafted."""

from __future__ import annotations

import os
import signal
import time
import traceback
from multiprocessing.connection import Connection, Pipe
from typing import Protocol

from voxlive.engines.pocketsphinx.decode import Heard, Pcm, Recognizer

Result = tuple[list[Heard], str | None]
"""What ``Recognizer.words`` gives."""


class PassDied(Exception):
    """A final pass has ended without a result."""


class Passes(Protocol):
    """Final passes, one at a time."""

    def start(self, pcm: Pcm) -> None:
        """Begin one over a whole utterance, after the last one's result was taken."""
        ...

    def take(self) -> Result | None:
        """Its result, once; None while it is not there. Raises PassDied."""
        ...


class InPlace:
    """Each is through before ``start`` returns: for audio that nobody waits for to see drafted."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._result: Result | None = None

    def start(self, pcm: Pcm) -> None:
        """See the contract."""
        self._result = self._recognizer.words(pcm)

    def take(self) -> Result | None:
        """See the contract."""
        result, self._result = self._result, None
        return result


class Forked:
    """Each in a child of this process, which must have one thread only.

    A child shares the models' memory and writes its result into a pipe. ``socket`` it closes: that
    this process has died must be seen at the other end of it at once. ``passed_s``: how long the
    last one took, for whoever reads it and sets it back.
    """

    def __init__(self, recognizer: Recognizer, socket: Connection) -> None:
        self.passed_s: float | None = None
        self._recognizer = recognizer
        self._socket = socket
        self._pid = 0
        self._pipe: Connection | None = None
        self._began_at = 0.0

    @property
    def pipes(self) -> list[Connection]:
        """What becomes readable when ``take`` has something to say; none while no pass runs."""
        return [self._pipe] if self._pipe else []

    def start(self, pcm: Pcm) -> None:
        """See the contract."""
        self._began_at = time.monotonic()
        self._pipe, into = Pipe(duplex=False)
        with into:
            self._pid = os.fork()
            if not self._pid:
                self._be_the_child(pcm, into)

    def take(self) -> Result | None:
        """See the contract."""
        if not self._pipe or not self._pipe.poll():
            return None
        result: Result | None = None
        try:
            result = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise PassDied(f"a final pass ended with {self._reap()} and no result") from error
        self._reap()
        self.passed_s = time.monotonic() - self._began_at
        return result

    def stop(self) -> None:
        """End the one under way, if there is one."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._reap()

    def _reap(self) -> int:
        """Wait for the child's end; its exit code."""
        if self._pipe:
            self._pipe.close()
        _, status = os.waitpid(self._pid, 0)
        self._pid, self._pipe = 0, None
        return os.waitstatus_to_exitcode(status)

    def _be_the_child(self, pcm: Pcm, into: Connection) -> None:
        code = 1
        try:
            self._socket.close()
            into.send(self._recognizer.words(pcm))
            code = 0
        finally:
            if code:
                traceback.print_exc()
            # Nothing of the parent's may be cleaned up here.
            os._exit(code)
