"""What live sessions did, by wire format. Belongs to the event loop.

HTTP requests by route and status.

The state of a server as Prometheus' families, made anew for every scrape.

Labels are wire formats, routes, codes and models: never a session, a key or what a client wrote.

``GET /metrics``.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

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

from voxlive.engines.contract import Durations
from voxlive.streaming.events import Event, SessionClosed, SessionError, SessionWarning, Words
from voxlive.streaming.session import Session
from voxlive.values import SAMPLE_RATE, seconds

if TYPE_CHECKING:
    from prometheus_client import Metric

    from voxlive.engines.contract import Engine, Reading
    from voxlive.web.access.access import Access
    from voxlive.web.captions import CaptionFeeds
    from voxlive.web.rest.files import FileService

log = logging.getLogger(__name__)

_LAGS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class Totals:
    """Of one wire format, since the server started; ``open`` are sessions now."""

    open: int = 0
    opened: int = 0
    words: int = 0
    samples: int = 0


class Tally:
    """``note`` takes the code of an error that ended a session, and its wire format.

    ``lags`` has the lag of every session once in a second of its audio, while the engine answers.
    """

    def __init__(self, note: Callable[[str, str], None]) -> None:
        self.lags = Durations(_LAGS)
        self._note = note
        self._totals: defaultdict[str, Totals] = defaultdict(Totals)
        self._live: set[Meter] = set()

    def expect(self, protocol: str) -> None:
        """Sessions may come in this wire format: until then there are none, which is a figure."""
        self._totals[protocol]

    def open(self, protocol: str, session: Session) -> Meter:
        """Follow a session that begins, until its meter is closed."""
        meter = Meter(session, protocol, self)
        self._live.add(meter)
        totals = self._totals[protocol]
        totals.opened += 1
        totals.open += 1
        log.info("session %s opened over %s", session.id, protocol, extra=meter.fields)
        return meter

    def read(self) -> Mapping[str, Totals]:
        """Totals by wire format, with the audio of sessions that are still open."""
        read = {protocol: replace(totals) for protocol, totals in self._totals.items()}
        for meter in self._live:
            read[meter.protocol].samples += meter.session.received
        return read

    @property
    def worst_lag_s(self) -> float:
        """How far the engine is behind the audio of the session that it is furthest behind."""
        return max((meter.lag_s for meter in self._live), default=0.0)

    # What meters call.

    def told(self, meter: Meter, event: Event) -> None:
        """The session said something."""
        match event:
            case Words(_, words):
                self._totals[meter.protocol].words += len(words)
            case SessionError(code, message, fatal=True):
                fields = {**meter.fields, "code": code}
                log.info("session %s failed: %s", meter.session.id, message, extra=fields)
                self._note(code, meter.protocol)
            case SessionWarning(code, message):
                fields = {**meter.fields, "code": code}
                log.warning("session %s: %s", meter.session.id, message, extra=fields)
            case SessionClosed():
                self.closed(meter)

    def closed(self, meter: Meter) -> None:
        """The session is over."""
        if meter in self._live:
            self._live.discard(meter)
            totals, heard = self._totals[meter.protocol], meter.session.received
            totals.open -= 1
            totals.samples += heard
            ident = meter.session.id
            log.info("session %s closed after %.1f s", ident, seconds(heard), extra=meter.fields)


class Meter:
    """One session's. ``tell`` it all that the session says; ``close`` it if nobody listens on."""

    def __init__(self, session: Session, protocol: str, tally: Tally) -> None:
        self.session = session
        self.protocol = protocol
        self.fields = {"session": session.id, "protocol": protocol}
        self._tally = tally
        self._sampled = 0

    @property
    def lag_s(self) -> float:
        """How far the engine is behind the audio heard."""
        return seconds(self.session.received - self.session.through)

    def tell(self, event: Event) -> None:
        """An event, at the time at which it is passed on."""
        if self.session.received - self._sampled >= SAMPLE_RATE:
            self._sampled = self.session.received
            self._tally.lags.observe(self.lag_s)
        self._tally.told(self, event)

    def close(self) -> None:
        """The session is closed. May be called twice, and after it has said so itself."""
        self._tally.closed(self)


_ELSEWHERE = "elsewhere"


class Requests:
    """Counts by the route's own path, never by what a client wrote in its place."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()
        self._routes = [route for route in routes if isinstance(route, Route | Mount)]

    def count(self, scope: Scope, status: int) -> None:
        """One more was answered."""
        matching = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
        route = next(matching, None)
        self.counts[route.path if route else _ELSEWHERE, status] += 1


class CountRequests:
    """An application whose answers are counted."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._requests.count(scope, message["status"])
            await send(message)

        await self._app(scope, receive, send_counted if scope["type"] == "http" else send)


_Figures = Iterable[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class ServerCollector(Collector):
    """What is read at a scrape, on the loop that all of it belongs to."""

    engine: Engine
    tally: Tally
    feeds: CaptionFeeds
    access: Access
    files: FileService
    requests: Requests

    def collect(self) -> Iterator[Metric]:
        """All families, each also where there is nothing to count yet."""
        yield from self._engine()
        yield from self._sessions()
        yield from self._files()
        readers = sum(feed.readers for feed in self.feeds)
        yield GaugeMetricFamily("voxlive_captions_readers", "Captions read now.", readers)
        yield _counter(
            "voxlive_errors",
            "Refusals, and errors that ended a session.",
            ("code", "place"),
            self.access.refusals.items(),
        )
        yield _counter(
            "voxlive_http_requests",
            "HTTP requests answered.",
            ("route", "status"),
            (((route, str(status)), n) for (route, status), n in self.requests.counts.items()),
        )

    def _engine(self) -> Iterator[Metric]:
        info = self.engine.info
        labels = {"engine": info.engine, "model": info.model, "device": info.device}
        build = {**labels, "version": version("voxlive")}
        yield InfoMetricFamily("voxlive", "What is running.", build)
        yield GaugeMetricFamily("voxlive_slots", "Live sessions it can have.", info.capacity)
        yield GaugeMetricFamily("voxlive_slots_in_use", "Slots taken.", self.engine.in_use)
        yield _histogram(
            "voxlive_engine_step_seconds",
            "Time of the engine's steps: a round of all streams, or one recogniser's work.",
            self.engine.steps.read(),
        )

    def _sessions(self) -> Iterator[Metric]:
        totals = self.tally.read()
        label = ("protocol",)
        open_now = GaugeMetricFamily("voxlive_sessions", "Live sessions now.", labels=label)
        for protocol, figures in totals.items():
            open_now.add_metric([protocol], figures.open)
        yield open_now
        for name, help_text, of in (
            ("voxlive_sessions_opened", "Live sessions opened.", lambda t: t.opened),
            ("voxlive_words", "Words said to clients of live sessions.", lambda t: t.words),
            (
                "voxlive_audio_seconds",
                "Audio of live sessions, received and decoded.",
                lambda t: seconds(t.samples),
            ),
        ):
            yield _counter(name, help_text, label, (((p,), of(t)) for p, t in totals.items()))
        yield GaugeMetricFamily(
            "voxlive_worst_lag_seconds",
            "How far the engine is behind the session that it is furthest behind.",
            self.tally.worst_lag_s,
        )
        yield _histogram(
            "voxlive_lag_seconds",
            "How far the engine is behind a session, once in a second of its audio.",
            self.tally.lags.read(),
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


def _counter(name: str, help_text: str, labels: tuple[str, ...], figures: _Figures) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for values, figure in figures:
        family.add_metric(values, figure)
    return family


def _histogram(name: str, help_text: str, reading: Reading) -> Metric:
    bounds = zip(reading.bounds, reading.counts, strict=True)
    buckets = [(str(bound), float(count)) for bound, count in bounds]
    buckets.append(("+Inf", float(reading.count)))
    return HistogramMetricFamily(name, help_text, buckets=buckets, sum_value=reading.total_s)


class Metrics:
    """The figures of one server and of its process, in the format that the scraper prefers."""

    def __init__(self, state: ServerCollector) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(state)
        ProcessCollector(registry=self._registry)

    async def get(self, request: Request) -> Response:
        """All of them; made on the loop, which what they count belongs to."""
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        headers = {"content-type": media_type, "cache-control": "no-store"}
        return Response(encode(self._registry), headers=headers)
