"""How a command ends at a signal: at the first in order, at the second at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..runners.scratch import exit_now

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ending(first: Callable[[int], object]) -> Iterator[None]:
    """Call ``first`` on the running loop, with the number of the first signal that arrives here.

    What is ignored, as SIGHUP under nohup, stays so.
    """
    loop = asyncio.get_running_loop()
    arrived = False

    def arrive(number: int, _frame: object) -> None:
        nonlocal arrived
        if arrived:
            exit_now(number)
        arrived = True
        loop.call_soon_threadsafe(first, number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heeded = {number: was for number, was in before.items() if was is not signal.SIG_IGN}
    for number in heeded:
        signal.signal(number, arrive)
    try:
        yield
    finally:
        for number, was in heeded.items():
            signal.signal(number, was)
