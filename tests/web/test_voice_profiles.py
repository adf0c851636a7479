"""Voices that are remembered, and known again: sealed in the store, by consent, deletable."""

import asyncio
import base64
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.clips import clip
from support.clock_engine import ClockEngine
from support.counting import LoudnessModel
from support.line import START, Line
from support.server import AT_PAUSES, serving
from support.tiny_speech import write_sortformer
from support.voices import Levels
from support.wire import live, receive_until, s16le, send
from websockets.asyncio.client import connect

from voxlive.speakers.encoder import SpeakerDetector
from voxlive.speakers.profiles import VoiceProfile, nearest_profile
from voxlive.store.backends import open_store
from voxlive.store.contract import StoredName
from voxlive.streaming.service import Service
from voxlive.vad.detector import VoiceDetector
from voxlive.values import SAMPLE_RATE
from voxlive.web.config import ConfigError
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels
from voxlive.web.profiles import VARIABLE, ProfileSeal, VoiceProfiles
from voxlive.web.recorder import Recorder

KEY = base64.b64encode(bytes(range(32))).decode()
KNOWN = {"diarize": {"profiles": True}}
ANN, BOB = 0.3, 0.8


def spoken(*parts: tuple[float, float]) -> bytes:
    """Voices by their levels, each for some seconds, and a pause behind each."""
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    pieces = [(np.full(int(s * SAMPLE_RATE), level, np.float32), pause) for level, s in parts]
    return s16le(np.concatenate([one for pair in pieces for one in pair]))


class Server:
    """A server in this process on a store, which another one of them may go on with."""

    def __init__(self, folder: Path, secret: bytes | None = bytes(range(32))) -> None:
        self.service = Service(
            ClockEngine(), VoiceDetector(LoudnessModel()), speakers=SpeakerDetector(Levels())
        )
        self.folder = folder
        self.store = open_store(folder)
        self.endpoints = LiveEndpoints(LiveModels(self.service), recorder=Recorder(self.store))
        if secret:
            profiles = VoiceProfiles(self.store, ProfileSeal(secret))
            self.endpoints.recorder.profiles = profiles

    async def begin(self, **more: object) -> tuple[Line, dict]:
        line = Line(self.endpoints)
        line.send(START | {"resumable": False} | more)
        [ready] = await line.until("ready")
        return line, ready

    async def end(self) -> None:
        await self.service.aclose()
        await self.endpoints.wait_closed(1)
        await asyncio.to_thread(self.endpoints.recorder.close)


@pytest.fixture
async def server(tmp_path):
    made = Server(tmp_path / "store")
    yield made
    await made.end()


async def remember(line: Line, level: float, name: str, speaker: int = 0) -> dict:
    line.send(spoken((level, 6)))
    await line.until("speakers")
    while True:
        asked = {"type": "remember", "speaker": speaker, "name": name, "consent": True}
        line.send(asked)
        answer = (await line.until("remembered", "error"))[-1]
        if answer["type"] == "remembered":
            return answer
        assert "some 5 s more" in answer["message"]


async def over(line: Line) -> list[dict]:
    line.send({"type": "stop"})
    messages = await line.until("done")
    await line.end()
    return messages


def named(messages: list[dict]) -> list[tuple[int, str]]:
    return [(m["speaker"], m["name"]) for m in messages if m["type"] == "speaker_named"]


async def test_a_remembered_voice_is_known_in_the_next_session(server):
    line, ready = await server.begin(**KNOWN)
    assert ready["diarize"]["profiles"] is True
    profile = (await remember(line, ANN, "Ann"))["profile"]
    assert named(await over(line)) == []  # by the one that it was remembered in
    line, ready = await server.begin(**KNOWN)
    line.send(spoken((BOB, 6), (ANN, 6), (BOB, 6), (ANN, 6)))
    messages = await over(line)
    assert named(messages) == [(1, "Ann")]
    # It is the session's name for them, which the store has, and captions.
    await asyncio.to_thread(server.endpoints.recorder.close)
    store = open_store(server.folder)
    assert store.transcript(ready["session"], None).names == (StoredName(1, "Ann"),)
    assert [one.id for one in store.profiles(None)] == [profile]
    store.close()


async def test_nobody_is_known_who_has_not_asked_for_it(server):
    line, _ = await server.begin(diarize=True)
    await remember(line, ANN, "Ann")
    await over(line)
    line, ready = await server.begin(diarize=True)
    line.send(spoken((ANN, 8)))
    assert named(await over(line)) == []
    assert ready["diarize"]["profiles"] is False


async def test_a_voice_is_remembered_with_consent_alone(server):
    line, _ = await server.begin(diarize=True)
    line.send(spoken((ANN, 8)))
    await line.until("speakers")
    asked = {"type": "remember", "speaker": 0, "name": "Ann"}
    for more, why in (
        ({}, "consent"),
        ({"consent": False}, "consent"),
        ({"consent": "yes"}, "consent"),
        ({"consent": True, "name": ""}, "name"),
        ({"consent": True, "speaker": 3}, "too little of this speaker's voice"),
        ({"consent": True, "source": "hall"}, "too little of this speaker's voice"),
    ):
        line.send(asked | more)
        assert why in (await line.until("error"))[-1]["message"]
    await over(line)
    assert server.store.profiles(None) == ()


async def test_a_name_is_remembered_once_and_what_people_say_goes_before(server):
    first = ""
    for level in (ANN, BOB):  # the second time it is another voice
        line, _ = await server.begin(diarize=True)
        profile = (await remember(line, level, "Ann"))["profile"]
        await over(line)
        assert first in ("", profile)
        first = profile
    assert len(server.store.profiles(None)) == 1
    line, ready = await server.begin(**KNOWN)
    line.send(spoken((ANN, 2), (BOB, 2)))
    await line.until("speakers")
    by_people = StoredName(1, "Robert")
    await asyncio.to_thread(server.store.patch, ready["session"], None, names=[by_people])
    line.send(spoken((BOB, 8)))
    assert named(await over(line)) == [(1, "Ann")]
    await asyncio.to_thread(server.endpoints.recorder.writer.close)
    assert server.store.transcript(ready["session"], None).names == (by_people,)


async def test_another_server_goes_on_with_whom_it_knows(tmp_path):
    """Nobody is told twice, and one whose voice was not heard enough is known there."""
    one = Server(tmp_path / "store")
    for level, name in ((ANN, "Ann"), (BOB, "Bob")):
        line, _ = await one.begin(diarize=True)
        await remember(line, level, name)
        await over(line)
    line, ready = await one.begin(**KNOWN, resumable=True)
    sound = spoken((ANN, 6), (BOB, 2), (BOB, 8), (ANN, 4))
    cut = 2 * int(9.5 * SAMPLE_RATE)
    line.send(sound[:cut])
    seen = [ready, *await line.until("speaker_named")]
    assert named(seen) == [(0, "Ann")]
    await asyncio.gather(one.endpoints.leave(0), one.service.drain(0))
    seen += list(line.received)
    await one.end()
    other = Server(tmp_path / "store")
    back = Line(other.endpoints)
    last = max(m["seq"] for m in seen if "seq" in m)
    resume = {"type": "resume", "token": ready["resume"], "have": last, "from": 0}
    back.send(resume)
    [resumed] = await back.until("resumed")
    back.send(sound[2 * resumed["samples"] :])
    assert named(await over(back)) == [(1, "Bob")]
    await other.end()


def test_a_profile_is_only_opened_with_its_key_for_its_owner():
    vector = np.eye(1, 256, dtype=np.float32)[0]
    seal = ProfileSeal(b"k" * 32)
    sealed = seal.seal("ann", "Ann Other", vector)
    opened = seal.open(sealed)
    assert (opened.id, opened.name) == (sealed.id, "Ann Other")
    assert np.array_equal(opened.vector, vector)
    assert seal.seal("ann", "Ann Other", vector).id == sealed.id
    assert seal.seal("bob", "Ann Other", vector).id != sealed.id
    assert b"Ann" not in base64.b64decode(sealed.sealed)
    for key, changed in (
        (b"l" * 32, sealed),
        (b"k" * 32, type(sealed)(sealed.id, "bob", sealed.made_at, sealed.sealed)),
        (b"k" * 32, type(sealed)("0" * 16, "ann", sealed.made_at, sealed.sealed)),
    ):
        assert ProfileSeal(key).open(changed) is None


@pytest.mark.parametrize("given", ["short", base64.b64encode(b"x" * 31).decode(), "ä" * 32])
def test_a_key_that_is_none_is_refused_at_the_start(given, tmp_path):
    store = open_store(tmp_path / "store")
    assert VoiceProfiles.of(store, {}) is None
    with pytest.raises(ConfigError, match="openssl rand -base64 32"):
        VoiceProfiles.of(store, {VARIABLE: given})
    assert VoiceProfiles.of(store, {VARIABLE: KEY})
    store.close()


def test_a_voice_that_is_near_to_two_profiles_or_to_none_is_nobodys():
    def at(*values: float) -> np.ndarray:
        vector = np.array(values, np.float32)
        return vector / np.linalg.norm(vector)

    ann, bob = VoiceProfile("a", "Ann", at(1, 0, 0)), VoiceProfile("b", "Bob", at(0, 1, 0))
    twin = VoiceProfile("t", "Twin", at(1, 0.02, 0))
    other_encoder = VoiceProfile("o", "Other", at(1, 0))
    assert nearest_profile(at(1, 0.3, 0), [ann, bob, other_encoder], (), 0.8) is ann
    assert nearest_profile(at(1, 1, 0), [ann, bob], (), 0.8) is None
    assert nearest_profile(at(1, 0.3, 0), [ann, twin], (), 0.8) is None
    assert nearest_profile(at(1, 0.3, 0), [ann, bob], {"Ann"}, 0.8) is None
    assert nearest_profile(at(1, 0.3, 0), [], (), 0.8) is None


async def test_what_cannot_know_voices_says_so(tmp_path):
    """A server without a key, and one whose speakers are another network's."""
    plain = Server(tmp_path / "plain", None)
    line = Line(plain.endpoints)
    line.send(START | {"resumable": False} | KNOWN)
    [error] = [m for m in await line.until("error") if m["type"] == "error"]
    assert (error["code"], VARIABLE in error["message"]) == ("unsupported_option", True)
    line, _ = await plain.begin(diarize=True)
    line.send({"type": "remember", "speaker": 0, "name": "Ann", "consent": True})
    assert (await line.until("error"))[-1]["code"] == "no_profiles"
    await over(line)
    await plain.end()


async def test_a_store_that_fails_costs_the_names_alone(server, monkeypatch):
    from voxlive.store.contract import StoreBusy

    def busy(*_: object) -> None:
        raise StoreBusy("another program holds the database")

    monkeypatch.setattr(server.store, "profiles", busy)
    monkeypatch.setattr(server.store, "keep_profile", busy)
    line = Line(server.endpoints)
    line.send(START | {"resumable": False} | KNOWN)
    messages = await line.until("warning")
    assert messages[-1]["code"] == "profiles_failed"
    line.send(spoken((ANN, 8)))
    await line.until("speakers")
    line.send({"type": "stop"})
    assert (await line.until("done"))[-1]["text"]
    await line.end()


@pytest.mark.endurance
async def test_sortformer_knows_nobody_again(tmp_path):
    folder = str(write_sortformer(tmp_path / "sortformer"))
    store = str(tmp_path / "store")
    with serving("--speaker-model", folder, "--store", store, env={VARIABLE: KEY}) as running:
        heard = await live(running.ws, s16le(clip("yes").samples), **KNOWN)
    [error] = heard.of("error")
    assert "another model" in error["message"]


@pytest.mark.long
async def test_a_server_remembers_lists_and_deletes_voices(tmp_path):
    """The real encoder, over two processes for connections; the name is in no file of the store."""
    folder = tmp_path / "store"
    args = ("--store", str(folder), "--workers", "2", *AT_PAUSES)
    known = KNOWN | {"drafts": False}
    audio, again, other = (clip(name).samples for name in ("minute", "train", "market"))
    pause = np.zeros(SAMPLE_RATE, np.float32)
    with serving(*args, env={VARIABLE: KEY}) as running:
        async with connect(f"{running.ws}/v1/live") as socket:
            start = START | {"resumable": False, "diarize": True, "drafts": False}
            await send(socket, start)
            await send(socket, s16le(audio[: 12 * SAMPLE_RATE]))
            await receive_until(socket, "speakers")
            asked = {"type": "remember", "speaker": 0, "name": "Zuleika", "consent": True}
            answer = {"type": "error"}
            while answer["type"] == "error":
                await send(socket, asked)
                while (answer := json.loads(await socket.recv()))["type"] not in (
                    "remembered",
                    "error",
                ):
                    pass
                assert answer["type"] == "remembered" or "too little" in answer["message"]
            await send(socket, {"type": "stop"})
            await receive_until(socket, "done")
        heard = await live(running.ws, s16le(np.concatenate([other, pause, again])), **known)
        labels = {one["speaker"] for m in heard.of("speakers") for one in m["ranges"]}
        [told] = heard.of("speaker_named")
        assert told["name"] == "Zuleika"
        assert told["speaker"] != 0
        assert told["speaker"] in labels
        async with httpx.AsyncClient(base_url=running.url) as client:
            [listed] = (await client.get("/v1/voice-profiles")).json()["profiles"]
            assert (listed["id"], listed["name"]) == (answer["profile"], "Zuleika")
            place = f"/v1/voice-profiles/{listed['id']}"
            assert (await client.delete(place)).status_code == 204
            gone = await client.delete(place)
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "no_such_profile")
            assert (await client.get("/v1/voice-profiles")).json() == {"profiles": []}
            session = heard.of("ready")[0]["session"]
            await client.delete(f"/v1/sessions/{session}")
        files = b"".join(one.read_bytes() for one in folder.rglob("*") if one.is_file())
        assert b"Zuleika" not in files
        assert listed["id"].encode() not in files
        assert not (await live(running.ws, s16le(again), **known)).of("speaker_named")


@pytest.mark.endurance
async def test_a_server_without_a_key_has_no_profiles(server):
    """And one whose key is another one lists what it cannot open, which may be deleted."""
    folder = server.folder
    line, _ = await server.begin(diarize=True)
    profile = (await remember(line, ANN, "Ann"))["profile"]
    await over(line)
    await asyncio.to_thread(server.endpoints.recorder.close)
    with serving("--store", str(folder)) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            answer = await client.get("/v1/voice-profiles")
        assert (answer.status_code, VARIABLE in answer.text) == (501, True)
    other = base64.b64encode(b"o" * 32).decode()
    with serving("--store", str(folder), env={VARIABLE: other}) as running:
        async with httpx.AsyncClient(base_url=running.url) as client:
            [listed] = (await client.get("/v1/voice-profiles")).json()["profiles"]
            assert (listed["id"], listed["name"]) == (profile, None)
            assert (await client.delete(f"/v1/voice-profiles/{profile}")).status_code == 204
