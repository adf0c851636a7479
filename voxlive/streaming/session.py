"""One live session: bytes in, events out.

A ``Session`` owns everything of one client. Its task takes commands in order: audio is decoded and
goes through the voice detector and the gate; what the gate lets through is fed to the engine's
stream, every other sample is recorded as silence (``received == fed + skipped`` at the end). The
engine's messages become events on the session's loop. An engine that dies is replaced under the
session (``recovery.py``).

Times are samples at 16 kHz since the session's first. Bounds: ``Inbox`` and ``Outbox``
(``queues.py``), ``UndecidedAudio`` (``vad/gate.py``), and ``MAX_BACKLOG`` samples in the engine.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from voxlive.engines.contract import (
    MOVE_S,
    Behind,
    Committed,
    Drafted,
    Failed,
    LanguageFound,
    Progressed,
    Reached,
)
from voxlive.errors import BadAudio
from voxlive.processes.logs import log_context
from voxlive.streaming.events import (
    Flushed,
    Lag,
    LagReporter,
    LanguageDetected,
    LiveTranscript,
    Recovered,
    SessionCheckpoint,
    SessionError,
    SourceCheckpoint,
    SpeechStarted,
    SpeechStopped,
    TurnClosed,
    UtteranceEnded,
)
from voxlive.streaming.intake import (
    ChangeTurns,
    Flush,
    LiveSession,
    Reconfigure,
    SourceState,
    Stop,
)
from voxlive.streaming.queues import (
    Inbox,
    Outbox,
    Timeout,
)
from voxlive.streaming.recovery import MAX_BACKLOG, RecoverableStream
from voxlive.streaming.replacements import Replacer
from voxlive.turns.tracker import TurnEnded
from voxlive.vad.gate import WINDOW, Feed, GateState, Paused, Skip, Started, Stopped
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from voxlive.engines.contract import SessionMessage, Sink, Stream
    from voxlive.engines.recording import RecordingWriter
    from voxlive.speakers.labels import SpeakerNames
    from voxlive.speakers.profiles import VoiceProfile
    from voxlive.speakers.tracker import SpeakerLane
    from voxlive.streaming.events import Event
    from voxlive.streaming.ingest.live import Ingest
    from voxlive.streaming.intake import Command, OpenIntake, SpeechProbabilities
    from voxlive.streaming.replacements import Replacements
    from voxlive.turns.tracker import EndedBy, TurnEvent, TurnLane
    from voxlive.vad.gate import Action, Gate, OpenGate
    from voxlive.values import Samples, Word

log = logging.getLogger(__name__)

_CHECKPOINT_EVERY = 30 * SAMPLE_RATE
_STOOD_STILL_S = 0.05  # a timer that is later than that: the process or its event loop did


class Session(LiveSession):
    """Everything of one client. Made by ``Service.open`` and bound to the running loop.

    Bounds: when ``inbox`` is full, or 30 s of audio are in the engine, ``push`` waits, which is the
    back-pressure on the client; when ``outbox`` is full the session ends with ``slow_client``. Its
    events carry ``source`` there. ``stall_s`` is that of SessionOptions. ``record`` starts a
    recording, of a stream with this trail. ``segment_ids``: see LiveTranscript. It may go on with
    one of another server's (``resumed``). ``turns`` finds out when somebody has finished: it ends
    the utterance then, if a pause has not. ``speakers`` finds out whose words they are. Raises what
    ``open_stream`` raises.
    """

    received = 0

    def __init__(
        self,
        ingest: Ingest,
        vad: SpeechProbabilities,
        open_gate: Callable[[int], Gate | OpenGate],
        open_stream: Callable[[Sink, str | None], Stream],
        stall_s: float,
        on_closed: Callable[[Session], None],
        ident: str,
        inbox: Inbox[Command] | None = None,
        outbox: Outbox[Any] | None = None,
        source: str = "",
        replacements: Replacements | None = None,
        record: Callable[[int], RecordingWriter] | None = None,
        segment_ids: Iterator[int] | None = None,
        resumed: SourceState | None = None,
        turns: TurnLane | None = None,
        speakers: SpeakerLane | None = None,
    ) -> None:
        state = resumed or SourceState(ident, SourceCheckpoint(GateState()), 0)
        super().__init__(ident, state.first, inbox, outbox, source)
        at = state.checkpoint.gate.done
        self.received = state.first
        self.fed = state.checkpoint.fed
        self.skipped = at - self.fed
        self.processed = at
        self._ingest = ingest
        self._vad = vad
        self._turns, self._speakers = turns, speakers
        self._turns_before = 0
        self._stall_timeout, self._stall_s = Timeout(), stall_s
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        idents = segment_ids
        if resumed:
            idents = chain((state.segment,), segment_ids or count(state.segment + 1))
        self._transcript = LiveTranscript(idents, state.text, state.words)
        self._open_from = _open_from(state.words)
        self._speech_events = state.checkpoint.speech_events
        self._speech_sent = state.speech_events
        self._checkpoint_at = at
        self._replacer = Replacer(replacements) if replacements else None
        self._markers: dict[int, tuple[Event, ...]] = {}
        self._fed_before: dict[int, tuple[int, int]] = {}  # by marker: fed, and all until there
        self._covered_fed = self._covered = 0
        self._last_marker = 0
        self._final_marker: int | None = None
        self._engine_progressed = asyncio.Event()
        self._suspended = False
        self._closing_error: SessionError | None = None
        self._lag_reporter = LagReporter(self._loop.time())
        self._stream = RecoverableStream(
            open_stream,
            self._on_message,
            self._on_recovered,
            at,
            state.committed,
            state.language,
        )
        self._stream.on_idle = lambda: self.on_rest()
        self._recorder = record(self._stream.trail) if record else None
        # Every event counts where a session is recorded, or replayed.
        self._keeps_all = self._stream.paced or self._recorder is not None
        self._gate = open_gate(self._stream.trail)
        if resumed:
            self._resume(resumed)
        with log_context(session=self.id):
            self._start()

    def _resume(self, state: SourceState) -> None:
        """Go on as another server left the gate, the turns and the speakers."""
        checkpoint = state.checkpoint
        gate = checkpoint.gate
        self._gate.resume(gate)
        if self._speakers:
            self._speakers.resume(checkpoint.speakers, state.heard, gate.end, state.heard_upto)
        if self._turns:
            words = state.turn_words
            told = self._turns.resume(checkpoint.turns, state.told, words, gate.end, gate.done)
            for end in told:
                self._emit(self._with_text(TurnClosed(end.turn, end.began, end.at)))

    # What a client does: see also ``LiveSession``.

    def know_voices(self, profiles: Sequence[VoiceProfile], names: SpeakerNames) -> None:
        """See LiveSession."""
        if self._speakers:
            self._speakers.know(profiles, {speaker: name for (_, speaker), name in names.items()})

    def voice_of(self, speaker: int, source: str) -> Samples | None:
        """See LiveSession."""
        return self._speakers.speakers.voice(speaker) if self._speakers and not source else None

    def outlive_server(self) -> bool:
        """See LiveSession."""
        alone = self._speakers is not None and not self._speakers.speakers.keeps_states
        self.outlives_server = not self._stream.paced and not alone
        self._vad.keeps_states = self.outlives_server
        return self.outlives_server

    @property
    def at_rest(self) -> bool:
        """See LiveSession."""
        busy = self._stopped or self.waiting or self._gate.speaking
        return not busy and self._stream.empty

    def suspend(self) -> None:
        """See LiveSession."""
        self._suspended = True

    def release(self) -> bool:
        """See LiveSession."""
        if self._suspended and not self.waiting and self._stream.idle:
            self._stream.release()
            return True
        return False

    def resume(self) -> None:
        """See LiveSession."""
        self._suspended = False
        self._stream.reclaim(Failed("server_full", "no slot became free for this session"))

    @property
    def trail(self) -> int:
        """Samples that the gate feeds of the silence behind speech: those that the engine needs."""
        return self._stream.trail

    def move(self, within_s: float) -> None:
        """Go on with a stream that is opened anew: at the next pause, else after ``within_s``."""
        self._stream.move(within_s)

    def reopen(self, open_stream: Callable[[Sink, str | None], Stream]) -> None:
        """``move``, to a stream that this opens, within ``MOVE_S``."""
        self._stream.reopen(open_stream, MOVE_S)

    @property
    def waits_for_slot(self) -> bool:
        """Whether it has none at present and needs one."""
        return self._stream.waits_for_slot

    @property
    def text(self) -> str:
        """The transcript so far."""
        return self._transcript.text

    @property
    def handled(self) -> int:
        """See LiveSession."""
        return self.received - self._stream.backlog.samples

    @property
    def length(self) -> int:
        """Samples received."""
        return self.received

    @property
    def covered(self) -> int:
        """Samples before which every word is in a closed segment, or is about to be."""
        silent = self._covered_fed == self.fed and not self._markers
        return self.fed + self.skipped if silent else self._covered

    # What the session does with it.

    async def _take_commands(self) -> None:
        try:
            while self._final_marker is None:
                command = await self._next()
                if self._recorder:
                    self._recorder.on_command(command)
                match command:
                    case bytes(data):
                        await self._process(self._ingest.push(data))
                    case Flush(marker, ends_turn):
                        await self._stream.settle()
                        if ends_turn and self._turns:
                            self._pause("client", Flushed(marker))
                        else:
                            self._flush(self._decide(self._gate.flush), Flushed(marker))
                    case ChangeTurns(options):
                        if self._turns:
                            self._turns.tracker.options = options
                    case Reconfigure(open_intake, marker):
                        await self._process_rest()
                        await self._reconfigure(open_intake, Flushed(marker))
                    case Stop(reason):
                        self._emit(reason)
                        await self._process_rest()
                        if self._speakers:
                            await self._speakers.speakers.flush()
                            self._emit_speakers(self._speakers)
                        self._finish()
                self.on_rest()
        except BadAudio as error:
            self._closing_error = SessionError(error.code, error.message)
            self._finish()

    async def _next(self) -> Command:
        """The next command; when none comes in mid-speech, the utterance ends there.

        What has come while the server itself stood still is waited for until it is read.
        """
        wait_s = self._stall_s
        while self._gate.speaking or (self._turns and self._turns.tracker.open):
            deadline = self._loop.time() + wait_s
            try:
                with self._stall_timeout.within(wait_s):
                    return await self._inbox.take()
            except TimeoutError:
                wait_s = min(self._loop.time() - deadline, self._stall_s)
                if wait_s > _STOOD_STILL_S:
                    continue
                if not self._suspended:
                    await self._stream.settle()
                    self._pause("stalled")
                break
        return await self._inbox.take()

    async def _process(self, audio: AsyncIterator[Samples]) -> None:
        if self.trace:
            audio = self.trace.ingesting(audio)
        async for samples in audio:
            at = 0
            while at < len(samples):
                end = at + self._stream.step(self.received)
                await self._process_block(samples[at:end])
                at = end

    async def _process_rest(self) -> None:
        """Take what the ingest has left, after which the stream is flushed."""
        await self._process(self._ingest.finish())
        await self._stream.settle()
        for warning in self._ingest.warnings:
            self.emit_warning(warning.code, warning.message)

    async def _process_block(self, samples: Samples) -> None:
        """At most a second of audio, once the engine has room for it."""
        while self._stream.backlog.samples > MAX_BACKLOG:
            self._engine_progressed.clear()
            await self._engine_progressed.wait()
        await self._stream.settle()
        if self._audio:
            self._audio.put(samples, self.received)
        self.received += len(samples)
        detected = self._vad.push(samples)
        probabilities = await (self.trace.detecting(detected) if self.trace else detected)
        # Before anything is fed: the engine has had no time to process what is fed just now.
        self._emit_lag()
        if self._recorder:
            self._recorder.on_received(self.received)
        self._stream.advance(self.received)
        self._drop_known()
        if self._speakers:
            await self._speakers.speakers.receive(samples, probabilities)
            self._emit_speakers(self._speakers)
        if self._turns:
            self._turns.receive(samples)
            await self._take_turns(self._turns, probabilities)
        else:
            self._apply(self._gate.process(probabilities, self.received))
        if self.received - self._checkpoint_at >= _CHECKPOINT_EVERY and self._stream.empty:
            self._emit_checkpoint()

    def _drop_known(self) -> None:
        """Drop audio that another server has decided about: what came only for the detectors."""
        audio = self._vad.audio
        if audio.start < (decided := min(self.fed + self.skipped, audio.end)):
            audio.drop(decided)

    def _apply(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Feed(start, end):
                    self._stream.feed(self._vad.audio.take(start, end), start)
                    self.fed += end - start
                    if self.trace:
                        self.trace.on_fed(end - start)
                case Skip(start, end):
                    self._vad.audio.drop(end)
                    self.skipped += end - start
                case Started(at):
                    self._emit_speech(SpeechStarted(at))
                case Stopped(at):
                    self._emit_speech(SpeechStopped(at))
                case Paused():
                    at = self.fed + self.skipped
                    marker = self._add_marker(
                        UtteranceEnded(at), *self._checkpoint(GateState(at, at))
                    )
                    if self._recorder:
                        self._recorder.on_mark(marker, at, flush=False)
                    self._stream.end_utterance(marker)

    async def _take_turns(self, turns: TurnLane, probabilities: Iterable[float]) -> None:
        """A window after the other, since a turn may end behind each of them."""
        self._emit_turns(await turns.answer(), turns.tracker.end)
        for probability in probabilities:
            self._repeat_ends(turns, self._gate.end + WINDOW - 1)
            # Where the gate pauses, the checkpoint is one behind the same window of both.
            events = turns.push(float(probability))
            self._apply(self._gate.push(float(probability)))
            self._emit_turns(events, turns.tracker.end)
            self._emit_turns(await turns.answer(), turns.tracker.end)
        self._repeat_ends(turns, self.received)
        self._apply(self._gate.feed_ahead(self.received))

    def _repeat_ends(self, turns: TurnLane, upto: int) -> None:
        """End turns, up to sample ``upto``, that the client knows to be over."""
        while turns.told_ends and turns.told_ends[0].upto <= upto:
            end = turns.told_ends.popleft()
            closed = (TurnClosed(end.turn, end.began, end.at),)
            interrupted = end.by not in ("confidence", "timeout")
            if self._gate.in_utterance or interrupted:
                actions = self._gate.pause(end.upto)
                self._flush(actions, *(() if end.closed else closed), at=end.upto)
            elif not end.closed:
                self._emit_behind_words(*closed)

    def _emit_turns(self, events: Iterable[TurnEvent], end: int) -> None:
        """Emit them. Where a turn ends its words are brought out, up to sample ``end``."""
        for closed in self._ended_turns(events):
            if self._gate.in_utterance:
                self._flush(self._gate.pause(end), closed, at=end)
            else:
                self._emit_behind_words(closed)

    def _ended_turns(self, events: Iterable[TurnEvent]) -> Iterator[TurnClosed]:
        """Emit these; what is to follow the words of each turn that has ended."""
        for event in events:
            self._emit(event)
            if isinstance(event, TurnEnded):
                assert self._turns
                yield TurnClosed(event.turn, self._turns.tracker.began, event.at)

    def _emit_behind_words(self, closed: TurnClosed) -> None:
        """Emit it once the words are out of what was fed so far, of which a mark is the last."""
        if self._last_marker in self._markers:
            self._markers[self._last_marker] += (closed,)
        else:
            self._emit(self._with_text(closed))

    def _end_turn(self, by: EndedBy) -> tuple[TurnClosed, ...]:
        """The turn ends here, if there is one; what to emit when its words are out."""
        if not (turns := self._turns):
            return ()
        known = [
            TurnClosed(one.turn, one.began, one.at) for one in turns.told_ends if not one.closed
        ]
        turns.told_ends.clear()
        events = turns.tracker.interrupt(max(self.received, turns.tracker.end), by)
        return (*known, *self._ended_turns(events))

    def _decide(self, decide: Callable[[int], list[Action]]) -> list[Action]:
        """What the gate decides of all that was received.

        Nothing of audio that comes again, and that another server has decided about.
        """
        return decide(self.received) if self.received >= self._gate.least else []

    def _with_text(self, closed: TurnClosed) -> TurnClosed:
        assert self._turns
        return replace(closed, text=self._turns.text.take())

    def _emit_speakers(self, speakers: SpeakerLane) -> None:
        """Emit whose words are newly known, and who is recognised."""
        self._emit(speakers.found())
        for named in speakers.recognised():
            self._emit(named)

    def _emit_speech(self, event: SpeechStarted | SpeechStopped) -> None:
        """Emit it, unless another server has."""
        self._speech_events += 1
        if self._speech_events > self._speech_sent:
            self._emit(event)

    def _checkpoint(self, gate: GateState | None) -> tuple[SessionCheckpoint, ...]:
        """The one for when all that was fed so far is recognised; none where nobody wants it."""
        if not self.outlives_server or gate is None:
            return ()
        network = self._vad.state_at(gate.end)
        turns = self._turns.tracker.state if self._turns else None
        speakers = self._speakers.speakers.state if self._speakers else None
        source = SourceCheckpoint(gate, self.fed, self._speech_events, network, turns, speakers)
        return (SessionCheckpoint((source,)),)

    def _emit_checkpoint(self) -> None:
        """Emit the one for here, in a long silence."""
        self._checkpoint_at = self.received
        for checkpoint in self._checkpoint(self._gate.state):
            self._emit(checkpoint)

    def _add_marker(self, *then: Event) -> int:
        """A new marker, with the events to emit once it has been reached."""
        self._last_marker += 1
        self._markers[self._last_marker] = then
        self._fed_before[self._last_marker] = self.fed, self.fed + self.skipped
        if self.trace:
            self.trace.on_marker(self._last_marker)
        return self._last_marker

    def _pause(self, by: EndedBy, *then: Event) -> None:
        """End the utterance and the turn here."""
        closed = self._end_turn(by)
        self._flush(self._decide(self._gate.pause), *closed, *then)

    def _flush(self, actions: Iterable[Action], *then: Event, at: int | None = None) -> int:
        """Apply the gate's ``actions``, then flush the stream; the marker of the flush.

        ``at``: the sample up to which the stream has been fed, if not all that was received.
        An utterance that ends here has no trail behind it, so the flush ends it: a marker for the
        pause alone would be reached before its last words.
        """
        last = list(actions)
        at = self.received if at is None else at
        ended = [UtteranceEnded(at)] if Paused() in last else []
        self._apply(action for action in last if not isinstance(action, Paused))
        marker = self._add_marker(*ended, *then, *self._checkpoint(self._gate.state))
        if self._recorder:
            self._recorder.on_mark(marker, at, flush=True)
        self._stream.flush(marker)
        return marker

    async def _reconfigure(self, open_intake: OpenIntake, then: Event) -> None:
        closed = self._end_turn("client")
        marker = self._flush(self._decide(self._gate.finish), *closed, then)
        while marker in self._markers:
            self._engine_progressed.clear()
            await self._engine_progressed.wait()
        self._ingest.close()
        self._vad.close()
        before = self._turns
        self._ingest, self._vad, self._gate, self._turns = open_intake(
            self._stream.trail, self.received
        )
        if before:
            self._turns_before = before.tracker.turn
        if self._turns:
            self._turns.tracker.turn = self._turns_before

    def _finish(self) -> None:
        self._stopped = True
        closed = self._end_turn("audio_end")
        self._final_marker = self._flush(self._decide(self._gate.finish), *closed)

    # What the engine answers.

    def _on_message(self, message: SessionMessage) -> None:
        if self._closed.is_set():
            return
        if self._recorder:
            self._recorder.on_message(message)
        match message:
            case Committed(words):
                self._commit(self._replacer.push(words) if self._replacer else words)
                if self.trace:
                    self.trace.on_words()
            case Drafted(text):
                draft = self._replacer.draft(text) if self._replacer else text
                self._emit(self._transcript.set_draft(draft))
                if self._turns:
                    self._turns.text.draft = draft
            case Progressed(upto):
                self.processed = max(self.processed, upto)
                if self.trace:
                    self.trace.on_progress()
                if self._replacer:
                    self._commit(self._replacer.progress(upto))
                if self._turns:
                    self._turns.hear(upto)
                self._engine_progressed.set()
                self._emit_lag()
            case Behind(seconds):
                self._emit(Lag(seconds))
            case LanguageFound(language, probability):
                self._emit(LanguageDetected(language, probability))
            case Reached(marker):
                self._on_reached(marker)
            case Failed(code, text):
                self._end(SessionError(code, text))

    def _commit(self, words: tuple[Word, ...]) -> None:
        event = self._transcript.commit(words)
        self._emit(event)
        if self._turns and event:
            self._turns.text.words.append(event.text)
        if self._speakers and event:
            self._speakers.add(event.segment, event.words)
            self._emit_speakers(self._speakers)

    def _on_recovered(self, at: int) -> None:
        if self._recorder:
            self._recorder.on_recovered()
        self._emit(self._transcript.set_draft(""))
        self._emit(Recovered(at))

    def _on_reached(self, marker: int) -> None:
        self._covered_fed, self._covered = self._fed_before.pop(marker)
        self._emit(self._transcript.set_draft(""))
        if self._replacer:
            self._commit(self._replacer.flush())
        # Another server was through the pauses before what it has in its open segment.
        if self._covered >= self._open_from or marker == self._final_marker:
            self._open_from = 0
            self._emit(self._transcript.close_segment(self.received))
        if self.trace:
            self.trace.on_reached(marker)
        for event in self._markers.pop(marker):
            self._emit(self._with_text(event) if isinstance(event, TurnClosed) else event)
        self._engine_progressed.set()
        self.on_rest()
        if marker == self._final_marker:
            self._end(*filter(None, [self._closing_error]))

    def _emit_lag(self) -> None:
        if self._stream.paced:
            return
        lag = self._lag_reporter.next(self._stream.backlog.samples, self._loop.time())
        if lag and self._recorder:
            self._recorder.on_message(Behind(lag.behind_s))
        self._emit(lag)

    def _emit(self, event: Event | None) -> None:
        if event is not None:
            self._put(event, keep=self._keeps_all)

    def _free(self) -> None:
        if self._recorder:
            self._recorder.close(self.received)
        self._stream.close()
        self._ingest.close()
        self._vad.close()
        if self._speakers:
            self._speakers.speakers.close()
        self._on_closed(self)


def _open_from(words: tuple[Word, ...]) -> int:
    """A sample near the end of the first of these; 0 for none.

    Where an engine says that a word begins may lie before the pause before it; where it ends, some
    milliseconds behind the pause after it.
    """
    if not words:
        return 0
    first = words[0]
    return max(first.end - SAMPLE_RATE // 8, (first.start + first.end) // 2)
