import os
import signal
from collections.abc import Callable, Iterator

import psutil
import pytest


@pytest.fixture
def paused() -> Iterator[Callable[[int], None]]:
    """Stops a process until the test is over."""
    pids: list[int] = []

    def pause(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        pids.append(pid)

    yield pause
    for pid in pids:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGCONT)
