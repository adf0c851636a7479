"""What of a live session is in the store, and when: before its client has it, or soon after."""

import asyncio
import re
import subprocess
import sys
import threading
from datetime import timedelta

import pytest
from support.storing import START, session, spoken

from voxlive.store import schema
from voxlive.store import writer as writing
from voxlive.store.backends import open_store
from voxlive.store.contract import AddSent, SessionFilter, StoreBusy
from voxlive.store.writer import StoreWriter
from voxlive.streaming.events import (
    LanguageDetected,
    Recovered,
    SegmentClosed,
    SessionClosed,
    SessionError,
    SessionWarning,
    Words,
)
from voxlive.values import Word
from voxlive.web import recorder as recorders
from voxlive.web.config import ConfigError, ServeConfig
from voxlive.web.recorder import Recorder, keep_time
from voxlive.web.recording import SessionRecording, token_digest


class Blockable:
    """A store whose writes wait, or fail, for as long as they are made to."""

    def __init__(self, store) -> None:
        self.store = store
        self.location = store.location
        self.may_write = threading.Event()
        self.may_write.set()
        self.error = None
        self.batches: list[int] = []

    def apply(self, operations):
        self.may_write.wait(30)
        if self.error:
            raise self.error
        self.batches.append(len(operations))
        return self.store.apply(operations)

    def close(self) -> None:
        self.store.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine makes no store late; ``monkeypatch`` gives tests of that less time."""
    monkeypatch.setattr(writing, "MAX_WAIT_S", 20.0)


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "store")
    yield Blockable(opened)
    opened.close()


@pytest.fixture
def writer(store):
    made = StoreWriter(store)
    yield made
    store.may_write.set()
    store.error = None
    made.close()


def words(segment: int, *texts: str) -> Words:
    return Words(segment, tuple(Word(text, 10 * n, 10 * n + 9) for n, text in enumerate(texts)))


async def until(condition) -> None:
    while not condition():  # noqa: ASYNC110, a thread sets it
        await asyncio.sleep(0.01)


async def test_a_client_gets_nothing_that_is_not_in_the_store(store, writer):
    recording = SessionRecording(writer, session("s"))
    for event in (
        words(0, "one", " two"),
        LanguageDetected("en"),
        SegmentClosed(0, 0, 19, "one two", 100),
        words(1, " three"),
        Recovered(5),
        words(1, " four"),
    ):
        assert await recording.record(event) is None
    kept = store.store.transcript("s", None)
    assert (kept.text, kept.session.languages) == ("one two three four", ("en",))
    assert [(one.number, one.segment) for one in kept.words] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert [(one.first, one.stop) for one in kept.segments] == [(0, 2)]
    assert (kept.session.samples, kept.session.state) == (100, "running")
    assert [(one.at, one.kind) for one in kept.marks] == [(5, "recovered")]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SessionError("engine_failed", "it is gone"), "engine_failed"),
        (SessionError("idle", "no audio", fatal=False), "idle"),
        (SessionError("bad_message", "what?", fatal=False), None),
    ],
)
async def test_the_end_is_kept_once_with_its_error(store, writer, error, code):
    recording = SessionRecording(writer, session("s"))
    recording.on_state("suspended", 5)
    recording.on_state("running", 5)
    await recording.record(error)
    await recording.record(SessionClosed(77))
    recording.on_state("ended", 99)
    assert writer.close() == 0
    kept = store.store.session("s", None)
    assert (kept.state, kept.samples, kept.error) == ("ended", 77, code)


async def test_what_comes_while_a_batch_is_written_is_the_next_batch(store, writer, monkeypatch):
    monkeypatch.setattr(writing, "MAX_WAIT_S", 0.05)
    store.may_write.clear()
    recording = SessionRecording(writer, session("s"))
    waiting = [asyncio.create_task(recording.record(words(0, f" {n}"))) for n in range(20)]
    await asyncio.gather(*waiting)
    store.may_write.set()
    await until(lambda: not writer.waiting)
    assert len(store.batches) <= 2
    assert sum(store.batches) == writer.written == 21


async def test_a_late_store_is_passed_by_reported_once_and_caught_up(store, writer, monkeypatch):
    recording = SessionRecording(writer, session("s"))
    await recording.record(words(0, "one"))
    monkeypatch.setattr(writing, "MAX_WAIT_S", 0.05)
    store.may_write.clear()
    first = await recording.record(words(0, " two"))
    assert (type(first), first.code) == (SessionWarning, "store_late")
    assert await recording.record(words(0, " three")) is None
    assert writer.late == 2
    store.may_write.set()
    await until(lambda: not writer.waiting)
    monkeypatch.setattr(writing, "MAX_WAIT_S", 20.0)
    assert await recording.record(words(0, " four")) is None
    assert store.store.transcript("s", None).text == "one two three four"


async def test_a_store_that_fails_is_not_waited_for_and_caught_up(store, writer, monkeypatch):
    monkeypatch.setattr(writing, "_RETRY_S", (0.02,))
    recording = SessionRecording(writer, session("s"))
    store.error = StoreBusy("another program writes to it")
    warning = await recording.record(words(0, "one"))
    assert (warning.code, "store_busy" in warning.message) == ("store_failed", True)
    loop = asyncio.get_running_loop()
    for text in (" two", " three"):
        written = loop.create_task(recording.record(words(0, text)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert written.done()
        assert written.result() is None
    assert (writer.failure, writer.passed_by) == (store.error, 3)
    store.error = None
    await until(lambda: not writer.waiting)
    assert (writer.failure, writer.dropped) == (None, 0)
    assert store.store.transcript("s", None).text == "one two three"


async def test_a_failing_store_is_not_tried_for_every_word(store, writer, monkeypatch):
    monkeypatch.setattr(writing, "_RETRY_S", (30.0,))
    tried: list[int] = []
    refuse = store.apply

    def apply(operations):
        tried.append(len(operations))
        return refuse(operations)

    store.apply = apply
    store.error = StoreBusy("another program writes to it")
    recording = SessionRecording(writer, session("s"))
    for n in range(50):
        await recording.record(words(0, f" {n}"))
        await asyncio.sleep(0)
    assert len(tried) == 1


async def test_a_late_store_is_not_waited_for_at_every_word(store, writer, monkeypatch):
    monkeypatch.setattr(writing, "MAX_WAIT_S", 0.5)
    recording = SessionRecording(writer, session("s"))
    store.may_write.clear()
    now = asyncio.get_running_loop().time
    began = now()
    await recording.record(words(0, "one"))
    first = now() - began
    for n in range(20):
        await recording.record(words(0, f" {n}"))
    assert now() - began < 5 * first
    assert writer.late == 21


async def test_a_session_that_began_while_nothing_had_room_is_kept_later(
    store, writer, monkeypatch
):
    monkeypatch.setattr(writing, "MAX_WAITING", 3)
    monkeypatch.setattr(writing, "_RETRY_S", (0.02,))
    store.error = StoreBusy("another program writes to it")
    first = SessionRecording(writer, session("first"))
    await first.record(words(0, "one", " two"))
    second = SessionRecording(writer, session("second"))
    await second.record(words(0, "three"))
    assert writer.dropped == 1
    store.error = None
    await until(lambda: not writer.waiting)
    await second.record(words(0, " four"))
    assert [one.number for one in store.store.transcript("second", None).words] == [1]


async def test_what_waits_is_bounded_and_the_rest_is_counted(store, writer, monkeypatch):
    monkeypatch.setattr(writing, "MAX_WAITING", 4)
    monkeypatch.setattr(writing, "_RETRY_S", (0.02,))
    store.error = StoreBusy("another program writes to it")
    recording = SessionRecording(writer, session("s"))
    await recording.record(words(0, "one", " two"))
    await recording.record(words(0, " three", " four"))
    await recording.record(words(0, " five"))
    assert (writer.waiting, writer.dropped) == (4, 1)
    store.error = None
    await until(lambda: not writer.waiting)
    await recording.record(words(0, " six"))
    kept = store.store.transcript("s", None)
    assert [(one.number, one.text) for one in kept.words] == [
        (0, "one"),
        (1, " two"),
        (4, " five"),
        (5, " six"),
    ]


async def test_messages_behind_a_dropped_one_are_not_kept(store, writer, monkeypatch):
    """Another server's client gives them back from the first that is not there."""
    monkeypatch.setattr(writing, "_RETRY_S", (0.02,))
    recording = SessionRecording(writer, session("s"))
    recording.make_resumable("token", "{}")
    await recording.record(words(0, "one"), AddSent("s", 1, ("first",)))
    store.error = StoreBusy("another program writes to it")
    monkeypatch.setattr(writing, "MAX_WAITING", 0)
    await recording.record(words(0, " two"), AddSent("s", 2, ("second", "third")))
    store.error = None
    monkeypatch.setattr(writing, "MAX_WAITING", 100)
    await recording.record(words(0, " three"), AddSent("s", 4, ("fourth",)))
    await until(lambda: not writer.waiting)
    assert recording.sent_kept == 2
    found = store.store.resumable(token_digest("token"))
    assert (found.first, found.next) == (1, 2)
    assert store.store.transcript("s", None).text == "one three"


async def test_closing_writes_what_waits_and_says_what_is_lost(store, writer, monkeypatch):
    monkeypatch.setattr(writing, "MAX_WAIT_S", 0.05)
    store.may_write.clear()
    recording = SessionRecording(writer, session("s"))
    await recording.record(words(0, "one"))
    assert writer.close(0.1) == 2
    store.may_write.set()
    assert writer.close() == 0
    assert store.store.transcript("s", None).text == "one"
    await recording.record(words(0, " two"))
    assert writer.dropped == 1


def test_a_recorder_deletes_what_is_older_than_is_wanted(tmp_path):
    store = open_store(tmp_path / "store")
    store.apply(spoken("old", ["hello"]))
    recorder = Recorder(store, timedelta(days=30), now=lambda: START + timedelta(days=31))
    recorder._tending.join(1)
    assert store.sessions(SessionFilter(None)).sessions == ()
    recorder.close()


async def test_a_recorder_notes_which_sessions_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(recorders, "_KEEP_ALIVE_S", 0.02)
    monkeypatch.setattr(schema, "INTERRUPTED_AFTER", timedelta(seconds=1))
    store = open_store(tmp_path / "store")
    recorder = Recorder(store)
    recorder.open("kept", None, "ann", "live", "/v1/live", "whisper")
    SessionRecording(recorder.writer, session("alone"))
    await until(lambda: not recorder.writer.waiting)
    await asyncio.sleep(1.2)
    states = {one.id: one.state for one in store.sessions(SessionFilter(None)).sessions}
    assert states == {"kept": "running", "alone": "ended"}
    await asyncio.to_thread(recorder.close)


@pytest.mark.parametrize(
    ("text", "time"),
    [("30d", timedelta(days=30)), ("12h", timedelta(hours=12)), ("forever", None)],
)
def test_how_long_transcripts_are_kept(text, time):
    assert keep_time(ServeConfig(keep=text).keep) == time


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1d", "1.5d", "30m", "²d", "123456d"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="keep"):
        ServeConfig(keep=text)


def warn(_line: str) -> None:
    raise AssertionError


def test_transcripts_are_kept_by_default_where_only_this_machine_connects(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    config = ServeConfig()
    assert Recorder.of(config, loopback=False, on_warning=warn) is None
    assert Recorder.of(ServeConfig(no_store=True), loopback=True, on_warning=warn) is None
    assert list(tmp_path.iterdir()) == []
    recorder = Recorder.of(config, loopback=True, on_warning=warn)
    place = tmp_path / "voxlive" / "sessions" / "sessions.db"
    assert str(recorder) == f"transcripts are kept in {place} for 30 days"
    assert recorder.state == {
        "location": str(place),
        "keep_days": 30.0,
        "waiting": 0,
        "error": None,
    }
    recorder.close()
    elsewhere = ServeConfig(store=str(tmp_path / "mine"), keep="forever")
    recorder = Recorder.of(elsewhere, loopback=False, on_warning=warn)
    assert re.search(r"mine/sessions.db for ever$", str(recorder))
    recorder.close()


def test_a_store_that_nobody_asked_for_and_cannot_be_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "voxlive").write_text("no folder")
    lines: list[str] = []
    assert Recorder.of(ServeConfig(), loopback=True, on_warning=lines.append) is None
    assert re.search("transcripts are not kept: .*--no-store", lines[0])


def test_a_server_without_a_store_loads_none():
    shown = "import sys, voxlive.web.server; print(*sys.modules)"
    command = [sys.executable, "-c", shown]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert "voxlive.web.recorder" in loaded
    assert not {"sqlalchemy", "psycopg", "sqlite3"}.intersection(loaded)


def test_store_and_no_store_exclude_each_other():
    with pytest.raises(ConfigError, match="--no-store"):
        ServeConfig(store="/x", no_store=True)
    assert "secret" not in repr(ServeConfig(store="postgresql://me:secret@host/name"))
