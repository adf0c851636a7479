"""WhisperLive's, EchoPanel's and Wyoming's protocols over real sockets, abused and shut down."""

import asyncio
import signal
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from support.clips import clip
from support.server import Server, serving
from support.talk import (
    AUDIO_START,
    BEGIN,
    OPTIONS,
    OVER,
    PANEL,
    PORTS,
    STOP,
    WHISPER,
    call,
    chunk,
    completed,
    outcome,
    panel_finals,
    transcripts,
    utterance,
    wyoming,
)
from support.wire import START, dial, listen, live, receive, receive_until, s16le, send
from websockets.exceptions import InvalidStatus
from wyoming.audio import AudioStart
from wyoming.event import Event, async_read_event, async_write_event

SAMPLES = clip("doctor").samples
SPEECH = s16le(SAMPLES)
UTTERANCE = utterance(SPEECH)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*PORTS, "--max-sessions", "4") as running:
        yield running


async def test_eight_bit_audio_is_understood(server):
    quiet = np.clip(np.rint(SAMPLES * 128 + 128), 0, 255).astype("u1").tobytes()
    theirs = await outcome(server, WHISPER, {**OPTIONS, "audio_format": "uint8"}, quiet, OVER)
    assert len(completed(theirs).split()) > 3


async def test_two_sources_of_a_panel_are_two_texts(server):
    other = s16le(clip("market").samples)
    expected = [(await live(server.ws, one)).of("done")[0]["text"] for one in (SPEECH, other)]
    frames = []
    for at in range(0, max(len(SPEECH), len(other)), 3200):
        frames += [b"EP\1\0" + SPEECH[at : at + 3200], b"EP\1\1" + other[at : at + 3200]]
    heard = await outcome(server, PANEL, BEGIN, *frames, STOP)
    assert [panel_finals(heard, "system"), panel_finals(heard, "mic")] == expected
    assert {message["source"] for message in heard.of("metrics")} <= {"system", "mic"}
    [summary] = heard.of("final_summary")
    starts = [said["t0"] for said in summary["json"]["transcript"]]
    assert starts == sorted(starts)
    assert len(summary["markdown"].splitlines()) == 2 + len(starts)
    await server.until(in_use=0)


async def test_the_port_is_for_websockets_and_any_path_of_it(server):
    theirs = server.others["WhisperLive"]
    answer = await asyncio.to_thread(httpx.get, theirs.replace("ws", "http", 1) + "/anything")
    assert answer.status_code == 426
    async with dial(f"{theirs}/some/path?x=1") as client:
        await send(client, OPTIONS)
        assert (await receive(client))["message"] == "SERVER_READY"
    with pytest.raises(InvalidStatus):
        async with dial(theirs, origin="https://elsewhere.example"):
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
async def test_whisper_lives_clients_are_told_what_was_wrong(server, frames, close):
    heard = await outcome(server, WHISPER, *frames)
    assert heard.messages[-1]["status"] == "ERROR"
    assert heard.code == close
    await server.until(in_use=0)


@pytest.mark.parametrize(
    ("frames", "close"),
    [
        ([{**BEGIN, "sample_rate": 48_000}], 4400),
        ([BEGIN, bytes(10_000_000)], 1009),
        ([BEGIN, "x" * 12_000_000], 1009),
    ],
)
async def test_a_panel_is_told_what_was_wrong(server, frames, close):
    heard = await outcome(server, PANEL, *frames)
    last = heard.messages[-1]
    assert last["type"] == "error" or last["state"] == "error"
    assert heard.code == close
    await server.until(in_use=0)


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
async def test_wyomings_clients_are_told_what_was_wrong_and_let_go(server, frames, code):
    heard = await wyoming(server, *frames)
    assert [event.data["code"] for event in heard if event.type == "error"] == [code]
    await server.until(in_use=0)


async def test_garbage_after_the_start_is_refused_and_the_session_goes_on(server):
    theirs = await outcome(server, WHISPER, OPTIONS, SPEECH, "nonsense", OVER)
    assert "doctor" in completed(theirs)
    assert [m["status"] for m in theirs.messages if "status" in m] == ["WARNING"]
    heard = await outcome(
        server, PANEL, BEGIN, "nonsense", b"EP\1\0" + SPEECH, '{"type": "x"}', STOP
    )
    assert "doctor" in panel_finals(heard)
    assert [m["state"] for m in heard.of("status")].count("warning") == 2
    assert "doctor" in transcripts(await wyoming(server, Event("unheard-of"), *UTTERANCE))[0]


async def test_a_full_server_refuses_in_each_protocols_own_words(small):
    async with dial(f"{small.ws}/v1/live") as first:
        await send(first, START)
        await receive(first)
        theirs = await outcome(small, WHISPER, OPTIONS)
        assert theirs.messages == [{"uid": "u", "status": "WAIT", "message": 1}]
        heard = await outcome(small, PANEL)
        assert (heard.messages[-1]["state"], heard.code) == ("error", 1013)
        [error] = await wyoming(small, *UTTERANCE[:1])
        assert (error.type, error.data["code"]) == ("error", "server_full")
        await send(first, {"type": "stop"})
        assert not (await listen(first)).errors
    # A panel's second source may find no room: the first one goes on.
    heard = await outcome(small, PANEL, BEGIN, SPEECH, b"EP\1\1" + SPEECH, STOP)
    assert "doctor" in panel_finals(heard)
    assert [m["state"] for m in heard.of("status")].count("warning") == 1
    assert heard.of("final_summary")
    assert heard.code == 1000


async def test_sigterm_lets_the_tail_out_everywhere():
    with serving(*PORTS, "--max-sessions", "3") as server:
        async with (
            dial(server.others["WhisperLive"]) as theirs,
            dial(f"{server.ws}{PANEL}") as board,
            call(server) as (reader, writer),
            call(server) as (idle, _),
        ):
            short = s16le(clip("yes").samples)
            await send(theirs, OPTIONS, short)
            await send(board, BEGIN, short)
            for event in (AUDIO_START, chunk(short)):
                await async_write_event(event, writer)
            while (await async_read_event(reader)).type != "voice-started":
                pass
            await receive_until(board, "status")
            await receive(theirs)
            await server.until(in_use=3)
            server.process.send_signal(signal.SIGTERM)
            heard, shown = await asyncio.gather(listen(theirs), listen(board))
            said = []
            while event := await async_read_event(reader):
                said.append(event)
            assert await idle.read() == b""
        assert "yes" in completed(heard)
        assert heard.messages[-1] == {"uid": "u", "message": "DISCONNECT"}
        assert "yes" in panel_finals(shown)
        assert shown.of("final_summary")
        assert heard.code == shown.code == 1012
        assert "yes" in transcripts(said)[0]
        assert server.process.wait(30) == 0


async def test_keys_hold_on_every_port():
    with serving(*PORTS, "--wyoming-allow", "127.0.0.1", "--api-key", "secret-key-of-16") as server:
        theirs = server.others["WhisperLive"]
        for url, options in [
            (f"{theirs}?token=secret-key-of-16", {}),
            (theirs, {"additional_headers": {"Authorization": "Bearer secret-key-of-16"}}),
        ]:
            async with dial(url, **options) as client:
                await send(client, OPTIONS)
                assert (await receive(client))["message"] == "SERVER_READY"
        with pytest.raises(InvalidStatus) as refused:
            async with dial(theirs):
                pass
        assert refused.value.response.status_code == 401
        async with dial(
            f"{server.ws}{PANEL}", additional_headers={"x-echopanel-token": "secret-key-of-16"}
        ) as client:
            assert (await receive(client))["state"] == "connected"
        heard = await outcome(server, PANEL)
        assert (heard.messages[-1]["state"], heard.code) == ("error", 1008)
        assert heard.messages[-1]["code"] == "invalid_api_key"
        assert [event.type for event in await wyoming(server, Event("describe"))] == ["info"]


async def test_an_utterance_that_lasts_too_long_has_its_transcript():
    with serving(*PORTS, "--max-session-minutes", "0.05") as server:
        async with call(server) as (reader, writer):
            for event in UTTERANCE[:2]:
                await async_write_event(event, writer)
            said = [await async_read_event(reader)]
            while said[-1].type != "transcript-stop":
                said.append(await async_read_event(reader))
            assert "doctor" in transcripts(said)[0]
            await server.until(in_use=0)
