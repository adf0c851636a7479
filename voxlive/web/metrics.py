"""``GET /metrics``: counters of live sessions, files and HTTP requests, in Prometheus' format.

``SessionMetrics`` and ``RequestCounts`` count as things happen; ``ServerCollector`` reads them, the
engine and the file service at every scrape. All of it belongs to the event loop. Audio is counted
in samples at 16 kHz and exported in seconds.

Labels are wire formats, routes, codes and models: never a session, a key or what a client wrote, so
that the number of series is bounded.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voxlive.engines.contract import DurationHistogram
from voxlive.engines.pool import EnginePool
from voxlive.engines.remote.host import RemoteEngine
from voxlive.streaming.events import (
    Event,
    Recovered,
    SessionClosed,
    SessionError,
    SessionWarning,
    Words,
)
from voxlive.streaming.intake import LiveSession
from voxlive.values import SAMPLE_RATE, seconds

if TYPE_CHECKING:
    from prometheus_client import Metric

    from voxlive.engines.contract import Engine, HistogramSnapshot
    from voxlive.store.writer import SessionWriter
    from voxlive.streaming.traces import PipelineTrace, SessionTrace, TraceExporter
    from voxlive.web.access.access import Access
    from voxlive.web.captions.feeds import CaptionFeeds
    from voxlive.web.live_models import LiveModels
    from voxlive.web.recorder import Recorder
    from voxlive.web.rest.files import FileService

log = logging.getLogger(__name__)

_LAG_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_NO_LAGS = DurationHistogram(_LAG_BUCKETS_S).read()
_NO_ROUTE = "elsewhere"
_NO_HEADERS: Mapping[str, str] = {}

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Family = TypeVar("_Family", GaugeMetricFamily, HistogramMetricFamily)
_Samples = Iterable[tuple[tuple[str, ...], float]]


@dataclass(slots=True)
class SessionTotals:
    """The sessions of one wire format since the server started; ``open``: those open now.

    ``samples``: audio received and decoded, at 16 kHz.
    """

    open: int = 0
    opened: int = 0
    words: int = 0
    samples: int = 0
    recoveries: int = 0

    def __add__(self, other: SessionTotals) -> SessionTotals:
        both = zip(astuple(self), astuple(other), strict=True)
        return SessionTotals(*(one + another for one, another in both))


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """What the live sessions of one process come to, or of several together.

    ``totals`` are by wire format, ``lags`` and ``worst_lag_s`` by live model, ``errors`` by code
    and place; ``late`` and ``passed_by`` are ``SessionWriter``'s.
    """

    totals: Mapping[str, SessionTotals] = field(default_factory=dict)
    lags: Mapping[str, HistogramSnapshot] = field(default_factory=dict)
    worst_lag_s: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    late: int = 0
    passed_by: int = 0

    def __add__(self, other: LiveFigures) -> LiveFigures:
        return LiveFigures(
            _merged(self.totals, other.totals, lambda a, b: a + b),
            _merged(self.lags, other.lags, lambda a, b: a + b),
            _merged(self.worst_lag_s, other.worst_lag_s, max),
            _merged(self.errors, other.errors, lambda a, b: a + b),
            self.late + other.late,
            self.passed_by + other.passed_by,
        )

    @property
    def ended(self) -> LiveFigures:
        """What stays of them when their process has ended: no session is open."""
        totals = {name: replace(one, open=0) for name, one in self.totals.items()}
        return replace(self, totals=totals, worst_lag_s={})


def _merged(
    one: Mapping[_Key, _Value],
    other: Mapping[_Key, _Value],
    combine: Callable[[_Value, _Value], _Value],
) -> dict[_Key, _Value]:
    merged = dict(one)
    for key, value in other.items():
        merged[key] = combine(merged[key], value) if key in merged else value
    return merged


class SessionMetrics:
    """Counters of live sessions by wire format.

    ``count_error`` takes the code of an error that ended a session, and its wire format. ``lags``
    are histograms, by live model, of how far its engine is behind each session, sampled once in a
    second of its audio, while the engine answers.
    """

    def __init__(self, count_error: Callable[[str, str], None]) -> None:
        self.lags = defaultdict[str, DurationHistogram](lambda: DurationHistogram(_LAG_BUCKETS_S))
        self._count_error = count_error
        self._totals: defaultdict[str, SessionTotals] = defaultdict(SessionTotals)
        self._meters: set[SessionMeter] = set()
        self.elsewhere: Callable[[], Awaitable[LiveFigures]] | None = None
        """Reads those of the server's other processes."""
        self.traces: TraceExporter | None = None
        """Has sessions followed as traces."""

    def register(self, protocol: str) -> None:
        """Export this wire format from now on, with zeros until it has a session."""
        self._totals[protocol]

    def open(
        self,
        protocol: str,
        session: LiveSession,
        model: str,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> SessionMeter:
        """Count a session that begins on this live model, until its meter is closed.

        ``headers``: its client's, which may name a trace.
        """
        meter = SessionMeter(session, protocol, model, self)
        if self.traces:
            about = {"session.id": session.id, "protocol": protocol, "model": model}
            named = {f"voxlive.{name}": value for name, value in about.items()}
            meter.trace = self.traces.open(session, named, headers)
        self._meters.add(meter)
        totals = self._totals[protocol]
        totals.opened += 1
        totals.open += 1
        log.info("session %s opened over %s", session.id, protocol, extra=meter.fields)
        return meter

    def read(self) -> Mapping[str, SessionTotals]:
        """Totals by wire format, with the audio of sessions that are still open."""
        read = {protocol: replace(totals) for protocol, totals in self._totals.items()}
        for meter in self._meters:
            read[meter.protocol].samples += meter.session.received - meter.session.first
        return read

    def figures(
        self, errors: Mapping[tuple[str, str], int], writer: SessionWriter | None = None
    ) -> LiveFigures:
        """Those of this process, in which there were these errors, and which writes by this."""
        worst: defaultdict[str, float] = defaultdict(float)
        for meter in self._meters:
            worst[meter.model] = max(worst[meter.model], meter.lag_s)
        lags = {model: lag.read() for model, lag in self.lags.items()}
        late, passed_by = (writer.late, writer.passed_by) if writer else (0, 0)
        return LiveFigures(self.read(), lags, worst, Counter(errors), late, passed_by)

    def on_event(self, meter: SessionMeter, event: Event) -> None:
        """Count an event of a session; called by its meter."""
        match event:
            case Words(_, words):
                self._totals[meter.protocol].words += len(words)
            case Recovered():
                self._totals[meter.protocol].recoveries += 1
                log.warning("session %s goes on", meter.session.id, extra=meter.fields)
            case SessionError(code, message, fatal=True):
                fields = {**meter.fields, "code": code}
                log.info("session %s failed: %s", meter.session.id, message, extra=fields)
                self._count_error(code, meter.protocol)
            case SessionWarning(code, message):
                fields = {**meter.fields, "code": code}
                log.warning("session %s: %s", meter.session.id, message, extra=fields)
            case SessionClosed():
                meter.close()

    def on_closed(self, meter: SessionMeter) -> None:
        """Add a session that is over to the totals, once; called by its meter."""
        if meter in self._meters:
            self._meters.discard(meter)
            totals, session = self._totals[meter.protocol], meter.session
            received = session.received - session.first
            totals.open -= 1
            totals.samples += received
            ident = meter.session.id
            log.info("session %s closed after %.1f s", ident, seconds(received), extra=meter.fields)


class SessionMeter:
    """Counts one session: give it every event, and ``close`` it when no more are passed on.

    ``fields`` are those of the session's log lines.
    """

    def __init__(
        self, session: LiveSession, protocol: str, model: str, metrics: SessionMetrics
    ) -> None:
        self.session = session
        self.protocol = protocol
        self.model = model
        self.fields = {"session": session.id, "protocol": protocol}
        self.trace: SessionTrace | None = None
        self._metrics = metrics
        self._sampled_at = 0  # samples received at the last lag

    @property
    def lag_s(self) -> float:
        """How far the engine is behind the audio received."""
        return seconds(self.session.received - self.session.handled)

    def on_event(self, event: Event) -> None:
        """Count an event, when it is sent to the client."""
        if self.session.received - self._sampled_at >= SAMPLE_RATE:
            self._sampled_at = self.session.received
            self._metrics.lags[self.model].observe(self.lag_s)
        if self.trace:
            self.trace.on_event(event)
        self._metrics.on_event(self, event)

    def tracing(self, event: Event | None) -> PipelineTrace | None:
        """What follows the source of an event; None where nothing does."""
        return self.trace.of(event) if self.trace and event else None

    def close(self, error: str | None = None) -> None:
        """The session is over, for this reason. May be called twice, after SessionClosed too."""
        if self.trace:
            self.trace.close(error)
        self._metrics.on_closed(self)


class RequestCounts:
    """HTTP requests by route and status; a route is its pattern, never the path of a request."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()
        self._routes = [route for route in routes if isinstance(route, Route | Mount)]

    def count(self, scope: Scope, status: int) -> None:
        """Count a request that was answered with this status."""
        matching = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
        route = next(matching, None)
        self.counts[route.path if route else _NO_ROUTE, status] += 1


class RequestCountMiddleware:
    """ASGI middleware that counts every HTTP response of an application."""

    def __init__(self, app: ASGIApp, requests: RequestCounts) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and count its response."""

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._requests.count(scope, message["status"])
            await send(message)

        await self._app(scope, receive, send_counted if scope["type"] == "http" else send)


@dataclass(slots=True, eq=False)
class ServerCollector(Collector):
    """Reads the state of a server as metric families, on the event loop, anew for every scrape.

    What live sessions come to is what ``read`` has found last.
    """

    models: LiveModels
    sessions: SessionMetrics
    feeds: CaptionFeeds
    access: Access
    files: FileService
    requests: RequestCounts
    recorder: Recorder | None = None
    live: LiveFigures = field(default_factory=LiveFigures)

    async def read(self) -> None:
        """Read what live sessions come to, in the server's other processes too."""
        writer = self.recorder.writer if self.recorder else None
        self.live = self.sessions.figures(self.access.errors, writer)
        if self.sessions.elsewhere:
            self.live += await self.sessions.elsewhere()

    def collect(self) -> Iterator[Metric]:
        """All families, also those that have nothing to count yet."""
        yield from self._engines()
        yield from self._sessions()
        yield from self._files()
        yield from self._store()
        readers = sum(feed.readers for feed in self.feeds)
        yield GaugeMetricFamily("voxlive_captions_readers", "Captions read now.", readers)
        yield _counter(
            "voxlive_errors",
            "Refusals, and errors that ended a session.",
            ("code", "place"),
            self.live.errors.items(),
        )
        yield _counter(
            "voxlive_http_requests",
            "HTTP requests answered.",
            ("route", "status"),
            (((route, str(status)), n) for (route, status), n in self.requests.counts.items()),
        )

    def _engines(self) -> Iterator[Metric]:
        running = InfoMetricFamily("voxlive", "What is running.", labels=["model"])
        slots = _per_model(GaugeMetricFamily, "voxlive_slots", "Live sessions it can have.")
        in_use = _per_model(GaugeMetricFamily, "voxlive_slots_in_use", "Slots taken.")
        up = _per_model(GaugeMetricFamily, "voxlive_engine_up", "1 while an engine is loaded.")
        worst = _per_model(
            GaugeMetricFamily,
            "voxlive_worst_lag_seconds",
            "How far the engine is behind the session that it is furthest behind.",
        )
        steps = _per_model(
            HistogramMetricFamily,
            "voxlive_engine_step_seconds",
            "Time of the engine's steps: a round of all streams, or one recogniser's work.",
        )
        lags = _per_model(
            HistogramMetricFamily,
            "voxlive_lag_seconds",
            "How far the engine is behind a session, once in a second of its audio.",
        )
        for model, service in self.models.labels.items():
            engine, info, label = service.engine, service.engine.info, [model]
            build = {"engine": info.engine, "device": info.device, "version": version("voxlive")}
            running.add_metric(label, build)
            slots.add_metric(label, info.capacity)
            in_use.add_metric(label, engine.in_use)
            up.add_metric(label, _is_up(engine))
            worst.add_metric(label, self.live.worst_lag_s.get(model, 0.0))
            _observe(steps, label, engine.steps.read())
            _observe(lags, label, self.live.lags.get(model, _NO_LAGS))
        yield from (running, slots, in_use, up, worst, steps, lags)
        yield from self._devices()

    def _devices(self) -> Iterator[Metric]:
        """Of models with several."""
        label = ("model", "device")
        up = GaugeMetricFamily("voxlive_device_up", "1 while it has an engine.", labels=label)
        slots = GaugeMetricFamily("voxlive_device_slots", "Its live sessions.", labels=label)
        in_use = GaugeMetricFamily("voxlive_device_slots_in_use", "Slots taken.", labels=label)
        steps = HistogramMetricFamily(
            "voxlive_device_step_seconds", "Time of its engine's steps.", labels=label
        )
        for model, service in self.models.labels.items():
            engine = service.engine
            for device in engine.devices if isinstance(engine, EnginePool) else ():
                up.add_metric([model, device.name], device.state == "ok")
                slots.add_metric([model, device.name], device.slots)
                in_use.add_metric([model, device.name], device.in_use)
                _observe(steps, [model, device.name], device.steps)
        yield from (up, slots, in_use, steps)

    def _sessions(self) -> Iterator[Metric]:
        totals = self.live.totals
        label = ("protocol",)
        open_now = GaugeMetricFamily("voxlive_sessions", "Live sessions now.", labels=label)
        for protocol, figures in totals.items():
            open_now.add_metric([protocol], figures.open)
        yield open_now
        for name, help_text, value_of in (
            ("voxlive_sessions_opened", "Live sessions opened.", lambda t: t.opened),
            (
                "voxlive_session_recoveries",
                "Engines that failed under a live session, which went on with another one.",
                lambda t: t.recoveries,
            ),
            ("voxlive_words", "Words sent to clients of live sessions.", lambda t: t.words),
            (
                "voxlive_audio_seconds",
                "Audio of live sessions, received and decoded.",
                lambda t: seconds(t.samples),
            ),
        ):
            yield _counter(name, help_text, label, (((p,), value_of(t)) for p, t in totals.items()))

    def _store(self) -> Iterator[Metric]:
        if not self.recorder:
            return
        writer = self.recorder.writer
        yield GaugeMetricFamily(
            "voxlive_store_waiting", "Words and other changes not yet stored.", writer.waiting
        )
        yield _counter(
            "voxlive_store_operations",
            "Changes stored; sent before, as the store was late or failed; lost at the bound.",
            ("outcome",),
            (
                (("written",), writer.written),
                (("late",), self.live.late),
                (("failed",), self.live.passed_by),
                (("dropped",), writer.dropped),
            ),
        )

    def _files(self) -> Iterator[Metric]:
        yield _counter(
            "voxlive_files",
            "Files by their model and what became of them: ok, cancelled or an error's code.",
            ("model", "outcome"),
            self.files.outcomes.items(),
        )
        loaded = self.files.loaded
        yield GaugeMetricFamily("voxlive_models_loaded", "Models for files in memory.", loaded)
        jobs = GaugeMetricFamily(
            "voxlive_files_in_hand", "Files running and waiting.", labels=("model", "state")
        )
        for labels, figure in self.files.jobs.items():
            jobs.add_metric(labels, figure)
        yield jobs


def _is_up(engine: Engine) -> bool:
    """Whether it has a process that has loaded the model; nothing is decoded for it."""
    if isinstance(engine, EnginePool):
        return any(device.state == "ok" for device in engine.devices)
    return not (isinstance(engine, RemoteEngine) and engine.fault)


def _counter(name: str, help_text: str, labels: tuple[str, ...], samples: _Samples) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for label_values, value in samples:
        family.add_metric(label_values, value)
    return family


def _per_model(kind: type[_Family], name: str, help_text: str) -> _Family:
    return kind(name, help_text, labels=["model"])


def _observe(family: HistogramMetricFamily, label: list[str], reading: HistogramSnapshot) -> None:
    bounds = zip(reading.bounds, reading.counts, strict=True)
    buckets = [(str(bound), float(count)) for bound, count in bounds]
    buckets.append(("+Inf", float(reading.count)))
    family.add_metric(label, buckets, reading.total_s)


class MetricsEndpoint:
    """``GET /metrics``: the metrics of a server and of its process."""

    def __init__(self, state: ServerCollector) -> None:
        self._state = state
        self._registry = CollectorRegistry()
        self._registry.register(state)
        ProcessCollector(registry=self._registry)

    async def get(self, request: Request) -> Response:
        """All families, in the format that the scraper's Accept header prefers."""
        await self._state.read()
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        headers = {"content-type": media_type, "cache-control": "no-store"}
        return Response(encode(self._registry), headers=headers)
