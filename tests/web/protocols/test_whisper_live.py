"""WhisperLive's protocol: the translator alone, then over real sockets."""

import asyncio
import json

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import clip
from support.conversations import ENGLISH, conversations
from support.talk import (
    OPTIONS,
    OVER,
    WHISPER,
    completed,
    outcome,
)
from support.wire import dial, receive, s16le, send
from websockets.exceptions import InvalidStatus

from voxlive.errors import ProtocolError
from voxlive.streaming.events import (
    Draft,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SpeechStarted,
    Words,
)
from voxlive.values import Word
from voxlive.web.protocols.contract import AudioFrame, CloseSocket, Denial, Refuse, StopSession
from voxlive.web.protocols.whisper_live import WhisperLiveProtocol

SPEECH = s16le(clip("doctor").samples)
END = b"END_OF_AUDIO"


def opened(info=ENGLISH, **options) -> WhisperLiveProtocol:
    protocol = WhisperLiveProtocol({}, info)
    [opening] = protocol.received(json.dumps({"uid": "u", **options}))
    protocol.ready = decoded(protocol.opened("id", opening.options))
    protocol.options = opening.options
    return protocol


def decoded(outs) -> list[dict]:
    return [json.loads(out) for out in outs if isinstance(out, str)]


def segments(outs) -> list[list[dict]]:
    return [message["segments"] for message in decoded(outs) if "segments" in message]


@pytest.mark.conforms(
    "WhisperLive",
    "`SERVER_READY`, `segments`",
    "work; the backend is called `faster_whisper`, since clients keep complete segments "
    "of that one alone",
)
@pytest.mark.conforms(
    "WhisperLive",
    "`initial_prompt`, `no_speech_thresh`, `clip_audio`, `same_output_threshold`",
    "ignored",
)
def test_the_options_open_the_session_and_the_server_is_ready():
    protocol = opened()
    assert protocol.options.audio.encoding == "f32le"
    assert protocol.options.gate
    assert protocol.ready == [
        {"uid": "u", "message": "SERVER_READY", "backend": "faster_whisper"},
    ]
    assert opened(language="en").ready == protocol.ready
    assert opened(language="en").options.stream.language == "en"
    ignored = {"model": "small", "hotwords": "a", "initial_prompt": "b", "no_speech_thresh": 0.4}
    ignored |= {"clip_audio": True, "same_output_threshold": 7}
    assert opened(**ignored).options == protocol.options
    assert opened(**ignored).ready == protocol.ready


@pytest.mark.conforms(
    "WhisperLive",
    "`audio_format` `float32`, `int16`, `uint8` at 16 kHz mono; `END_OF_AUDIO`",
    "works",
)
@pytest.mark.parametrize(("audio_format", "encoding"), [("int16", "s16le"), ("uint8", "u8")])
def test_other_sample_formats(audio_format, encoding):
    assert opened(audio_format=audio_format).options.audio.encoding == encoding


@pytest.mark.conforms(
    "WhisperLive",
    "`use_vad`, `vad_parameters`",
    "the threshold, `neg_threshold`, `min_speech_duration_ms`, `min_silence_duration_ms`,"
    " `speech_pad_ms`; the others are ignored",
)
def test_vad_parameters_are_those_of_faster_whisper():
    assert opened(use_vad=False).options.gate is None
    gate = opened(vad_parameters={"threshold": 0.3, "min_silence_duration_ms": 900}).options.gate
    assert (gate.threshold, gate.min_silence_ms) == (0.3, 900)
    assert gate.exit_threshold == pytest.approx(0.15)


@pytest.mark.conforms(
    "WhisperLive",
    "`enable_translation`, `known_speakers`",
    "a `WARNING`, and the session goes on without",
)
def test_unsupported_options_are_warnings_after_ready():
    ready = opened(enable_translation=True, known_speakers=[{"name": "Anna"}]).ready
    assert [message.get("status") for message in ready[:3]] == [None, "WARNING", "WARNING"]


@pytest.mark.parametrize(
    "frame",
    [
        b"\0\0\0\0",
        "nonsense",
        "[]",
        '{"task": "translate"}',
        '{"audio_format": "mp3"}',
        '{"audio_format": 5}',
        '{"uid": 5}',
        '{"send_last_n_segments": 0}',
        '{"vad_parameters": {"threshold": "high"}}',
        '{"vad_parameters": 1}',
        '{"vad_parameters": {"speech_pad_ms": -1}}',
    ],
)
def test_bad_options_are_an_error_and_the_close(frame):
    protocol = WhisperLiveProtocol({}, ENGLISH)
    with pytest.raises(ProtocolError) as raised:
        protocol.received(frame)
    error, close = protocol.failed(raised.value.code, raised.value.message)
    assert json.loads(error)["status"] == "ERROR"
    assert close == CloseSocket(4400)


def test_nothing_is_taken_after_end_of_audio():
    protocol = opened()
    assert protocol.received(b"\1\2\3\4") == [AudioFrame(b"\1\2\3\4")]
    [refusal] = protocol.received("hello")
    assert isinstance(refusal, Refuse)
    [warning] = decoded(protocol.refused(refusal.code, refusal.message))
    assert warning["status"] == "WARNING"
    assert protocol.received(END) == [StopSession()]
    assert protocol.received(b"\1\2\3\4") == []


@pytest.mark.conforms(
    "WhisperLive",
    "a full server",
    "`WAIT`, always with 1 minute: nobody knows how long others will speak",
)
def test_a_full_server_is_a_wait_in_minutes_and_a_wrong_key_an_http_error():
    protocol = opened()
    wait, close = protocol.failed("server_full", "full")
    assert json.loads(wait) == {"uid": "u", "status": "WAIT", "message": 1}
    assert close == CloseSocket(1013, 2.0)
    assert protocol.denied("server_full", "full") is None
    denial = protocol.denied("invalid_api_key", "no")
    assert isinstance(denial, Denial)
    assert denial.status == 401


@pytest.mark.conforms(
    "WhisperLive",
    "`word_timestamps`",
    "works; a probability that the engine does not know is null",
)
def test_a_segment_is_sent_as_incomplete_and_then_as_complete():
    protocol = opened(word_timestamps=True)
    protocol.received(bytes(4 * 32_000))
    assert protocol.on_event(SpeechStarted(1600)) == []
    protocol.on_event(Draft(0, "helo"))
    [[draft]] = segments(protocol.tick())
    assert draft == {"start": "0.100", "end": "2.000", "text": "helo", "completed": False}
    assert protocol.tick() == []
    protocol.on_event(Words(0, (Word("Hello", 1600, 8000, 0.91234), Word(" you", 8000, 16_000))))
    protocol.on_event(Draft(0, ""))
    [[before], [after]] = segments(protocol.on_event(SegmentClosed(0, 1600, 16_000, "Hello you")))
    assert after == {**before, "completed": True}
    assert after == {
        "start": "0.100",
        "end": "1.000",
        "text": "Hello you",
        "completed": True,
        "words": [
            {"word": "Hello", "start": "0.100", "end": "0.500", "probability": 0.9123},
            {"word": " you", "start": "0.500", "end": "1.000", "probability": None},
        ],
    }


def test_an_empty_draft_replaces_the_one_before():
    protocol = opened()
    protocol.on_event(Draft(0, "noise"))
    protocol.tick()
    protocol.on_event(Draft(0, ""))
    [[empty]] = segments(protocol.tick())
    assert empty["text"] == ""
    protocol.on_event(Words(0, (Word("Yes", 0, 1600),)))
    protocol.on_event(SegmentClosed(0, 0, 1600, "Yes"))
    protocol.on_event(Draft(1, " noise"))
    protocol.tick()
    protocol.on_event(Draft(1, ""))
    [[last]] = segments(protocol.tick())
    assert (last["text"], last["completed"]) == ("Yes", False)


@pytest.mark.conforms(
    "WhisperLive",
    "`send_last_n_segments`",
    "works",
)
def test_an_update_repeats_so_many_complete_segments():
    protocol = opened(send_last_n_segments=2)
    for n in range(4):
        protocol.on_event(Words(n, (Word(f" {n}", n * 1600, n * 1600 + 800),)))
        *_, update = segments(protocol.on_event(SegmentClosed(n, 0, 0, f" {n}")))
    assert [segment["text"] for segment in update] == [" 2", " 3"]


def test_shutdown_is_a_disconnect_after_the_last_words():
    for ended in (False, True):
        protocol = opened()
        protocol.on_event(Words(0, (Word("Hi", 0, 1600),)))
        if ended:
            protocol.received(END)
        assert protocol.on_event(SessionError("shutting_down", "soon", fatal=False)) == []
        outs = protocol.on_event(SessionClosed(1600))
        assert segments(outs)[-1][-1]["completed"]
        assert outs[-1] == CloseSocket(1000 if ended else 1012)
        assert (decoded(outs)[-1].get("message") == "DISCONNECT") is not ended


@pytest.mark.conforms(
    "WhisperLive",
    "complete segments",
    "each word once: at a pause, at the end, or after ten seconds of speech; joined they "
    "are the text. Each comes first as the last, incomplete one with the same text",
)
@given(conversations(), st.data())
def test_complete_segments_are_the_words_in_order_and_never_change(events, data):
    protocol = opened(send_last_n_segments=1000)
    outs = []
    for event in events:
        outs += protocol.on_event(event)
        if not isinstance(event, SessionClosed) and data.draw(st.booleans()):
            outs += protocol.tick()
    assert outs[-1] == CloseSocket(1000)
    complete: list[dict] = []
    last = {}
    for update in segments(outs):
        done = [segment for segment in update if segment["completed"]]
        *rest, _ = update
        assert all(segment["completed"] for segment in rest)
        # All of them, one of which may be sent as incomplete once.
        assert done[: len(complete)] == complete[: len(done)]
        assert len(done) >= len(complete) - 1
        complete = max(complete, done, key=len)
        last = update[-1] if not update[-1]["completed"] else last
    text = "".join(event.text for event in events if isinstance(event, Words))
    assert "".join(segment["text"] for segment in complete) == text
    times = [float(segment[edge]) for segment in complete for edge in ("start", "end")]
    assert times == sorted(times)
    # A client appends the last incomplete one that it saw unless it is the last complete one.
    if complete and last:
        assert last["text"] == complete[-1]["text"]


async def test_eight_bit_audio_is_transcribed(ports_server):
    quiet = np.clip(np.rint(clip("doctor").samples * 128 + 128), 0, 255).astype("u1").tobytes()
    result = await outcome(ports_server, WHISPER, {**OPTIONS, "audio_format": "uint8"}, quiet, OVER)
    assert len(completed(result).split()) > 3


async def test_the_port_takes_websockets_on_any_path(ports_server):
    url = ports_server.others["WhisperLive"]
    answer = await asyncio.to_thread(httpx.get, url.replace("ws", "http", 1) + "/anything")
    assert answer.status_code == 426
    async with dial(f"{url}/some/path?x=1") as client:
        await send(client, OPTIONS)
        assert (await receive(client))["message"] == "SERVER_READY"
    with pytest.raises(InvalidStatus):
        async with dial(url, origin="https://elsewhere.example"):
            pass


@pytest.mark.conforms(
    "WhisperLive",
    "`language`",
    "works, in any spelling; one that the engine does not know: `ERROR`, close 4400. None is said "
    "back: no live engine says which language it recognises",
)
@pytest.mark.parametrize(
    ("frames", "close"),
    [
        ([SPEECH[:400]], 4400),
        (["nonsense"], 4400),
        ([{**OPTIONS, "language": "fr"}], 4400),
        ([OPTIONS, bytes(10_000_000)], 1009),
        (["x" * 9_000_000], 1009),
    ],
)
async def test_a_fatal_error_is_named_and_closes(ports_server, frames, close):
    result = await outcome(ports_server, WHISPER, *frames)
    assert result.messages[-1]["status"] == "ERROR"
    assert result.code == close
    await ports_server.until(in_use=0)


async def test_garbage_after_the_start_is_refused_and_the_session_goes_on(ports_server):
    result = await outcome(ports_server, WHISPER, OPTIONS, SPEECH, "nonsense", OVER)
    assert "doctor" in completed(result)
    assert [m["status"] for m in result.messages if "status" in m] == ["WARNING"]
