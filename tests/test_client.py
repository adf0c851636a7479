"""``voxlive.client`` against real servers, over lines that break."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.breaking import breaking
from support.clips import clip
from support.restarting import (
    END_SERVER,
    KILL_SERVER,
    Differences,
    in_words,
    restarted,
    speak,
    words_of,
)
from support.server import AT_PAUSES, Server, serving
from support.wire import s16le
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from voxlive import client
from voxlive.client import LiveClient, LiveError, UnsentAudio, UnstoredMessages

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


async def check(server: Server, seed: int, seconds: float | None = None, **options: object) -> None:
    """Of so much of the clip; each second of it costs the small Voxtral a third of a core's."""
    pcm = s16le(clip("market").samples)[: seconds and int(seconds * 16_000) * 2]
    whole, once = await spoken(server.ws + "/v1/live", pcm, **options)
    async with breaking(server.url, seed, most=6) as (url, relay):
        cut, connections = await spoken(url, pcm, **options)
    assert once == 1
    assert connections > 1 <= relay.breaks
    assert kept(cut) == kept(whole)
    numbers = [message["seq"] for message in cut if "seq" in message]
    assert numbers == list(range(len(numbers)))


# `voxlive listen` is such a client, and its line breaks in make test.
@pytest.mark.endurance
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_line_that_breaks_changes_nothing(server, seed):
    await check(server, seed, seconds=3.7)  # its first sentence
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


async def scripted(
    *answers: list[dict | int], pcm: bytes = b"", **options: object
) -> tuple[list[dict], list[dict], list[str]]:
    """A session whose connections have these answers and then close.

    What the client has, its first messages, and its calls. No word is said before its audio came.
    """
    asked: list[dict] = []
    calls: list[str] = []
    left = iter(answers)
    second = 32_000 * int(options.get("channels", 1))

    async def answer(socket: ServerConnection) -> None:
        asked.append(json.loads(await socket.recv()))
        heard = 0
        for message in next(left):
            end = max((word["end"] for word in message.get("words", ())), default=0)
            while heard < end * second:
                heard += len(await socket.recv(decode=False))
            await socket.send(json.dumps(message))
        await socket.close()

    async with serve(answer, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        messages, _ = await spoken(
            f"ws://127.0.0.1:{port}/v1/live",
            pcm,
            **options,
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


async def test_what_is_not_stored_is_given_back_to_the_next_server():
    started = [{"type": "speech_started", "seq": n, "t": n} for n in range(5)]
    acks = [{"type": "ack", "samples": 0, "stored": n} for n in range(5)]
    stored = READY | {"store": True}
    _, asked, _ = await scripted(
        [stored, acks[0], *started[1:4], acks[1]],
        [RESUMED, acks[2], started[4]],
        [RESUMED, acks[4]],
        [RESUMED, DONE | {"seq": 5}],
    )
    assert [one.get("received") for one in asked] == [None, started[2:4], started[3:], None]
    _, asked, _ = await scripted([READY, *started[1:4]], [RESUMED, DONE | {"seq": 4}])
    assert "received" not in asked[1]


@pytest.mark.parametrize(
    "code", ["server_full", "too_many_sessions", "slow_client", "state_unavailable", "store_failed"]
)
async def test_a_refused_connection_leaves_the_session_as_it_is(code):
    error = {"type": "error", "seq": 0, "code": code, "message": "", "fatal": True}
    messages, asked, calls = await scripted([READY], [error], [RESUMED, {**DONE, "seq": 1}])
    assert [message["type"] for message in messages] == ["ready", "done"]
    assert [message["type"] for message in asked] == ["start", "resume", "resume"]
    assert calls == ["lost", "resumed"]


def said(seq: int, segment: int, *words: tuple[str, float, float], **more: object) -> dict:
    items = [{"text": text, "start": start, "end": end, "p": None} for text, start, end in words]
    return {"type": "words", "seq": seq, "segment": segment, "words": items, **more}


def fatal(code: str) -> dict:
    return {"type": "error", "seq": 0, "code": code, "message": "", "fatal": True}


@pytest.mark.parametrize("code", ["unknown_session", "resume_gap"])
async def test_another_session_goes_on_for_one_that_the_server_has_lost(code):
    """Behind the last word, on one clock, with a joint that its user sees."""
    first = [
        READY,
        said(1, 0, ("One", 0.1, 0.5), (" two.", 0.5, 0.9)),
        {"type": "segment", "seq": 2, "id": 0, "start": 0.1, "end": 0.9, "text": "One two."},
        {"type": "ack", "samples": 14_400},
        said(3, 1, (" Three", 1.0, 1.5)),
    ]
    closed = {"type": "segment", "seq": 2, "id": 0, "start": 0.0, "end": 0.25, "text": "four."}
    second = [
        {**READY, "session": "two", "resume": "another"},
        said(1, 0, ("four.", 0.0, 0.25)),
        closed,
        {"type": "done", "seq": 3, "duration": 0.5, "text": "four."},
    ]
    messages, asked, calls = await scripted(first, [fatal(code)], second, pcm=bytes(64_000))
    assert [m["type"] for m in asked] == ["start", "resume", "start"]
    assert asked[0] == asked[2]
    assert calls == ["lost"]
    kinds = [m["type"] for m in messages[4:]]
    assert kinds == ["segment", "restarted", "ready", "words", "segment", "done"]
    rest, joint, ready, words, segment, done = messages[4:]
    assert rest == {"type": "segment", "id": 1, "start": 1.0, "end": 1.5, "text": " Three"}
    assert (joint["code"], joint["at"], joint["lost"]) == (code, 1.5, 0)
    assert ready["session"] == "two"
    assert words["words"] == [{"text": " four.", "start": 1.5, "end": 1.75, "p": None}]
    assert (words["segment"], segment["id"], segment["text"]) == (2, 2, " four.")
    assert (segment["start"], segment["end"]) == (1.5, 1.75)
    assert (done["duration"], done["text"]) == (2.0, "One two. Three four.")


async def test_sources_of_a_session_that_was_lost_go_on_from_the_one_that_was_behind():
    me, them = {"source": "me"}, {"source": "them"}
    first = [
        READY,
        said(1, 0, ("Yes", 0.5, 1.0), **me),
        said(2, 1, ("No", 0.2, 0.4), **them),
    ]
    second = [
        READY,
        said(1, 0, ("more", 1.0, 1.2), **me),
        {"type": "segment", "seq": 2, "id": 0, "start": 1.0, "end": 1.2, "text": "more", **me},
        {"type": "done", "seq": 3, "duration": 1.6, "text": "me: more\n", "sources": {}},
    ]
    messages, *_ = await scripted(
        first,
        [fatal("unknown_session")],
        second,
        pcm=bytes(4 * 32_000),
        channels=2,
        sources=["me", "them"],
    )
    *_, joint, _, words, _, done = messages
    assert joint["at"] == 0.4
    assert words["words"][0]["start"] == 1.4
    assert done["text"] == "me: Yes\nthem: No\nme: more\n"
    assert done["sources"] == {"me": "Yes more", "them": "No"}


async def test_a_session_that_a_limit_has_ended_takes_no_more():
    expired = {"type": "error", "seq": 1, "code": "session_expired", "message": "", "fatal": False}
    with pytest.raises(LiveError) as ended:
        await scripted([READY, expired, {**DONE, "seq": 2}], pcm=bytes(1_000_000))
    assert ended.value.code == "session_expired"


@pytest.mark.endurance
@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", [KILL_SERVER, END_SERVER])
async def test_nothing_that_was_said_is_dropped_where_a_server_keeps_nothing(fault):
    """It dies or ends in mid-word; the next one recognises the rest in a session of its own."""
    pcm = s16le(clip("market").samples)
    with restarted(*AT_PAUSES) as running:
        whole = await speak(running, pcm)
        places = in_words(whole, 1, random.Random(fault))
        messages = await speak(running, pcm, [(places[0], fault)])
    [joint] = [m for m in messages if m["type"] == "restarted"]
    assert joint["lost"] == 0
    assert joint["code"] in ("unknown_session", "shutting_down")
    done = messages[-1]
    assert abs(done["duration"] - len(pcm) / 32_000) < 0.01
    words = words_of(messages)
    assert "".join(word["text"] for word in words) == done["text"]
    segments = [m for m in messages if m["type"] == "segment"]
    assert "".join(m["text"] for m in segments) == done["text"]
    idents = [m["id"] for m in segments]
    assert idents == sorted({*idents})
    times = [word["start"] for word in words]
    assert times == sorted(times)
    differences = Differences()
    differences.count(messages, whole)
    # Where the audio is cut in a word, that one and what follows may be other words, or one less.
    assert differences.lost <= 1, differences
    assert differences.lost + differences.changed <= 3, differences


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


def test_messages_that_are_not_stored_are_kept_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(client, "MAX_RECEIVED", 100)
    kept = UnstoredMessages()
    for seq in range(1, 12):
        kept.append({"seq": seq}, 10)
    assert [message["seq"] for message in kept] == list(range(2, 12))
    kept.append({"seq": 12}, 95)
    assert [message["seq"] for message in kept] == [12]
    kept.stored(12)
    assert [*kept] == []


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
