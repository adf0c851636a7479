"""Sessions with two sources over real sockets, on Whisper tiny.en that commits at pauses."""

import json

import httpx
import numpy as np
import pytest
from support.clips import clip
from support.scoring import spelt, word_errors
from support.server import AT_PAUSES, Server, serving
from support.sounds import leaked
from support.weights import TINY_EN
from support.wire import START, dial, receive, receive_until, s16le, send
from typer.testing import CliRunner
from websockets.exceptions import InvalidStatus

from voxlive.cli.sessions import sessions
from voxlive.client import LiveClient

CHUNK = 6400
NAMES = ["me", "them"]


@pytest.fixture(scope="module")
def server(real_weights, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    with serving(
        "--model", TINY_EN, *AT_PAUSES, "--max-sessions", "2", "--store", str(store)
    ) as running:
        yield running


def stereo(me: np.ndarray, them: np.ndarray) -> bytes:
    """Two channels as s16le, the shorter one with silence behind it."""
    length = max(len(me), len(them)) + 8000
    return s16le(np.stack([np.pad(one, (0, length - len(one))) for one in (me, them)], axis=1))


async def heard(server: Server, pcm: bytes, **start) -> list[dict]:
    async with dial(f"{server.ws}/v1/live") as socket:
        await send(socket, {**START, "sources": NAMES, **start})
        for at in range(0, len(pcm), CHUNK):
            await send(socket, pcm[at : at + CHUNK])
        await send(socket, {"type": "stop"})
        messages = await receive_until(socket, "done")
    await server.until(in_use=0)
    return messages


def texts(messages: list[dict]) -> dict[str, str]:
    """What each source said, after checking that it comes the same three times."""
    found = {}
    for name in NAMES:
        mine = [m for m in messages if m.get("source") == name]
        words = [w for m in mine if m["type"] == "words" for w in m["words"]]
        assert {w["source"] for w in words} <= {name}
        found[name] = "".join(w["text"] for w in words)
        assert found[name] == "".join(m["text"] for m in mine if m["type"] == "segment")
        assert found[name] == messages[-1]["sources"].get(name, "")
    assert [m["seq"] for m in messages] == list(range(len(messages)))
    return found


@pytest.mark.timeout(120)
async def test_two_sources_are_one_session_live_in_captions_and_in_the_store(server):
    me, them = clip("doctor"), clip("train")
    messages = await heard(server, stereo(me.samples, them.samples), suppress_leaks=False)
    ready, done = messages[0], messages[-1]
    assert (ready["sources"], ready["channels"]) == (NAMES, 2)
    said = texts(messages)
    assert word_errors(me.text, said["me"]) <= 2
    assert word_errors(them.text, said["them"]) <= 2
    segments = [m for m in messages if m["type"] == "segment"]
    assert len({m["id"] for m in segments}) == len(segments)
    assert done["text"].splitlines() == [f"{m['source']}: {m['text'].strip()}" for m in segments]

    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        [listed] = (await client.get("/v1/sessions")).json()["sessions"]
        path = f"/v1/sessions/{listed['id']}"
        stored = (await client.get(path)).json()
        files = {
            ending: (await client.get(f"{path}.{ending}")).text for ending in ("srt", "vtt", "md")
        }
        written = (await client.get(f"{path}.json")).json()
        found = (await client.get("/v1/sessions", params={"q": spelt(them.text)[0]})).json()
    assert listed["id"] == ready["session"]
    for name in NAMES:
        mine = "".join(w["text"] for w in stored["words"] if w["source"] == name)
        assert mine == said[name]
        assert f"<v {name}>" in files["vtt"]
        assert f"\n{name}: " in files["srt"]
        assert name in files["md"]
    assert {one["speaker"] for one in written["segments"]} == {*NAMES}
    shown = CliRunner().invoke(sessions, ["show", listed["id"], "--server", server.url])
    for name in NAMES:
        assert f"  {name}: " in shown.output
    starts = [one["start"] for one in written["segments"]]
    assert starts == sorted(starts)
    assert len(found["sessions"]) == 1


@pytest.mark.endurance
@pytest.mark.timeout(120)
async def test_what_the_microphone_hears_of_the_loudspeaker_comes_once_from_its_source(server):
    first, second, third = clip("train"), clip("doctor"), clip("message")
    gap = np.zeros(12_000, np.float32)
    quiet = [np.zeros(len(one.samples), np.float32) for one in (first, second, third)]
    me = np.concatenate([quiet[0], gap, second.samples, gap, quiet[2]])
    them = np.concatenate([first.samples, gap, quiet[1], gap, third.samples])
    alone = texts(await heard(server, stereo(me, them), suppress_leaks=False))
    pcm = stereo(me + leaked(them), them)
    assert len(spelt(texts(await heard(server, pcm, suppress_leaks=False))["me"])) > 20
    messages = await heard(server, pcm)
    assert messages[0]["suppress_leaks"] is True
    said = texts(messages)
    # What is taken out leaves other samples, which some processors hear in lower case.
    assert {name: spelt(text) for name, text in said.items()} == {
        name: spelt(text) for name, text in alone.items()
    }


@pytest.mark.endurance
@pytest.mark.timeout(120)
async def test_two_who_speak_at_the_same_time_are_both_written(server):
    me = np.concatenate([np.zeros(40_000, np.float32), clip("doctor").samples])
    them = np.concatenate([clip("train").samples, clip("message").samples])
    size = max(len(me), len(them))
    me, them = (np.pad(one, (0, size - len(one))) for one in (me, them))
    said = texts(await heard(server, stereo(me + leaked(them), them)))
    assert word_errors(clip("doctor").text, said["me"]) <= 2
    both = f"{clip('train').text} {clip('message').text}"
    assert word_errors(both, said["them"]) <= 3


async def test_a_session_of_two_sources_needs_two_slots(server):
    async with dial(f"{server.ws}/v1/live") as one, dial(f"{server.ws}/v1/live") as two:
        await send(one, START)
        assert (await receive(one))["type"] == "ready"
        await send(two, {**START, "sources": NAMES})
        refused = await receive(two)
    assert (refused["code"], refused["fatal"]) == ("server_full", True)
    await server.until(in_use=0)


async def test_captions_name_the_source_of_what_is_said(server):
    pcm = stereo(clip("yes").samples, clip("message").samples)
    url = f"{server.ws}/v1/live?captions=both"
    async with dial(url) as socket, httpx.AsyncClient(timeout=60) as client:
        await send(socket, {**START, "sources": NAMES, "suppress_leaks": False})
        await receive(socket)
        async with client.stream("GET", f"{server.url}/captions/both") as captions:
            await send(socket, pcm, {"type": "stop"})
            await receive_until(socket, "done")
            lines = [line async for line in captions.aiter_lines()]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    segments = [one for one in data if "end" in one]
    assert {one["source"] for one in segments} == {*NAMES}
    await server.until(in_use=0)


@pytest.mark.timeout(120)
async def test_deepgrams_channels_have_their_own_words_and_leaks_come_once(server):
    first, second = clip("train"), clip("doctor")
    gap = np.zeros(12_000, np.float32)
    them = np.concatenate([first.samples, gap, np.zeros_like(second.samples)])
    me = np.concatenate([np.zeros_like(first.samples), gap, second.samples])
    query = "encoding=linear16&sample_rate=16000&channels=2&multichannel=true"
    pcm = stereo(me + leaked(them), them)
    async with dial(f"{server.ws}/v1/listen?{query}") as socket:
        for at in range(0, len(pcm), CHUNK):
            await send(socket, pcm[at : at + CHUNK])
        await send(socket, {"type": "CloseStream"})
        messages = await receive_until(socket, "Metadata")
    assert messages[-1]["channels"] == 2
    for index, spoken in enumerate((second, first)):
        finals = [m for m in messages if m.get("is_final") and m["channel_index"] == [index, 2]]
        texts = [m["channel"]["alternatives"][0]["transcript"] for m in finals]
        assert word_errors(spoken.text, " ".join(texts)) <= 2
    await server.until(in_use=0)


async def test_deepgrams_channels_are_refused_without_a_slot_for_each(server):
    query = "encoding=linear16&sample_rate=16000&channels=3&multichannel=true"
    with pytest.raises(InvalidStatus) as refused:
        async with dial(f"{server.ws}/v1/listen?{query}"):
            pass
    assert refused.value.response.status_code == 503
    await server.until(in_use=0)


@pytest.mark.timeout(120)
async def test_the_reference_client_takes_several_sources(server):
    pcm = stereo(clip("yes").samples, clip("message").samples)
    async with LiveClient(f"{server.ws}/v1/live", channels=2, sources=NAMES) as client:
        for at in range(0, len(pcm), CHUNK):
            await client.send(pcm[at : at + CHUNK])
        await client.stop()
        messages = [message async for message in client]
    assert {m["source"] for m in messages if m["type"] == "words"} == {*NAMES}
    assert all(messages[-1]["sources"].values())
    await server.until(in_use=0)
