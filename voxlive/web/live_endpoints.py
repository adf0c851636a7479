"""Every live connection of a server: each handshake is authenticated, then has a ``LiveSocket``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, Protocol

from starlette.websockets import WebSocket

from voxlive.errors import RequestRefused
from voxlive.processes.logs import log_context
from voxlive.streaming.traces import TraceExporter
from voxlive.web.access.access import Access, Grant
from voxlive.web.access.keys import find_credentials
from voxlive.web.access.middleware import Authenticator, client_address
from voxlive.web.captions.feeds import CaptionFeeds
from voxlive.web.errors import openai_error
from voxlive.web.live_models import LiveModels
from voxlive.web.live_socket import LiveSocket
from voxlive.web.metrics import SessionMetrics
from voxlive.web.protocols.contract import Protocol as WireFormat
from voxlive.web.recorder import SessionRecorder
from voxlive.web.resume import ResumableSessions

_CLOSE_S = 2.0


class Admission(Protocol):
    """Decides whether a live client is admitted, and counts it while ``resources`` last."""

    async def admit(
        self, secret: str | None, address: str, captions: str | None, resources: ExitStack
    ) -> Grant:
        """Admit a client with this key and address, which may name its captions.

        Raises RequestRefused.
        """
        ...


class LocalAdmission:
    """By the keys of this process, and what they share with those of its replicas."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def admit(
        self, secret: str | None, address: str, captions: str | None, resources: ExitStack
    ) -> Grant:
        """See ``Admission``."""
        grant = await self._access.admit(secret, "live", address)
        await self._access.take_session(grant, resources)
        if captions is not None:
            await self._claim(captions, grant.name, resources)
        return grant

    async def _claim(self, name: str, owner: str, resources: ExitStack) -> None:
        """Reserve a captions name for a key while a connection of that key uses it."""
        if not await self._access.state.claim_name(name, owner):
            message = "a session of another key has this captions name now: choose another"
            raise RequestRefused("name_in_use", message)
        resources.callback(self._access.state.free_name, name)


class LiveEndpoints:
    """See the module. Without an authenticator every client is admitted.

    A resumable session waits ``resume_s`` seconds for its client, ``max_suspended`` at a time.
    Transcripts are kept by ``recorder``, where there is one. Sessions are followed by ``traces``.
    ``diarize``: see ``Protocol.tell_speakers``.
    """

    def __init__(
        self,
        models: LiveModels,
        authenticator: Authenticator | None = None,
        *,
        resume_s: float = 120.0,
        max_suspended: int = 64,
        recorder: SessionRecorder | None = None,
        feeds: CaptionFeeds | None = None,
        admission: Admission | None = None,
        traces: TraceExporter | None = None,
        diarize: bool = False,
    ) -> None:
        self._models = models
        self._diarize = diarize
        self.authenticator = authenticator or Authenticator(Access())
        self.recorder = recorder
        self.feeds = feeds or CaptionFeeds()
        self.admission = admission or LocalAdmission(self.authenticator.access)
        self.metrics = SessionMetrics(self.authenticator.access.count_error)
        self.metrics.traces = traces
        self.resumables = ResumableSessions(self.feeds, resume_s, max_suspended)
        self._sockets: dict[asyncio.Task[Any] | None, LiveSocket] = {}

    def endpoint(self, protocol: type[WireFormat]) -> Callable[[WebSocket], Awaitable[None]]:
        """The ASGI endpoint for one wire format."""
        for name in protocol.names or (protocol.name,):
            self.metrics.register(name)

        async def serve(socket: WebSocket) -> None:
            try:
                self.authenticator.check_site(socket.scope)
            except RequestRefused as error:
                self.authenticator.access.count_error(error.code, protocol.name)
                await socket.send_denial_response(openai_error(error))
                return
            with ExitStack() as resources, log_context(protocol=protocol.name):
                await self._serve(socket, protocol, resources)

        return serve

    async def _serve(
        self, socket: WebSocket, protocol: type[WireFormat], resources: ExitStack
    ) -> None:
        query = socket.query_params
        presented = find_credentials(
            socket.headers,
            socket.scope["subprotocols"],
            query,
            extra_headers=protocol.key_headers,
            key_params=protocol.key_params,
        )
        models, unknown = self._models, None
        try:
            service = models.find(query.get("model"), no_choice=protocol.default_models)
        except RequestRefused as error:
            service, unknown = models.default, error
        wire_format = protocol(query, service.engine.info)
        if self._diarize:
            wire_format.tell_speakers()
        live = LiveSocket(
            socket,
            models,
            service,
            wire_format,
            self.feeds,
            self.metrics,
            self.resumables,
            presented.labels,
            self.recorder if self._keeps(query.get("store")) else None,
        )
        try:
            grant = await self.admission.admit(
                presented.secret, client_address(socket), query.get("captions"), resources
            )
            if unknown:
                raise unknown
            for name in ("store", "keep_audio"):
                if query.get(name, "true") not in ("true", "false"):
                    raise RequestRefused("bad_parameter", f"{name} is true or false", name)
            if models.named or service.engine.info.names:
                wire_format.offer_engines(
                    lambda name: models.find(name, service, protocol.default_models).engine.info
                )
            wire_format.apply_settings(grant.settings)
        except RequestRefused as refusal:
            await self.authenticator.on_refusal(refusal, wire_format.name)
            await live.refuse(refusal)
            return
        task = asyncio.current_task()
        self._sockets[task] = live
        resources.callback(self._sockets.pop, task)
        await live.run(grant.limits, grant.name)
        if live.failure:
            self.authenticator.access.count_error(live.failure, wire_format.name)

    def _keeps(self, asked: str | None) -> bool:
        return asked != "false" or (self.recorder is not None and self.recorder.transient)

    async def leave(self, drain_s: float) -> None:
        """Leave the sessions that can outlive this server to the next one.

        Each when it is at rest, within ``drain_s`` seconds.
        """
        if self.recorder and self.recorder.transient:
            self.resumables.end_with_server()
            return
        deadline = asyncio.get_running_loop().time() + drain_s
        leaving = [task for task, live in self._sockets.items() if task and live.outlives_server]
        for live in self._sockets.values():
            live.leave(deadline)
        if leaving:
            await asyncio.wait(leaving, timeout=drain_s + _CLOSE_S)
        await self.resumables.leave_suspended()

    async def wait_closed(self, timeout_s: float) -> None:
        """Wait until every connection with a session has sent its end, at most ``timeout_s``."""
        tasks = [task for task, live in self._sockets.items() if task and live.in_session]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        await self.resumables.aclose()
