"""Sessions as OpenTelemetry traces, where a server is asked for them (the extra ``trace``).

A session is a trace. Its span ``session`` has a span ``utterance`` for each stretch of speech, and
that has one for each stage that it passes: ``ingest`` (decode, resample), ``detection`` (voice),
``step`` (the engine, from the first audio fed to the last answer), ``emission`` (from the first
words committed until the last message is sent) and ``store``. No span has audio or text.

On the event loop a stage is two readings of a clock, added up; nothing is done for a word. An
utterance that is over goes to the exporter's thread, which makes spans of it and sends them. What
waits there is bounded; beyond it utterances are left out, and counted in the session's span.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from importlib.metadata import version
from os import environ
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from voxlive.errors import VoxliveError
from voxlive.streaming.events import SegmentClosed, SessionError
from voxlive.values import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from typing import TypeVar

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from voxlive.streaming.events import Event
    from voxlive.streaming.intake import LiveSession
    from voxlive.values import Samples

    _Result = TypeVar("_Result")

log = logging.getLogger(__name__)

_WAITING = 4096
_SENT = 64
_CLOSE_S = 3.0
_EVERY_S = 0.25
_REST_S = 0.001
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_HEADERS = ("traceparent", "tracestate")


class TracesUnavailable(VoxliveError):
    """Traces are asked for and cannot be made."""

    def __init__(self, message: str) -> None:
        super().__init__("missing_dependency", message)


@dataclass(slots=True)
class Stage:
    """What one stage did for an utterance: when, in ns since the epoch, and how long in all.

    ``busy`` is None where the stage is not work of this process but a time between two events.
    """

    start: int
    end: int
    count: int = 1
    busy: int | None = None

    def add(self, start: int, end: int) -> None:
        """It worked from then to then."""
        self.end = end
        self.count += 1
        self.busy = (self.busy or 0) + end - start


@dataclass(slots=True, eq=False)
class Utterance:
    """A stretch of speech on its way through a session, with the stages that it has passed."""

    stages: dict[str, Stage] = field(default_factory=dict)
    samples: int = 0
    words: bool = False
    marker: int = 0

    def add(self, stage: str, start: int, end: int) -> None:
        """A stage worked for it."""
        if found := self.stages.get(stage):
            found.add(start, end)
        else:
            self.stages[stage] = Stage(start, end, busy=end - start)

    def mark(self, stage: str, now: int) -> None:
        """A stage that lasts from the first of these to the last."""
        if found := self.stages.get(stage):
            found.end = now
            found.count += 1
        else:
            self.stages[stage] = Stage(now, now)


class PipelineTrace:
    """Follows the utterances of one source. Called on the event loop; ``done`` takes each.

    In the order of their audio an utterance is taken in, waits for the engine, and is sent.
    """

    def __init__(self, now: Callable[[], int], done: Callable[[Utterance], object]) -> None:
        self._now = now
        self._done = done
        self._taken_in: Utterance | None = None
        self._recognised: deque[Utterance] = deque()
        self._sent: deque[Utterance] = deque(maxlen=_SENT)
        # Of the audio that is looked at now, of which it is not known yet whether it is speech.
        self._latest: dict[str, tuple[int, int]] = {}
        self.busy = dict.fromkeys(("ingest", "detection"), 0)

    # The way in.

    async def ingesting(self, audio: AsyncIterator[Samples]) -> AsyncIterator[Samples]:
        """The same audio; the time it takes to come is that of the ingest."""
        start = self._now()
        async for samples in audio:
            self._work("ingest", start)
            yield samples
            start = self._now()

    async def detecting(self, probabilities: Awaitable[_Result]) -> _Result:
        """The same; the time it takes is that of the voice detector."""
        start = self._now()
        found = await probabilities
        self._work("detection", start)
        return found

    def _work(self, stage: str, start: int) -> None:
        end = self._now()
        self.busy[stage] += end - start
        self._latest[stage] = start, end
        if self._taken_in:
            self._taken_in.add(stage, start, end)

    def on_fed(self, samples: int) -> None:
        """So much was given to the engine; the first of an utterance begins it."""
        if self._taken_in is None:
            self._taken_in = Utterance()
            for stage, (start, end) in self._latest.items():
                self._taken_in.add(stage, start, end)
        self._taken_in.samples += samples
        self._taken_in.mark("step", self._now())

    def on_marker(self, marker: int) -> None:
        """The utterance ends here; the engine will answer with this marker."""
        if self._taken_in:
            self._taken_in.marker = marker
            self._recognised.append(self._taken_in)
            self._taken_in = None

    # The way out.

    def on_progress(self) -> None:
        """The engine has got on."""
        if at := self._at_engine:
            at.mark("step", self._now())

    def on_words(self) -> None:
        """Words were committed."""
        if at := self._at_engine:
            at.words = True
            at.mark("emission", self._now())

    def on_reached(self, marker: int) -> None:
        """All words before this marker are committed."""
        while self._recognised and self._recognised[0].marker <= marker:
            utterance = self._recognised.popleft()
            utterance.mark("step", self._now())
            if utterance.words:
                self._sent.append(utterance)
            else:
                self._done(utterance)

    @property
    def _at_engine(self) -> Utterance | None:
        return self._recognised[0] if self._recognised else self._taken_in

    async def storing(self, stored: Awaitable[_Result]) -> _Result:
        """The same; the time it takes is that of the store."""
        start = self._now()
        found = await stored
        if at := self._sent[0] if self._sent else self._at_engine:
            at.add("store", start, self._now())
        return found

    def on_sent(self, event: Event) -> None:
        """The client has been sent what this came to."""
        if self._sent and isinstance(event, SegmentClosed):
            utterance = self._sent.popleft()
            utterance.mark("emission", self._now())
            self._done(utterance)

    def close(self) -> None:
        """No more comes: what was on its way is over."""
        last = [self._taken_in] if self._taken_in else []
        for utterance in (*self._sent, *self._recognised, *last):
            self._done(utterance)
        self._sent.clear()
        self._recognised.clear()
        self._taken_in = None


class SessionTrace:
    """A session's trace, until ``close``. ``span`` and what is below it is the exporter's."""

    def __init__(
        self,
        session: LiveSession,
        attributes: Mapping[str, str],
        parent: Mapping[str, str],
        put: Callable[[object], bool],
    ) -> None:
        self.attributes: dict[str, str | int | float] = dict(attributes)
        self.parent = parent
        self.error: str | None = None
        self.start = time.time_ns()
        self.end: int | None = None
        self.span: Span | None = None
        self._since = time.monotonic_ns()
        self._session = session
        self._put = put
        self._left_out = 0
        parts = session.parts or {"": session}
        self._pipelines = {name: PipelineTrace(self._now, self._on_done) for name in parts}
        for name, part in parts.items():
            part.trace = self._pipelines[name]
        put(self)

    def _now(self) -> int:
        """Nanoseconds since the epoch, by a clock that nobody sets meanwhile."""
        return self.start + time.monotonic_ns() - self._since

    def _on_done(self, utterance: Utterance) -> None:
        self._left_out += not self._put((self, utterance))

    def of(self, event: Event) -> PipelineTrace | None:
        """Where an event comes from."""
        return self._pipelines.get(getattr(event, "source", ""))

    def on_event(self, event: Event) -> None:
        """An event is about to be sent."""
        if isinstance(event, SessionError) and event.fatal:
            self.error = event.code

    def close(self, error: str | None = None) -> None:
        """The session is over, for this reason. May be called twice: the first one counts."""
        if self.end is not None:
            return
        self.error = self.error or error
        for pipeline in self._pipelines.values():
            pipeline.close()
            for stage, busy in pipeline.busy.items():
                name = f"voxlive.{stage}.busy_s"
                self.attributes[name] = float(self.attributes.get(name, 0)) + busy / 1e9
        self.attributes["voxlive.audio_s"] = seconds(self._session.received - self._session.first)
        if self._left_out:
            self.attributes["voxlive.left_out"] = self._left_out
        self.end = self._now()
        self._put((self, None))


class TraceExporter:
    """Makes spans of traces and sends them by OTLP over HTTP, on threads of its own.

    What ``OTEL_*`` variables say of the exporter, the sampler and the resource holds. Close it.
    """

    def __init__(self, url: str | None = None) -> None:
        """``url``: the collector's; one without a path gets ``/v1/traces``.

        Raises TracesUnavailable where the extra is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            message = "traces need OpenTelemetry: pip install 'voxlive[trace]'"
            raise TracesUnavailable(message) from error
        if url and urlsplit(url).path in ("", "/"):
            url = f"{url.rstrip('/')}/v1/traces"
        named: dict[str, str | int] = {"service.version": version("voxlive")}
        if not environ.get("OTEL_SERVICE_NAME"):
            named["service.name"] = "voxlive"
        resource = Resource.create(named)
        self._extract = TraceContextTextMapPropagator().extract
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer: Tracer = self._provider.get_tracer("voxlive", version("voxlive"))
        self._items: deque[object] = deque()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, url: str | None) -> TraceExporter | None:
        """One for this URL or what the environment names; None where neither asks for traces.

        Raises TracesUnavailable where the option asks for them; what the environment asks for,
        which may be meant for other programs, is a warning in the log.
        """
        named = [name for name in _ENDPOINTS if environ.get(name)]
        if url is None and (not named or _is_off()):
            return None
        try:
            return cls(url)
        except TracesUnavailable as error:
            if url is not None:
                raise
            log.warning("%s is set, and there are no traces: %s", named[0], error.message)
            return None

    def open(
        self, session: LiveSession, attributes: Mapping[str, str], headers: Mapping[str, str]
    ) -> SessionTrace:
        """Follow a session, as part of the trace that the client's headers name, if they do."""
        parent = {name: headers[name] for name in _HEADERS if name in headers}
        return SessionTrace(session, attributes, parent, self._put)

    def close(self) -> None:
        """Send what there is, for some seconds at most."""
        self._closed.set()
        self._thread.join(_CLOSE_S)
        # Where the collector does not answer it would be tried again and again.
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(_CLOSE_S)

    def _put(self, item: object) -> bool:
        if len(self._items) >= _WAITING:
            return False
        self._items.append(item)
        return True

    # The exporter's thread.

    def _run(self) -> None:
        # Nobody wakes it, and it rests in between: the event loop does not wait for its turn.
        while not self._closed.wait(_EVERY_S):
            self._take(_REST_S)
        self._take(0)

    def _take(self, rest_s: float) -> None:
        while self._items:
            match self._items.popleft():
                case SessionTrace() as trace:
                    self._begin(trace)
                case (SessionTrace() as trace, Utterance() as utterance):
                    self._utterance(trace, utterance)
                case (SessionTrace() as trace, None):
                    self._end(trace)
            time.sleep(rest_s)

    def _begin(self, trace: SessionTrace) -> None:
        from opentelemetry.trace import SpanKind

        parent, kind = self._extract(trace.parent), SpanKind.SERVER
        trace.span = self._tracer.start_span("session", parent, kind, start_time=trace.start)

    def _end(self, trace: SessionTrace) -> None:
        from opentelemetry.trace import Status, StatusCode

        if trace.span:
            trace.span.set_attributes(trace.attributes)
            if trace.error:
                trace.span.set_attribute("error.type", trace.error)
                trace.span.set_status(Status(StatusCode.ERROR, trace.error))
            trace.span.end(trace.end)

    def _utterance(self, trace: SessionTrace, utterance: Utterance) -> None:
        from opentelemetry.trace import set_span_in_context

        if trace.span is None:  # its beginning found no place
            return
        stages = utterance.stages
        span = self._span("utterance", set_span_in_context(trace.span), stages.values())
        span.set_attribute("voxlive.audio_s", seconds(utterance.samples))
        below = set_span_in_context(span)
        for name, stage in stages.items():
            one = self._span(name, below, (stage,))
            one.set_attribute("voxlive.count", stage.count)
            if stage.busy is not None:
                one.set_attribute("voxlive.busy_s", stage.busy / 1e9)
            one.end(stage.end)
        span.end(max(stage.end for stage in stages.values()))

    def _span(self, name: str, context: Context, stages: Iterable[Stage]) -> Span:
        return self._tracer.start_span(
            name, context, start_time=min(stage.start for stage in stages)
        )


def _is_off() -> bool:
    """Whether the environment names a collector, and says that it gets no traces from here."""
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return off or environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
