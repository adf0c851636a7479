"""How much an engine has been fed and has not been through: silence in between does not count.

When a client is told how far the engine is behind: at most once a second, and if it changed.

One live session: bytes in, events out.

A task takes commands in order: audio is decoded, judged by the voice detector, and what the gate
lets through is fed to the engine's stream; every other sample is recorded as silence. The engine
answers on its own thread; its messages become events on the session's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any

from voxlive.engines.contract import Committed, Drafted, Failed, Progressed, Reached
from voxlive.errors import BadAudio, EngineError, VadError
from voxlive.streaming.events import (
    Flushed,
    Lag,
    SessionClosed,
    SessionError,
    SessionWarning,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
)
from voxlive.streaming.intake import Flush, Reconfigure, Stop, UndecidedAudio
from voxlive.streaming.queues import MAX_AUDIO_BYTES, EngineMessages, Inbox, Outbox, Timeout
from voxlive.streaming.replacements import Replacer
from voxlive.streaming.transcript import LiveTranscript
from voxlive.vad.gate import Feed, Paused, Skip, Started, Stopped
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from voxlive.engines.contract import Message, Stream
    from voxlive.streaming.events import Event
    from voxlive.streaming.ingest.live import Ingest
    from voxlive.streaming.intake import Command, OpenIntake, SpeechProbabilities
    from voxlive.streaming.replacements import Replacements
    from voxlive.vad.gate import Action, Gate, OpenGate
    from voxlive.values import Samples


class Backlog:
    """The stretches of a session's clock that its engine still has before it. Pure.

    Adjoining ones are one, so there are as many as there are pauses within the backlog.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._stretches: deque[tuple[int, int]] = deque()

    def feed(self, start: int, end: int) -> None:
        """The engine was fed samples ``start`` to ``end``."""
        self.samples += end - start
        if self._stretches and self._stretches[-1][1] == start:
            start, _ = self._stretches.pop()
        self._stretches.append((start, end))

    def progress(self, upto: int) -> None:
        """The engine has been through all before sample ``upto``."""
        while self._stretches and self._stretches[0][0] < upto:
            start, end = self._stretches.popleft()
            self.samples -= min(end, upto) - start
            if upto < end:
                self._stretches.appendleft((upto, end))


_EVERY_S = 1.0
_STEP_S = 0.1


class LagReporter:
    """What was told last, and when. Pure: times are seconds on any clock."""

    def __init__(self, now: float) -> None:
        self._behind_s = 0.0
        self._at = now

    def next(self, samples: int, now: float) -> Lag | None:
        """What to tell, now that the engine has so much still before it."""
        behind_s = samples / SAMPLE_RATE
        if now - self._at < _EVERY_S or abs(behind_s - self._behind_s) < _STEP_S:
            return None
        self._behind_s, self._at = behind_s, now
        return Lag(round(behind_s, 2))


log = logging.getLogger(__name__)

MAX_BACKLOG = 30 * SAMPLE_RATE


class Session:
    """Everything of one client. Made by ``Service.open`` and bound to the running loop.

    Bounds: ``inbox`` and 30 s of audio in the engine, then ``push`` waits, which is the
    back-pressure on the client; ``outbox``, where events wait to be read as those of ``source``,
    then the session ends with ``slow_client``. ``stall_s`` is explained at SessionOptions.
    """

    def __init__(
        self,
        ingest: Ingest,
        ear: SpeechProbabilities,
        stall_s: float,
        done: Callable[[Session], None],
        inbox: Inbox[Command] | None = None,
        outbox: Outbox[Any] | None = None,
        source: str = "",
        replacements: Replacements | None = None,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.received = 0
        self.fed = 0
        self.skipped = 0
        self.processed = 0
        self._ingest = ingest
        self._ear = ear
        self._stall, self._stall_s = Timeout(), stall_s
        self._on_done = done
        self._loop = asyncio.get_running_loop()
        self._answers = EngineMessages(self._loop, self._answer)
        self._inbox = inbox or Inbox()
        self._outbox: Outbox[Any] = outbox or Outbox()
        self._source = source
        self._transcript = LiveTranscript()
        self._replacer = Replacer(replacements) if replacements else None
        self._held = UndecidedAudio()
        self._markers: dict[int, tuple[Event, ...]] = {}
        self._marker = 0
        self._final: int | None = None
        self._backlog = Backlog()
        self._room = asyncio.Event()
        self._stopped = False
        self._over = False
        self._ended = asyncio.Event()
        self._epitaph: SessionError | None = None
        self._lag = LagReporter(self._loop.time())

    def start(self, stream: Stream, gate: Gate | OpenGate) -> None:
        """Begin to work with the engine's stream, whose sink is ``sink``."""
        self._stream = stream
        self._gate = gate
        self._task = self._loop.create_task(self._run(), name=f"session-{self.id}")

    # What a client does.

    async def push(self, data: bytes) -> None:
        """Hear audio in the declared format. Waits while the session is behind."""
        if not self._stopped and data:
            await self._inbox.put(data)

    async def flush(self, marker: str) -> None:
        """Bring out all words so far; ``Flushed(marker)`` follows them. The session goes on."""
        if not self._stopped:
            await self._inbox.put(Flush(marker))

    async def reconfigure(self, listen: OpenIntake, marker: str) -> None:
        """End the speech so far as ``stop`` does, and hear what follows in another way.

        ``Flushed(marker)`` stands between what is told of either; the stream and the clock go on.
        """
        if not self._stopped:
            await self._inbox.put(Reconfigure(listen, marker))

    async def stop(self, reason: SessionError | None = None) -> None:
        """No more audio: the tail comes out, then ``SessionClosed``. May be called twice.

        ``reason`` is what the client is given before its tail, if that is not its own doing.
        """
        if not self._stopped:
            self._stopped = True
            await self._inbox.put(Stop(reason))

    async def drain(self) -> None:
        """Stop, and wait until the tail is out.

        What a client has sent far ahead is dropped: nobody waits until half an hour is through.
        """
        self._stopped = True
        self._inbox.trim(MAX_AUDIO_BYTES)
        # Whether or not one is there: the client's own was perhaps among what is dropped.
        await self._inbox.put(Stop())
        await self._ended.wait()

    def emit_error(self, code: str, message: str) -> None:
        """Tell the client something that does not end the session here and now."""
        self._emit(SessionError(code, message, fatal=False))

    def emit_warning(self, code: str, message: str) -> None:
        """Tell the client something that it should know and that ends nothing."""
        self._emit(SessionWarning(code, message))

    def events(self) -> AsyncIterator[Event]:
        """All events for one reader, where the outbox is the session's own."""
        return self._outbox.read()

    async def close(self) -> None:
        """Free everything at once, whatever the state; the reader's events end."""
        self._end()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def text(self) -> str:
        """The transcript so far."""
        return self._transcript.text

    @property
    def waiting(self) -> bool:
        """Whether something was sent that it has not come to yet."""
        return self._inbox.waiting

    @property
    def stopped(self) -> bool:
        """Whether it hears nothing more."""
        return self._stopped

    @property
    def handled(self) -> int:
        """Samples of what was received that nothing has to be done for any more, about."""
        return self.received - self._backlog.samples

    # What the session does with it.

    async def _run(self) -> None:
        try:
            while self._final is None:
                match await self._next():
                    case bytes(data):
                        await self._hear(self._ingest.push(data))
                    case Flush(marker):
                        self._flush(self._gate.flush(self.received), Flushed(marker))
                    case Reconfigure(listen, marker):
                        await self._hear_rest()
                        await self._reconfigure(listen, Flushed(marker))
                    case Stop(reason):
                        self._emit(reason)
                        await self._hear_rest()
                        self._finish()
        except BadAudio as error:
            self._epitaph = SessionError(error.code, error.message)
            self._finish()
        except (EngineError, VadError) as error:
            self._end(SessionError(error.code, error.message))
        except Exception:
            log.exception("session %s failed", self.id)
            self._end(SessionError("internal", "the server failed in this session; start again"))

    async def _next(self) -> Command:
        """The next command; when none comes in mid-speech, the utterance ends there."""
        if self._gate.speaking:
            try:
                with self._stall.within(self._stall_s):
                    return await self._inbox.take()
            except TimeoutError:
                self._flush(self._gate.pause(self.received))
        return await self._inbox.take()

    async def _hear(self, audio: AsyncIterator[Samples]) -> None:
        async for samples in audio:
            for at in range(0, len(samples), SAMPLE_RATE):
                await self._judge(samples[at : at + SAMPLE_RATE])

    async def _hear_rest(self) -> None:
        await self._hear(self._ingest.finish())
        for warning in self._ingest.warnings:
            self.emit_warning(warning.code, warning.message)

    async def _judge(self, samples: Samples) -> None:
        """At most a second of audio, once the engine has room for it."""
        while self._backlog.samples > MAX_BACKLOG:
            self._room.clear()
            await self._room.wait()
        self._held.append(samples)
        self.received += len(samples)
        probabilities = await self._ear.push(samples)
        # Of what is fed in this moment, an onset above all, the engine has had no time to hear any.
        self._tell_lag()
        self._act(self._gate.process(probabilities, self.received))

    def _act(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Feed(start, end):
                    self._stream.feed(self._held.take(start, end), start)
                    self.fed += end - start
                    self._backlog.feed(start, end)
                case Skip(start, end):
                    self._held.drop(end)
                    self.skipped += end - start
                case Started(at):
                    self._emit(SpeechStarted(at))
                case Stopped(at):
                    self._emit(SpeechStopped(at))
                case Paused():
                    self._stream.end_utterance(self._mark(UtteranceEnded(self.fed + self.skipped)))

    def _mark(self, *then: Event) -> int:
        """A marker, and the events to tell once it has been reached."""
        self._marker += 1
        self._markers[self._marker] = then
        return self._marker

    def _flush(self, last: Iterable[Action], *then: Event) -> int:
        """Bring out all words after the gate's ``last`` actions; the marker of that.

        An utterance that ends here has no trail behind it, so the flush is what ends it: a mark for
        the pause alone would part its last words from it.
        """
        actions = list(last)
        ended = [UtteranceEnded(self.received)] if Paused() in actions else []
        self._act(action for action in actions if not isinstance(action, Paused))
        mark = self._mark(*ended, *then)
        self._stream.flush(mark)
        return mark

    async def _reconfigure(self, listen: OpenIntake, then: Event) -> None:
        mark = self._flush(self._gate.finish(self.received), then)
        while mark in self._markers:
            self._room.clear()
            await self._room.wait()
        self._ingest.close()
        self._ear.close()
        self._ingest, self._ear, self._gate = listen(self._stream.trail, self.received)

    def _finish(self) -> None:
        self._stopped = True
        self._final = self._flush(self._gate.finish(self.received))

    # What the engine answers.

    def sink(self, message: Message) -> None:
        """Take a message on the engine's thread."""
        if not self._over:
            self._answers.put(message)

    def _answer(self, message: Message) -> None:
        if self._over:
            return
        match message:
            case Committed(words):
                ready = self._replacer.push(words) if self._replacer else words
                self._emit(self._transcript.commit(ready))
            case Drafted(text):
                draft = self._replacer.draft(text) if self._replacer else text
                self._emit(self._transcript.draft(draft))
            case Progressed(upto):
                self.processed = max(self.processed, upto)
                self._backlog.progress(upto)
                if self._replacer:
                    self._emit(self._transcript.commit(self._replacer.progress(upto)))
                self._room.set()
                self._tell_lag()
            case Reached(marker):
                self._reached(marker)
            case Failed(code, text):
                self._end(SessionError(code, text))

    def _reached(self, marker: int) -> None:
        self._emit(self._transcript.draft(""))
        if self._replacer:
            self._emit(self._transcript.commit(self._replacer.flush()))
        self._emit(self._transcript.close(self.received))
        for event in self._markers.pop(marker):
            self._emit(event)
        self._room.set()
        if marker == self._final:
            self._end(*filter(None, [self._epitaph]))

    def _tell_lag(self) -> None:
        self._emit(self._lag.next(self._backlog.samples, self._loop.time()))

    def _emit(self, event: Event | None) -> None:
        if event is not None and not self._outbox.put(event, self._source):
            self._end(SessionError("slow_client", "the client does not read what it is sent"))

    def _end(self, *errors: SessionError) -> None:
        if self._over:
            return
        self._over = self._stopped = True
        self._ended.set()
        self._outbox.close(*errors, SessionClosed(self.received), source=self._source)
        self._stream.close()
        self._ingest.close()
        self._ear.close()
        self._inbox.clear()
        if self._task is not asyncio.current_task():
            self._task.cancel()
        self._on_done(self)
