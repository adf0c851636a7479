"""Clients that break the rules or vanish: each gets its typed error, nobody else notices."""

import asyncio
import base64
import os

import httpx
import psutil
import pytest
from support.clips import clip
from support.encode import encode
from support.server import serving
from support.wire import START, Heard, asr, dial, listen, live, receive, s16le, send

SPEECH = s16le(clip("yes").samples)


async def outcome(server, *frames, path="/v1/live") -> Heard:
    """What a client hears that sends these frames and then listens."""
    async with dial(f"{server.ws}{path}") as socket:
        await send(socket, *frames)
        return await listen(socket)


@pytest.mark.parametrize(
    ("frames", "code", "close"),
    [
        ([b"\0\0"], "bad_start", 4400),
        (["nonsense"], "bad_start", 4400),
        ([{"type": "stop"}], "bad_start", 4400),
        ([{**START, "rate": "fast"}], "bad_start", 4400),
        ([{**START, "rate": 100}], "bad_start", 4400),
        ([{**START, "vad": {"threshold": 7}}], "bad_start", 4400),
        ([{**START, "language": "xx"}], "unsupported_option", 4400),
        ([START, bytes(10_000_000)], "too_big", 1009),
        ([START, "x" * 100_000], "too_big", 1009),
        (["x" * 100_000], "too_big", 1009),
        ([{"type": "start", "format": "container"}, os.urandom(5000)], "bad_audio", 4400),
    ],
)
async def test_fatal_mistakes_are_named_and_closed(server, frames, code, close):
    heard = await outcome(server, *frames)
    assert heard.errors == [code]
    assert heard.of("error")[0]["fatal"] is True
    assert heard.code == close


@pytest.mark.parametrize("frame", ["nonsense", "[1]", '{"type": "start"}', '{"type": "flush"}'])
async def test_a_mistake_after_start_is_refused_and_the_session_goes_on(server, frame):
    heard = await outcome(server, START, frame, SPEECH, {"type": "stop"})
    assert heard.errors == ["bad_message"]
    assert heard.of("done")
    assert heard.code == 1000


async def test_asr_answers_text_frames_and_bad_parameters(server):
    heard = await outcome(server, "hello", SPEECH, b"", path="/asr")
    assert heard.errors == ["bad_message"]
    assert heard.of("ready_to_stop")
    assert heard.of(None)[-1]["lines"]
    for query in ("?mode=delta", "?target_language=fr", "?language=xx"):
        heard = await asr(server.ws, SPEECH, query=query)
        assert len(heard.errors) == 1
        assert heard.code == 4400


@pytest.mark.parametrize(("container", "codec"), [("flac", "flac"), ("wav", "pcm_s16le")])
async def test_a_container_cut_short_says_what_it_had_and_then_the_error(server, container, codec):
    media = encode(clip("doctor").samples, container, codec)
    heard = await live(server.ws, media[: len(media) * 3 // 4], format="container")
    assert heard.errors == ["bad_audio"]
    assert heard.code == 4400
    assert heard.of("words")


async def vanish(server, path: str, *frames) -> None:
    """Send frames and cut the connection without a close."""
    async with dial(f"{server.ws}{path}") as socket:
        await send(socket, *frames)
        socket.transport.abort()


APPEND = {"type": "input_audio_buffer.append", "audio": base64.b64encode(SPEECH).decode()}
COMMIT = {"type": "input_audio_buffer.commit"}
VLLM = {"type": "session.update", "model": "any"}

STATES = [
    ("/v1/live",),
    ("/v1/live", START),
    ("/v1/live", START, SPEECH),
    ("/v1/live", START, SPEECH[: len(SPEECH) // 3]),
    ("/v1/live", START, SPEECH, {"type": "flush", "id": "a"}),
    ("/v1/live", START, SPEECH, {"type": "stop"}),
    ("/v1/live", {"type": "start", "format": "container"}, b"\x1a\x45\xdf\xa3"),
    ("/asr",),
    ("/asr", b"\x1a\x45"),
    ("/asr", SPEECH),
    ("/asr", SPEECH, b""),
    ("/v1/realtime",),
    ("/v1/realtime", {"type": "session.update", "session": {}}),
    ("/v1/realtime", APPEND),
    ("/v1/realtime", APPEND, COMMIT, APPEND),
    ("/v1/realtime", APPEND, {"type": "input_audio_buffer.clear"}),
    ("/v1/realtime", VLLM, APPEND, {**COMMIT, "final": True}),
]


async def test_a_neighbour_is_not_disturbed_by_clients_that_vanish_in_every_state(server):
    audio = s16le(clip("market").samples)
    alone = await live(server.ws, audio)
    await server.until(in_use=0)
    neighbour = asyncio.create_task(live(server.ws, audio, pace=1.0))
    await asyncio.sleep(0.5)
    for state in STATES:
        await vanish(server, *state)
        await server.until(in_use=1)
    heard = await neighbour
    assert heard.of("done") == [alone.of("done")[0] | {"seq": len(heard.messages) - 1}]
    assert not heard.errors
    await server.until(in_use=0)


@pytest.mark.timeout(400)
async def test_two_hundred_vanished_sessions_leave_nothing_behind():
    with serving("--max-sessions", "2") as server:
        process = psutil.Process(server.process.pid)

        async def rounds(count: int) -> None:
            for n in range(count):
                await vanish(server, *STATES[n % len(STATES)])
                await server.until(in_use=0)

        def footprint() -> tuple[int, int, int]:
            children = process.children(recursive=True)
            memory = sum(p.memory_full_info().uss for p in (process, *children))
            return len(children), process.num_fds(), memory >> 20

        await rounds(3 * len(STATES))
        before = footprint()
        await rounds(200)
        after = footprint()
        assert after[0] == before[0]
        assert after[1] <= before[1] + 5
        assert after[2] <= before[2] + 20
        assert (await live(server.ws, SPEECH)).of("done")


async def test_one_client_more_than_capacity_is_refused_and_the_others_go_on():
    with serving("--max-sessions", "1") as server:
        async with dial(f"{server.ws}/v1/live") as first:
            await send(first, START)
            assert (await receive(first))["type"] == "ready"
            for path in ("/v1/live", "/asr"):
                heard = await outcome(server, path=path)
                assert heard.errors == ["server_full"]
                assert heard.code == 1013
            refused = await asyncio.to_thread(
                httpx.post,
                f"{server.url}/v1/audio/transcriptions",
                files={"file": clip("yes").path.read_bytes()},
            )
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "server_full"
            assert int(refused.headers["retry-after"]) > 0
            assert server.health()["status"] == "ok"
            await send(first, SPEECH, {"type": "stop"})
            heard = await listen(first)
            assert heard.of("done")
            assert not heard.errors
        await server.until(in_use=0)
        assert (await live(server.ws, SPEECH)).code == 1000


async def test_a_client_that_does_not_read_is_told_when_it_does_and_its_slot_is_freed():
    with serving("--max-sessions", "1") as server:
        async with dial(f"{server.ws}/v1/live", max_queue=1) as socket:
            await send(socket, START)

            async def write() -> None:
                while True:
                    await socket.send("not a message, and answered every time")

            writing = asyncio.create_task(write())
            await server.until(in_use=1)
            await server.until(in_use=0)
            writing.cancel()
            heard = await listen(socket)
            assert heard.errors[-1] == "slow_client"
            assert heard.code == 1008
