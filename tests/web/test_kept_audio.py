"""Kept audio of live sessions, through sockets: who has it, on which clock, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.clips import clip
from support.clock_engine import ClockEngine
from support.counting import LoudnessModel
from support.disk import small_file_system
from support.line import START, Line
from support.odd_media import GAP, encoded
from support.server import serving
from support.wire import dial, receive, receive_until, s16le, send
from websockets.exceptions import ConnectionClosed

from voxlive.store import audio
from voxlive.store.backends import open_store
from voxlive.store.contract import StoreUnusable
from voxlive.streaming.ingest.formats import Report
from voxlive.streaming.ingest.media import read_file
from voxlive.streaming.service import Service
from voxlive.vad.detector import VoiceDetector
from voxlive.web.config import ConfigError, ServeConfig
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels
from voxlive.web.recorder import Recorder

SPEECH = clip("minute").samples[:160_000]


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(audio, "_GATHER_S", 0.0)


@asynccontextmanager
async def keeping(folder: Path, kept: str | None) -> AsyncIterator[LiveEndpoints]:
    service = Service(ClockEngine(), VoiceDetector(LoudnessModel()))
    recorder = Recorder(open_store(folder), audio=kept)
    endpoints = LiveEndpoints(LiveModels(service), recorder=recorder)
    yield endpoints
    await service.aclose()
    await endpoints.wait_closed(1)
    await asyncio.to_thread(recorder.close)


def decoded(path: Path) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *read_file(path, Report())])


def alike(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def warnings(messages: list[dict]) -> list[str]:
    """Those about audio: a store may be late on a busy machine."""
    codes = [m["code"] for m in messages if m["type"] == "warning"]
    return [code for code in codes if code.startswith("audio")]


async def spoken(line: Line, samples: np.ndarray, **more: object) -> list[dict]:
    line.send(START | {"resumable": False} | more)
    for at in range(0, len(samples), 16_000):
        line.send(s16le(samples[at : at + 16_000]))
    line.send({"type": "stop"})
    messages = await line.until("done")
    await line.end()
    return messages


@pytest.mark.parametrize(
    ("kept", "query", "more", "expected"),
    [
        ("all", "", {}, True),
        ("all", "", {"keep_audio": False}, False),
        ("all", "keep_audio=false", {}, False),
        ("all", "keep_audio=false", {"keep_audio": True}, True),
        ("all", "", {"store": False}, False),
        ("asked", "", {}, False),
        ("asked", "", {"keep_audio": True}, True),
        ("asked", "keep_audio=true", {}, True),
        (None, "", {}, False),
    ],
)
async def test_audio_is_kept_where_server_and_client_agree(tmp_path, kept, query, more, expected):
    async with keeping(tmp_path / "store", kept) as endpoints:
        messages = await spoken(Line(endpoints, query), SPEECH, **more)
    assert messages[0].get("keep_audio", False) is expected
    assert warnings(messages) == []
    files = list((tmp_path / "store").glob("audio/*"))
    assert [one.stem for one in files] == ([messages[0]["session"]] if expected else [])
    if expected:
        assert len(decoded(files[0])) == len(SPEECH)
        assert alike(decoded(files[0]), SPEECH) > 0.9


async def test_a_client_that_asks_for_what_is_not_to_be_had_is_warned(tmp_path):
    async with keeping(tmp_path / "store", None) as endpoints:
        messages = await spoken(Line(endpoints), SPEECH[:16_000], keep_audio=True)
    assert messages[0]["type"] == "ready"
    assert warnings(messages) == ["audio_not_kept"]
    assert not (tmp_path / "store" / "audio").exists()


async def test_the_audio_of_several_sources_is_kept_mixed_and_apart(tmp_path):
    async with keeping(tmp_path / "store", "all") as endpoints:
        line = Line(endpoints)
        line.send(START | {"resumable": False, "channels": 2, "sources": ["me", "you"]})
        quiet = np.zeros(len(SPEECH), np.float32)
        line.send(s16le(np.stack((SPEECH, quiet), axis=1).ravel()))
        line.send({"type": "stop"})
        [ready, *_] = await line.until("done")
        await line.end()
    found = decoded(tmp_path / "store" / "audio" / f"{ready['session']}.ogg")
    assert (ready["keep_audio"], len(found)) == (True, len(SPEECH))
    assert alike(found, SPEECH) > 0.9
    assert 0.3 < np.abs(found).max() / np.abs(SPEECH).max() < 0.7
    me, you = (
        decoded(tmp_path / "store" / "audio" / f"{audio.source_name(ready['session'], one)}.ogg")
        for one in ("me", "you")
    )
    assert len(me) == len(you) == len(SPEECH)
    assert alike(me, SPEECH) > 0.9
    assert np.abs(you).max() < 0.02


@pytest.mark.parametrize("query", ["keep_audio=perhaps", "keep_audio="])
async def test_a_switch_that_is_neither_is_refused(tmp_path, query):
    async with keeping(tmp_path / "store", "all") as endpoints:
        line = Line(endpoints, query)
        assert (await line.until("error"))[-1]["code"] == "bad_parameter"
        await line.end()


async def test_each_sample_is_in_the_file_once_over_a_broken_line(tmp_path):
    """The client sends again what it does not know to have arrived, and words keep their times."""
    async with keeping(tmp_path / "store", "all") as endpoints:
        first = Line(endpoints)
        first.send(START)
        [ready] = await first.until("ready")
        first.send(s16le(SPEECH[:50_000]))
        before = await first.until("words")
        await first.break_off()
        second = Line(endpoints)
        second.send({"type": "resume", "token": ready["resume"], "have": before[-1]["seq"]})
        resumed = (await second.until("resumed"))[-1]
        for at in range(resumed["samples"], len(SPEECH), 16_000):
            second.send(s16le(SPEECH[at : at + 16_000]))
        second.send({"type": "stop"})
        await second.until("done")
        await second.end()
    found = decoded(tmp_path / "store" / "audio" / f"{ready['session']}.ogg")
    assert len(found) == len(SPEECH)
    assert alike(found, SPEECH) > 0.9


async def test_a_gap_in_the_clock_of_a_container_is_silence_of_its_length(tmp_path):
    async with keeping(tmp_path / "store", "all") as endpoints:
        line = Line(endpoints)
        line.send({"type": "start", "format": "container"})
        line.send(encoded("webm", "libopus", pieces=GAP))
        line.send({"type": "stop"})
        messages = await line.until("done")
        await line.end()
    found = decoded(tmp_path / "store" / "audio" / f"{messages[0]['session']}.ogg")
    assert abs(len(found) / 16_000 - messages[-1]["duration"]) < 0.001
    (_, first), (at_s, second) = GAP
    assert alike(found[: len(first)], first) > 0.9
    at = int(at_s * 16_000)
    assert np.abs(found[len(first) + 3200 : at - 3200]).max() < 0.02
    assert alike(found[at : at + len(second) - 1600], second[:-1600]) > 0.9


async def test_a_session_that_is_deleted_while_it_runs_leaves_no_audio(tmp_path):
    async with keeping(tmp_path / "store", "all") as endpoints:
        line = Line(endpoints)
        line.send(START | {"resumable": False})
        [ready] = await line.until("ready")
        line.send(s16le(SPEECH[:80_000]))
        await line.until("words")
        store = endpoints.recorder.store
        while not store.audio.find(ready["session"]):  # noqa: ASYNC110, a thread writes it
            await asyncio.sleep(0.01)
        await asyncio.to_thread(store.delete, ready["session"], None)
        line.send(s16le(SPEECH[80_000:]))
        line.send({"type": "stop"})
        assert (await line.until("done"))[-1]["text"]
        await line.end()
    assert list((tmp_path / "store" / "audio").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 300 kB."""
    with small_file_system(tmp_path / "disk", "300k") as place:
        yield place


async def test_captions_go_on_while_the_disk_of_the_audio_is_full(
    tmp_path, small_disk, monkeypatch
):
    monkeypatch.setattr(audio, "_RETRY_S", 0.0)
    with (small_disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    service = Service(ClockEngine(), VoiceDetector(LoudnessModel()))
    recorder = Recorder(open_store(tmp_path / "store", small_disk / "audio"), audio="all")
    endpoints = LiveEndpoints(LiveModels(service), recorder=recorder)
    line = Line(endpoints)
    line.send(START | {"resumable": False})
    [ready] = await line.until("ready")
    line.send(s16le(SPEECH[:80_000]))
    messages = await line.until("warning")
    while not warnings(messages):
        messages += await line.until("warning")
    (small_disk / "filler").unlink()
    for at in range(80_000, len(SPEECH), 16_000):
        line.send(s16le(SPEECH[at : at + 16_000]))
    line.send({"type": "stop"})
    messages += await line.until("done")
    await line.end()
    await service.aclose()
    await asyncio.to_thread(recorder.close)
    kept = recorder.store.transcript(ready["session"], None)
    assert warnings(messages) == ["audio_full"]
    assert kept.text == messages[-1]["text"] != ""
    found = decoded(small_disk / "audio" / f"{ready['session']}.ogg")
    assert len(found) == len(SPEECH)
    assert alike(found[100_000:], SPEECH[100_000:]) > 0.9


@pytest.mark.endurance
async def test_a_killed_server_leaves_audio_that_plays(tmp_path):
    """And one that is started again serves it, in ranges."""
    store = ("--store", str(tmp_path / "store"), "--keep-audio", "asked", "--max-sessions", "1")
    with serving(*store) as server:
        async with dial(f"{server.ws}/v1/live?keep_audio=true") as socket:
            await send(socket, {"type": "start", "format": "s16le"})
            ready = await receive(socket)
            assert ready["keep_audio"] is True
            for at in range(0, len(SPEECH), 16_000):
                await send(socket, s16le(SPEECH[at : at + 16_000]))
            await receive_until(socket, "words")
            path = tmp_path / "store" / "audio" / f"{ready['session']}.ogg"
            while not (path.exists() and path.stat().st_size > 10_000):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            server.process.kill()
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await receive(socket)
        server.process.wait()
    found = decoded(path)
    assert 32_000 < len(found) <= len(SPEECH)
    assert alike(found, SPEECH[: len(found)]) > 0.9
    with serving(*store) as server:
        url = f"{server.url}/v1/sessions/{ready['session']}"
        async with httpx.AsyncClient() as http:
            whole = await http.get(f"{url}/audio")
            assert whole.content == path.read_bytes()
            part = await http.get(f"{url}/audio", headers={"range": "bytes=100-299"})
            assert (part.status_code, part.content) == (206, whole.content[100:300])
            assert (await http.delete(url)).status_code == 204
    assert not path.exists()


def test_what_the_options_are(tmp_path):
    place = {"store": str(tmp_path / "store"), "keep_audio": "all", "max_audio_gb": 1.5}
    folder = tmp_path / "sound"
    recorder = Recorder.of(
        ServeConfig(**place, audio_folder=folder), loopback=True, on_warning=print
    )
    assert str(recorder).endswith(f"for 30 days, the audio in {folder}")
    assert recorder.state["audio"] == {"of": "all", "location": str(folder), "bytes": 0}
    assert recorder.store.audio.most == 1.5 * 2**30
    recorder.close()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    with pytest.raises(StoreUnusable, match="chmod"):
        Recorder.of(ServeConfig(**place, audio_folder=folder), loopback=True, on_warning=print)
    with pytest.raises(StoreUnusable, match="--store"):
        Recorder.of(ServeConfig(keep_audio="all"), loopback=False, on_warning=print)
    with pytest.raises(ConfigError, match="--no-store"):
        ServeConfig(keep_audio="asked", no_store=True)
