"""Two servers behind HAProxy are one: what they count, show and keep, and when one is killed.

The same of two replicas on Ray Serve, where Ray is installed.
"""

import asyncio
import json
import random
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx
import pytest
import soxr
from support.clips import clip
from support.openai_realtime import COMMIT, MANUAL, TRANSCRIPTION, append, update
from support.ray_replicas import RayReplicas, ray_replicas
from support.replicas import (
    DOWNSCALE,
    END_REPLICA,
    KILL_IN_OUTAGE,
    KILL_REPLICA,
    REDEPLOY,
    RESTART_POSTGRES,
    RESTART_REDIS,
    STOP_REPLICA,
    Replicas,
    replicas,
)
from support.restarting import in_words, kept, numbers, speak, words_of
from support.server import AT_PAUSES, Server
from support.wire import START, asr, dial, listen, receive_until, s16le, send, text_of_lines
from websockets.exceptions import ConnectionClosed

TINY = Path(__file__).parents[1] / "models" / "tiny-voxtral"
SPEECH = s16le(clip("doctor").samples[: 3 * 16_000])
KEYS = """
[talker]
key = "the-talkers-own-key"
sessions = 3
[fast]
key = "the-key-of-a-hurried-one"
rate = 4
[other]
key = "the-key-of-others"
"""
OTHERS = "the-key-of-others"
TALKERS = "the-talkers-own-key"
TALKER = {"authorization": f"Bearer {TALKERS}"}
FAST = {"authorization": "Bearer the-key-of-a-hurried-one"}
OTHER = {"authorization": f"Bearer {OTHERS}"}
FAULTS = (
    KILL_REPLICA,
    STOP_REPLICA,
    END_REPLICA,
    REDEPLOY,
    DOWNSCALE,
    RESTART_REDIS,
    RESTART_POSTGRES,
    KILL_IN_OUTAGE,
)
LONG = {
    REDEPLOY: ("minute", 1.5),
    DOWNSCALE: ("minute", 4.0),
    RESTART_POSTGRES: ("minute", 4.0),
    KILL_IN_OUTAGE: ("minute", 4.0),
}
"""What is said, and how fast, where much happens meanwhile: the session has to outlast it."""
LONG_ON_RAY = {**LONG, END_REPLICA: ("minute", 1.0)}
PLAIN = (REDEPLOY, DOWNSCALE, KILL_IN_OUTAGE)
"""On Ray the first two are the end of replicas, by Ray."""
MODEL = ("--model", str(TINY), "--device", "cpu", "--max-sessions", "4")
WHISPER = (*AT_PAUSES, "--max-sessions", "4")
"""The same words for the same speech too, for a fifth of the processor."""


WAYS = [replicas, ray_replicas]

pytestmark = pytest.mark.timeout(600)  # Ray takes a while to start, and to end


@pytest.fixture(scope="module", params=WAYS)
def running(request, tmp_path_factory, postgres_server):
    folder, store = tmp_path_factory.mktemp("replicas"), postgres_server.new_database()
    with request.param(folder, store, *options(folder), key=OTHERS) as found:
        yield found


def options(folder: Path, model: tuple[str, ...] = MODEL) -> tuple[str, ...]:
    keys = folder / "keys.toml"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    return (*model, "--keys", str(keys))


async def opened(stack: AsyncExitStack, ws: str, headers=TALKER, query: str = "", **start):
    socket = await stack.enter_async_context(
        dial(f"{ws}/v1/live{query}", additional_headers=headers)
    )
    await send(socket, {**START, **start})
    return socket, (await receive_until(socket, "ready"))[-1]


async def admitted(stack: AsyncExitStack, ws: str, query: str = "", headers=TALKER) -> None:
    """A session of the talker's, as soon as it is let in."""
    while True:
        async with AsyncExitStack() as trying:
            with suppress(ConnectionClosed):
                await opened(trying, ws, headers, query)
                stack.push_async_exit(trying.pop_all())
                return
        await asyncio.sleep(0.1)


async def client(stack: AsyncExitStack, url: str, headers=TALKER) -> httpx.AsyncClient:
    return await stack.enter_async_context(
        httpx.AsyncClient(base_url=url, headers=headers, timeout=60)
    )


async def at_each(stack: AsyncExitStack, running: Replicas, path: str) -> list[httpx.Response]:
    return [await (await client(stack, one.url)).get(path) for one in running.servers]


async def refusal(server: Server, headers, query: str = "") -> list[str]:
    async with dial(f"{server.ws}/v1/live{query}", additional_headers=headers) as beyond:
        return (await listen(beyond)).errors


@pytest.mark.endurance
async def test_limits_rates_and_names_are_those_of_both(running):
    one, two = running.servers
    ws = running.url.removesuffix("/v1/live")
    async with AsyncExitStack() as stack:
        for _ in range(3):  # HAProxy gives the next one to the server with fewer
            await opened(stack, ws)
        assert sorted([one.health()["in_use"], two.health()["in_use"]]) == [1, 2]
        assert [await refusal(server, TALKER) for server in (one, two)] == [
            ["too_many_sessions"]
        ] * 2
        await opened(stack, one.ws, OTHER, "?captions=stage")
        assert await refusal(two, FAST, "?captions=stage") == ["name_in_use"]
        hurried = await client(stack, running.http, FAST)
        answers = [(await hurried.get("/v1/models")).status_code for _ in range(5)]
        assert answers == [200, 200, 200, 429, 429]
    await asyncio.gather(one.until(in_use=0), two.until(in_use=0))
    async with AsyncExitStack() as stack:  # all of that is free
        for server in (one, two, one):
            await admitted(stack, server.ws, "?captions=stage")


@pytest.mark.endurance
async def test_captions_corrections_links_tickets_and_history_come_from_either(running):
    one, two = running.servers
    async with AsyncExitStack() as stack:
        here, there = await client(stack, one.url), await client(stack, two.url)
        granted = (await there.post("/v1/auth/grant", json={"ttl_seconds": 60})).json()
        ticket = {"authorization": f"Bearer {granted['access_token']}"}
        socket, ready = await opened(stack, one.ws, ticket, "?captions=hall")
        await send(socket, SPEECH, {"type": "flush", "id": "1"})
        *_, first = await receive_until(socket, "segment")
        link = await there.post("/v1/shares", json={"captions": "hall"})
        token = {"authorization": f"Bearer {link.json()['token']}"}
        readers = {
            "/captions/hall": TALKER,
            f"/captions/{ready['session']}": TALKER,
            "/captions/hall.vtt": TALKER,
            "/read/events": token,
        }
        feeds = [
            await stack.enter_async_context(there.stream("GET", path, headers=headers))
            for path, headers in readers.items()
        ]
        assert [feed.status_code for feed in feeds] == [200] * 4
        listed = await at_each(stack, running, "/captions")
        assert [[s["name"] for s in a.json()["sessions"]] for a in listed] == [["hall"]] * 2
        assert (
            await (await client(stack, two.url, OTHER)).get("/captions/hall")
        ).status_code == 404
        fixed = {"corrections": [{"first": 0, "stop": 1, "text": "Corrected"}]}
        patched = await there.patch(f"/v1/sessions/{ready['session']}", json=fixed)
        assert patched.status_code == 200, patched.text
        await send(socket, SPEECH, {"type": "stop"})
        text = (await listen(socket)).of("done")[0]["text"]
        rest = text.removeprefix(first["text"])
        read = [aiter(feed.aiter_text()) for feed in feeds[:3]]
        said = ["".join([part async for part in one]) for one in read]
        for captions in said[:2]:
            assert f'"text": "{rest}"' in captions
            assert "event: corrected" in captions
            assert captions.endswith("event: done\ndata: {}\n\n")
        assert rest.split()[-1] in said[2]
        linked = ""
        async for part in feeds[3].aiter_text():  # a link lasts longer than its session
            linked += part
            if "event: done" in linked:
                break
        assert f'"text": "{rest}"' in linked
        for answer in await at_each(stack, running, f"/v1/sessions/{ready['session']}"):
            assert answer.json()["text"].split()[1:] == text.split()[1:]
        assert (await here.get("/captions")).json()["sessions"] == []


@pytest.mark.endurance
async def test_other_wire_formats_pass_through_as_well(running):
    ws = running.url.removesuffix("/v1/live")
    async with AsyncExitStack() as stack:
        socket, _ = await opened(stack, ws, OTHER)
        await send(socket, SPEECH, {"type": "stop"})
        text = (await listen(socket)).of("done")[0]["text"].strip()
    heard = await asr(ws, SPEECH, query=f"?token={OTHERS}")
    assert text_of_lines(heard.of(None)[-1]["lines"]).split() == text.split()
    url = f"{ws}/v1/listen?encoding=linear16&sample_rate=16000"
    async with dial(url, subprotocols=["token", OTHERS]) as socket:
        await send(socket, SPEECH, {"type": "CloseStream"})
        finals = [m for m in (await listen(socket)).of("Results") if m["is_final"]]
    said = [final["channel"]["alternatives"][0]["transcript"] for final in finals]
    assert " ".join(filter(None, said)) == text
    async with dial(f"{ws}/v1/realtime?intent=transcription", additional_headers=OTHER) as socket:
        pcm = s16le(soxr.resample(clip("doctor").samples[: 3 * 16_000], 16_000, 24_000))
        await send(socket, update(MANUAL), append(pcm), COMMIT)
        completed = (await receive_until(socket, f"{TRANSCRIPTION}.completed"))[-1]
    assert completed["transcript"].split()[:3] == text.split()[:3]


# Servers behind HAProxy believe what this machine's own clients say.
@pytest.mark.parametrize("running", [ray_replicas], indirect=True)
async def test_no_client_guesses_keys_from_many_addresses(running):
    async with AsyncExitStack() as stack:
        for number in range(100):
            guess = {"authorization": "Bearer a-guess", "x-forwarded-for": f"10.0.0.{number}"}
            http = await client(stack, running.http, guess)
            if (await http.get("/v1/models")).status_code == 429:
                break
        else:
            pytest.fail("a hundred wrong keys were answered")


async def go_on(running: Replicas, fault: str, seed: int) -> None:
    """The reader comes to the replica that does not have the session, and once more when cut."""
    long = LONG_ON_RAY if isinstance(running, RayReplicas) else LONG
    name, speed = long.get(fault, ("market", 2.0))
    pcm = s16le(clip(name).samples)
    begun: list[dict] = []
    whole = await speak(running, pcm, key=TALKERS)
    await running.until_at_rest()
    half = min(10, len(pcm) / 32_000 / 2)
    early = [m for m in whole if m["type"] == "words" and m["words"][-1]["end"] < half]
    [at] = in_words(early, 1, random.Random(seed))
    async with AsyncExitStack() as stack:
        http = await client(stack, running.http)
        said = {"query": "?captions=stage", "on_ready": begun.append, "key": TALKERS}
        speaking = asyncio.create_task(speak(running, pcm, [(at, fault)], speed, **said))
        read = await read_along(http, begun, speaking)
        messages = await speaking
        await running.until_at_rest()
        found = (await http.get("/v1/sessions")).json()["sessions"]
        stored = (await http.get(f"/v1/sessions/{begun[0]['session']}")).json()["words"]
    assert kept(messages) == kept(whole)
    assert numbers(messages) == list(range(len(numbers(messages))))
    assert [m for m in messages if m["type"] == "error"] == []
    assert [one["state"] for one in found] == ["ended", "ended"]
    assert read == [m["text"] for m in messages if m["type"] == "segment"]
    heard = [(w["text"], w["start"], w["end"]) for w in words_of(messages)]
    assert [(w["text"], w["start"], w["end"]) for w in stored] == heard
    if fault == RESTART_POSTGRES:
        assert {m["code"] for m in messages if m["type"] == "warning"} & {
            "store_failed",
            "store_late",
        }


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
async def test_a_client_and_its_readers_go_on_when_a_replica_is_killed(
    way, tmp_path, postgres_server
):
    store = postgres_server.new_database()
    with way(tmp_path, store, *options(tmp_path, WHISPER), key=OTHERS) as running:
        await go_on(running, KILL_REPLICA, 7)


@pytest.mark.endurance
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("way", "fault"),
    [
        *((replicas, fault) for fault in FAULTS),
        *((ray_replicas, fault) for fault in FAULTS if fault not in PLAIN),
    ],
)
async def test_a_client_and_its_readers_go_on_whatever_happens(
    way, fault, seed, tmp_path, postgres_server
):
    """What the key had at a replica that is gone is free again, too."""
    store = postgres_server.new_database()
    with way(tmp_path, store, *options(tmp_path), key=OTHERS) as running:
        running.postgres = postgres_server
        await go_on(running, fault, seed)
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await admitted(stack, running.url.removesuffix("/v1/live"))


@pytest.mark.endurance
@pytest.mark.timeout(1200)
async def test_replicas_are_as_many_as_the_sessions_want_and_none_is_cut(tmp_path, postgres_server):
    """One speaks all the time, three others come and leave; a replica has two slots."""
    store, three = postgres_server.new_database(), ("--replicas", "1", "--most-replicas", "3")
    few = ("--model", str(TINY), "--device", "cpu", "--max-sessions", "2")
    with ray_replicas(tmp_path, store, *few, number=three) as running:

        async def until_there_are(count: int) -> None:
            while len(running.servers) != count:
                await asyncio.sleep(0.5)
                await asyncio.to_thread(running.find)

        pcm = 3 * s16le(clip("minute").samples)
        whole = await speak(running, pcm, speed=8.0)
        speaking = asyncio.create_task(speak(running, pcm, speed=1.0))
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await admitted(stack, running.url.removesuffix("/v1/live"), headers={})
            await until_there_are(3)
        await until_there_are(1)
        assert not speaking.done()
        assert kept(await speaking) == kept(whole)


async def read_along(http: httpx.AsyncClient, begun: list[dict], speaking) -> list[str]:
    """The texts of the segments, as a reader of captions has them in the end."""
    texts: dict[int, str] = {}
    while not begun:  # noqa: ASYNC110, the client says so
        await asyncio.sleep(0.02)
    while True:
        try:
            async with http.stream("GET", "/captions/stage") as feed:
                kind = ""
                async for line in feed.aiter_lines() if feed.status_code == 200 else _nothing():
                    name, _, value = line.partition(": ")
                    kind = value if name == "event" else kind
                    if name == "data" and kind in ("segment", "snapshot"):
                        found = json.loads(value)
                        for one in found["segments"] if kind == "snapshot" else [found]:
                            assert texts.setdefault(one["id"], one["text"]) == one["text"]
                    elif name == "data" and kind == "done":
                        return [texts[one] for one in sorted(texts)]
        except httpx.TransportError:
            pass  # as a browser does
        if speaking.done():
            return [texts[one] for one in sorted(texts)]
        await asyncio.sleep(0.1)


async def _nothing():
    for line in ():
        yield line
