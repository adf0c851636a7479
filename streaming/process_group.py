"""A process that was started with ``start_new_session`` and what it started: a group of its own."""

from __future__ import annotations

import os
import signal
from contextlib import suppress


def kill_group(pid: int) -> None:
    """End all of it at once; it may be gone already."""
    # On macOS a group of which nothing but a zombie is left is a PermissionError.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
