"""A server whose engine dies: its sessions are told, the server lives, the next session works."""

from pathlib import Path

import httpx
import psutil
import pytest
from support.clips import clip
from support.server import Server, serving
from support.wire import START, dial, live, receive, s16le, send

TINY = Path(__file__).parents[1] / "models" / "tiny-voxtral"


@pytest.fixture(scope="module")
def server():
    with serving("--model", str(TINY), "--device", "cpu") as running:
        yield running


def engine_of(server: Server) -> psutil.Process:
    children = psutil.Process(server.process.pid).children()
    [engine] = [c for c in children if "voxlive.streaming.process.child" in c.cmdline()]
    return engine


async def test_an_engine_that_dies_costs_its_sessions_and_not_the_server(server):
    audio = s16le(clip("market").samples)[: 3 * 32000]
    async with dial(server.ws + "/v1/live") as socket:
        await send(socket, START, audio)
        while (await receive(socket))["type"] not in ("draft", "words"):
            pass
        engine = engine_of(server)
        engine.kill()
        while (message := await receive(socket))["type"] != "error":
            pass
        assert message["code"] == "engine_failed"
        assert "was killed by SIGKILL; start again" in message["message"]
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        while (answer := await client.get("/health/ready")).status_code == 503:
            assert "was killed by SIGKILL" in answer.json()["error"]
            assert set((await live(server.ws, audio)).errors) <= {"engine_failed"}
    heard = await live(server.ws, audio)
    assert heard.of("done")[0]["text"]
    assert engine_of(server).pid != engine.pid
    assert "was killed by SIGKILL; it is started again" in server.logged()


def test_its_steps_are_in_the_servers_metrics(server):
    said = httpx.get(f"{server.url}/metrics", timeout=30).text
    [count] = [
        line.rpartition(" ")[2]
        for line in said.splitlines()
        if line.startswith("voxlive_engine_step_seconds_count")
    ]
    assert float(count) > 0
