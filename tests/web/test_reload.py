"""``POST /v1/admin/reload``: another model or new weights under sessions that go on."""

import asyncio
import json
import shutil
from pathlib import Path

import httpx
import pytest
from support.clips import clip
from support.server import serving
from support.wire import START, dial, listen, live, play, receive, receive_until, s16le, send

TINY = Path(__file__).parents[1] / "models" / "tiny-voxtral"
KEYS = """
[operator]
key = "operator-secret-of-the-test"
scopes = ["live", "admin"]

[speaker]
key = "speaker-secret-of-the-test"
scopes = ["live", "files", "history"]
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(TINY, folder)
    return folder


@pytest.fixture(scope="module")
def server(weights):
    named = f"second={TINY},max-sessions=1"
    with serving("--model", str(weights), "--device", "cpu", "--live", named) as running:
        yield running


async def reload(server, **fields) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        return await client.post("/v1/admin/reload", json=fields)


@pytest.mark.long
async def test_sessions_go_on_with_every_word(server):
    """Also one in mid-speech, which passes to the next engine where its speaker pauses."""
    audio = s16le(clip("market").samples)
    whole = await live(server.ws, audio)
    async with dial(server.ws + "/v1/live") as socket:
        await send(socket, START, audio[: 3 * 32000])
        # The speaker goes on meanwhile: without audio the utterance would end.
        playing = asyncio.create_task(play(socket, audio[3 * 32000 :], 1.0, 3200))
        before = await receive_until(socket, "words")
        answer = await reload(server)
        await playing
        await send(socket, {"type": "stop"})
        heard = await listen(socket)
    assert answer.status_code == 200
    assert answer.json()["sessions_that_stay"] == 0
    assert answer.json()["capacity"] == 2
    assert heard.errors == []
    assert len([m for m in [*before, *heard.messages] if m["type"] == "recovered"]) == 1
    assert heard.of("done")[0]["text"] == whole.of("done")[0]["text"]
    words = [w for m in [*before, *heard.messages] if m["type"] == "words" for w in m["words"]]
    assert words == [w for m in whole.of("words") for w in m["words"]]


async def test_the_same_model_loaded_anew_has_no_other_name(server):
    async with httpx.AsyncClient(base_url=server.url) as client:
        before = (await client.get("/v1/models")).json()
        for name in (None, "second"):
            assert (await reload(server, name=name)).status_code == 200
        assert (await client.get("/v1/models")).json() == before


@pytest.mark.long
async def test_a_model_is_replaced_by_another_one_and_its_name_stays(server, real_weights):
    async with dial(server.ws + "/v1/live") as socket:
        await send(socket, START | {"model": "second"})
        await receive(socket)
        answer = await reload(server, name="second", model="whisper-tiny.en")
        assert answer.status_code == 200, answer.text
        assert (answer.json()["name"], answer.json()["engine"]) == ("second", "whisper")
        # Its gate feeds what Voxtral needs, so it stays; the new engine serves the next one.
        assert answer.json()["sessions_that_stay"] == 1
        other = await live(server.ws, s16le(clip("yes").samples), model="second")
        assert other.of("done")[0]["text"] == "Yes."
        await send(socket, s16le(clip("yes").samples), {"type": "stop"})
        heard = await listen(socket)
    assert (heard.errors, heard.of("done")[0]["text"]) == ([], "yes")
    async with httpx.AsyncClient(base_url=server.url) as client:
        health = (await client.get("/health")).json()
        listed = (await client.get("/v1/models")).json()["data"]
    assert {one["name"]: one["engine"] for one in health["models"]}["second"] == "whisper"
    assert "second" in {one["id"] for one in listed if one["live"]}


UNLOADABLE = [
    ({"name": "third"}, 404, "model_not_found"),
    ({"model": "/nowhere/at/all"}, 404, "model_not_found"),
    ({"model": 7}, 400, "invalid_value"),
    ({"weights": "new"}, 400, "invalid_value"),
    ([], 400, "invalid_json"),
]


async def test_what_cannot_be_loaded_is_an_error_and_changes_nothing(server):
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        for body, status, code in UNLOADABLE:
            answer = await client.post("/v1/admin/reload", content=json.dumps(body))
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), body
    heard = await live(server.ws, s16le(clip("yes").samples))
    assert (heard.errors, heard.of("done")[0]["text"]) == ([], "yes")


async def test_damaged_weights_leave_the_engine_that_is_there(server, weights):
    file = weights / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    answer = await reload(server)
    file.write_bytes(content)
    assert answer.status_code >= 400
    assert "safetensors" in answer.json()["error"]["message"]
    heard = await live(server.ws, s16le(clip("yes").samples))
    assert heard.of("done")[0]["text"] == "yes"


async def test_one_is_loaded_at_a_time(server):
    first, second = await asyncio.gather(reload(server), reload(server))
    assert {first.status_code, second.status_code} == {200, 503}
    [busy] = [one for one in (first, second) if one.status_code == 503]
    assert busy.json()["error"]["code"] == "models_busy"
    assert busy.headers["retry-after"]


async def test_only_an_operator_may(tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    with serving("--model", str(TINY), "--device", "cpu", "--keys", str(keys)) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            statuses = {}
            for name in ("operator", "speaker", "nobody"):
                headers = {"authorization": f"Bearer {name}-secret-of-the-test"}
                answer = await client.post("/v1/admin/reload", json={}, headers=headers)
                statuses[name] = answer.status_code
    assert statuses == {"operator": 200, "speaker": 403, "nobody": 401}
