"""The application in this process, with an engine that hears nothing: for what needs no words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from starlette.applications import Starlette
from support.weights import TINY_EN, TINY_EN_ID

from voxlive.checkpoints.resolve import resolve
from voxlive.engines.contract import DurationHistogram, EngineInfo, Reached, Sink, StreamOptions
from voxlive.errors import EngineFull
from voxlive.runners.batch import Batch
from voxlive.runners.catalogue import Catalogue, CatalogueEntry
from voxlive.store.contract import SessionStore
from voxlive.streaming.service import Service
from voxlive.vad.detector import VoiceDetector
from voxlive.values import Samples
from voxlive.web.access.access import Access
from voxlive.web.access.keys import Key, Limits
from voxlive.web.access.middleware import AuditLog, Authenticator
from voxlive.web.access.sites import Sites, with_cors
from voxlive.web.app import make_app
from voxlive.web.captions.feeds import CaptionFeeds
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels
from voxlive.web.rest.files import FileService

HOST = "voxlive.test"


class DeafEngine:
    """An engine and its streams: every flush is answered.

    ``opened`` are the options of its streams so far, ``fault`` is what is wrong with it.
    """

    trail = 0

    def __init__(self, model: str = "none", capacity: int = 4, **info: object) -> None:
        self.info = EngineInfo("deaf", model, "cpu", capacity, (), **info)
        self.steps = DurationHistogram()
        self.in_use = 0
        self.opened: list[StreamOptions] = []
        self.fault: str | None = None

    def open(self, options: StreamOptions, sink: Sink) -> _Stream:
        if self.in_use >= self.info.capacity:
            raise EngineFull(self.info.capacity)
        self.in_use += 1
        self.opened.append(options)
        return _Stream(self, sink)

    def check(self, within_s: float) -> str | None:
        return self.fault

    def shutdown(self) -> None:
        pass


class _Stream:
    trail = 0

    def __init__(self, engine: DeafEngine, sink: Sink) -> None:
        self._engine = engine
        self._closed = False
        self.flush = self.end_utterance = lambda marker: sink(Reached(marker))

    def feed(self, audio: Samples, at: int) -> None:
        pass

    def close(self) -> None:
        self._engine.in_use -= not self._closed
        self._closed = True


class _Silence:
    def step(self, frames: Samples, state: Samples) -> tuple[Samples, Samples]:
        return np.zeros(len(frames), np.float32), state


@dataclass
class AsgiSocket:
    """A WebSocket as its client has it. ``status`` is that of a handshake that was refused."""

    status: int | None = None
    subprotocol: str | None = None
    code: int | None = None
    said: list[dict] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    frames: asyncio.Queue[dict] = field(default_factory=asyncio.Queue)

    @property
    def refusal(self) -> tuple[int | None, dict]:
        """The status or the close code, and what was said with it."""
        if self.status:
            return self.status, json.loads(self.body)
        return self.code, self.said[-1]

    def send(self, frame: str | bytes) -> None:
        kind = "text" if isinstance(frame, str) else "bytes"
        self.frames.put_nowait({"type": "websocket.receive", kind: frame})

    async def take(self, message: dict) -> None:
        match message["type"]:
            case "websocket.accept":
                self.subprotocol = message["subprotocol"]
            case "websocket.send":
                self.said.append(json.loads(message["text"]))
            case "websocket.close":
                self.code = message["code"]
            case "websocket.http.response.start":
                self.status = message["status"]
                self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            case "websocket.http.response.body":
                self.body += message["body"]
        self.answered.set()


@dataclass
class Running:
    """An application and a client of its HTTP side; ``clock`` is what tickets expire by."""

    app: Starlette
    http: httpx.AsyncClient
    access: Access
    clock: list[float]
    feeds: CaptionFeeds

    @asynccontextmanager
    async def dial(
        self, url: str, headers: dict[str, str] | None = None, offered: tuple[str, ...] = ()
    ) -> AsyncIterator[AsgiSocket]:
        """A WebSocket from its handshake on; its client goes away at the end."""
        path, _, query = url.partition("?")
        pairs = {"host": HOST, **(headers or {})}.items()
        scope = {
            "type": "websocket",
            "path": path,
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in pairs],
            "subprotocols": list(offered),
            "server": (HOST, 80),
            "extensions": {"websocket.http.response": {}},
        }
        talk = AsgiSocket()
        talk.frames.put_nowait({"type": "websocket.connect"})
        serving = asyncio.create_task(self.app(scope, talk.frames.get, talk.take))
        serving.add_done_callback(lambda _: (talk.over.set(), talk.answered.set()))
        await talk.answered.wait()
        try:
            yield talk
        finally:
            talk.frames.put_nowait({"type": "websocket.disconnect", "code": 1001})
            await serving

    async def refused(self, url: str, **options) -> tuple[int | None, dict]:
        """How a connection ends that is not let in."""
        async with self.dial(url, **options) as talk:
            await talk.over.wait()
        return talk.refusal


@asynccontextmanager
async def running(
    *keys: Key,
    limits: Limits | None = None,
    allow: frozenset[str] = frozenset(),
    hosts: frozenset[str] | None = None,
    default: DeafEngine | None = None,
    live: Mapping[str, DeafEngine] | None = None,
    store: SessionStore | None = None,
    audit: Path | None = None,
) -> AsyncIterator[Running]:
    """An application with these keys and limits; ``allow``: other sites that may connect.

    ``hosts``: the names that it answers to besides localhost; None for any. ``live``: engines
    beside the ``default`` by their names. ``store``: of sessions, ``audit``: the log of its use.
    """
    clock = [1e9]
    access = Access(keys, limits or Limits(), calendar=lambda: clock[0])
    service = Service(default or DeafEngine(), VoiceDetector(_Silence()))
    named = {name: Service(one, VoiceDetector(_Silence())) for name, one in (live or {}).items()}
    models = LiveModels(service, named)
    files = FileService(
        Batch(), Catalogue(CatalogueEntry(TINY_EN_ID, resolve(TINY_EN, offline=True)))
    )
    sites = Sites(allow, hosts)
    endpoints = LiveEndpoints(models, Authenticator(access, sites, AuditLog(audit)))
    app = make_app(models, endpoints, files, store)
    transport = httpx.ASGITransport(with_cors(app, sites))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as http:
        yield Running(app, http, access, clock, endpoints.feeds)
    await models.aclose(0)
