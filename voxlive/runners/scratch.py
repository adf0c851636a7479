"""The folder of this process for temporary files, which hold people's audio.

Nobody else on the machine may look into it. It is locked for as long as the process lives, however
that ends: what is not locked is of a process that is gone, and is swept up by the next one.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn

PREFIX = "voxlive-scratch-"
_TRIES = 10


class Scratch:
    """Made at its first use and removed at the end of the process. Belongs to the main thread."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._lock: int | None = None
        self._owner = 0

    @property
    def path(self) -> Path:
        """The folder; a new one if something else has removed it. Raises OSError."""
        if self._path is None or not self._path.is_dir():
            self._release()
            self._path, self._lock = _make()
            self._owner = os.getpid()
            atexit.register(self.remove)
        return self._path

    def folder(self, name: str) -> Path:
        """A new folder, whose name begins so. Raises OSError."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.path))

    @contextmanager
    def file(self, name: str) -> Iterator[IO[bytes]]:
        """A new file, whose name begins so, that is gone afterwards. Raises OSError."""
        with tempfile.NamedTemporaryFile(prefix=f"{name}-", dir=self.path, delete=False) as file:
            try:
                yield file
            finally:
                Path(file.name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of it. A fork of the owner leaves it alone."""
        if self._path and self._owner == os.getpid():
            shutil.rmtree(self._path, ignore_errors=True)
            self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._path = self._lock = None
        atexit.unregister(self.remove)


SCRATCH = Scratch()
"""This process's."""


def sweep() -> None:
    """Remove the folders of processes that are gone, of this user."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                status = os.fstat(lock)
                if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == stat.S_IRWXU:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def exit_now(number: int) -> NoReturn:
    """End the process at once for the signal ``number``; no temporary file is left.

    Processes with models see their sockets close, and end.
    """
    SCRATCH.remove()
    logging.shutdown()
    os._exit(128 + number)


def _make() -> tuple[Path, int]:
    """A folder and the descriptor that locks it."""
    for _ in range(_TRIES):
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = None
        # Another process that starts may sweep it up before it is locked.
        with suppress(FileNotFoundError, BlockingIOError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(lock).st_ino:
                return path, lock
        if lock is not None:
            os.close(lock)
    raise FileNotFoundError(f"the folders that are made in {tempfile.gettempdir()} do not last")
