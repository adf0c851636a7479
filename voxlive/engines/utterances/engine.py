"""Any recogniser of whole utterances as a live engine: streams, and who is recognised next.

Some threads make passes, as many at a time as the recogniser takes. Each takes the pass that the
scheduler chooses (``scheduler``). A stream has one pass at a time.

``PassScheduler`` says which pass is made next, and how often a growing utterance is worth one.
Passes that end an utterance come first, the longest waiting one of them; then the draft of the
stream that has most audio which no pass has had. A pass that is under way is never interrupted, so
a last pass waits for the drafts under way at most. Drafts give way before anything else does: the
time from one to the next grows with what they cost, so that those of one stream take ``_OWN`` of a
thread at most and those of all streams ``_ALL`` of the threads; the rest is for last passes. It is
pure: durations and times are handed in.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from voxlive.engines.contract import DurationHistogram, EngineInfo, Failed
from voxlive.engines.utterances.checks import (
    is_doubtful,
    is_unsure,
    leaves_out,
    says_again,
    sureness,
)
from voxlive.engines.utterances.commitment import RULES, CommitRule
from voxlive.engines.utterances.utterance import Overrun, PassPlan, UtteranceStream
from voxlive.errors import EngineError, EngineFull, VoxliveError
from voxlive.processes.supervisor import Work
from voxlive.recognisers.contract import PassOptions
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from voxlive.engines.contract import Message, Sink, StreamOptions
    from voxlive.engines.utterances.utterance import AudioBefore, DuePass
    from voxlive.recognisers.contract import Recogniser, Recognition
    from voxlive.values import Samples

SHORTEST_S, LONGEST_S = 0.5, 2.5
"""Seconds of new audio from one draft of an utterance to the next: with nothing else to do, and
with every slot taken, which leaves half a second for the wait. With more to do than the machine
can, drafts come when there is time."""

_OWN = 0.2
_ALL = 0.55

_LEAST_TOKENS, _ENGLISH_TOKENS_PER_S, _TOKENS_PER_S = 12, 8, 30

log = logging.getLogger(__name__)

DRAFT = PassOptions(margin_s=1.0, least_s=6.0, beam=1, temperatures=(0.0,))
"""A pass over an utterance that grows."""
WIDE_DRAFT = replace(DRAFT, beam=5)
"""Every other one of them: fewer errors, and a third more time."""
LAST = PassOptions(margin_s=3.0, temperatures=(0.0,))
"""The pass at its end."""
AGAIN = PassOptions()
"""That pass once more, where it repeats itself or is improbable: the model's whole window."""


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


def make_pass(recogniser: Recogniser, due: DuePass) -> Recognition:
    """Make a pass that is due; a last one is made again where it is unsure or doubtful.

    One that is unsure is made behind what was said before, by a recogniser that can do that, and
    the surer of the two holds. Raises what the recogniser does.
    """
    english = due.language == "en" or recogniser.info.languages == ("en",)
    most = _most_tokens(len(due.audio), english=english)
    recognise = partial(recogniser.recognise, due.audio, due.language, due.task)
    how = LAST if due.final else WIDE_DRAFT if due.wide else DRAFT
    found = recognise(how=replace(how, max_tokens=most))
    if not due.final:
        return found
    if due.before and recogniser.info.continues and is_unsure(found):
        behind = _recognise_behind(recogniser, due, due.before, most)
        surer = 0.0 < sureness(behind) >= sureness(found)
        again = says_again(behind, due.before.spoken.text)
        if surer and not again and not _is_unfinished(behind, due):
            return behind
    return recognise(how=AGAIN) if _is_unfinished(found, due) else found


def _is_unfinished(found: Recognition, due: DuePass) -> bool:
    return is_doubtful(found) or leaves_out(found, len(due.audio))


def _recognise_behind(
    recogniser: Recogniser, due: DuePass, before: AudioBefore, most: int
) -> Recognition:
    """A last pass over the audio before and its own; times count from the first of its own."""
    audio = np.concatenate((before.audio, due.audio))
    how = replace(LAST, max_tokens=most, before=before.spoken)
    found = recogniser.recognise(audio, due.language, due.task, how=how)
    moved = (segment.moved(-len(before.audio)) for segment in found.segments)
    return replace(found, segments=tuple(moved))


def _most_tokens(samples: int, *, english: bool) -> int:
    """More than anybody speaks: a pass that repeats itself ends there, not after a whole window.

    Most scripts but the Latin one take several tokens for a syllable.
    """
    per_s = _ENGLISH_TOKENS_PER_S if english else _TOKENS_PER_S
    return _LEAST_TOKENS + per_s * samples // SAMPLE_RATE


class RecogniserStream(ScheduledStream):
    """One session's place: what it hands over, and whom it answers."""

    trail = 0
    """What the gate feeds before it sees a pause is enough: a last pass pads its audio."""

    def __init__(self, engine: UtteranceEngine, sink: Sink, utterances: UtteranceStream) -> None:
        super().__init__(utterances)
        self._engine = engine
        self.sink = sink
        self.closed = False

    def feed(self, audio: Samples, at: int) -> None:
        """See the contract; beyond ``MAX_WAITING`` samples the stream fails with ``overrun``."""
        self._engine.feed(self, np.array(audio, np.float32), at)

    def end_utterance(self, marker: int) -> None:
        """See the contract."""
        self._engine.mark(self, marker)

    def flush(self, marker: int) -> None:
        """See the contract. No state is carried from one utterance to the next one."""
        self._engine.mark(self, marker)

    def close(self) -> None:
        """See the contract."""
        self._engine.release(self)


class UtteranceEngine:
    """A loaded recogniser with slots for live streams; see the module."""

    def __init__(
        self,
        recogniser: Recogniser,
        info: EngineInfo,
        rule: CommitRule,
        plan: PassPlan | None = None,
        *,
        rules: Mapping[str, CommitRule] = RULES,
        threads: int = 1,
    ) -> None:
        self._recogniser = recogniser
        self._info = info
        self._rule = rule
        self._rules = rules
        self._plan = plan or PassPlan()
        self._scheduler = PassScheduler(threads)
        self._steps = DurationHistogram()
        self._streams: list[RecogniserStream] = []
        self._wakeup = threading.Condition()
        self._running = True
        self._done = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"recogniser-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def info(self) -> EngineInfo:
        """What this engine is."""
        return self._info

    @property
    def in_use(self) -> int:
        """How many slots are taken."""
        return len(self._streams)

    @property
    def steps(self) -> DurationHistogram:
        """The durations of passes."""
        return self._steps

    @property
    def work(self) -> Work:
        """Whether passes are under way or due, and how many have been made."""
        with self._wakeup:
            under_way = any(stream.utterances.under_way for stream in self._streams)
            due = self._scheduler.choose(self._streams) is not None
            return Work(under_way or due, self._done)

    def open(self, options: StreamOptions, sink: Sink) -> RecogniserStream:
        """Take a slot; raises EngineFull or UnsupportedOption."""
        self._info.validate(options)
        rule = self._rules[options.commit] if options.commit else self._rule
        options = replace(options, vocabulary=self._info.terms(options))
        utterances = UtteranceStream(rule, self._plan, options)
        stream = RecogniserStream(self, sink, utterances)
        with self._wakeup:
            if not self._running:
                raise EngineError("shutting_down", "the engine was shut down")
            if len(self._streams) >= self._info.capacity:
                raise EngineFull(self._info.capacity)
            self._streams.append(stream)
        return stream

    def check(self, timeout: float) -> str | None:
        """Recognise a second of silence. Blocks while other passes are made, up to ``timeout``."""
        failure: list[str | None] = [f"no pass was made within {timeout:g} s"]

        def attempt() -> None:
            try:
                needed = self._info.languages[0] if self._info.language_required else None
                self._recogniser.recognise(np.zeros(SAMPLE_RATE, np.float32), needed, how=DRAFT)
                failure[0] = None
            except VoxliveError as error:
                failure[0] = error.message

        thread = threading.Thread(target=attempt, name="recogniser-check", daemon=True)
        thread.start()
        thread.join(timeout)
        return failure[0]

    def shutdown(self) -> None:
        """End every stream and thread, free the model."""
        with self._wakeup:
            self._running = False
            streams, self._streams = self._streams, []
            for stream in streams:
                self._fail(stream, "shutting_down", "the engine was shut down")
            self._wakeup.notify_all()
        for thread in self._threads:
            thread.join()
        self._recogniser.close()

    # What streams hand over.

    def feed(self, stream: RecogniserStream, audio: Samples, at: int) -> None:
        """Audio of a stream."""
        with self._wakeup:
            if stream.closed:
                return
            try:
                stream.utterances.feed(audio, at)
            except Overrun:
                self._fail(stream, "overrun", "the engine is too far behind with this stream")
                return
            self._notify(stream)

    def mark(self, stream: RecogniserStream, marker: int) -> None:
        """A mark of a stream."""
        with self._wakeup:
            if not stream.closed:
                self._send(stream, stream.utterances.mark(marker))
                self._notify(stream)

    def release(self, stream: RecogniserStream) -> None:
        """The stream is over."""
        with self._wakeup:
            stream.closed = True
            if stream in self._streams:
                self._streams.remove(stream)

    def _notify(self, stream: RecogniserStream) -> None:
        stream.update(time.monotonic())
        self._wakeup.notify()

    # Passes.

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            stream, due = taken
            started = time.monotonic()
            try:
                found: Recognition | None = make_pass(self._recogniser, due)
                failure = ""
            except (VoxliveError, RuntimeError, ValueError, MemoryError) as error:
                # What libraries raise for a pass that cannot be made; it costs one stream.
                log.exception("a pass over %.1f s failed", len(due.audio) / SAMPLE_RATE)
                found, failure = None, f"the recogniser failed: {error}"
            if found:
                stream.utterances.prepare(found)
            took_s = time.monotonic() - started
            self._steps.observe(took_s)
            with self._wakeup:
                self._done += 1
                if stream.closed:
                    continue
                if found is None:
                    self._fail(stream, "engine_failed", failure)
                    continue
                self._send(stream, stream.done(found, took_s, final=due.final))
                self._notify(stream)

    def _take(self) -> tuple[RecogniserStream, DuePass] | None:
        """The most urgent pass, waiting for one; None in shutdown."""
        with self._wakeup:
            while self._running:
                if stream := self._scheduler.choose(self._streams):
                    found = stream.utterances.begin()
                    assert found is not None
                    return stream, found
                self._wakeup.wait()
        return None

    def _send(self, stream: RecogniserStream, messages: list[Message]) -> None:
        # Under the lock: a stream's messages come in order, and none after it was closed.
        for message in messages:
            stream.sink(message)

    def _fail(self, stream: RecogniserStream, code: str, message: str) -> None:
        self.release(stream)
        stream.sink(Failed(code, message))
