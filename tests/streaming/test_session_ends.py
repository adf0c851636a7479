"""Speech up to the very end of the audio gives what it gives with silence after it.

Every clip is cut at the end of its speech and ended at once in every way that a session has. The
segments, their texts and times must be those of the same clip with 1.5 s of silence behind it, but
for an end that lies in that silence. A small sample runs in ``make test``, the whole in
``make endurance``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from support.clips import Clip, clip, names
from support.held_out import TINY_VOXTRAL, HeldOutRecording, recording, recording_names

from voxlive.checkpoints.resolve import resolve
from voxlive.engines import load_engine
from voxlive.engines.contract import Engine, EngineOptions, StreamOptions
from voxlive.streaming.events import (
    Event,
    Flushed,
    SegmentClosed,
    SessionClosed,
    SpeechStarted,
    SpeechStopped,
    UtteranceEnded,
    Words,
)
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.streaming.service import Service
from voxlive.streaming.session import Session
from voxlive.vad.detector import Silero, VoiceDetector
from voxlive.values import SAMPLE_RATE, Samples

SEED = 12
SILENCE = np.zeros(SAMPLE_RATE * 3 // 2, np.float32)
FORMAT = AudioFormat("f32le", SAMPLE_RATE)
ENGINES = {"voxtral": str(TINY_VOXTRAL), "whisper": "whisper-tiny.en"}
SESSIONS = {"voxtral": 8, "whisper": 8}
# What passes over a growing utterance commit depends on when they are made.
STREAMS = {
    "voxtral": StreamOptions(drafts=False),
    "whisper": StreamOptions(drafts=False, commit="pause"),
}


@dataclass(frozen=True)
class SessionRun:
    """A session and its service; ``ended`` is set by UtteranceEnded at the end of the audio."""

    service: Service
    session: Session
    options: SessionOptions
    ended: asyncio.Event

    async def push(self, audio: Samples) -> None:
        data = audio.astype("<f4").tobytes()
        for at in range(0, len(data), 1 << 16):
            await self.session.push(data[at : at + (1 << 16)])


async def stop(talk: SessionRun) -> None:
    """Stop, CloseStream, the end of a file."""


async def flush(talk: SessionRun) -> None:
    """A commit or a Finalize, and then the end."""
    await talk.session.flush("now")


async def flush_twice(talk: SessionRun) -> None:
    await talk.session.flush("now")
    await talk.session.flush("again")


async def flush_and_continue(talk: SessionRun) -> None:
    """A Finalize of a client whose microphone stays open."""
    await talk.session.flush("now")
    await talk.push(SILENCE)


async def reconfigure(talk: SessionRun) -> None:
    """A session.update or, with the detector's turns, a commit."""
    await talk.service.reconfigure(talk.session, talk.options, "now")


async def reconfigure_and_continue(talk: SessionRun) -> None:
    await talk.service.reconfigure(talk.session, talk.options, "now")
    await talk.push(SILENCE)


async def stall(talk: SessionRun) -> None:
    """A client that sends nothing more, and goes later."""
    await talk.ended.wait()


async def drain(talk: SessionRun) -> None:
    """The server's shutdown."""
    await talk.session.drain()


End = Callable[[SessionRun], Coroutine[None, None, None]]
ENDS: dict[str, End] = {
    end.__name__: end
    for end in (
        stop,
        flush,
        flush_twice,
        flush_and_continue,
        reconfigure,
        reconfigure_and_continue,
        stall,
        drain,
    )
}


def speech_clips() -> dict[str, Clip | HeldOutRecording]:
    """Every clip in which somebody speaks, by name."""
    ours = {name: clip(name) for name in names() if clip(name).sentences}
    return ours | {name: recording(name) for name in recording_names()}


def up_to_the_end(spoken: Clip | HeldOutRecording) -> Samples:
    """What is heard up to the end of the speech."""
    return spoken.samples[: int(spoken.sentences[-1].end * SAMPLE_RATE)]


def sample(engine: str) -> str:
    """The clip of the small run, another one for each engine."""
    short = sorted(name for name, one in speech_clips().items() if one.sentences[-1].end < 3)
    return random.Random(f"{SEED} {engine}").choice(short)


def sampled_ends(engine: str) -> dict[str, End]:
    """A quarter of the ends for Voxtral, which takes longer, and the others for Whisper."""
    quarter = random.Random(SEED).sample(list(ENDS), len(ENDS) // 4)
    return {name: end for name, end in ENDS.items() if (name in quarter) == (engine == "voxtral")}


async def events_of(
    service: Service, audio: Samples, end: End, stream: StreamOptions
) -> list[Event]:
    """All events of a session with this audio, ended in this way."""
    stall_s = 0.5 if end is stall else 600.0
    options = SessionOptions(FORMAT, stream=stream, stall_s=stall_s)
    talk = SessionRun(service, service.open(options), options, asyncio.Event())

    async def speak() -> None:
        await talk.push(audio)
        await end(talk)
        await talk.session.stop()

    speaking, events = asyncio.create_task(speak()), []
    async for event in talk.session.events():
        events.append(event)
        if isinstance(event, UtteranceEnded) and event.upto >= len(audio):
            talk.ended.set()
    talk.ended.set()  # a session that failed has no more utterances
    await speaking
    return events


def segments(events: list[Event], upto: int) -> list[tuple[int, int, str]]:
    """Start, end and text of each; an end beyond ``upto`` is taken for that."""
    closed = [event for event in events if isinstance(event, SegmentClosed)]
    return [(one.start, min(one.end, upto), one.text) for one in closed]


def check_order(events: list[Event]) -> None:
    """What must hold of every session's events."""
    received = events[-1].samples if isinstance(events[-1], SessionClosed) else 0
    unclosed: list[str] = []
    for event in events:
        match event:
            case Words(_, words):
                unclosed += [word.text for word in words]
                assert all(word.start <= word.end <= received for word in words)
            case SegmentClosed(_, start, end, text):
                assert text == "".join(unclosed)
                assert 0 <= start <= end <= received
                unclosed.clear()
            case Flushed() | UtteranceEnded() | SessionClosed():
                assert not unclosed, f"{unclosed} come after what ends them: {event}"
    marks = [type(e) for e in events if isinstance(e, SpeechStarted | SpeechStopped)]
    assert marks == [SpeechStarted, SpeechStopped] * (len(marks) // 2)


async def check_clip(
    service: Service, audio: Samples, engine: str, ends: dict[str, End] = ENDS
) -> None:
    """These ends of one clip, as many beside each other as there are sessions."""
    places = asyncio.Semaphore(SESSIONS[engine])

    async def run(audio: Samples, end: End) -> list[Event]:
        async with places:
            return await events_of(service, audio, end, STREAMS[engine])

    expected, *found = await asyncio.gather(
        run(np.concatenate([audio, SILENCE]), stop), *(run(audio, end) for end in ends.values())
    )
    check_order(expected)
    for name, events in zip(ends, found, strict=True):
        check_order(events)
        wanted, got = segments(expected, len(audio)), segments(events, len(audio))
        assert got == wanted, name


# What protocols say of utterances that end at once is tried with Voxtral: test_utterance_ends.py.
@pytest.fixture(
    scope="module", params=[pytest.param("voxtral", marks=pytest.mark.endurance), "whisper"]
)
def engine(request: pytest.FixtureRequest) -> Iterator[tuple[str, Engine]]:
    options = EngineOptions(max_sessions=SESSIONS[request.param], device="cpu")
    loaded = load_engine(resolve(ENGINES[request.param]), options)
    yield request.param, loaded
    loaded.shutdown()


@pytest.fixture
async def service(engine: tuple[str, Engine]) -> AsyncIterator[Service]:
    detector = VoiceDetector(Silero())
    yield Service(engine[1], detector)
    detector.close()


@pytest.mark.timeout(600)
async def test_a_clip_of_a_sample_is_the_same_however_it_ends(
    engine: tuple[str, Engine], service: Service
) -> None:
    name, _ = engine
    await check_clip(service, up_to_the_end(speech_clips()[sample(name)]), name, sampled_ends(name))


@pytest.mark.endurance
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", list(speech_clips()))
async def test_every_clip_is_the_same_however_it_ends(
    engine: tuple[str, Engine], service: Service, name: str
) -> None:
    await check_clip(service, up_to_the_end(speech_clips()[name]), engine[0])
