"""Servers with several live engines: what they list, sessions on each, their other ports."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from support.clips import clip
from support.server import Server, serving
from support.talk import OPTIONS, OVER, PORTS, WHISPER, WYOMING
from support.wire import START, dial, listen, receive, receive_until, s16le, send
from typer.testing import CliRunner
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.info import Describe, Info

from voxlive.cli.main import app

TINY = Path(__file__).parents[1] / "models" / "tiny-voxtral"
T = TypeVar("T")


@pytest.fixture(scope="module")
def both() -> Iterator[Server]:
    """A server with two engines, each a process of its own."""
    args = ("--max-sessions", "2", "--live", f"quick={TINY},max-sessions=1")
    with serving("--model", str(TINY), "--device", "cpu", *args, *PORTS) as one:
        yield one


def test_two_engines_are_listed_with_their_slots(both):
    health = both.health()
    assert [(one["name"], one["capacity"]) for one in health["models"]] == [
        ("tiny-voxtral", 2),
        ("quick", 1),
    ]
    listed = httpx.get(f"{both.url}/v1/models").json()["data"]
    live = {one["id"]: (one["default"], one["live"]) for one in listed}
    assert live["tiny-voxtral"] == (True, True)
    assert live["quick"] == (False, True)


@pytest.mark.long
async def test_sessions_on_two_engines_at_the_same_time(both):
    audio = s16le(clip("yes").samples)
    async with dial(f"{both.ws}/v1/live") as socket:
        await send(socket, {**START, "model": "quick"}, audio)
        assert (await receive(socket))["type"] == "ready"
        # Its one slot is taken, and those of the default are free.
        async with dial(f"{both.ws}/v1/live?model=quick") as other:
            assert (await listen(other)).errors == ["server_full"]
        async with dial(f"{both.ws}/v1/live") as other:
            await send(other, START, audio, {"type": "stop"})
            first = (await listen(other)).of("done")[0]["text"]
        await send(socket, {"type": "stop"})
        assert (await listen(socket)).of("done")[0]["text"] == first != ""
    await both.until(in_use=0)


async def test_a_resumed_session_stays_on_its_model(both):
    audio = s16le(clip("yes").samples)
    start = {**START, "model": "quick", "resumable": True}
    async with dial(f"{both.ws}/v1/live") as socket:
        await send(socket, start, audio)
        ready = await receive(socket)
    async with dial(f"{both.ws}/v1/live") as socket:
        await send(socket, {"type": "resume", "token": ready["resume"], "have": 0, "from": 0})
        await receive_until(socket, "resumed")
        assert both.in_use() == {"tiny-voxtral": 0, "quick": 1}
        await send(socket, {"type": "stop"})
        assert (await listen(socket)).of("done")[0]["text"]


@pytest.mark.endurance
async def test_whisper_beside_voxtral_live_and_for_files(real_weights, tmp_path):
    wav = clip("doctor").write_wav(tmp_path / "doctor.wav")
    audio = s16le(clip("doctor").samples[: 3 * 16_000])

    async def session(server: Server, **start: object) -> tuple[dict, str]:
        async with dial(f"{server.ws}/v1/live") as socket:
            await send(socket, {**START, **start}, audio, {"type": "stop"})
            heard = await listen(socket)
            return heard.of("ready")[0], heard.of("done")[0]["text"].strip()

    whisper = "quick=whisper-tiny.en,max-sessions=1,commit=pause,vocabulary=Doktor"
    with serving("--model", str(TINY), "--device", "cpu", "--live", whisper) as server:
        sessions = session(server), session(server, model="whisper-tiny.en")
        (first, voxtrals), (second, whispers) = await asyncio.gather(*sessions)
        assert voxtrals.startswith("the doctor will call you back")
        assert whispers.startswith("The doctor will call you back")
        assert (first["engine"], first["commit"], first["vocabulary"]) == ("voxtral", None, 0)
        assert (second["engine"], second["commit"], second["vocabulary"]) == ("whisper", "pause", 1)
        async with httpx.AsyncClient(base_url=server.url, timeout=90) as http:
            sent = {"files": {"file": wav.open("rb")}, "data": {"model": "quick"}}
            answer = (await http.post("/v1/audio/transcriptions", **sent)).json()
            assert answer["model"] == "quick"
            assert answer["text"].startswith("The doctor will call you back")


async def test_ports_of_their_own_choose_a_model_too(both):
    async with dial(both.others[WHISPER]) as socket:
        await send(socket, {**OPTIONS, "model": "slow"})
        [error] = (await listen(socket)).of(None)
        assert error["status"] == "ERROR"
        assert "tiny-voxtral, quick" in error["message"]
    async with dial(both.others[WHISPER]) as socket:
        await send(socket, {**OPTIONS, "model": "quick"}, bytes(3200))
        assert (await receive(socket))["message"] == "SERVER_READY"
        assert both.in_use() == {"tiny-voxtral": 0, "quick": 1}
        await send(socket, OVER)
        await listen(socket)
    async with dial(both.others[WHISPER]) as socket:
        await send(socket, {**OPTIONS, "model": "small"}, bytes(3200))
        assert (await receive(socket))["message"] == "SERVER_READY"
        assert both.in_use() == {"tiny-voxtral": 1, "quick": 0}
        await send(socket, OVER)
        await listen(socket)


@pytest.mark.conforms(
    "Wyoming",
    "`name` of `transcribe`",
    "which of a server's models, where it has several: `describe` lists them, and an unknown one "
    "is an `error` and the close; any name otherwise",
)
async def test_wyomings_transcribe_names_a_model(both):
    shape = {"rate": 16_000, "width": 2, "channels": 1}
    uri = both.others[WYOMING]
    async with AsyncClient.from_uri(uri, read_timeout=90) as client:
        await client.write_event(Describe().event())
        [program] = Info.from_event(await client.read_event()).asr
        assert [model.name for model in program.models] == ["tiny-voxtral", "quick"]
        for name in ("quick", None):
            await client.write_event(Transcribe(name=name).event())
            await client.write_event(AudioStart(**shape).event())
            await client.write_event(AudioChunk(audio=bytes(3200), **shape).event())
            assert (await client.read_event()).type == "transcript-start"
            assert both.in_use() == {"tiny-voxtral": int(not name), "quick": int(bool(name))}
            await client.write_event(AudioStop().event())
            while not Transcript.is_type((event := await client.read_event()).type):
                assert event is not None
            await client.read_event()
        await client.write_event(Transcribe(name="slow").event())
        error = Error.from_event(await client.read_event())
        assert error.code == "model_not_found"
        assert "tiny-voxtral, quick" in error.text
        assert await client.read_event() is None


def test_a_model_that_cannot_be_loaded_is_named():
    args = ["serve", "--port", "0", "--model", str(TINY)]
    nowhere = CliRunner().invoke(app, [*args, "--live", "quick=no-such-model"])
    assert nowhere.exit_code == 1
    assert nowhere.output.startswith("voxlive: --live quick: 'no-such-model' is no folder")
    same = CliRunner().invoke(app, [*args, "--live", f"tiny-voxtral={TINY}"])
    assert same.exit_code == 2
    assert "tiny-voxtral is the default model's name already" in same.output
    wrong = CliRunner().invoke(app, [*args, "--live", f"quick={TINY},commit=fast"])
    assert wrong.exit_code == 1
    assert "voxlive: --live quick: " in wrong.output
    assert "no rule of commitment" in wrong.output
