"""HTTP requests that a worker passes on to the host, as ASGI messages of one request each.

The host's application asks for what the client sends, a message at a time, and waits until what it
sends of a body was written there: so either end is as slow as the other. ``ForwardRequests`` is the
worker's application, ``ServeForwarded`` runs the host's for one worker.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxlive.web.workers import RequestBegun, RequestEvent, RequestNext, RequestOver
from voxlive.web.workers.channel import WorkerChannel

log = logging.getLogger(__name__)

_FIELDS = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
    "client",
    "server",
)
_BODY = "http.response.body"
_GONE = {"type": "http.disconnect"}


class ForwardRequests:
    """See the module. An ASGI application for HTTP."""

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self._numbers = count(1)
        self._inboxes: dict[int, asyncio.Queue[object]] = {}
        channel.on(RequestEvent, self._deliver)
        channel.on(RequestNext, self._deliver)
        channel.on(RequestOver, self._deliver)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a request answered by the host."""
        number, inbox = next(self._numbers), asyncio.Queue[object]()
        self._inboxes[number] = inbox
        asked: set[asyncio.Task[None]] = set()

        async def pass_on() -> None:
            self._channel.tell(RequestEvent(number, await receive()))

        self._channel.tell(RequestBegun(number, {name: scope[name] for name in _FIELDS}))
        over = False
        try:
            while not over:
                match await inbox.get():
                    case RequestNext():
                        asked.add(asyncio.create_task(pass_on()))
                    case RequestEvent(_, message):
                        await send(message)
                        if message.get("more_body"):
                            self._channel.tell(RequestNext(number))
                    case RequestOver(_, failed):
                        over = True
                        if failed:
                            raise ConnectionAbortedError("the host's answer has broken off")
        finally:
            del self._inboxes[number]
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            if not over:
                self._channel.tell(RequestOver(number))

    def _deliver(self, message: RequestEvent | RequestNext | RequestOver) -> None:
        if inbox := self._inboxes.get(message.request):
            inbox.put_nowait(message)


class _Request:
    """A request at the host. Its application may receive and send at the same time.

    As with a connection of its own, a client that is gone is told of and ends nothing.
    """

    def __init__(self, number: int, channel: WorkerChannel) -> None:
        self._number = number
        self._channel = channel
        self._received = asyncio.Queue[Message]()
        self._written = asyncio.Semaphore(0)
        self._gone = False

    async def receive(self) -> Message:
        if self._gone:
            return _GONE
        self._channel.tell(RequestNext(self._number))
        return await self._received.get()

    async def send(self, message: Any) -> None:
        if self._gone:
            return
        self._channel.tell(RequestEvent(self._number, message))
        if message["type"] == _BODY and message.get("more_body"):
            await self._written.acquire()

    def on_event(self, message: Message) -> None:
        self._received.put_nowait(message)

    def on_written(self) -> None:
        self._written.release()

    def on_gone(self) -> None:
        self._gone = True
        self._received.put_nowait(_GONE)
        self._written.release()


class ServeForwarded:
    """See the module. ``app`` is the host's."""

    def __init__(self, app: ASGIApp, channel: WorkerChannel) -> None:
        self._app = app
        self._channel = channel
        self._requests: dict[int, _Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        channel.on(RequestBegun, self._begin)
        channel.on(RequestEvent, self._on_event)
        channel.on(RequestNext, self._on_written)
        channel.on(RequestOver, self._on_gone)

    def close(self) -> None:
        """The worker has gone, and with it all clients."""
        for number in tuple(self._requests):
            self._on_gone(RequestOver(number))

    def _begin(self, begun: RequestBegun) -> None:
        number, request = begun.request, _Request(begun.request, self._channel)
        self._requests[number] = request
        scope = {**begun.scope, "extensions": {}, "state": {}}

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._requests.pop(number, None)
            failure = None if task.cancelled() else task.exception()
            if failure:
                log.error("a request failed in the server", exc_info=failure)
            self._channel.tell(RequestOver(number, failed=task.cancelled() or failure is not None))

        task = asyncio.create_task(self._run(scope, request))
        self._tasks.add(task)
        task.add_done_callback(over)

    async def _run(self, scope: Scope, request: _Request) -> None:
        await self._app(scope, request.receive, request.send)

    def _on_event(self, event: RequestEvent) -> None:
        if request := self._requests.get(event.request):
            request.on_event(event.message)

    def _on_written(self, written: RequestNext) -> None:
        if request := self._requests.get(written.request):
            request.on_written()

    def _on_gone(self, gone: RequestOver) -> None:
        if request := self._requests.get(gone.request):
            request.on_gone()
