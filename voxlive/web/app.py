"""The ASGI application: every route of the server in one table, mountable under any path.

    app = Starlette(routes=[Mount("/speech", voxlive.create_app(model="voxtral"))])

``make_app`` builds it around a service; ``ServerCore`` loads the models and owns everything of a
server but its sockets; ``Application`` does so lazily, for other ASGI servers.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxlive.checkpoints.local_model import LocalModel
from voxlive.checkpoints.packages import speaker_model
from voxlive.checkpoints.resolve import resolve
from voxlive.errors import VoxliveError
from voxlive.processes.logs import log_context
from voxlive.runners.batch import Batch, BatchOptions
from voxlive.runners.catalogue import Catalogue, make_catalogue
from voxlive.runners.process import ProcessOptions
from voxlive.speakers.encoder import SpeakersMissing
from voxlive.store.contract import SessionStore
from voxlive.streaming.replacements import Replacements
from voxlive.streaming.service import Service
from voxlive.streaming.traces import TraceExporter
from voxlive.web.access.access import Access
from voxlive.web.access.keys import Key, load_keys, load_ticket_key, redact_logs
from voxlive.web.access.middleware import (
    AuditLog,
    Authenticator,
    AuthMiddleware,
    find_rule,
)
from voxlive.web.access.sites import Sites, host_names, with_cors
from voxlive.web.captions.endpoints import CaptionEndpoints
from voxlive.web.captions.shares import ShareEndpoints, Shares
from voxlive.web.config import ConfigError, ServeConfig
from voxlive.web.errors import on_disconnect, on_http_error, on_unexpected_error
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels, Reloading, find_model, load_service
from voxlive.web.metrics import (
    MetricsEndpoint,
    RequestCountMiddleware,
    RequestCounts,
    ServerCollector,
)
from voxlive.web.pages import Pages
from voxlive.web.profiles import ProfileEndpoints
from voxlive.web.protocols import PROTOCOLS
from voxlive.web.recorder import Recorder
from voxlive.web.refiner import Refiner
from voxlive.web.rest.chat import ChatCompletions
from voxlive.web.rest.files import FileService
from voxlive.web.rest.grants import ClientSecrets, TicketEndpoints
from voxlive.web.rest.health import HealthEndpoints, ModelEndpoints
from voxlive.web.rest.history import HistoryEndpoints
from voxlive.web.rest.listen import ListenEndpoint
from voxlive.web.rest.transcriptions import Transcriptions

if TYPE_CHECKING:
    from voxlive.engines.recording import RecordingFolder
    from voxlive.web.captions.relay import CaptionRelay
    from voxlive.web.redis_state import RedisState

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 2.0
"""How long connections may then take for their last message and the close."""


class RootPathMiddleware:
    """Serves an application under a path, whether or not the proxy strips the path.

    ``prefix`` is in the form "/path", which is redirected to "/path/": the page's own URLs are
    relative.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, with the prefix put back where the proxy has stripped it."""
        prefix, path = self._prefix, scope["path"]
        if scope["type"] == "http" and path == prefix:
            query = scope["query_string"].decode("latin-1")
            answer = RedirectResponse(f"{prefix}/{query and '?'}{query}")
            return await answer(scope, receive, send)
        if not path.startswith(f"{prefix}/"):
            path = prefix + path
        return await self._app({**scope, "root_path": prefix, "path": path}, receive, send)


def normalize_root_path(path: str) -> str:
    """A root path in the form "/path"; "" for none."""
    path = path.strip("/")
    return f"/{path}" if path else ""


def make_app(
    models: LiveModels,
    live: LiveEndpoints,
    files: FileService,
    store: SessionStore | None = None,
    refiner: Refiner | None = None,
    recorder: Recorder | None = None,
) -> Starlette:
    """The ASGI application around live models and a store, which the caller starts and ends.

    ``recorder``: that of ``live``, where there is one.
    """
    access = live.authenticator.access
    if store and not refiner:
        refiner = Refiner(store, files)
    routes = _routes(models, live, files, store, refiner, recorder)
    requests = RequestCounts(routes)
    state = ServerCollector(models, live.metrics, live.feeds, access, files, requests, recorder)
    routes.append(Route("/metrics", MetricsEndpoint(state).get))
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(_CommonHeaders),
            Middleware(RequestCountMiddleware, requests=requests),
            Middleware(AuthMiddleware, authenticator=live.authenticator),
        ],
        exception_handlers={
            VoxliveError: partial(_refused, access),
            HTTPException: on_http_error,
            ClientDisconnect: on_disconnect,
            Exception: on_unexpected_error,
        },
    )
    app.router.redirect_slashes = False
    app.router.default = _SlashRedirect(routes, app.router.not_found)
    return app


def _routes(
    models: LiveModels,
    live: LiveEndpoints,
    files: FileService,
    store: SessionStore | None,
    refiner: Refiner | None,
    recorder: Recorder | None,
) -> list[BaseRoute]:
    """All but that of the metrics, which are about the others too."""
    lists = ModelEndpoints(models, files)
    pages = Pages()
    captions = CaptionEndpoints(live.feeds, pages, recorder, live.resumables.idle_s)
    access, audit = live.authenticator.access, live.authenticator.audit
    reading = ShareEndpoints(
        Shares(access, live.feeds, recorder),
        live.feeds,
        pages,
        audit,
        recorder,
        live.resumables.idle_s,
    )
    profiles = ProfileEndpoints(recorder.profiles if recorder else None, audit)
    tickets = TicketEndpoints(access)
    health = HealthEndpoints(models, files, recorder)
    history = HistoryEndpoints(store, audit, lambda: models.closing, refiner, live.feeds)
    return [
        Route("/", pages.index),
        Route("/health", health.get),
        Route("/health/live", health.live),
        Route("/health/ready", health.get),
        Route("/v1/models", lists.index),
        Route("/v1/models/{name:path}", lists.get),
        Route("/v1/admin/reload", lists.reload, methods=["POST"]),
        Route("/v1/admin/devices", lists.devices),
        Route("/v1/admin/devices", lists.set_device, methods=["POST"]),
        Route("/v1/audio/transcriptions", Transcriptions(files).post, methods=["POST"]),
        Route("/v1/audio/translations", Transcriptions(files, "translate").post, methods=["POST"]),
        Route("/v1/chat/completions", ChatCompletions(files).post, methods=["POST"]),
        Route("/v1/realtime/client_secrets", ClientSecrets(models, access).post, methods=["POST"]),
        Route("/v1/auth/grant", tickets.deepgram, methods=["POST"]),
        Route("/v1/client/sessions", tickets.mistral, methods=["POST"]),
        Route("/v1/listen", ListenEndpoint(files).post, methods=["POST"]),
        Route("/v1/sessions", history.index),
        Route("/v1/sessions/{session}", history.get),
        Route("/v1/sessions/{session}", history.patch, methods=["PATCH"]),
        Route("/v1/sessions/{session}", history.delete, methods=["DELETE"]),
        Route("/v1/sessions/{session}/events", history.events),
        Route("/v1/sessions/{session}/audio", history.audio),
        Route("/v1/sessions/{session}/refine", history.refine, methods=["POST"]),
        Route("/captions", captions.index),
        Route("/captions/{session}", captions.follow),
        Route("/overlay", captions.builder),
        Route("/overlay/{session}", captions.overlay),
        Route("/v1/shares", reading.index),
        Route("/v1/shares", reading.make, methods=["POST"]),
        Route("/v1/shares/{link}", reading.change, methods=["PATCH"]),
        Route("/v1/shares/{link}", reading.revoke, methods=["DELETE"]),
        Route("/v1/voice-profiles", profiles.index),
        Route("/v1/voice-profiles/{profile}", profiles.delete, methods=["DELETE"]),
        Route("/read", reading.page),
        Route("/read/events", reading.events),
        Route("/read/state", reading.state),
        *(WebSocketRoute(path, live.endpoint(protocol)) for path, protocol in PROTOCOLS.items()),
        Mount("/static", pages),
    ]


async def _refused(access: Access, request: Request, error: Exception) -> Response:
    """The answer to a request that is refused, in the shape that its path's clients read."""
    assert isinstance(error, VoxliveError)
    path, root = request.scope["path"], request.scope.get("root_path", "")
    place, rule = find_rule(path.removeprefix(root))
    access.count_error(error.code, place)
    return rule.error_response(error)


class _SlashRedirect:
    """Redirects a path without a route to the one with or without a slash at its end.

    The Location is a path alone: Starlette's own redirect has whatever Host the request sent.
    """

    def __init__(self, routes: Sequence[BaseRoute], not_found: ASGIApp) -> None:
        self._routes = routes
        self._not_found = not_found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        # Two slashes at the beginning would name a host.
        other = "/" + (path.rstrip("/") if path.endswith("/") else f"{path}/").lstrip("/")
        redirected = {**scope, "path": other}
        if scope["type"] != "http" or not any(
            route.matches(redirected)[0] is not Match.NONE for route in self._routes
        ):
            return await self._not_found(scope, receive, send)
        query = scope["query_string"].decode("latin-1")
        answer = RedirectResponse(f"{quote(other)}{query and '?'}{query}")
        return await answer(scope, receive, send)


class _CommonHeaders:
    """Adds a request id to every HTTP response and its log lines, and X-Content-Type-Options."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = f"req_{secrets.token_hex(12)}"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        with log_context(request=request_id):
            await self._app(scope, receive, send_with_headers)
        return None


@dataclass(frozen=True, slots=True)
class ServerCore:
    """Everything of a server but its sockets: the models and the application that serves them.

    ``app`` has neither a root path nor CORS headers yet. ``drain_s``: how long sessions may go on
    at the end of the server. ``relay`` is between this server and its replicas, if it has any.
    """

    app: ASGIApp
    sites: Sites
    models: LiveModels
    live: LiveEndpoints
    batch: Batch
    recordings: RecordingFolder | None = None
    refiner: Refiner | None = None
    drain_s: float = 10.0
    recorder: Recorder | None = None
    relay: CaptionRelay | None = None

    @property
    def service(self) -> Service:
        """That of the default live model."""
        return self.models.default

    @classmethod
    def load(
        cls, config: ServeConfig, keys: tuple[Key, ...], recorder: Recorder | None = None
    ) -> ServerCore:
        """Load the models. Blocks until the engines are warm, which load one after the other.

        ``recorder`` keeps transcripts; it is closed with the server, or if this fails.

        Raises EngineError, CheckpointError, VadError and BadReplacement; ConfigError for two models
        of one name and for an audit log that cannot be written; TracesUnavailable.
        """
        with ExitStack() as cleanup:
            if recorder:
                cleanup.callback(recorder.close)
            if traces := TraceExporter.of(config.trace):
                cleanup.callback(traces.close)
            audit = AuditLog(config.audit_log)
            redact_logs()
            dictionary = Replacements.read(config.replacements) if config.replacements else None
            offline = config.offline
            if config.diarize and not config.speaker_model and speaker_model() is None:
                raise ConfigError(SpeakersMissing().message, "diarize")
            model = find_model(config.model, offline)
            file_model = model
            if not config.shares_model:
                file_model = resolve(config.file_model or config.model, offline=offline)
            for_files = None if isinstance(file_model, str) else file_model
            catalogue = make_catalogue(for_files, config.also, config.load, offline=offline)
            others: dict[str, tuple[LocalModel | str, ServeConfig]] = {}
            for spec in config.live_specs:
                if not isinstance(model, str) and spec.name == model.name:
                    message = f"live: {spec.name} is the default model's name already"
                    raise ConfigError(message, "live")
                with _named(spec.name):
                    found, options = find_model(spec.model, offline), spec.config(config)
                    others[spec.name] = found, options
                    if not isinstance(found, str):
                        catalogue.register(spec.name, found, options.load)
            if config.refine:
                by = resolve(config.refine, offline=offline)
                if not catalogue.knows(by.name):
                    catalogue.register(by.name, by, config.load)
                if recorder:
                    recorder.refine = by.name
            recordings = open_recordings(config.record)
            if recordings:
                cleanup.callback(recordings.close)
            load = partial(load_service, dictionary, recordings, cleanup)
            default = load(model, config)
            named = {}
            for name, (found, options) in others.items():
                with _named(name):
                    named[name] = load(found, options)
            cleanup.pop_all()
        if config.shares_model:
            catalogue.add_aliases(default.engine.info.model)
        reloading = Reloading(catalogue, {None: config, **{n: c for n, (_, c) in others.items()}})
        loaded = LiveModels(default, named, reloading.load)
        own = (recorder, recordings, audit, traces)
        return cls.from_models(loaded, catalogue, config, keys, *own)

    @classmethod
    def from_models(
        cls,
        models: LiveModels,
        catalogue: Catalogue,
        config: ServeConfig,
        keys: tuple[Key, ...],
        recorder: Recorder | None = None,
        recordings: RecordingFolder | None = None,
        audit: AuditLog | None = None,
        traces: TraceExporter | None = None,
    ) -> ServerCore:
        """With models that are loaded already; their sessions are in ``recordings``."""
        hosts = None if keys else frozenset(config.allow_host) | host_names(config.host)
        sites = Sites(config.allow_origin, hosts)
        ticket_key = load_ticket_key(config.ticket_key, config.ticket_key_file, log.warning)
        state = open_state(config.state) if config.state else None
        access = Access(keys, config.limits, ticket_key=ticket_key, state=state)
        live = LiveEndpoints(
            models,
            Authenticator(access, sites, audit),
            resume_s=config.resume_seconds,
            max_suspended=config.max_suspended,
            recorder=recorder,
            traces=traces,
            diarize=config.diarize,
        )
        process = ProcessOptions(niceness=config.file_niceness)
        options = BatchOptions(
            idle_s=config.model_idle, max_resident=config.max_resident, process=process
        )
        batch = Batch(options)
        files, store, refiner = FileService(batch, catalogue), None, None
        if recorder:
            store = recorder.store
            refiner = Refiner(store, files, lambda: not any(one.engine.in_use for one in models))
        relay = None
        if state:
            from voxlive.web.captions.relay import CaptionRelay

            relay = CaptionRelay(live.feeds, state)
        app = make_app(models, live, files, store, refiner, recorder)
        drain_s = config.drain_seconds
        return cls(app, sites, models, live, batch, recordings, refiner, drain_s, recorder, relay)

    def start(self) -> None:
        """Begin what goes on in the background, on the running loop."""
        if self.refiner:
            self.refiner.start()
        if self.relay:
            self.relay.start()

    async def drain(self) -> None:
        """End all sessions, for up to ``drain_s``; there are no more new ones.

        Resumable ones that are stored are left to the next server.
        """
        await asyncio.gather(self.live.leave(self.drain_s), self.models.drain(self.drain_s))

    async def aclose(self, others: Callable[[float], Awaitable[None]] | None = None) -> None:
        """``drain``, if that was not done, and free the models.

        ``others`` ends connections that ``live`` does not know, in so many seconds. The store is
        closed after them, when there are no more words.
        """
        if self.refiner:
            await self.refiner.aclose()
        await asyncio.gather(self.drain(), self.batch.aclose())
        await self.models.aclose()
        await self.live.wait_closed(CLOSE_TIMEOUT_S)
        if others:
            await others(CLOSE_TIMEOUT_S)
        if self.recorder:
            await asyncio.to_thread(self.recorder.close)
        if self.recordings:
            await asyncio.to_thread(self.recordings.close)
        if traces := self.live.metrics.traces:
            await asyncio.to_thread(traces.close)
        if self.relay:
            await self.relay.aclose()


def open_state(url: str) -> RedisState:
    """What replicas share. Raises ConfigError where no Redis answers. Blocks."""
    try:
        from voxlive.web.redis_state import RedisState, check_state
    except ModuleNotFoundError as error:
        message = "state: Redis needs its library: pip install 'voxlive[redis]'"
        raise ConfigError(message, "state") from error
    check_state(url)
    return RedisState(url)


def open_recordings(folder: Path | None) -> RecordingFolder | None:
    """The recordings of a server; None without a folder. Raises ConfigError."""
    if folder is None:
        return None
    from voxlive.engines.recording import RecordingFolder

    try:
        return RecordingFolder(folder.expanduser())
    except OSError as error:
        message = f"record: {folder} cannot be used: {error}"
        raise ConfigError(message, "record") from None


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What a live model cannot be used for says which one it is."""
    try:
        yield
    except VoxliveError as error:
        error.message = f"--live {name}: {error.message}"
        error.args = (error.message,)
        error.param = "live"
        raise


class Application:
    """An ASGI application with models of its own, to be mounted or served by any ASGI server.

    Its models are loaded when the server starts, by ``lifespan`` or by ASGI's protocol of that
    name, or else with the first request; they are freed, and sessions are ended, when the server
    ends. Addresses and TLS are the server's: options about those have no effect here.
    """

    def __init__(self, config: ServeConfig, keys: tuple[Key, ...]) -> None:
        self._config = config
        self._keys = keys
        self._core: ServerCore | None = None
        self._app: ASGIApp | None = None
        self._loading = asyncio.Lock()
        self._lifespan_router = Router(lifespan=self.lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or the lifespan protocol; loads the models if they are not."""
        if scope["type"] == "lifespan":
            return await self._lifespan_router(scope, receive, send)
        app = self._app or await self._load()
        return await app(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, _host: object = None) -> AsyncIterator[None]:
        """The models, loaded: ``Starlette(routes=[Mount(...)], lifespan=speech.lifespan)``.

        Starlette does not pass its own lifespan on to a mounted application.
        """
        await self._load()
        try:
            yield
        finally:
            core, self._core, self._app = self._core, None, None
            if core:
                await core.aclose()

    async def drain(self) -> None:
        """End the sessions as at the end of a server, while everything else goes on."""
        if self._core:
            await self._core.drain()

    def slots(self) -> tuple[int, int]:
        """How many slots of the engines are in use, and how many there are."""
        engines = [service.engine for service in self._core.models] if self._core else []
        return sum(one.in_use for one in engines), sum(one.info.capacity for one in engines)

    def _load_core(self) -> ServerCore:
        """Who can connect is not known here: transcripts are kept only where a store is given."""
        recorder = Recorder.of(self._config, loopback=False, on_warning=log.warning)
        return ServerCore.load(self._config, self._keys, recorder)

    async def _load(self) -> ASGIApp:
        async with self._loading:
            if self._app is None:
                core = await asyncio.to_thread(self._load_core)
                core.start()
                self._core, self._app = core, with_cors(core.app, core.sites)
            return self._app


def create_app(config: ServeConfig | None = None, *, model: str | None = None) -> Application:
    """What ``voxlive serve`` serves, as an ASGI application to be mounted in another one.

    ``model``: instead of the one in ``config``. Without keys in ``config`` every client is admitted
    that addresses the server as localhost, by a name in ``allow_host`` or by its own addresses.
    Raises BadKey for keys that cannot be used, ConfigError for several ``workers``.
    """
    chosen = (config or ServeConfig()).with_model(model)
    if chosen.workers > 1:
        raise ConfigError("workers: an application has the processes of the server that has it")
    keys = load_keys(chosen.api_key, chosen.api_key_file, chosen.keys, log.warning)
    return Application(chosen, keys)
