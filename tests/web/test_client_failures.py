"""Clients that violate the protocol or disconnect: each gets a typed error, others go on."""

import asyncio
import random
import socket
from collections import deque
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from support.clips import clip
from support.encode import encode
from support.server import AT_PAUSES, Server, serving
from support.talk import (
    BEGIN,
    CLOSE,
    DEEPGRAM,
    END,
    FINALIZE,
    FLUSH,
    FLUX,
    FORCE_END,
    MISTRAL,
    OPTIONS,
    OVER,
    PANEL,
    PORTS,
    STOP,
    WHISPER,
    WYOMING,
    Frame,
    append,
    call,
    connect,
    mistral_append,
    outcome,
    utterance,
)
from support.wire import START, ServerOutput, asr, dial, listen, live, receive, s16le, send
from wyoming.event import Event, async_write_event

from voxlive.web.protocols import PROTOCOLS

SPEECH = s16le(clip("yes").samples)

JUNK = random.Random(3).randbytes(5000)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*PORTS, *AT_PAUSES) as running:
        yield running


@pytest.mark.parametrize(
    ("frames", "code", "close"),
    [
        ([b"\0\0"], "bad_start", 4400),
        (["nonsense"], "bad_start", 4400),
        ([{"type": "stop"}], "bad_start", 4400),
        ([{**START, "rate": "fast"}], "bad_start", 4400),
        ([{**START, "rate": 100}], "bad_start", 4400),
        ([{**START, "vad": {"threshold": 7}}], "bad_start", 4400),
        ([{**START, "language": "fr"}], "unsupported_option", 4400),
        ([{**START, "language": "xx"}], "bad_start", 4400),
        ([START, bytes(10_000_000)], "too_big", 1009),
        ([START, "x" * 100_000], "too_big", 1009),
        (["x" * 100_000], "too_big", 1009),
        (
            [{"type": "start", "format": "container"}, random.Random(3).randbytes(5000)],
            "bad_audio",
            4400,
        ),
    ],
)
async def test_fatal_errors_are_reported_and_close_the_socket(server, frames, code, close):
    heard = await outcome(server, "/v1/live", *frames)
    assert heard.errors == [code]
    assert heard.of("error")[0]["fatal"] is True
    assert heard.code == close


@pytest.mark.parametrize("frame", ["nonsense", "[1]", '{"type": "start"}', '{"type": "flush"}'])
async def test_a_bad_message_after_start_is_refused_and_the_session_goes_on(server, frame):
    heard = await outcome(server, "/v1/live", START, frame, SPEECH, {"type": "stop"})
    assert heard.errors == ["bad_message"]
    assert heard.of("done")
    assert heard.code == 1000


async def test_asr_reports_text_frames_and_bad_parameters(server):
    heard = await outcome(server, "/asr", "hello", SPEECH, b"")
    assert heard.errors == ["bad_message"]
    assert heard.of("ready_to_stop")
    assert heard.of(None)[-1]["lines"]
    for query in ("?mode=delta", "?target_language=fr", "?language=xx", "?language=fr"):
        heard = await asr(server.ws, SPEECH, query=query)
        assert len(heard.errors) == 1
        assert heard.code == 4400


@pytest.mark.parametrize(("container", "codec"), [("flac", "flac"), ("wav", "pcm_s16le")])
async def test_a_truncated_container_is_transcribed_with_a_warning(server, container, codec):
    media = encode(clip("doctor").samples, container, codec)
    heard = await live(server.ws, media[: len(media) * 3 // 4], format="container")
    assert [warning["code"] for warning in heard.of("warning")] == ["cut_off"]
    assert not heard.errors
    assert heard.of("words")
    assert heard.of("done")
    assert heard.code == 1000


async def vanish(server: Server, place: str, *frames: Frame | Event) -> None:
    """Send frames and cut the connection without a close."""
    if place == WYOMING:
        async with call(server) as (_, writer):
            for frame in frames:
                await async_write_event(frame, writer)
            linger = b"\1\0\0\0\0\0\0\0"  # reset the connection at the close
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        return
    async with connect(server, place) as client:
        await send(client, *frames)
        client.transport.abort()


PART = SPEECH[: len(SPEECH) // 3]
COMMIT = {"type": "input_audio_buffer.commit"}
VLLM = {"type": "session.update", "model": "any"}
WEBM = b"\x1a\x45\xdf\xa3"
AUDIO_START, CHUNK, _ = UTTERANCE = utterance(SPEECH)

# What a client had said when it was gone, at every place.
STATES: dict[str, list[tuple[Frame | Event, ...]]] = {
    "/v1/live": [
        (),
        (START,),
        (START, SPEECH),
        (START, PART),
        (START, SPEECH, {"type": "flush", "id": "a"}),
        (START, SPEECH, {"type": "stop"}),
        ({"type": "start", "format": "container"}, WEBM),
    ],
    "/asr": [(), (WEBM[:2],), (SPEECH,), (SPEECH, b"")],
    "/v1/realtime": [
        (),
        ({"type": "session.update", "session": {}},),
        (append(SPEECH),),
        (append(SPEECH), COMMIT, append(SPEECH)),
        (append(SPEECH), {"type": "input_audio_buffer.clear"}),
        (VLLM, append(SPEECH), {**COMMIT, "final": True}),
    ],
    MISTRAL: [
        (),
        ({"type": "session.update", "session": {}},),
        (mistral_append(SPEECH),),
        (mistral_append(PART), FLUSH),
        (mistral_append(SPEECH), FLUSH, END),
    ],
    DEEPGRAM: [(), (SPEECH,), (PART, FINALIZE), (SPEECH, FINALIZE, CLOSE)],
    "/v1/listen": [(WEBM,)],
    FLUX: [(), (PART, FORCE_END), (SPEECH, CLOSE)],
    WHISPER: [(), (OPTIONS,), (OPTIONS, SPEECH), (OPTIONS, SPEECH, OVER)],
    PANEL: [(), (BEGIN,), (BEGIN, SPEECH, b"EP\1\1" + SPEECH), (BEGIN, SPEECH, STOP)],
    WYOMING: [(), (Event("describe"),), (AUDIO_START,), (AUDIO_START, CHUNK), UTTERANCE],
}
VANISHED = [(place, *frames) for place, states in STATES.items() for frames in states]


def test_every_protocol_is_covered():
    assert {place.partition("?")[0] for place in STATES} == {*PROTOCOLS, WHISPER, WYOMING}


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("laps", "count", "most_mb"),
    [(0, 20, 60), pytest.param(2, 200, 20, marks=pytest.mark.endurance)],
)
async def test_clients_that_disconnect_in_any_state_affect_no_session_and_leak_nothing(
    server, laps, count, most_mb
):
    """Beside a session in each state once; then what is kept of ``count`` of them is counted.

    ``laps`` more through every state come before. A thread of the engine's whose first pass comes
    late takes 40 MB by it, once.
    """
    audio = s16le(clip("doctor").samples)
    alone = await live(server.ws, audio)
    await server.until(in_use=0)
    left = deque(VANISHED)
    while left:
        neighbour = asyncio.create_task(live(server.ws, audio, pace=1.0))
        await asyncio.sleep(0.5)
        while left and not neighbour.done():
            await vanish(server, *left.popleft())
            await server.until(at_most=1)
        heard = await neighbour
        assert heard.of("done") == [alone.of("done")[0] | {"seq": len(heard.messages) - 1}]
        assert not heard.errors
    await server.until(in_use=0)

    process = psutil.Process(server.process.pid)

    async def rounds(count: int) -> None:
        for n in range(count):
            await vanish(server, *VANISHED[n % len(VANISHED)])
            await server.until(in_use=0)

    def footprint() -> tuple[int, int, int]:
        children = process.children(recursive=True)
        memory = sum(p.memory_full_info().uss for p in (process, *children))
        return len(children), process.num_fds(), memory >> 20

    await rounds(laps * len(VANISHED))
    before = footprint()
    await rounds(count)
    after = footprint()
    assert after[0] == before[0]
    assert after[1] <= before[1] + 5
    assert after[2] <= before[2] + most_mb
    assert (await live(server.ws, SPEECH)).of("done")


async def test_a_client_beyond_capacity_is_refused_and_the_others_go_on(small):
    async with dial(f"{small.ws}/v1/live") as first:
        await send(first, START)
        assert (await receive(first))["type"] == "ready"
        # While a session of another test can still be resumed, /v1/live refuses after the start.
        for path, *frames in (("/v1/live", START), ("/asr",)):
            heard = await outcome(small, path, *frames)
            assert heard.errors == ["server_full"]
            assert heard.code == 1013
        # Files are read in a process of their own, and take no live session's place.
        read = await asyncio.to_thread(
            httpx.post,
            f"{small.url}/v1/audio/transcriptions",
            files={"file": clip("yes").path.read_bytes()},
            timeout=60,
        )
        assert read.status_code == 200
        assert small.health()["status"] == "ok"
        await send(first, SPEECH, {"type": "stop"})
        heard = await listen(first)
        assert heard.of("done")
        assert not heard.errors
    await small.until(in_use=0)
    assert (await live(small.ws, SPEECH)).code == 1000


async def flooding(server: Server, line: socket.socket) -> ServerOutput:
    """What a client has that reads nothing of the answers to all that it sends."""
    async with dial(f"{server.ws}/v1/live", sock=line, max_queue=1) as client:
        await send(client, START)
        assert (await receive(client))["type"] == "ready"

        async def write() -> None:
            while True:
                await client.send("not a message, and answered every time")

        writing = asyncio.create_task(write())
        await server.until(in_use=0)
        writing.cancel()
        return await listen(client)


@pytest.mark.endurance
async def test_a_slow_client_is_closed_and_its_slot_freed(small):
    with socket.socket() as line:
        # Little lies between the server and its client: the system would take megabytes.
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        place = urlsplit(small.url)
        line.connect((place.hostname, place.port))
        heard = await flooding(small, line)
    assert heard.errors[-1] == "slow_client"
    assert heard.code == 1008
