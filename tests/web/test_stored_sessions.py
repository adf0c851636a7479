"""What a server keeps of live sessions, through sockets: words, states, switches, crashes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.asgi import running
from support.clips import clip
from support.clock_engine import ClockEngine
from support.counting import LoudnessModel, pcm
from support.disk import small_file_system
from support.line import START, Line
from support.server import AT_PAUSES, Server, serving
from support.talk import PORTS, utterance, wyoming
from support.wire import dial, listen, receive, receive_until, s16le, send
from websockets.exceptions import ConnectionClosed

from voxlive.errors import VoxliveError
from voxlive.store import backends
from voxlive.store import writer as writing
from voxlive.store.backends import FILE_NAME, open_store
from voxlive.store.contract import SessionFilter, StoreFull
from voxlive.streaming.service import Service
from voxlive.vad.detector import VoiceDetector
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels
from voxlive.web.recorder import Recorder

ALL = SessionFilter(None)
KILLED = 3
KILLED_IN_ENDURANCE = 20


def tone(seconds: float) -> bytes:
    return pcm(np.full(int(seconds * 16_000), 0.5, np.float32))


class Failing:
    """A store that fails, or waits, while it is made to."""

    def __init__(self, store) -> None:
        self._store = store
        self.location = store.location
        self.error: VoxliveError | None = None
        self.may_write = threading.Event()
        self.may_write.set()

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    def apply(self, operations):
        self.may_write.wait(30)
        if self.error:
            raise self.error
        return self._store.apply(operations)


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "store")
    yield Failing(opened)
    opened.close()


@pytest.fixture
async def endpoints(store):
    service = Service(ClockEngine(), VoiceDetector(LoudnessModel()))
    recorder = Recorder(store)
    serving = LiveEndpoints(LiveModels(service), recorder=recorder)
    yield serving
    store.error = None
    store.may_write.set()
    await service.aclose()
    await serving.wait_closed(1)
    await asyncio.to_thread(recorder.close)


async def spoken(line: Line, sound: bytes | None = None, **more: object) -> list[dict]:
    line.send(START | {"resumable": False} | more)
    line.send(sound or tone(2))
    line.send({"type": "stop"})
    messages = await line.until("done")
    await line.end()
    return messages


def text_of(messages: list[dict]) -> str:
    return "".join(w["text"] for m in messages if m["type"] == "words" for w in m["words"])


async def ended(store: Failing, ident: str) -> None:
    """Until the store has all of the session."""
    async with asyncio.timeout(60):
        while store.session(ident, None).state != "ended":  # noqa: ASYNC110, a thread writes it
            await asyncio.sleep(0.01)


async def settled(endpoints: LiveEndpoints) -> None:
    """Until the store has all that was written."""
    while endpoints.recorder.writer.waiting:  # noqa: ASYNC110, a thread ends it
        await asyncio.sleep(0.01)


async def test_what_a_client_gets_is_kept_with_its_times(endpoints, store):
    messages = await spoken(Line(endpoints, "captions=hall"), language="en")
    ready, done = messages[0], messages[-1]
    await settled(endpoints)
    kept = store.transcript(ready["session"], frozenset({"anyone"}))
    assert kept.text == done["text"] != ""
    told = [word for m in messages if m["type"] == "words" for word in m["words"]]
    assert [round(w.start / 16_000, 3) for w in kept.words] == [w["start"] for w in told]
    assert [s.id for s in kept.segments] == [m["id"] for m in messages if m["type"] == "segment"]
    session = kept.session
    assert (session.protocol, session.path, session.name) == ("live", "/v1/live", "hall")
    assert (session.state, session.samples, session.error) == ("ended", 32_000, None)
    assert ready["store"] is True
    assert session.words == len(told)


@pytest.mark.parametrize(
    ("query", "more"),
    [("store=false", {}), ("", {"store": False}), ("store=true", {"store": False})],
)
async def test_a_client_may_ask_not_to_be_kept(endpoints, store, query, more):
    messages = await spoken(Line(endpoints, query), **more)
    await settled(endpoints)
    assert text_of(messages)
    assert "store" not in messages[0]
    assert store.sessions(ALL).sessions == ()


async def test_a_switch_that_is_neither_is_refused(endpoints):
    line = Line(endpoints, "store=perhaps")
    [error] = await line.until("error")
    assert error["code"] == "bad_parameter"
    await line.end()


async def test_a_suspended_session_is_kept_as_one_that_goes_on(endpoints, store):
    first = Line(endpoints)
    first.send(START)
    [ready] = await first.until("ready")
    first.send(tone(1))
    before = await first.until("words")
    await first.break_off()
    await settled(endpoints)
    assert store.session(ready["session"], None).state == "suspended"
    second = Line(endpoints)
    seen = before[-1]["seq"]
    second.send({"type": "resume", "token": ready["resume"], "have": seen, "from": 0})
    await second.until("resumed")
    await settled(endpoints)
    assert store.session(ready["session"], None).state == "running"
    second.send(tone(1))
    second.send({"type": "stop"})
    after = await second.until("done")
    await second.end()
    await settled(endpoints)
    kept = store.transcript(ready["session"], None)
    assert kept.text == text_of([*before, *after]) == after[-1]["text"]
    assert kept.session.state == "ended"


async def test_a_client_that_does_not_come_back_has_all_its_words_in_the_store(endpoints, store):
    """The last one of 1.3 s has no end before the session is finished."""
    whole = await spoken(Line(endpoints), tone(1.3))
    endpoints.resumables.idle_s = 0.05
    for resumable in (False, True):
        line = Line(endpoints)
        line.send(START | {"resumable": resumable})
        [ready] = await line.until("ready")
        line.send(tone(1.3))
        await line.until("words")
        await line.read(100)
        await line.break_off()
        await ended(store, ready["session"])
        assert store.transcript(ready["session"], None).text == whole[-1]["text"]


async def test_a_line_that_breaks_ends_the_session_in_the_store(endpoints, store):
    line = Line(endpoints)
    line.send(START | {"resumable": False})
    [ready] = await line.until("ready")
    line.send(tone(1))
    words = await line.until("words")
    # Its readers have the store's corrections; others would part them from it.
    line.send({"type": "correct", "segment": 0, "words": 1, "text": "a"})
    assert "/v1/sessions" in (await line.until("error"))[-1]["message"]
    await line.break_off()
    await ended(store, ready["session"])
    assert store.transcript(ready["session"], None).text.startswith(text_of(words))


async def test_the_error_that_ends_a_connection_is_kept(endpoints, store):
    line = Line(endpoints)
    line.send(START | {"resumable": False})
    [ready] = await line.until("ready")
    line.send(bytes(9_000_000))
    assert (await line.until("error"))[-1]["code"] == "too_big"
    await line.end()
    await settled(endpoints)
    kept = store.session(ready["session"], None)
    assert (kept.state, kept.error) == ("ended", "too_big")


@pytest.mark.parametrize("code", ["store_late", "store_failed"])
async def test_captions_go_on_without_the_store_and_it_catches_up(
    endpoints, store, code, monkeypatch
):
    monkeypatch.setattr(writing, "_RETRY_S", (0.02,))
    monkeypatch.setattr(writing, "MAX_WAIT_S", 0.05 if code == "store_late" else 20.0)
    if code == "store_late":
        store.may_write.clear()
    else:
        store.error = StoreFull("the disk is full")
    messages = await spoken(Line(endpoints))
    warnings = [m["code"] for m in messages if m["type"] == "warning"]
    assert warnings == [code]
    assert [m["seq"] for m in messages if "seq" in m] == list(range(len(messages)))
    assert store.sessions(ALL).sessions == ()
    store.error = None
    store.may_write.set()
    await settled(endpoints)
    kept = store.transcript(messages[0]["session"], None)
    assert kept.text == messages[-1]["text"] != ""
    writer = endpoints.recorder.writer
    assert (writer.late > 0, writer.passed_by > 0, writer.dropped) == (
        code == "store_late",
        code == "store_failed",
        0,
    )


@contextlib.contextmanager
def locked(folder: Path):
    """Another program holds the lock of the file."""
    other = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.close()


@contextlib.contextmanager
def full(folder: Path):
    """The disk has no room."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 2 MB."""
    with small_file_system(tmp_path / "disk", "2m") as place:
        yield place


async def check_failing(folder: Path, breaking, code: str, monkeypatch) -> None:
    """Sessions go on while the real store fails, which has everything afterwards."""
    monkeypatch.setattr(writing, "_RETRY_S", (0.02,))
    monkeypatch.setattr(backends, "_BUSY_S", 0.01)
    service = Service(ClockEngine(), VoiceDetector(LoudnessModel()))
    store = open_store(folder)
    endpoints = LiveEndpoints(LiveModels(service), recorder=Recorder(store))
    with breaking(folder):
        said = [await spoken(Line(endpoints)) for _ in range(3)]
        while not endpoints.recorder.writer.failure:
            said.append(await spoken(Line(endpoints)))
        assert endpoints.recorder.writer.failure.code == code
        said.append(await spoken(Line(endpoints)))
        assert [m["code"] for m in said[-1] if m["type"] == "warning"] == ["store_failed"]
    await settled(endpoints)
    for messages in said:
        kept = store.transcript(messages[0]["session"], None)
        assert kept.text == messages[-1]["text"] != ""
    assert endpoints.recorder.writer.dropped == 0
    await service.aclose()
    await endpoints.wait_closed(1)
    await asyncio.to_thread(endpoints.recorder.close)


async def test_captions_go_on_while_another_program_holds_the_file(tmp_path, monkeypatch):
    await check_failing(tmp_path / "store", locked, "store_busy", monkeypatch)


async def test_captions_go_on_while_the_disk_is_full(small_disk, monkeypatch):
    await check_failing(small_disk, full, "store_full", monkeypatch)


async def test_without_a_store_nothing_is_said_of_one():
    async with running() as server:
        assert (await server.http.get("/health")).json()["store"] is None
        assert "voxlive_store" not in (await server.http.get("/metrics")).text


@pytest.fixture(scope="module")
def keeping(tmp_path_factory) -> tuple[Server, Path]:
    folder = tmp_path_factory.mktemp("kept") / "store"
    with serving(*PORTS, "--store", str(folder), "--keep", "7d", *AT_PAUSES) as server:
        yield server, folder


async def test_a_server_keeps_what_every_protocol_says(keeping):
    server, folder = keeping
    audio = s16le(clip("yes").samples)
    async with dial(f"{server.ws}/v1/live") as socket:
        await send(socket, {"type": "start", "format": "s16le"}, audio, {"type": "stop"})
        heard = await listen(socket)
    query = "encoding=linear16&sample_rate=16000"
    async with dial(f"{server.ws}/v1/listen?{query}") as socket:
        await send(socket, audio, json.dumps({"type": "CloseStream"}))
        await listen(socket)
    async with dial(f"{server.ws}/v1/listen?{query}&store=false") as socket:
        await send(socket, audio, json.dumps({"type": "CloseStream"}))
        await listen(socket)
    await wyoming(server, *utterance(audio))
    async with httpx.AsyncClient(base_url=server.url) as http:
        health = (await http.get("/health")).json()["store"]
        metrics = (await http.get("/metrics")).text
        shown = (await http.get("/v1/sessions", params={"q": "yes"})).json()["sessions"]
    assert [one["protocol"] for one in shown] == ["wyoming", "deepgram", "live"]
    assert health == {
        "location": str(folder / "sessions.db"),
        "keep_days": 7.0,
        "waiting": 0,
        "error": None,
    }
    assert 'voxlive_store_operations_total{outcome="dropped"} 0.0' in metrics
    store = open_store(folder)
    listed = store.sessions(ALL).sessions
    assert [one.protocol for one in listed] == ["wyoming", "deepgram", "live"]
    assert store.transcript(listed[-1].id, None).text == heard.of("done")[0]["text"]
    assert store.search("yes", ALL).hits
    store.close()


def first_lines(*args: str, **env: str) -> list[str]:
    """What a server prints until it is ready, with these options alone."""
    command = [sys.executable, "-m", "voxlive.cli.main", "serve", "--port", "0", *args]
    started = subprocess.Popen(
        [*command, "--max-sessions", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **env},
    )
    lines: list[str] = []
    for line in started.stdout:
        lines.append(line.strip())
        if "ready at" in line:
            break
    started.terminate()
    started.wait(60)
    started.stdout.close()
    return lines


@pytest.mark.parametrize(
    ("args", "kept"),
    [
        ([], True),
        pytest.param(["--no-store"], False, marks=pytest.mark.endurance),
        (["--host", "0.0.0.0", "--insecure"], False),
    ],
)
def test_a_server_on_this_machine_alone_says_that_it_keeps_transcripts(tmp_path, args, kept):
    lines = first_lines(*args, XDG_DATA_HOME=str(tmp_path))
    place = tmp_path / "voxlive" / "sessions" / "sessions.db"
    said = f"voxlive: transcripts are kept in {place} for 30 days (--no-store: not at all)"
    assert (said in lines) == place.exists() == kept


async def kill_while_speaking(folder: Path, times: int) -> None:
    """Kill servers in mid-session: the store opens, and has every word that was received.

    A server whose store is late says so behind the words that it did not wait for.
    """
    audio = s16le(np.concatenate([clip("yes").samples, np.zeros(16_000, np.float32)] * 20))
    for n in range(times):
        with serving("--store", str(folder), "--max-sessions", "1") as server:
            async with dial(f"{server.ws}/v1/live") as socket:
                await send(socket, {"type": "start", "format": "s16le"})
                ready = await receive(socket)
                await send(socket, audio)
                got: list[dict] = []
                for _ in range(1 + n % 3):
                    got += await receive_until(socket, "words")
                server.process.kill()
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        got.append(await receive(socket))
            server.process.wait()
        store = open_store(folder)
        kept = store.transcript(ready["session"], None)
        store.close()
        late = [n for n, m in enumerate(got) if m.get("code") == "store_late"]
        promised = got[: max(late[0] - 1, 0)] if late else got
        assert text_of(got)
        assert kept.text.startswith(text_of(promised))


@pytest.mark.endurance
async def test_a_killed_server_has_every_word_that_a_client_had(tmp_path):
    await kill_while_speaking(tmp_path / "store", KILLED)


@pytest.mark.endurance
@pytest.mark.timeout(1800)
async def test_servers_killed_often_have_every_word_that_a_client_had(tmp_path):
    await kill_while_speaking(tmp_path / "store", KILLED_IN_ENDURANCE)
