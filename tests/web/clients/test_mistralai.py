"""Mistral's own Python client against this server: real speech, real sockets."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
import soxr
from mistralai.client import Mistral
from mistralai.client.models import (
    AudioFormat,
    RealtimeTranscriptionError,
    RealtimeTranscriptionSessionUpdated,
    TranscriptionStreamDone,
    TranscriptionStreamLanguage,
    TranscriptionStreamSegmentDelta,
    TranscriptionStreamTextDelta,
    TurnDetectionConfig,
    TurnDetectionEagerEndEvent,
    TurnDetectionEndEvent,
    TurnDetectionResumeEvent,
    TurnDetectionStartEvent,
)
from mistralai.extra.exceptions import RealtimeTranscriptionWSError
from mistralai.extra.realtime import UnknownRealtimeEvent
from support.clips import clip
from support.encode import encode
from support.scoring import spelt
from support.wire import START, dial, live, receive, s16le, send

MODEL = "voxtral-mini-transcribe-realtime-2602"


@pytest.fixture
def realtime(server):
    return Mistral(api_key="any", server_url=server.url).audio.realtime


async def text_of(server, audio: bytes, **start) -> str:
    """The native protocol's text of the same audio."""
    [done] = (await live(server.ws, audio, **start)).of("done")
    return done["text"]


async def chunks(audio: bytes, size: int = 9600) -> AsyncIterator[bytes]:
    for at in range(0, len(audio), size):
        yield audio[at : at + size]
        await asyncio.sleep(0)


def of(kind, events) -> list:
    return [event for event in events if isinstance(event, kind)]


def deltas(events) -> str:
    return "".join(event.text for event in of(TranscriptionStreamTextDelta, events))


async def until(events_ahead: AsyncIterator, kind) -> list:
    """Events up to the first of a kind, which is the last of the list."""
    events = [await anext(events_ahead)]
    while not isinstance(events[-1], kind):
        events.append(await anext(events_ahead))
    return events


async def test_transcribe_stream_ends_with_a_done_that_has_the_whole_text(server, realtime):
    """The client sends flush and end back to back and reads no further than the first done."""
    audio = s16le(clip("market").samples)
    stream = realtime.transcribe_stream(chunks(audio), MODEL)
    events = [event async for event in stream]
    assert not of(UnknownRealtimeEvent, events)
    done = events[-1]
    assert isinstance(done, TranscriptionStreamDone)
    assert done.text == deltas(events) == await text_of(server, audio)
    assert {"bread", "milk", "total", "less"} <= set(spelt(done.text))
    assert done.language is None
    assert not of(TranscriptionStreamLanguage, events)
    segments = of(TranscriptionStreamSegmentDelta, events)
    assert "".join(segment.text for segment in segments) == done.text
    assert [(s.text, s.start, s.end) for s in done.segments] == [
        (s.text, s.start, s.end) for s in segments
    ]
    starts = [sentence.start for sentence in clip("market").sentences]
    assert [segment.start for segment in segments] == pytest.approx(starts, abs=0.2)
    assert done.usage.prompt_audio_seconds == 8


async def test_a_flush_is_answered_by_a_done_and_the_session_goes_on(server, realtime):
    doctor, train = s16le(clip("doctor").samples), s16le(clip("train").samples)
    async with await realtime.connect(MODEL) as connection:
        assert connection.request_id
        assert connection.audio_format.encoding == "pcm_s16le"
        events_ahead = connection.events()
        texts = []
        for audio in (doctor, train):
            async for chunk in chunks(audio):
                await connection.send_audio(chunk)
            await connection.flush_audio()
            events = await until(events_ahead, TranscriptionStreamDone)
            assert events[-1].text == deltas(events)
            texts.append(events[-1].text)
        assert texts[0] == await text_of(server, doctor)
        assert {"train", "leaves"} <= set(spelt(texts[1]))
        await connection.end_audio()
        [last] = [event async for event in events_ahead]
        assert (last.type, last.text) == ("transcription.done", "")
        await connection._websocket.wait_closed()
        assert connection._websocket.close_code == 1000


@pytest.mark.parametrize(
    ("encoding", "dtype"), [("pcm_s32le", "<i4"), ("pcm_f16le", "<f2"), ("pcm_f32le", "<f4")]
)
async def test_wide_encodings_at_other_rates(server, realtime, encoding, dtype):
    samples = soxr.resample(clip("doctor").samples, 16_000, 44_100).clip(-1, 1)
    scaled = samples * 2**31 if dtype == "<i4" else samples
    audio = np.clip(scaled, -(2.0**31), 2.0**31 - 256).astype(dtype).tobytes()
    fmt = AudioFormat(encoding=encoding, sample_rate=44_100)
    *_, done = [e async for e in realtime.transcribe_stream(chunks(audio), MODEL, fmt)]
    native = encoding.removeprefix("pcm_")
    assert done.text == await text_of(server, audio, format=native, rate=44_100)
    assert {"doctor", "afternoon", "results"} <= set(spelt(done.text))


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
async def test_telephone_encodings(server, realtime, encoding):
    audio = encode(clip("phone").samples, encoding, f"pcm_{encoding}", rate=8000)
    fmt = AudioFormat(encoding=f"pcm_{encoding}", sample_rate=8000)
    *_, done = [e async for e in realtime.transcribe_stream(chunks(audio), MODEL, fmt)]
    assert done.text == await text_of(server, audio, format=encoding, rate=8000)
    assert len(done.text.split()) > 3


async def test_an_update_before_the_audio_is_answered_and_a_later_one_rejected(realtime):
    connecting = realtime.connect(
        MODEL,
        AudioFormat(encoding="pcm_s16le", sample_rate=16_000),
        target_streaming_delay_ms=480,
        language="en",
        context_bias=["voxlive"],
    )
    async with await connecting as connection:
        events_ahead = connection.events()
        *_, updated = await until(events_ahead, RealtimeTranscriptionSessionUpdated)
        assert updated.session.language == "en"
        assert updated.session.target_streaming_delay_ms is None
        await connection.send_audio(bytes(3200))
        await connection.update_session(language="en")
        events = await until(events_ahead, RealtimeTranscriptionError)
        assert events[-1].error.code == 409
        await connection.send_audio(s16le(clip("yes").samples))
        await connection.end_audio()
        events = await until(events_ahead, TranscriptionStreamDone)
        assert "yes" in spelt(events[-1].text)


async def test_turns_are_sent_if_requested(realtime):
    audio = s16le(clip("market").samples)
    turns = TurnDetectionConfig(start_threshold=0.5, end_threshold=0.35, min_silence_ms=400)
    stream = realtime.transcribe_stream(chunks(audio), MODEL, turn_detection=turns)
    events = [event async for event in stream]
    times = [(s.start, s.end) for s in clip("market").sentences]
    starts, ends = of(TurnDetectionStartEvent, events), of(TurnDetectionEndEvent, events)
    assert [event.time_s for event in starts] == pytest.approx([t[0] for t in times], abs=0.3)
    assert [event.time_s for event in ends] == pytest.approx([t[1] for t in times], abs=0.3)
    # With a timeout they end when somebody has finished, here without the words of the pause.
    turns = TurnDetectionConfig(end_timeout_ms=3000)
    stream = realtime.transcribe_stream(chunks(audio), MODEL, turn_detection=turns)
    events = [event async for event in stream]
    starts, ends = of(TurnDetectionStartEvent, events), of(TurnDetectionEndEvent, events)
    assert len(starts) == len(ends) <= len(times)
    assert starts[0].time_s == pytest.approx(times[0][0], abs=0.3)
    assert ends[-1].time_s == pytest.approx(times[-1][1], abs=0.3)
    assert {end.end_reason for end in ends} <= {"threshold", "timeout"}
    likely, resumed = of(TurnDetectionEagerEndEvent, events), of(TurnDetectionResumeEvent, events)
    assert len(resumed) <= len(likely)


@pytest.mark.conforms(
    "Mistral",
    "`language`",
    "works, in any spelling; one that is none: `error` 400, the update has no effect; one that the "
    "engine does not know: `error` 422 and close 4400 at the first audio",
)
async def test_unsupported_options_are_errors(realtime):
    known = {"me": "UklGRg=="}
    stream = realtime.transcribe_stream(chunks(bytes(32_000)), MODEL, speaker_references=known)
    refused = [event async for event in stream]
    assert isinstance(refused[-1], RealtimeTranscriptionError)
    assert "by their voice" in refused[-1].error.message
    unknown = [
        e async for e in realtime.transcribe_stream(chunks(bytes(32_000)), MODEL, language="fr")
    ]
    assert isinstance(unknown[-1], RealtimeTranscriptionError)
    assert unknown[-1].error.code == 422
    with pytest.raises(RealtimeTranscriptionWSError, match="model"):
        await realtime.connect("")


async def test_a_full_server_is_an_error_at_the_handshake(small):
    realtime = Mistral(api_key="any", server_url=small.url).audio.realtime
    async with dial(f"{small.ws}/v1/live") as first:
        await send(first, START)
        await receive(first)
        with pytest.raises(RealtimeTranscriptionWSError, match="sessions") as refused:
            await realtime.connect(MODEL)
        assert refused.value.code == 503
    await small.until(in_use=0)
    waiting = await realtime.connect(MODEL)
    assert not small.health()["in_use"]
    await waiting.close()
