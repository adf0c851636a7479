"""A server of several processes on one port: what it counts, keeps and loses."""

import asyncio
import random
import socket as sockets
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from support.clips import clip
from support.collector import collecting
from support.restarting import (
    BREAK_LINE,
    KILL_WORKER,
    in_words,
    kept,
    numbers,
    restarted,
    speak,
)
from support.server import Server, serving
from support.wire import START, dial, listen, receive_until, s16le, send

from voxlive.engines.remote.shared import SlotTable
from voxlive.errors import CodedError
from voxlive.web.config import ConfigError, ServeConfig
from voxlive.web.ports import bind, worker_sockets

TINY = Path(__file__).parents[1] / "models" / "tiny-voxtral"
MODEL = ("--model", str(TINY), "--device", "cpu", "--max-sessions", "4")
SPEECH = s16le(clip("doctor").samples[: 3 * 16_000])
MIDDLE = 32_000 * 3 // 2
KEYS = """
[talker]
key = "the-talkers-own-key"
sessions = 3
[admin]
key = "the-key-of-an-admin"
scopes = ["admin"]
[other]
key = "the-key-of-others"
"""
OTHERS_KEY = "the-key-of-others"
TALKER = {"authorization": "Bearer the-talkers-own-key"}
OTHER = {"authorization": f"Bearer {OTHERS_KEY}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    with serving(
        *MODEL, "--workers", "2", "--keys", str(keys), "--log-level", "info", key=OTHERS_KEY
    ) as running:
        yield running


def children(server: Server, module: str) -> list[psutil.Process]:
    found = psutil.Process(server.process.pid).children()
    return [child for child in found if f"voxlive.{module}" in child.cmdline()]


def worker_of(server: Server, socket) -> psutil.Process:
    """The process that has the other end of a connection."""
    port = socket.local_address[1]
    for worker in children(server, "web.workers.child"):
        if any(one.raddr and one.raddr.port == port for one in worker.net_connections("tcp")):
            return worker
    raise AssertionError("nobody has it")


async def opened(server: Server, stack: AsyncExitStack, headers=TALKER, query: str = ""):
    url = f"{server.ws}/v1/live{query}"
    socket = await stack.enter_async_context(dial(url, additional_headers=headers))
    await send(socket, START)
    await receive_until(socket, "ready")
    return socket


async def said(server: Server) -> str:
    """What nothing happened to."""
    async with AsyncExitStack() as stack:
        socket = await opened(server, stack, OTHER)
        await send(socket, SPEECH, {"type": "stop"})
        return (await listen(socket)).of("done")[0]["text"]


@pytest.fixture(scope="module")
def whole(server: Server) -> str:
    """The same, once for all tests."""
    return asyncio.run(said(server))


async def at_both_workers(server: Server, stack: AsyncExitStack) -> list:
    """A session at each. The system chooses by the client's port."""
    found: dict[int, object] = {}
    while len(found) < 2:
        async with AsyncExitStack() as trying:
            socket = await opened(server, trying)
            if found.setdefault(worker_of(server, socket).pid, socket) is socket:
                stack.push_async_exit(trying.pop_all())
        await server.until(in_use=len(found))
    return [*found.values()]


async def asked(server: Server, path: str, method: str = "GET", **options) -> list[httpx.Response]:
    """The answers on several connections, whichever workers they come to."""
    answers = []
    for _ in range(6):
        async with httpx.AsyncClient(base_url=server.url, headers=OTHER, timeout=60) as client:
            answers.append(await client.request(method, path, **options))
    return answers


@pytest.mark.long
async def test_slots_limits_and_counters_are_those_of_the_whole_server(server):
    async with AsyncExitStack() as stack:
        one, _ = await at_both_workers(server, stack)
        await opened(server, stack)
        async with dial(f"{server.ws}/v1/live", additional_headers=TALKER) as beyond:
            assert (await listen(beyond)).errors == ["too_many_sessions"]
        await opened(server, stack, OTHER)
        for _ in range(4):
            async with dial(f"{server.ws}/v1/live", additional_headers=OTHER) as beyond:
                assert (await listen(beyond)).errors == ["server_full"]
        for answer in await asked(server, "/health"):
            assert (answer.json()["in_use"], answer.json()["capacity"]) == (4, 4)
        for answer in await asked(server, "/metrics"):
            assert 'voxlive_sessions{protocol="live"} 4.0' in answer.text
            assert 'voxlive_errors_total{code="server_full",place="live"} 4.0' in answer.text
        await send(one, SPEECH, {"type": "stop"})
        text = (await listen(one)).of("done")[0]["text"]
    await server.until(in_use=0)
    assert text
    for answer in await asked(server, "/metrics"):
        assert 'voxlive_sessions{protocol="live"} 0.0' in answer.text
        assert 'voxlive_audio_seconds_total{protocol="live"} 3.0' in answer.text


@pytest.mark.endurance
async def test_captions_and_the_page_come_from_any_worker(server):
    async with AsyncExitStack() as stack:
        socket = await opened(server, stack, query="?captions=hall")
        async with dial(f"{server.ws}/v1/live?captions=hall", additional_headers=OTHER) as taken:
            assert (await listen(taken)).errors == ["name_in_use"]
        listed = [a.json()["sessions"] for a in await asked(server, "/captions", headers=TALKER)]
        assert [[one["name"] for one in sessions] for sessions in listed] == [["hall"]] * 6
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=server.url, headers=TALKER, timeout=60)
        )
        feeds = [
            await stack.enter_async_context(client.stream("GET", "/captions/hall"))
            for _ in range(3)
        ]
        await send(socket, SPEECH, {"type": "flush", "id": "1"})
        *_, segment = await receive_until(socket, "segment")
        correction = {"type": "correct", "segment": segment["id"], "words": 1, "text": "A"}
        await send(socket, correction, {"type": "stop"})
        text = (await listen(socket)).of("done")[0]["text"]
        read = ["".join([part async for part in feed.aiter_text()]) for feed in feeds]
    for one in read:
        assert f'"text": "{text}"' in one
        assert "event: corrected" in one
        assert '"text": "A doctor' in one
        assert one.endswith("event: done\ndata: {}\n\n")
    pages = await asked(server, "/")
    assert all("<title>" in page.text for page in pages)
    refused = await asked(server, "/v1/audio/transcriptions", method="POST")
    assert [one.status_code for one in refused] == [400] * 6


async def test_a_worker_that_dies_takes_its_own_sockets_along_and_is_replaced(server, whole):
    async with AsyncExitStack() as stack:
        one, two = await at_both_workers(server, stack)
        await opened(server, stack)
        dying = worker_of(server, one)
        await send(two, SPEECH[:MIDDLE])
        dying.kill()
        assert (await listen(one)).code == 1006
        await send(two, SPEECH[MIDDLE:], {"type": "stop"})
        assert (await listen(two)).of("done")[0]["text"] == whole
    await server.until(in_use=0)  # those of the dead one are free
    async with AsyncExitStack() as stack:  # the next one serves, and the key has its sessions
        await at_both_workers(server, stack)
    assert "was killed by SIGKILL; it is started again" in server.logged()


@pytest.mark.endurance
async def test_an_engine_that_dies_is_replaced_under_the_sessions_of_all_workers(server, whole):
    async with AsyncExitStack() as stack:
        both = await at_both_workers(server, stack)
        for socket in both:
            await send(socket, SPEECH[:MIDDLE])
            await receive_until(socket, "words")
        [engine] = children(server, "engines.remote.child")
        engine.kill()
        for socket in both:
            await send(socket, SPEECH[MIDDLE:], {"type": "stop"})
            heard = await listen(socket)
            assert heard.errors == []
            assert len(heard.of("recovered")) == 1
            assert heard.of("done")[0]["text"] == whole
    await server.until(in_use=0)


@pytest.mark.endurance
async def test_another_engine_by_plan_takes_over_the_sessions_of_all_workers(server, whole):
    [before] = children(server, "engines.remote.child")
    admin = {"authorization": "Bearer the-key-of-an-admin"}
    async with (
        AsyncExitStack() as stack,
        httpx.AsyncClient(base_url=server.url, headers=admin, timeout=60) as client,
    ):
        both = await at_both_workers(server, stack)
        for socket in both:
            await send(socket, SPEECH[:MIDDLE])
            await receive_until(socket, "words")
        answer = await client.post("/v1/admin/reload", json={})
        assert answer.json()["sessions_that_stay"] == 0
        for socket in both:
            await send(socket, SPEECH[MIDDLE:], {"type": "stop"})
            heard = await listen(socket)
            assert (heard.errors, heard.of("done")[0]["text"]) == ([], whole)
    assert psutil.wait_procs([before], timeout=60)[1] == []
    await server.until(in_use=0)
    assert await said(server) == whole


@pytest.mark.long
async def test_at_the_end_of_the_server_every_worker_finishes_its_sessions(server):
    processes = psutil.Process(server.process.pid).children()
    async with AsyncExitStack() as stack:
        both = await at_both_workers(server, stack)
        for socket in both:
            await send(socket, SPEECH)
            await receive_until(socket, "words")
        server.process.terminate()
        for socket in both:
            heard = await listen(socket)
            assert heard.errors == ["shutting_down"]
            assert heard.code == 1012
    assert await asyncio.to_thread(server.process.wait, 60) == 0
    assert psutil.wait_procs(processes, timeout=60)[1] == []


# Its kept audio goes on so in make test: test_restarted_servers.py.
@pytest.mark.endurance
@pytest.mark.parametrize("stored", [False, True])
async def test_a_session_goes_on_at_whichever_worker_its_client_comes_back_to(stored, tmp_path):
    """Its line breaks, its worker is killed: nothing that the client gets is different."""
    options = ("--model", str(TINY), "--device", "cpu", "--workers", "3", "--max-sessions", "1")
    store = ("--store", str(tmp_path / "store")) if stored else ()
    sentence = clip("market").sentences[0]
    pcm = s16le(clip("market").samples[: round(sentence.end * 16_000)])
    with restarted(*options, *store) as running:
        whole = await speak(running, pcm)
        await running.server.until(in_use=0)
        places = in_words(whole, 4, random.Random(4))
        faults = (BREAK_LINE, KILL_WORKER, BREAK_LINE, BREAK_LINE)
        messages = await speak(running, pcm, list(zip(places, faults, strict=True)))
        await running.server.until(in_use=0)
        async with httpx.AsyncClient(base_url=running.server.url, timeout=60) as client:
            found = await client.get("/v1/sessions")
    assert kept(messages) == kept(whole)
    assert numbers(messages) == list(range(len(numbers(messages))))
    assert [m for m in messages if m["type"] == "error"] == []
    states = [one["state"] for one in found.json().get("sessions", ())]
    assert states == ["ended", "ended"] * stored


def test_one_port_is_shared_by_one_server_alone():
    with bind("127.0.0.1", 0, shared=True) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        for _ in range(2):
            with pytest.raises(CodedError, match=f"port {port} is in use"):
                bind("127.0.0.1", port, shared=True)
        for one in worker_sockets(bound, 2):
            with one:
                one.listen()
                assert one.getsockname() == bound.getsockname()
        with sockets.create_connection(bound.getsockname(), timeout=10):
            bound.accept()[0].close()


def test_what_one_process_has_alone_needs_one():
    for models in ({"model": "replay:recordings"}, {"live": ("order=replay:recordings",)}):
        with pytest.raises(ConfigError, match="replay:recordings: a replay works with one"):
            ServeConfig(workers=2, **models)


def test_slots_are_counted_once():
    first = SlotTable.create(2)
    second, third = SlotTable(first.fd, 1), SlotTable(first.fd, 2)
    assert [table.take(3) for table in (first, second, second, third)] == [True, True, True, False]
    assert {table.in_use for table in (first, second, third)} == {3}
    second.give_back()
    assert third.take(3)
    first.clear(2)  # its process is gone
    assert first.in_use == 2


@pytest.mark.endurance
async def test_sessions_of_every_worker_are_traced_and_recorded(tmp_path):
    folder = tmp_path / "recordings"
    with collecting() as collector:
        kept = ("--record", str(folder), "--trace", collector.url)
        with serving(*MODEL, "--workers", "2", *kept) as running:
            async with AsyncExitStack() as stack:
                for socket in await at_both_workers(running, stack):
                    await send(socket, SPEECH, {"type": "stop"})
                    assert (await listen(socket)).of("done")[0]["text"]
        roots = [span for span in collector.spans if span.name == "session"]
        opened = {
            one.value.string_value
            for span in roots
            for one in span.attributes
            if one.key == "voxlive.session.id"
        }
    assert len(roots) == len(opened) >= 2
    recorded = {one.name.rpartition("-")[2] for one in folder.iterdir()}
    assert recorded == opened
