"""Wyoming's protocol over real sockets."""

import pytest
from support.clips import clip
from support.server import serving
from support.talk import (
    AUDIO_START,
    PORTS,
    call,
    transcripts,
    utterance,
    wyoming,
)
from support.wire import s16le
from wyoming.audio import AudioStart
from wyoming.event import Event, async_read_event, async_write_event

SPEECH = s16le(clip("doctor").samples)
UTTERANCE = utterance(SPEECH)


@pytest.mark.conforms(
    "Wyoming",
    "a failure, a full server, 30 s without audio in an utterance",
    "`error` with a `code`, and the connection ends",
)
@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"nonsense\n"], "bad_message"),
        ([bytes(100_000)], "too_big"),
        ([b'{"type": "audio-chunk", "payload_length": 99999999}\n'], "too_big"),
        ([b'{"type": "x", "data_length": 99999999}\n'], "too_big"),
        ([AudioStart(100, 2, 1).event()], "bad_message"),
        (
            [AUDIO_START, Event("audio-chunk", {"rate": 1, "width": 2, "channels": 1})],
            "bad_message",
        ),
    ],
)
async def test_a_fatal_error_is_named_and_closes(ports_server, frames, code):
    events = await wyoming(ports_server, *frames)
    assert [event.data["code"] for event in events if event.type == "error"] == [code]
    await ports_server.until(in_use=0)


async def test_an_unknown_event_changes_nothing(ports_server):
    assert "doctor" in transcripts(await wyoming(ports_server, Event("unheard-of"), *UTTERANCE))[0]


async def test_an_utterance_that_lasts_too_long_has_its_transcript():
    with serving(*PORTS, "--max-session-minutes", "0.05") as server:
        async with call(server) as (reader, writer):
            for event in UTTERANCE[:2]:
                await async_write_event(event, writer)
            events = [await async_read_event(reader)]
            while events[-1].type != "transcript-stop":
                events.append(await async_read_event(reader))
            assert "doctor" in transcripts(events)[0]
            await server.until(in_use=0)
