"""Refining: words into the live segments, a queue that outlives its server, a real model."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import clip
from support.scoring import word_errors
from support.server import AT_PAUSES, serving
from support.storing import spoken
from support.wire import dial, listen, s16le, send

from voxlive.client import LiveClient
from voxlive.errors import RequestRefused
from voxlive.runners.contract import Transcript
from voxlive.store.audio import source_name
from voxlive.store.backends import open_store
from voxlive.store.contract import (
    AddWords,
    Refinement,
    StoredSegment,
    StoredTranscript,
    StoredWord,
)
from voxlive.values import Segment, Word
from voxlive.web import refiner as refiner_module
from voxlive.web.config import ConfigError, ServeConfig
from voxlive.web.refiner import Refiner, in_segments

SPEECH = clip("market").samples


def live(*spans: tuple[int, int]) -> StoredTranscript:
    """A session with a word in each of these segments."""
    words = tuple(StoredWord(n, n, " w", start, end) for n, (start, end) in enumerate(spans))
    segments = tuple(StoredSegment(n, *span, n, n + 1) for n, span in enumerate(spans))
    return StoredTranscript(None, segments, words)  # type: ignore[arg-type]


def again(*times: tuple[int, int]) -> list[Segment]:
    return [Segment(0, " x", None, None, tuple(Word(" x", *one) for one in times))]


@pytest.mark.parametrize(
    ("word", "segment"),
    [
        ((0, 10), 0),
        ((95, 115), 0),
        ((120, 160), 0),
        ((160, 180), 1),
        ((250, 350), 1),
        ((900, 999), 2),
    ],
)
def test_a_word_is_in_the_segment_of_its_middle_or_the_nearest(word, segment):
    [placed] = in_segments(live((20, 100), (200, 300), (400, 500)), again(word))
    assert (placed.segment, placed.start, placed.end) == (segment, *word)
    assert (placed.number, placed.layer) == (0, "refined")


def test_a_word_of_a_source_is_in_a_segment_of_that_source():
    """Though another source's is nearer."""
    words = (
        StoredWord(0, 0, " w", 20, 100, source="me"),
        StoredWord(1, 1, " w", 110, 190, source="them"),
        StoredWord(2, 2, " w", 400, 500, source="me"),
    )
    segments = tuple(StoredSegment(w.segment, w.start, w.end, w.number, 3) for w in words)
    found = StoredTranscript(None, segments, words)  # type: ignore[arg-type]
    placed = in_segments(found, again((110, 190), (380, 390)), "me")
    assert [(one.segment, one.source) for one in placed] == [(0, "me"), (2, "me")]
    assert [one.segment for one in in_segments(found, again((20, 100)), "them")] == [1]


def test_a_session_without_words_has_one_segment():
    assert [one.segment for one in in_segments(live(), again((0, 5), (9, 12)))] == [0, 0]


def test_words_without_times_are_refused():
    with pytest.raises(RequestRefused) as refused:
        in_segments(live((0, 5)), [Segment(0, "some text")])
    assert refused.value.code == "no_word_times"


@given(
    st.lists(st.integers(1, 50), min_size=2, max_size=12),
    st.lists(st.integers(0, 30), min_size=2, max_size=12),
)
def test_words_stay_in_order(edges, steps):
    at, spans = 0, []
    for length, gap in zip(edges[::2], edges[1::2], strict=False):
        spans.append((at, at + length))
        at += length + gap
    times, at = [], 0
    for step in steps:
        times.append((at, at + 4))
        at += step
    placed = in_segments(live(*spans), again(*times))
    assert [one.number for one in placed] == list(range(len(times)))
    assert [one.segment for one in placed] == sorted(one.segment for one in placed)


class Files:
    """Models for files with the outcomes of a test."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = list(outcomes)
        self.jobs: list[tuple[str, Path]] = []
        self.began = asyncio.Event()

    async def find(self, model, _requirements):
        return type("Spec", (), {"model": model or "default"})

    async def transcribe(self, spec, job):
        self.jobs.append((spec.model, job.path))
        self.began.set()
        outcome = self.outcomes.pop(0)
        if outcome is None:
            await asyncio.Event().wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


DONE = Transcript("Better", (Segment(0, "Better", 0, 900, (Word("Better", 0, 900),)),), 1.0)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(refiner_module, "_LOOK_S", 0.01)
    monkeypatch.setattr(refiner_module, "_RENEW_S", 0.01)
    opened = open_store(tmp_path / "store")
    opened.audio.make_folder()
    for ident in ("s1", "s2"):
        opened.apply(spoken(ident, ["Good day", "to you"]))
        (opened.audio.path / f"{ident}.ogg").touch()
    yield opened
    opened.close()


@contextlib.asynccontextmanager
async def refining(store, files: Files, *idents: str, idle=lambda: True):
    refiner = Refiner(store, files, idle)
    for ident in idents:
        await refiner.request(store.session(ident, None), None, "big", "ann")
    refiner.start()
    yield refiner
    await refiner.aclose()


async def until(store, ident: str, state: str):
    while (made := store.transcript(ident, None).refinement).state != state:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return made


async def test_sessions_are_refined_one_after_the_other(store):
    files = Files(DONE, RequestRefused("audio_too_long", "an hour is the most"))
    async with refining(store, files, "s1", "s2"):
        failed = await until(store, "s2", "failed")
    assert (failed.error, failed.message) == ("audio_too_long", "an hour is the most")
    assert store.transcript("s1", None).refinement.layer == "big"
    assert [one.text for one in store.transcript("s1", None).refined] == ["Better"]
    assert [(model, path.name) for model, path in files.jobs] == [
        ("big", "s1.ogg"),
        ("big", "s2.ogg"),
    ]


async def test_what_may_succeed_later_is_tried_again_but_not_for_ever(store):
    busy = RequestRefused("models_busy", "later")
    async with refining(store, Files(busy, DONE, busy, busy, busy), "s1", "s2"):
        await until(store, "s1", "done")
        failed = await until(store, "s2", "failed")
    assert (failed.error, failed.attempts) == ("models_busy", 3)


async def test_a_deleted_session_ends_its_refinement(store):
    files = Files(None, DONE)
    async with refining(store, files, "s1", "s2"):
        await files.began.wait()
        await asyncio.to_thread(store.delete, "s1", None)
        await until(store, "s2", "done")


async def test_what_runs_goes_on_with_the_next_server(store):
    files = Files(None)
    async with refining(store, files, "s1"):
        await files.began.wait()
    assert store.transcript("s1", None).refinement.state == "queued"
    async with refining(store, Files(DONE)):
        assert (await until(store, "s1", "done")).attempts == 2


async def test_sources_whose_audio_is_not_kept_apart_are_not_refined(store):
    store.apply([AddWords("s1", (StoredWord(4, 2, " me", 9000, 9900, source="me"),))])
    async with refining(store, Files(), "s1"):
        assert (await until(store, "s1", "failed")).error == "unsupported_option"


async def test_each_source_is_recognised_from_its_own_audio(store):
    """The words are of one layer, in one order of time."""
    said = (
        StoredWord(4, 2, " hello", 9000, 9900, source="me"),
        StoredWord(5, 3, " yes", 9500, 9999, source="them"),
    )
    store.apply([*spoken("s3", []), AddWords("s3", said)])
    for name in ("s3", source_name("s3", "me"), source_name("s3", "them")):
        (store.audio.path / f"{name}.ogg").touch()
    answers = [
        Transcript("", (Segment(0, text, 0, 0, words),), 1.0)
        for text, words in (
            ("Hello you", (Word("Hello", 9000, 9400), Word(" you", 9800, 9900))),
            ("Yes", (Word("Yes", 9500, 9990),)),
        )
    ]
    files = Files(*answers)
    async with refining(store, files, "s3"):
        await until(store, "s3", "done")
    found = store.transcript("s3", None)
    assert [(w.number, w.text, w.source, w.segment) for w in found.refined] == [
        (0, "Hello", "me", 2),
        (1, "Yes", "them", 3),
        (2, " you", "me", 2),
    ]
    assert [path.name for _, path in files.jobs] == [
        f"{source_name('s3', source)}.ogg" for source in ("me", "them")
    ]
    await asyncio.to_thread(store.delete, "s3", None)
    assert not list(store.audio.path.glob("s3*"))


async def test_audio_that_is_gone_is_said(store):
    files = Files(None, DONE)
    async with refining(store, files, "s1", "s2"):
        await files.began.wait()
        store.audio.delete(["s2"])
        files.outcomes[:] = []
        store.delete("s1", None)
        assert (await until(store, "s2", "failed")).error == "no_audio"


def test_refining_needs_audio():
    with pytest.raises(ConfigError, match="--keep-audio"):
        ServeConfig(refine="whisper-tiny.en")


@pytest.mark.long
async def test_a_real_server_refines_by_itself_and_on_demand(tmp_path):
    """With the same model both layers have the same words, nearly at the same times."""
    options = ("--store", str(tmp_path / "store"), "--keep-audio", "all", *AT_PAUSES)
    with serving(*options, "--refine", "whisper-tiny.en", "--max-sessions", "1") as server:
        async with dial(f"{server.ws}/v1/live") as socket:
            start = {"type": "start", "format": "s16le"}
            audio = s16le(np.concatenate((np.zeros(48_000, np.float32), SPEECH)))
            await send(socket, start, audio, {"type": "stop"})
            ready, *_ = (await listen(socket)).of("ready")
        url = f"{server.url}/v1/sessions/{ready['session']}"
        async with httpx.AsyncClient(timeout=60) as http:
            while True:
                found = (await http.get(url, params={"layer": "live"})).json()
                if found["refinement"] and found["refinement"]["state"] in ("done", "failed"):
                    break
                await asyncio.sleep(0.2)
            assert (found["refinement"]["state"], found["refinement"]["who"]) == ("done", "")
            asked = await http.post(f"{url}/refine", json={"model": "whisper-tiny.en"})
            assert (asked.status_code, asked.json()["state"]) == (200, "done")
            refined = (await http.get(url, params={"layer": "refined"})).json()
            assert (await http.get(url)).json()["text"] == refined["text"]
        command = [sys.executable, "-m", "voxlive.cli.main", "sessions", "refine"]
        asked = (*command, ready["session"], "--server", server.url, "--model", "whisper-tiny.en")
        done = await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True)
        assert done.stdout == f"refined by {found['refinement']['layer']}\n"
    before, better = found["text"].lower().split(), refined["text"].lower().split()
    assert len(set(before) & set(better)) > 0.7 * len(set(before))
    times = {word["text"].strip().lower(): word["start"] for word in found["words"]}
    shared = [w for w in refined["words"] if w["text"].strip().lower() in times]
    near = [abs(w["start"] - times[w["text"].strip().lower()]) < 0.7 for w in shared]
    assert sum(near) > 0.6 * len(near) > 0
    assert {w["segment"] for w in refined["words"]} <= {one["id"] for one in found["segments"]}


# The session is an old one.
KEEPS = ("--keep", "forever", "--keep-audio", "all", "--max-sessions", "1")


def refined_before(folder: Path) -> list[StoredWord]:
    """A store with a session "s1" of a clip, with its audio, that an older model has refined."""
    store = open_store(folder)
    writer = store.audio.open("s1", print)
    writer.put(SPEECH, 0)
    writer.close(len(SPEECH))
    while store.audio.is_written("s1"):
        time.sleep(0.01)
    store.apply(spoken("s1", ["We bought", "some apples"], owner="anyone"))
    store.refine("s1", None, Refinement("older", "ann", datetime.now(UTC)))
    assert store.claim_refinement(automatic=False)
    before = [StoredWord(n, n % 2, f" old{n}", n, n + 1, layer="refined") for n in range(100)]
    store.end_refinement("s1", before)
    store.close()
    return before


async def killed_while_refining(folder: Path, delay_s: float) -> StoredTranscript:
    """A server is asked to refine "s1", and killed so long after it has begun: what is there."""
    options = ("--store", str(folder), *KEEPS)
    with serving(*options) as server:
        async with httpx.AsyncClient(timeout=60) as http:
            url = f"{server.url}/v1/sessions/s1"
            asked = await http.post(f"{url}/refine", json={"model": "whisper-tiny.en"})
            assert asked.status_code in (200, 202)
            while (await http.get(url)).json()["refinement"]["state"] == "queued":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await asyncio.sleep(delay_s)
        server.process.kill()
        server.process.wait()
    with contextlib.closing(open_store(folder)) as store:
        found = store.transcript("s1", None)
    # For the next server it is as though a minute had passed.
    with contextlib.closing(sqlite3.connect(folder / "sessions.db")) as database, database:
        database.execute("UPDATE refinements SET updated_at = 0 WHERE state = 'running'")
    return found


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "delays_s",
    [
        (0.3,),
        pytest.param((0.0, 0.3, 1.0), marks=pytest.mark.endurance),
        *(
            pytest.param([n / 10 + d for d in (0, 0.03, 0.06)], marks=pytest.mark.endurance)
            for n in range(10, 40, 4)
        ),
    ],
)
async def test_a_server_that_is_killed_while_it_refines_leaves_one_layer_whole(tmp_path, delays_s):
    """The old one or the new one. Three such servers are enough; then it may be asked for again."""
    folder = tmp_path / "store"
    before = await asyncio.to_thread(refined_before, folder)
    left = []
    for delay_s in delays_s:
        left.append(await killed_while_refining(folder, delay_s))
        if left[-1].refinement.state == "done":
            break
    options = ("--store", str(folder), *KEEPS)
    with serving(*options) as server:
        async with httpx.AsyncClient(timeout=60) as http:
            url = f"{server.url}/v1/sessions/s1"

            async def until_over() -> dict:
                while True:
                    made = (await http.get(url)).json()["refinement"]
                    if made["state"] in ("done", "failed"):
                        return made
                    await asyncio.sleep(0.1)

            made = await until_over()
            if len(left) == 3 and left[-1].refinement.state == "running":
                assert (made["state"], made["error"]) == ("failed", "interrupted")
                assert made["layer"] == "older"
                asked = await http.post(f"{url}/refine", json={"model": "whisper-tiny.en"})
                assert (asked.status_code, asked.json()["state"]) == (202, "queued")
                made = await until_over()
            assert (made["state"], made["error"]) == ("done", None)
    with contextlib.closing(open_store(folder)) as store:
        after = store.transcript("s1", None)
    assert "a bottle of milk" in "".join(word.text for word in after.refined)
    for found in left:
        old = found.refinement.state == "running"
        assert found.refinement.layer == ("older" if old else made["layer"])
        assert list(found.refined) == (before if old else list(after.refined))


@pytest.mark.endurance
@pytest.mark.timeout(120)
async def test_a_real_server_refines_each_source(tmp_path):
    """A microphone has the loudspeaker's sound too: each word is of its own source all the same."""
    me, them = clip("yes"), clip("market")
    gap = np.zeros(16_000, np.float32)
    first = np.concatenate((np.zeros_like(them.samples), gap, me.samples))
    second = np.concatenate((them.samples, gap, np.zeros_like(me.samples)))
    first[160:] += 0.25 * second[:-160]
    pcm = s16le(np.stack((first, second), axis=1).ravel())
    options = ("--store", str(tmp_path / "store"), "--keep-audio", "all", *AT_PAUSES)
    with serving(*options) as server:
        url = f"{server.ws}/v1/live"
        async with LiveClient(url, channels=2, sources=["me", "them"]) as client:
            await client.send(pcm)
            await client.stop()
            messages = [message async for message in client]
        url = f"{server.url}/v1/sessions/{messages[0]['session']}"
        async with httpx.AsyncClient(timeout=60) as http:
            asked = await http.post(f"{url}/refine", json={"model": "whisper-tiny.en"})
            assert asked.status_code == 202
            while (made := (await http.get(url)).json()["refinement"])["state"] != "done":
                assert made["state"] != "failed", made
                await asyncio.sleep(0.2)
            refined = (await http.get(url, params={"layer": "refined"})).json()
    said = {
        source: "".join(w["text"] for w in refined["words"] if w["source"] == source)
        for source in ("me", "them")
    }
    assert word_errors(messages[-1]["sources"]["me"], said["me"]) <= 1
    assert word_errors(messages[-1]["sources"]["them"], said["them"]) <= 4
