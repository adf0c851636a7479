"""The state of a server as Prometheus' families, made anew for every scrape.

Labels are wire formats, routes, codes and models: never a session, a key or what a client wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from ...streaming.clock import seconds

if TYPE_CHECKING:
    from prometheus_client import Metric

    from ...streaming.durations import Reading
    from ...streaming.engine import Engine
    from ..access.access import Access
    from ..captions.feed import Feeds
    from ..rest.files import Files
    from .requests import Requests
    from .tally import Tally

_Figures = Iterable[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class State(Collector):
    """What is read at a scrape, on the loop that all of it belongs to."""

    engine: Engine
    tally: Tally
    feeds: Feeds
    access: Access
    files: Files
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
