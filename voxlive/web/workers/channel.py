"""One end of the socket between a worker and the host, on an event loop: messages and questions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Any, TypeVar

from voxlive.errors import EngineError, VoxliveError
from voxlive.web.workers import Answer, Question

log = logging.getLogger(__name__)

_Told = TypeVar("_Told")


class WorkerChannel:
    """Messages by kind: what is told has a handler, what is asked one that answers.

    ``put`` takes what goes to the other end; ``receive`` what has come from there.
    """

    def __init__(self, put: Callable[[object], object]) -> None:
        self.tell = put
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._handlers: dict[type, Callable[[Any], object]] = {}
        self._answers: dict[type, Callable[[Any], Awaitable[object]]] = {}

    def on(self, kind: type[_Told], handler: Callable[[_Told], object]) -> None:
        """Have messages of this kind handled."""
        self._handlers[kind] = handler

    def answer(self, kind: type[_Told], by: Callable[[_Told], Awaitable[object]]) -> None:
        """Have questions of this kind answered. A VoxliveError is raised where it was asked."""
        self._answers[kind] = by

    async def ask(self, question: object) -> Any:
        """The answer. Raises what the other end raises; EngineError if that has gone."""
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self.tell(Question(number, question))
        try:
            return await answer
        finally:
            del self._asked[number]

    def receive(self, message: object) -> None:
        """Handle a message. On the event loop."""
        match message:
            case Question(number, asked):
                task = asyncio.create_task(self._answer(number, asked))
                self._answering.add(task)
                task.add_done_callback(partial(self._on_answered, number))
            case Answer(number, result, error):
                answer = self._asked.get(number)
                if answer and not answer.done():
                    if error:
                        answer.set_exception(error)
                    else:
                        answer.set_result(result)
            case _:
                self._handlers[type(message)](message)

    def close(self) -> None:
        """The other end has gone: what was asked fails."""
        for answer in self._asked.values():
            if not answer.done():
                message = "a process of the server has ended; start again in a moment"
                answer.set_exception(EngineError("engine_failed", message))
        for task in self._answering:
            task.cancel()

    async def _answer(self, number: int, asked: object) -> None:
        try:
            self.tell(Answer(number, await self._answers[type(asked)](asked)))
        except VoxliveError as error:
            self.tell(Answer(number, None, error))

    def _on_answered(self, number: int, task: asyncio.Task[None]) -> None:
        """Whoever has asked is told of a failure too, and does not wait for ever."""
        self._answering.discard(task)
        if not task.cancelled() and (failure := task.exception()):
            log.error("a process of the server failed to answer another", exc_info=failure)
            message = "the server failed in this session; start again"
            self.tell(Answer(number, None, EngineError("internal", message)))
