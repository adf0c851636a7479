"""A job in a runner's process, as its host sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..contract import Progress, Refusal, Transcript, Update


class RunnerDied(Exception):
    """The process ended under a job. ``guilty``: it is this job's doing, as far as one can tell."""

    def __init__(self, refusal: Refusal, *, guilty: bool) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.guilty = guilty


class Running:
    """Who is told of it, and since when it has been silent (the loop's time)."""

    def __init__(self, ident: int, told: Callable[[Update], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ident = ident
        self.outcome: asyncio.Future[Transcript] = loop.create_future()
        self.began = self.active = loop.time()
        self.total_s: float | None = None
        self.cancelled: float | None = None
        self._told = told
        self._done_s = -1.0

    def hear(self, update: Update, now: float) -> None:
        """Pass on what is news."""
        if isinstance(update, Progress):
            self.total_s = update.total_s
            if update.done_s <= self._done_s:
                return
            self._done_s = update.done_s
        self.active = now
        if self.cancelled is None:
            self._told(update)

    def end(self, outcome: Transcript | Exception) -> None:
        """Once: what comes of a job that was given up already interests nobody."""
        if self.outcome.done():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)
