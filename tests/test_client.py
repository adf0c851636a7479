"""``voxlive.client`` against real servers, over lines that break."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.breaking import breaking
from support.clips import clip
from support.server import Server, serving
from support.wire import s16le
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from voxlive import client
from voxlive.client import LiveClient, LiveError, UnsentAudio

TINY = Path(__file__).parent / "models" / "tiny-voxtral"


@pytest.fixture(scope="module")
def server():
    with serving("--model", str(TINY), "--device", "cpu") as running:
        yield running


async def spoken(url: str, pcm: bytes, **options: object) -> tuple[list[dict], int]:
    """All messages of a session, and how many connections it took."""
    async with LiveClient(url, **options) as client:

        async def speak() -> None:
            for at in range(0, len(pcm), 2560):
                await client.send(pcm[at : at + 2560])
                await asyncio.sleep(0.001)
            await client.stop()

        speaking = asyncio.create_task(speak())
        messages = [message async for message in client]
        await speaking
    return messages, client.connections


def kept(messages: list[dict]) -> list[object]:
    """Words, segments, text and length."""
    words = [word for m in messages if m["type"] == "words" for word in m["words"]]
    segments = [
        (m["id"], m["start"], m["end"], m["text"]) for m in messages if m["type"] == "segment"
    ]
    return [words, segments, messages[-1]["text"], messages[-1]["duration"]]


async def check(server: Server, seed: int, **options: object) -> None:
    pcm = s16le(clip("market").samples)
    whole, once = await spoken(server.ws + "/v1/live", pcm, **options)
    async with breaking(server.url, seed, most=6) as (url, relay):
        cut, connections = await spoken(url, pcm, **options)
    assert once == 1
    assert connections > 1 <= relay.breaks
    assert kept(cut) == kept(whole)
    numbers = [message["seq"] for message in cut if "seq" in message]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.endurance)])
async def test_a_line_that_breaks_changes_nothing(server, seed):
    await check(server, seed)
    await server.until(in_use=0)


@pytest.mark.endurance
@pytest.mark.timeout(3000)
async def test_fifty_sessions_over_lines_that_break(server):
    for seed in range(50):
        await check(server, seed)


@pytest.mark.endurance
@pytest.mark.timeout(3000)
async def test_fifty_sessions_of_whisper_over_lines_that_break():
    with serving("--model", "whisper-tiny.en") as server:
        for seed in range(50):
            await check(server, seed, commit="pause")


async def test_the_server_s_refusal_is_an_error_with_its_code(server):
    with pytest.raises(LiveError) as refused:
        await spoken(server.ws + "/v1/live", b"", language="xx")
    assert refused.value.code in ("bad_start", "unsupported_option")


async def test_a_server_that_is_not_there_is_an_error(server):
    with pytest.raises(LiveError) as refused:
        await spoken("ws://127.0.0.1:9/v1/live", b"\0\0", give_up_s=0.3)
    assert refused.value.code == "unreachable"


async def test_the_time_to_give_up_counts_from_when_the_line_was_lost():
    """The first connection outlives ``give_up_s`` and is closed in good order; one is refused."""
    answers = iter(
        [
            [{"type": "ready", "seq": 0, "resume": "secret"}],
            None,
            [
                {"type": "resumed", "samples": 0},
                {"type": "done", "seq": 1, "duration": 0, "text": ""},
            ],
        ]
    )
    now: list[dict] | None = None

    def refuse(connection: ServerConnection, _request: Request) -> Response | None:
        nonlocal now
        now = next(answers)
        return connection.respond(503, "not now") if now is None else None

    async def answer(socket: ServerConnection) -> None:
        await socket.recv()
        for message in now or ():
            await socket.send(json.dumps(message))
        await asyncio.sleep(0.5)

    async with serve(answer, "127.0.0.1", 0, process_request=refuse) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        url = f"ws://127.0.0.1:{port}/v1/live"
        messages, connections = await spoken(url, b"", give_up_s=0.3)
    assert [message["type"] for message in messages] == ["ready", "done"]
    assert connections == 2


async def scripted(*answers: list[dict | int]) -> tuple[list[dict], list[dict], list[str]]:
    """A session whose connections have these answers and then close.

    What the client has, its first messages, and its calls.
    """
    asked: list[dict] = []
    calls: list[str] = []
    left = iter(answers)

    async def answer(socket: ServerConnection) -> None:
        asked.append(json.loads(await socket.recv()))
        for message in next(left):
            await socket.send(json.dumps(message))
        await socket.close()

    async with serve(answer, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        messages, _ = await spoken(
            f"ws://127.0.0.1:{port}/v1/live",
            b"",
            on_lost=lambda _: calls.append("lost"),
            on_resumed=lambda: calls.append("resumed"),
        )
    return messages, asked, calls


READY = {"type": "ready", "seq": 0, "session": "one", "resume": "secret"}
RESUMED = {"type": "resumed", "samples": 0}
DONE = {"type": "done", "seq": 3, "duration": 0, "text": ""}


async def test_a_number_that_is_left_out_comes_over_the_next_connection():
    started = [{"type": "speech_started", "seq": n, "t": n} for n in range(3)]
    messages, asked, calls = await scripted([READY, started[1], DONE], [RESUMED, started[2], DONE])
    assert [message["seq"] for message in messages] == [0, 1, 2, 3]
    assert asked[1] == {"type": "resume", "token": "secret", "have": 1, "from": 0}
    assert calls == ["lost", "resumed"]


@pytest.mark.parametrize("code", ["server_full", "too_many_sessions", "slow_client"])
async def test_a_refused_connection_leaves_the_session_as_it_is(code):
    error = {"type": "error", "seq": 0, "code": code, "message": "", "fatal": True}
    messages, asked, calls = await scripted([READY], [error], [RESUMED, {**DONE, "seq": 1}])
    assert [message["type"] for message in messages] == ["ready", "done"]
    assert [message["type"] for message in asked] == ["start", "resume", "resume"]
    assert calls == ["lost", "resumed"]


def test_in_a_long_silence_the_oldest_that_was_sent_is_dropped(monkeypatch):
    """Nothing is acknowledged in it; audio that was not sent stays, and ``send`` waits."""
    monkeypatch.setattr(client, "MAX_KEPT_BYTES", 1000)
    audio = UnsentAudio(4)
    for _ in range(50):
        audio.append(bytes(100))
        assert audio.take() == bytes(100)
    assert (audio.size, audio.first) == (1000, 1000)
    audio.append(bytes(3000))
    assert (audio.size, audio.first) == (3000, 1250)
    audio.append(bytes(10))
    assert audio.size == 3010


def test_a_container_is_refused():
    with pytest.raises(ValueError, match="PCM"):
        LiveClient("ws://127.0.0.1/v1/live", encoding="container")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 90)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("acknowledge"), st.floats(0, 1)),
        st.tuples(st.just("send_from"), st.floats(0, 1)),
    ),
    max_size=40,
)


@given(STEPS)
def test_unsent_audio_has_every_sample_that_may_be_asked_for(steps):
    """``sent``: samples that the server has had over all connections."""
    audio, said, sent = UnsentAudio(2), bytearray(), 0
    for what, value in steps:
        match what:
            case "append":
                piece = bytes((len(said) + i) % 251 for i in range(2 * value))
                said += piece
                audio.append(piece)
            case "take":
                piece = audio.take()
                assert piece == said[2 * sent : 2 * sent + len(piece)]
                sent += len(piece) // 2
            case "acknowledge":
                audio.acknowledge(int(value * sent))
                assert audio.first <= sent
            case "send_from":
                sent = audio.first + int(value * (sent - audio.first))
                audio.send_from(sent)
        assert audio.size == len(said) - 2 * audio.first
