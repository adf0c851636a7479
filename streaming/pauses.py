"""Python's own pauses, kept out of live sessions."""

from __future__ import annotations

import gc
import sys

_TURN_S = 0.0002


def spare_pauses() -> None:
    """Short turns for threads, no walks through what is loaded. Called when a process is ready."""
    # An engine's thread needs the interpreter some twenty times in a step of 10 ms, and at Python's
    # 5 ms a turn it would wait that long each time while another thread is busy.
    sys.setswitchinterval(_TURN_S)
    # What is loaded stays: walking through it takes the collector 50 to 100 ms beside a model.
    gc.collect()
    gc.freeze()
