"""A server whose engine dies or hangs: another one takes its place, and its sessions go on."""

import asyncio
import random
import signal
from pathlib import Path

import httpx
import psutil
import pytest
from support.clips import clip
from support.server import AT_PAUSES, Server, serving
from support.wire import START, dial, listen, live, play, receive, receive_until, s16le, send

TINY = Path(__file__).parents[1] / "models" / "tiny-voxtral"
SPEECH = s16le(clip("doctor").samples[: 3 * 16_000])
"""Some words: each second of them costs the small Voxtral a third of a core's."""

MIDDLE = 32_000 * 3 // 2
"""Bytes of it after which there are words and more are to come."""


@pytest.fixture(scope="module")
def server():
    with serving("--model", str(TINY), "--device", "cpu") as running:
        yield running


def engine_of(server: Server) -> psutil.Process:
    children = psutil.Process(server.process.pid).children()
    [engine] = [c for c in children if "voxlive.engines.remote.child" in c.cmdline()]
    return engine


async def test_sessions_of_a_dead_engine_go_on_with_the_next_one(server):
    audio = SPEECH
    whole = await live(server.ws, audio)
    async with dial(server.ws + "/v1/live") as socket:
        await send(socket, START)
        # At the speed of speech: were it to wait for the words, it might end an utterance by that.
        speaking = asyncio.create_task(play(socket, audio, 1.0, 3200))
        before = await receive_until(socket, "words")
        engine = engine_of(server)
        engine.kill()
        await speaking
        await send(socket, {"type": "stop"})
        heard = await listen(socket)
    assert heard.errors == []
    assert len(heard.of("recovered")) == 1
    assert heard.of("done")[0]["text"] == whole.of("done")[0]["text"]
    words = [
        word for m in [*before, *heard.messages] if m["type"] == "words" for word in m["words"]
    ]
    assert words == [word for m in whole.of("words") for word in m["words"]]
    assert engine_of(server).pid != engine.pid
    assert "was killed by SIGKILL; it is started again" in server.logged()


@pytest.mark.endurance
async def test_without_an_engine_new_sessions_are_refused_until_there_is_one(server):
    audio = SPEECH
    engine_of(server).kill()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        # The other side is another process: there is nothing to wait on but its answers.
        while (answer := await client.get("/health/ready")).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        while (answer := await client.get("/health/ready")).status_code == 503:
            assert "was killed by SIGKILL" in answer.json()["error"]
            assert set((await live(server.ws, audio)).errors) <= {"engine_failed"}
    assert (await live(server.ws, audio)).of("done")[0]["text"]


def test_health_and_the_list_of_models_show_how_its_weights_are_held(server):
    health = httpx.get(f"{server.url}/health", timeout=30).json()
    [model, *_] = httpx.get(f"{server.url}/v1/models", timeout=30).json()["data"]
    assert model["id"] == health["model"]
    assert model["weights"] == health["weights"] == "8-bit weights"


def test_engine_steps_are_in_the_metrics(server):
    said = httpx.get(f"{server.url}/metrics", timeout=30).text
    [count] = [
        line.rpartition(" ")[2]
        for line in said.splitlines()
        if line.startswith("voxlive_engine_step_seconds_count")
    ]
    assert float(count) > 0


def of(server: Server, module: str) -> list[psutil.Process]:
    """The server's processes that run this module."""
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if module in child.cmdline()]


async def holdings(server: Server) -> tuple[int, int]:
    """Its descriptors and processes, once no slot is in use and what asked for that is gone."""
    await server.until(in_use=0)
    process, seen = psutil.Process(server.process.pid), []
    while len(seen) < 10 or len(set(seen[-10:])) > 1:
        seen.append((process.num_fds(), len(process.children(recursive=True))))
        await asyncio.sleep(0.02)
    return seen[-1]


async def answers(server: Server) -> None:
    """Whatever its engine does, this much is answered."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        assert (await client.get("/health/live")).status_code == 200
        assert "voxlive_engine_step_seconds_count" in (await client.get("/metrics")).text


async def hung(socket) -> str:
    """What a session is told in the end."""
    *_, error = await receive_until(socket, "error")
    assert error["code"] == "engine_failed"
    return error["message"]


@pytest.mark.endurance
async def test_a_hanging_engine_is_replaced():
    audio = SPEECH
    with serving("--model", str(TINY), "--device", "cpu", "--engine-timeout", "4") as server:
        whole = (await live(server.ws, audio)).of("done")[0]["text"]
        before = await holdings(server)
        [engine] = of(server, "voxlive.engines.remote.child")
        async with dial(server.ws + "/v1/live") as one, dial(server.ws + "/v1/live") as two:
            await send(one, START, audio[:MIDDLE])
            while (await receive(one))["type"] not in ("draft", "words"):
                pass
            engine.send_signal(signal.SIGSTOP)
            await send(one, audio[MIDDLE:])
            await answers(server)
            await send(two, START, audio)
            await receive_until(two, "ready")  # told before the deadline has passed, or never
            async with dial(server.ws + "/v1/live") as late:
                assert (await listen(late)).errors == ["server_full"]
            await answers(server)
            for socket in (one, two):
                await send(socket, {"type": "stop"})
                heard = await listen(socket)
                assert heard.errors == []
                assert len(heard.of("recovered")) == 1
                assert heard.of("done")[0]["text"] == whole
            assert "has not got on for 4 s and was ended" in server.logged()
        assert psutil.wait_procs([engine], timeout=60)[0]
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            while (await client.get("/health/ready")).status_code == 503:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (await live(server.ws, audio)).of("done")[0]["text"] == whole
        assert await holdings(server) == before


@pytest.mark.endurance
async def test_a_suspended_machine_ends_no_session():
    """Time in which the server did not run itself says nothing of its recognisers."""
    audio = s16le(clip("doctor").samples)
    with serving("--engine-timeout", "6", *AT_PAUSES) as server:
        whole = (await live(server.ws, audio)).of("done")[0]["text"]
        engine = of(server, "voxlive.engines.remote.child")
        machine = [*engine, psutil.Process(server.process.pid)]
        async with dial(server.ws + "/v1/live") as socket:
            await send(socket, START, audio[: 2 * 32000])
            await receive_until(socket, "draft")
            for process in engine:
                process.send_signal(signal.SIGSTOP)
            await send(socket, audio[2 * 32000 :], {"type": "stop"})
            await answers(server)  # by now it has handed on what it was sent before
            for process in machine:
                process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(8)
            for process in reversed(machine):
                process.send_signal(signal.SIGCONT)
            heard = await listen(socket)
        assert heard.errors == []
        assert heard.of("done")[0]["text"] == whole
        assert of(server, "voxlive.engines.remote.child") == engine


@pytest.mark.endurance
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("model", [("--model", str(TINY), "--device", "cpu"), AT_PAUSES])
async def test_twenty_blows_to_the_engine_in_the_middle_of_a_minute(model, blow):
    """In mid-word: words, times and segments are those of a session that nothing happened to."""
    audio = s16le(clip("minute").samples)
    with serving(*model, "--engine-timeout", "5") as server:
        undisturbed = await live(server.ws, audio)
        whole = words_and_segments(undisturbed.messages)
        for seed in range(20):
            chance = random.Random(seed)
            async with dial(server.ws + "/v1/live") as socket:
                await send(socket, START)
                speaking = asyncio.create_task(send(socket, audio, {"type": "stop"}))
                messages = []
                for _ in range(chance.randint(1, 5)):
                    messages += await receive_until(socket, "words")
                await asyncio.sleep(chance.random() / 2)
                engine_of(server).send_signal(blow)
                await speaking
                messages += (await listen(socket)).messages
            assert [m for m in messages if m["type"] == "error"] == []
            assert words_and_segments(messages) == whole
        assert server.logged().count("it is started again") > 10


def words_and_segments(messages: list[dict]) -> list[object]:
    words = [word for m in messages if m["type"] == "words" for word in m["words"]]
    segments = [(m["start"], m["end"], m["text"]) for m in messages if m["type"] == "segment"]
    return [words, segments, messages[-1]["text"], messages[-1]["duration"]]
