"""``--devices``: an engine on each of several, of which any may die or be taken out of service."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.clips import clip
from support.server import serving, workers_of
from support.wire import START, dial, listen, live, play, receive_until, s16le, send

TINY = Path(__file__).parents[1] / "models" / "tiny-voxtral"
SPEECH = s16le(clip("market").samples[: int(3.7 * 16_000)])
"""A sentence: each second of it costs the small Voxtral a third of a core's."""
SECOND = 32_000
ENGINE = "voxlive.engines.remote.child"


@pytest.fixture(scope="module", params=[pytest.param("1", marks=pytest.mark.endurance), "2"])
def server(request):
    """Of one process, or with workers, each of which has a pool of the same engines."""
    options = ("--devices", "cpu*2", "--max-sessions", "3", "--workers", request.param)
    with serving("--model", str(TINY), *options) as running:
        yield running


async def ask(server, path: str, **body: object) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        return await (client.post(path, json=body) if body else client.get(path))


async def devices(server) -> dict[str, dict]:
    """By name; /health has them too, and would have every engine decode for it."""
    [listed] = (await ask(server, "/v1/admin/devices")).json()["models"].values()
    return {one["device"]: one for one in listed}


async def in_use(server) -> str:
    """The device of the only session."""
    found = [name for name, one in (await devices(server)).items() if one["in_use"]]
    assert len(found) == 1
    return found[0]


def engines(server) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if ENGINE in child.cmdline()]


@pytest.fixture(scope="module")
def whole(server) -> list[dict]:
    """The messages of a session to which nothing happens."""
    return asyncio.run(live(server.ws, SPEECH)).messages


async def speak_through(server, happen) -> list[dict]:
    """The messages of a session in whose mid-speech something happens."""
    async with dial(server.ws + "/v1/live") as socket:
        await send(socket, START, SPEECH[: 2 * SECOND])
        playing = asyncio.create_task(play(socket, SPEECH[2 * SECOND :], 1.0, 3200))
        before = await receive_until(socket, "words")
        await happen(await in_use(server))
        await playing
        await send(socket, {"type": "stop"})
        heard = await listen(socket)
    return [*before, *heard.messages]


def words(messages: list[dict]) -> list[dict]:
    return [word for one in messages if one["type"] == "words" for word in one["words"]]


def kinds(messages: list[dict]) -> set[str]:
    return {one["type"] for one in messages}


@pytest.mark.endurance
async def test_sessions_of_a_killed_engine_go_on_at_its_sister(server, whole):
    survivors: list[int] = []

    async def kill(name: str) -> None:
        pid = (await devices(server))[name]["pid"]
        survivors.extend(one.pid for one in engines(server) if one.pid != pid)
        psutil.Process(pid).kill()
        # It goes on before there is a new engine in the killed one's place.
        while not (there := await devices(server))[name]["error"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        other = next(device for device in there if device != name)
        assert there[other]["state"] == "ok"
        while not (await devices(server))[other]["in_use"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    messages = await speak_through(server, kill)
    assert words(messages) == words(whole)
    assert "recovered" in kinds(messages)
    assert "error" not in kinds(messages)
    assert len(survivors) == 1


@pytest.mark.endurance
async def test_sessions_of_a_device_that_is_taken_out_go_on_at_another(server, whole):
    while [one["state"] for one in (await devices(server)).values()] != ["ok", "ok"]:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    taken: list[str] = []

    async def take_out(name: str) -> None:
        answer = await ask(server, "/v1/admin/devices", device=name, in_service=False)
        assert answer.status_code == 200, answer.text
        taken.append(name)

    messages = await speak_through(server, take_out)
    assert words(messages) == words(whole)
    assert "error" not in kinds(messages)
    out = (await devices(server))[taken[0]]
    assert (out["state"], out["capacity"], out["in_use"]) == ("out", 0, 0)
    assert len(engines(server)) == 1
    last = next(name for name in await devices(server) if name not in taken)
    refused = await ask(server, "/v1/admin/devices", device=last, in_service=False)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "device_busy")
    # Another engine in place of all of them leaves it out.
    assert (await ask(server, "/v1/admin/reload", name=None)).status_code == 200
    assert (await devices(server))[taken[0]]["state"] == "out"
    for worker in workers_of(server.process.pid)[:1]:  # the next one is told what is out
        worker.kill()
        while worker.is_running() or len(workers_of(server.process.pid)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    back = await ask(server, "/v1/admin/devices", device=taken[0], in_service=True)
    assert [one["state"] for one in back.json()["devices"]] == ["ok", "ok"]
    assert (await ask(server, "/health")).json()["capacity"] == 3
    async with AsyncExitStack() as stack:
        for _ in range(3):
            socket = await stack.enter_async_context(dial(server.ws + "/v1/live"))
            await send(socket, START)
            await receive_until(socket, "ready")
        assert sorted(one["in_use"] for one in (await devices(server)).values()) == [1, 2]
    await server.until(in_use=0)


@pytest.mark.long
async def test_sessions_are_spread_and_metrics_are_those_of_each_device(server):
    async with dial(server.ws + "/v1/live") as one, dial(server.ws + "/v1/live") as another:
        for socket in (one, another):
            await send(socket, START)
            await receive_until(socket, "ready")
        there = await devices(server)
        assert [one["in_use"] for one in there.values()] == [1, 1]
        assert sorted(one["capacity"] for one in there.values()) == [1, 2]
        text = (await ask(server, "/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    used = {s.labels["device"]: s.value for s in families["voxlive_device_slots_in_use"].samples}
    assert used == {"cpu:0": 1, "cpu:1": 1}
    assert {s.value for s in families["voxlive_device_up"].samples} == {1}
    assert (await ask(server, "/health")).json()["devices"] == [*(await devices(server)).values()]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"device": "gpu:9", "in_service": True}, 404, "no_device"),
        ({"device": 1, "in_service": True}, 400, "invalid_value"),
        ({"device": "cpu:0", "in_service": "no"}, 400, "invalid_value"),
        ({"device": "cpu:0"}, 400, "invalid_value"),
        ({"in_service": True}, 400, "invalid_value"),
        ({"device": "cpu:0", "in_service": True, "name": "other"}, 404, "model_not_found"),
        ({"device": "cpu:0", "in_service": True, "when": "now"}, 400, "invalid_value"),
    ],
)
async def test_a_bad_request_is_an_error_and_changes_nothing(server, body, status, code):
    before = await devices(server)
    answer = await ask(server, "/v1/admin/devices", **body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert await devices(server) == before
