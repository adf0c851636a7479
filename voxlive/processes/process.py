"""A process that was started with ``start_new_session`` and what it started: a group of its own.

The cores that it may use; Python's own pauses, kept out of live sessions.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress


def kill_group(pid: int) -> None:
    """End all of it at once; it may be gone already."""
    # On macOS a group of which nothing but a zombie is left is a PermissionError.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_TURN_S = 0.0002


def tune_interpreter() -> None:
    """Short turns for threads, no walks through what is loaded. Called when a process is ready."""
    # An engine's thread needs the interpreter some twenty times in a step of 10 ms, and at Python's
    # 5 ms a turn it would wait that long each time while another thread is busy.
    sys.setswitchinterval(_TURN_S)
    # What is loaded stays: walking through it takes the collector 50 to 100 ms beside a model.
    gc.collect()
    gc.freeze()
