"""Which pass is made next, and how often a growing utterance is worth one.

Passes that end an utterance come first, the longest waiting one of them; then the draft of the
stream that has most audio which no pass has had. A pass that is under way is never interrupted, so
a last pass waits for the drafts under way at most.

Drafts give way before anything else does: the time from one to the next grows with what they cost,
so that those of one stream take ``_OWN`` of a thread at most and those of all streams ``_ALL`` of
the threads; the rest is for last passes. Pure: durations and times are handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from voxlive.engines.contract import Message
    from voxlive.engines.utterances.utterance import UtteranceStream
    from voxlive.recognisers.contract import Recognition

SHORTEST_S, LONGEST_S = 0.5, 2.5
"""Seconds of new audio from one draft of an utterance to the next: with nothing else to do, and
with every slot taken, which leaves half a second for the wait. With more to do than the machine
can, drafts come when there is time."""

_OWN = 0.2
_ALL = 0.55


class ScheduledStream:
    """A stream of utterances, with what its place in the order depends on.

    ``since``: when the last pass that is due became due, 0 while none is. ``draft_s``: what the
    last draft of this utterance took, 0 before the first.
    """

    def __init__(self, utterances: UtteranceStream) -> None:
        self.utterances = utterances
        self.since = 0.0
        self.draft_s = 0.0

    def update(self, now: float) -> None:
        """After audio, a mark or a pass: note whether a last pass has become due."""
        if self.utterances.urgent and not self.since:
            self.since = now

    def done(self, found: Recognition, took_s: float, *, final: bool) -> list[Message]:
        """What the pass under way has brought, and how long it took."""
        if final:
            self.since = 0.0
        self.draft_s = 0.0 if final else took_s
        return self.utterances.done(found)


Scheduled = TypeVar("Scheduled", bound=ScheduledStream)


class PassScheduler:
    """The order of passes on so many threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def choose(self, streams: Sequence[Scheduled]) -> Scheduled | None:
        """The stream whose pass is made next; None while none is due."""
        if urgent := [stream for stream in streams if stream.utterances.urgent]:
            return min(urgent, key=lambda stream: stream.since)
        speaking = sum(stream.utterances.waiting > 0 for stream in streams)
        due = [stream for stream in streams if self._draft_is_due(stream, speaking)]
        return max(due, key=lambda stream: stream.utterances.waiting, default=None)

    def draft_interval_s(self, draft_s: float, speaking: int) -> float:
        """From a draft that took ``draft_s`` to the next, while so many streams have audio."""
        share = min(_OWN, _ALL * self._threads / max(speaking, 1))
        return min(max(draft_s / share, SHORTEST_S), LONGEST_S)

    def _draft_is_due(self, stream: ScheduledStream, speaking: int) -> bool:
        interval_s = self.draft_interval_s(stream.draft_s, speaking)
        return stream.utterances.draftable(interval_s)
