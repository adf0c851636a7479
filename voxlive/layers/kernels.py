"""The folder in which MLX keeps the GPU kernels that it has compiled."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO

import mlx.core as mx

from voxlive.layers.linear import on_cuda

log = logging.getLogger(__name__)

_MLX_KERNELS = "MLX_PTX_CACHE_DIR"
_KERNELS_WAIT_S = 300.0
_MARK = "unfinished"
_LAST_WRITTEN_S = 2.0
"""Before the newest file: the others of the same kernel."""


@contextmanager
def kernels_kept(root: Path) -> Iterator[None]:
    """Let MLX keep the kernels that it compiles meanwhile, and later, in a folder of ``root``.

    There is a folder for each version of MLX and each card. Nothing changes without an NVIDIA GPU,
    or where the user has chosen MLX's folder. Where none can be written, MLX uses its own.

    MLX writes files in place: a process that ends meanwhile may leave half a kernel, with which
    every later start would fail. So a mark stays until all went well, and from a folder that has
    one what was written last is taken away; where MLX fails, with a kernel that it cannot load
    perhaps, all of it. While one process compiles, others wait.
    """
    if not on_cuda() or _MLX_KERNELS in os.environ:
        yield
        return
    with _marked(
        root / _kernel_folder(metadata.version("mlx"), str(mx.device_info()["device_name"]))
    ):
        yield


def _kernel_folder(version: str, card: str) -> str:
    return f"mlx-{version}-{re.sub(r'[^a-z0-9]+', '-', card.lower()).strip('-')}"


@contextmanager
def _marked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        mark = (folder / _MARK).open("a+")
    except OSError as error:
        log.warning("compiled kernels cannot be kept in %s: %s", folder, error.strerror)
        yield
        return
    with mark:
        if not _locked(mark, _KERNELS_WAIT_S):
            log.warning("%s is in use for too long: kernels are kept elsewhere", folder)
            yield
            return
        mark.seek(0)
        if mark.read():
            _remove(folder, _LAST_WRITTEN_S)
        else:
            mark.write(f"process {os.getpid()}\n")
            mark.flush()
        os.environ[_MLX_KERNELS] = str(folder)
        try:
            yield
        except RuntimeError:  # MLX's own
            _remove(folder, float("inf"))
            raise
        mark.truncate(0)


def _remove(folder: Path, last_s: float) -> None:
    """Delete what was written within so many seconds of the newest file."""
    written = {file: file.stat().st_mtime for file in folder.iterdir() if file.name != _MARK}
    newest = max(written.values(), default=0.0)
    for file, at in written.items():
        if newest - at <= last_s:
            file.unlink()


def _locked(mark: IO[str], within_s: float) -> bool:
    """Lock a file that another process may have locked; whether it came to that in time."""
    until = time.monotonic() + within_s
    while True:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        else:
            return True
