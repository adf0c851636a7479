"""Replicas of the server on Ray Serve: ``voxlive.cluster:app`` is the application.

A replica is the ASGI application of ``voxlive serve`` with an engine of its own. What replicas
share is in Redis and PostgreSQL, as that of plain servers is: see docs/replicas.md. Ray starts
them, as many as are wanted, replaces those that die, and has HAProxy in front of them.

Ray says nothing to a replica that it is about to end before all its requests are over, and a
session is a request. But its health path says so at once: ``Ingress`` asks that, and has the
sessions end, or leave to other replicas, as at the end of a server.

Ray is imported where it is needed: it may not be installed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxlive.web.app import create_app
from voxlive.web.config import OPTIONS, ConfigError, ServeConfig, option_name
from voxlive.web.option_sources import (
    GivenOption,
    from_environment,
    from_table,
    read_tables,
    to_config,
)

if TYPE_CHECKING:
    from ray.serve import Application as ServeApplication
    from ray.serve.config import AutoscalingContext

log = logging.getLogger(__name__)

NAME = "voxlive"
"""The application's, in Ray's lists."""

_DRAINING_S = "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"
_WHOLE = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # The server runs in the event loop of its sockets: another thread's costs each message two
    # turns, and what a client sends would be queued without a bound.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "voxlive.cluster:ingress",
}
NODE_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    **_WHOLE,
    # After each change of the replicas a new HAProxy takes over; connections that the one before
    # still has are cut after that time.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "86400",
    "RAY_SERVE_PORT_QUARANTINE_S": "150",
    # HAProxy passes on what a client says of its own address.
    "FORWARDED_ALLOW_IPS": "none",
    # How long a replica that is to end keeps its connections: --drain-seconds, and some.
    _DRAINING_S: "15",
}
"""What the nodes of the cluster have to be started with: Ray reads these there alone."""

_SCALING = {
    "policy": {
        "policy_function": "voxlive.cluster:SessionsPolicy",
        "policy_kwargs": {"target": 0.7},
    },
    "metrics_interval_s": 1,
    "look_back_period_s": 3,
    "upscale_delay_s": 3,
    "downscale_delay_s": 20,
}
"""To look on; a service wants that of deploy/ray/serve.yaml."""

_MARGIN_S = 3.0
_ASK_S = 0.5
_REST_S = 3.0  # what is no session may then take
_HEALTH = "/-/healthz"
_DRAINING = b"DRAINING"
_DIRECT = (b"x-request-disconnect-disabled", b"?1")
_TRIES = 3
_MAX_REQUESTS = 10_000  # of a replica at a time; those beyond would wait: slots are the limit

_ADDRESS = ("host", "port")
_OF_THE_INGRESS = (
    "https",
    "ssl_certfile",
    "whisper_live_port",
    "wyoming_port",
    "phone",
    "open",
    "root_path",
)


def app(args: Mapping[str, object]) -> ServeApplication:
    """The application, by the ``args`` of a Serve config: options of ``voxlive serve``.

    They are called as there, ``max-sessions`` or ``max_sessions``. ``config`` is a file with a
    table ``[serve]``; what that says gives way to the environment, and both to ``args``. The
    address is none of them: Serve's own config has it. Raises ConfigError.
    """
    config = read_options(args, os.environ)
    check_options(config, None)
    return application(config, None)


def application(
    config: ServeConfig, replicas: int | None, most: int | None = None
) -> ServeApplication:
    """So many replicas with these options, or as many as Serve's config says.

    ``most``: from ``replicas`` up to that, as many as the sessions want.
    """
    from ray import serve

    replica = serve.ingress()(Replica)
    deployed = serve.deployment(
        replica,
        name=Replica.__name__,
        max_ongoing_requests=_MAX_REQUESTS,
        graceful_shutdown_timeout_s=config.drain_seconds + 30,
        max_constructor_retry_count=_TRIES,
        **_number(replicas, most),
    )
    return deployed.bind(config)


def _number(replicas: int | None, most: int | None) -> dict[str, Any]:
    if replicas is None:
        return {}
    if most is None:
        return {"num_replicas": replicas}
    return {"autoscaling_config": {**_SCALING, "min_replicas": replicas, "max_replicas": most}}


def check_options(config: ServeConfig, replicas: int | None, *, exposed: bool = True) -> None:
    """Raise ConfigError for options that so many replicas cannot have, or not together.

    ``exposed``: others than this machine can reach them.
    """
    for field in _OF_THE_INGRESS:
        if getattr(config, field):
            message = f"{field}: replicas have no ports of their own; Ray's ingress serves clients"
            raise ConfigError(message, field)
    if config.state is None and replicas != 1:
        message = "state: replicas share their keys' limits and captions there: redis://HOST:6379/0"
        raise ConfigError(message, "state")
    keyed = config.api_key or config.api_key_file or config.keys
    if exposed and not keyed and not config.insecure:
        message = "others can reach the replicas: give keys, or insecure to let everyone in"
        raise ConfigError(message, "keys")


def read_options(args: Mapping[str, object], environment: Mapping[str, str]) -> ServeConfig:
    """See ``app``. Values may be texts, as they are in the environment."""
    own, fields = dict(args), {option_name(field)[2:]: field for field in OPTIONS}
    given: dict[str, GivenOption] = {}
    if file := own.pop("config", environment.get("VOXLIVE_CONFIG")):
        path = Path(str(file)).expanduser()
        table = read_tables(path).get("serve", {})
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: [serve] is not a table")
        given = from_table(path, "serve", table, fields)
    given |= from_environment(environment)
    for field in _ADDRESS:
        given.pop(field, None)
    for name, value in own.items():
        field = name.replace("-", "_")
        if field not in OPTIONS or field in _ADDRESS:
            raise ConfigError(f"{name} is not an option of replicas")
        given[field] = GivenOption(name, value)
    return to_config(given)


class Replica:
    """What Ray makes an actor of, with ``serve.ingress``: an application and its engine.

    Ray loads its models by ASGI's lifespan before it has clients, and frees them by it.
    """

    def __init__(self, config: ServeConfig) -> None:
        check_node(os.environ, config.drain_seconds)
        self._application = create_app(config)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._application

    async def drain(self) -> None:
        """End the sessions as at the end of a server; requests go on."""
        await self._application.drain()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Ray collects for ``SessionsPolicy``."""
        used, slots = self._application.slots()
        return {"sessions": used, "slots": slots}


def check_node(environment: Mapping[str, str], drain_s: float) -> None:
    """Raise ConfigError unless this node was started for replicas that drain so long."""
    for name, value in _WHOLE.items():
        if environment.get(name) != value:
            raise ConfigError(f"start Ray's nodes with {name}={value}: see deploy/ray/node.env")
    needed = drain_s + _MARGIN_S
    if float(environment.get(_DRAINING_S, "30")) < needed:
        message = f"drain_seconds: start Ray's nodes with {_DRAINING_S}={needed:g} or more for that"
        raise ConfigError(message, "drain_seconds")


class SessionsPolicy:
    """So many replicas that a share ``target`` of their slots is in use, for Ray's autoscaling."""

    def __init__(self, target: float = 0.7) -> None:
        self._target = target

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """The number wanted; Ray bounds it and waits before it acts."""
        metrics = context.aggregated_metrics or {}
        sessions, slots = metrics.get("sessions", {}), metrics.get("slots", {})
        if not sum(slots.values()):  # none has said so yet
            return context.target_num_replicas, {}
        per_replica = sum(slots.values()) / len(slots)
        return sum(sessions.values()) / (self._target * per_replica), {}


def ingress() -> list[Middleware]:
    """What stands at the socket of each replica: Ray asks for it by its environment."""
    return [Middleware(Ingress)]


class Ingress:
    """See the module. ``find_drain`` says how the sessions here are ended.

    It also has Ray hand what a client sends to the server when that asks for it: Ray would read
    ahead without a bound.
    """

    def __init__(
        self, app: ASGIApp, find_drain: Callable[[], Callable[[], Any] | None] | None = None
    ) -> None:
        self._app = app
        self._find_drain = find_drain or _drain_of_replica
        self._task: asyncio.Task[None] | None = None
        self._open: set[asyncio.Task[Any] | None] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if self._task is None and (drain := self._find_drain()):
            self._task = asyncio.create_task(self._watch(drain))
        if self._task and scope["type"] in ("http", "websocket"):
            scope = {**scope, "headers": [*scope["headers"], _DIRECT]}
        task = asyncio.current_task()
        self._open.add(task)
        try:
            await self._app(scope, receive, send)
        finally:
            self._open.discard(task)

    async def _watch(self, drain: Callable[[], Any]) -> None:
        while await self._health() != _DRAINING:  # noqa: ASYNC110 - nothing else says so
            await asyncio.sleep(_ASK_S)
        log.warning("this replica is to end: its sessions end or leave")
        await drain()
        old: set[asyncio.Task[Any] | None] = set()
        while True:  # readers of captions: Ray would wait for their end in vain, and kill all
            for task in old & self._open:
                if task:
                    task.cancel()
            old = self._open.copy()
            await asyncio.sleep(_REST_S)

    async def _health(self) -> bytes:
        answer = bytearray()

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            answer.extend(message.get("body", b""))

        scope = {"type": "http", "method": "GET", "path": _HEALTH, "root_path": "", "headers": []}
        await self._app({**scope, "query_string": b"", "client": None}, receive, send)
        return bytes(answer)


def _drain_of_replica() -> Callable[[], Any] | None:
    """That of this process, if it is a replica's; Ray also asks its proxy for ``ingress``."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        replica = serve.get_replica_context().servable_object
    except RayServeException:
        return None
    return replica.drain if isinstance(replica, Replica) else None
