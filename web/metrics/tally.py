"""What live sessions did, by wire format. Belongs to the event loop."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ...streaming.clock import SAMPLE_RATE, seconds
from ...streaming.durations import Durations
from ...streaming.events import Event, SessionClosed, SessionError, SessionWarning, Words
from ...streaming.session import Session

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
