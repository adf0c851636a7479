"""WhisperLive's, EchoPanel's and Wyoming's protocols over real sockets, abused and shut down."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest
from support.clips import clip
from support.server import Server, serving
from support.wire import START, Heard, dial, listen, live, receive, receive_until, s16le, send
from websockets.exceptions import InvalidStatus
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event, async_read_event, async_write_event

SAMPLES = clip("doctor").samples
SPEECH = s16le(SAMPLES)
FLOATS = SAMPLES.astype("<f4").tobytes()
OPTIONS = {"uid": "u", "language": "en"}
PANEL = "/ws/live-listener"
BEGIN = {"type": "start", "session_id": "s", "sample_rate": 16_000, "format": "pcm_s16le"}
STOP = {"type": "stop", "session_id": "s"}
PORTS = ("--whisper-live-port", "0", "--wyoming-port", "0")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*PORTS, "--max-sessions", "4") as running:
        yield running


def chunk(audio: bytes) -> Event:
    return AudioChunk(16_000, 2, 1, audio).event()


UTTERANCE = (AudioStart(16_000, 2, 1).event(), chunk(SPEECH), AudioStop().event())


@asynccontextmanager
async def call(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = server.others["Wyoming"].removeprefix("tcp://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def wyoming(server: Server, *frames: Event | bytes) -> list[Event]:
    """What a client hears that sends these, then no more, until the server closes."""
    async with call(server) as (reader, writer):
        for frame in frames:
            if isinstance(frame, bytes):
                writer.write(frame)
            else:
                await async_write_event(frame, writer)
        writer.write_eof()
        heard = []
        while event := await async_read_event(reader):
            heard.append(event)
        return heard


async def whisper(server: Server, *frames) -> Heard:
    async with dial(server.others["WhisperLive"]) as client:
        await send(client, *frames)
        return await listen(client)


async def panel(server: Server, *frames) -> Heard:
    async with dial(f"{server.ws}{PANEL}") as client:
        await send(client, *frames)
        return await listen(client)


def completed(heard: Heard) -> str:
    updates = [message["segments"] for message in heard.messages if "segments" in message]
    return "".join(segment["text"] for segment in updates[-1] if segment["completed"])


def finals(heard: Heard, source: str = "system") -> str:
    return " ".join(m["text"] for m in heard.of("asr_final") if m["source"] == source)


def transcripts(events: list[Event]) -> list[str]:
    return [event.data["text"] for event in events if event.type == "transcript"]


async def test_one_text_through_every_protocol(server):
    native = await live(server.ws, SPEECH)
    text = native.of("done")[0]["text"]
    assert {"doctor", "tomorrow", "results"} <= set(text.split())
    for form, audio in [("float32", FLOATS), ("int16", SPEECH)]:
        theirs = await whisper(server, {**OPTIONS, "audio_format": form}, audio, b"END_OF_AUDIO")
        assert completed(theirs) == text
        assert theirs.code == 1000
    assert transcripts(await wyoming(server, *UTTERANCE)) == [text]
    for frame in (SPEECH, b"EP\1\0" + SPEECH, b"EP\2\0\2" + SPEECH):
        heard = await panel(server, BEGIN, frame, STOP)
        assert finals(heard) == text
        [summary] = heard.of("final_summary")
        assert " ".join(said["text"] for said in summary["json"]["transcript"]) == text
        assert heard.code == 1000
    await server.until(in_use=0)


async def test_eight_bit_audio_is_understood(server):
    quiet = np.clip(np.rint(SAMPLES * 128 + 128), 0, 255).astype("u1").tobytes()
    theirs = await whisper(server, {**OPTIONS, "audio_format": "uint8"}, quiet, b"END_OF_AUDIO")
    assert len(completed(theirs).split()) > 3


async def test_two_sources_of_a_panel_are_two_texts(server):
    other = s16le(clip("market").samples)
    expected = [(await live(server.ws, one)).of("done")[0]["text"] for one in (SPEECH, other)]
    frames = []
    for at in range(0, max(len(SPEECH), len(other)), 3200):
        frames += [b"EP\1\0" + SPEECH[at : at + 3200], b"EP\1\1" + other[at : at + 3200]]
    heard = await panel(server, BEGIN, *frames, STOP)
    assert [finals(heard, "system"), finals(heard, "mic")] == expected
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


@pytest.mark.parametrize(
    ("frames", "close"),
    [
        ([FLOATS[:400]], 4400),
        (["nonsense"], 4400),
        ([{**OPTIONS, "language": "xx"}], 4400),
        ([OPTIONS, bytes(10_000_000)], 1009),
        (["x" * 9_000_000], 1009),
    ],
)
async def test_whisper_lives_clients_are_told_what_was_wrong(server, frames, close):
    heard = await whisper(server, *frames)
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
    heard = await panel(server, *frames)
    last = heard.messages[-1]
    assert last["type"] == "error" or last["state"] == "error"
    assert heard.code == close
    await server.until(in_use=0)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"nonsense\n"], "bad_message"),
        ([bytes(100_000)], "too_big"),
        ([b'{"type": "audio-chunk", "payload_length": 99999999}\n'], "too_big"),
        ([b'{"type": "x", "data_length": 99999999}\n'], "too_big"),
        ([AudioStart(100, 2, 1).event()], "bad_message"),
        (
            [UTTERANCE[0], Event("audio-chunk", {"rate": 1, "width": 2, "channels": 1})],
            "bad_message",
        ),
    ],
)
async def test_wyomings_clients_are_told_what_was_wrong_and_let_go(server, frames, code):
    heard = await wyoming(server, *frames)
    assert [event.data["code"] for event in heard if event.type == "error"] == [code]
    await server.until(in_use=0)


async def test_garbage_after_the_start_is_refused_and_the_session_goes_on(server):
    theirs = await whisper(server, OPTIONS, FLOATS, "nonsense", b"END_OF_AUDIO")
    assert "doctor" in completed(theirs)
    assert [m["status"] for m in theirs.messages if "status" in m] == ["WARNING"]
    heard = await panel(server, BEGIN, "nonsense", b"EP\1\0" + SPEECH, '{"type": "x"}', STOP)
    assert "doctor" in finals(heard)
    assert [m["state"] for m in heard.of("status")].count("warning") == 2
    assert "doctor" in transcripts(await wyoming(server, Event("unheard-of"), *UTTERANCE))[0]


async def vanish(server: Server, place: str, *frames) -> None:
    """Send these and cut the connection without a close."""
    if place == "Wyoming":
        async with call(server) as (_, writer):
            for frame in frames:
                await async_write_event(frame, writer)
            linger = b"\1\0\0\0\0\0\0\0"  # reset the connection at the close
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        return
    async with dial(server.others.get(place) or f"{server.ws}{place}") as client:
        await send(client, *frames)
        client.transport.abort()


STATES = [
    ("WhisperLive",),
    ("WhisperLive", OPTIONS),
    ("WhisperLive", OPTIONS, FLOATS),
    ("WhisperLive", OPTIONS, FLOATS, b"END_OF_AUDIO"),
    (PANEL,),
    (PANEL, BEGIN),
    (PANEL, BEGIN, SPEECH, b"EP\1\1" + SPEECH),
    (PANEL, BEGIN, SPEECH, STOP),
    ("Wyoming",),
    ("Wyoming", Event("describe")),
    ("Wyoming", UTTERANCE[0]),
    ("Wyoming", *UTTERANCE[:2]),
    ("Wyoming", *UTTERANCE),
]


async def test_a_neighbour_is_not_disturbed_by_clients_that_vanish_in_every_state(server):
    alone = await live(server.ws, SPEECH)
    neighbour = asyncio.create_task(live(server.ws, SPEECH, pace=1.0))
    for place, *frames in STATES:
        await vanish(server, place, *frames)
    heard = await neighbour
    assert heard.of("done")[0]["text"] == alone.of("done")[0]["text"]
    assert not heard.errors
    await server.until(in_use=0)


async def test_a_full_server_refuses_in_each_protocols_own_words():
    with serving(*PORTS, "--max-sessions", "1") as server:
        async with dial(f"{server.ws}/v1/live") as first:
            await send(first, START)
            await receive(first)
            theirs = await whisper(server, OPTIONS)
            assert theirs.messages == [{"uid": "u", "status": "WAIT", "message": 1}]
            heard = await panel(server)
            assert (heard.messages[-1]["state"], heard.code) == ("error", 1013)
            [error] = await wyoming(server, *UTTERANCE[:1])
            assert (error.type, error.data["code"]) == ("error", "server_full")
            await send(first, {"type": "stop"})
            assert not (await listen(first)).errors
        # A panel's second source may find no room: the first one goes on.
        heard = await panel(server, BEGIN, SPEECH, b"EP\1\1" + SPEECH, STOP)
        assert "doctor" in finals(heard)
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
            await send(theirs, {**OPTIONS, "audio_format": "int16"}, short)
            await send(board, BEGIN, short)
            for event in (UTTERANCE[0], chunk(short)):
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
        assert "yes" in finals(shown)
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
        heard = await panel(server)
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
