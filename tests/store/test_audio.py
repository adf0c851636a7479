"""Kept audio: what is in a file, on which clock, after crashes, deletions and full disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clips import clip
from support.storing import spoken

from voxlive.errors import VoxliveError
from voxlive.store import audio
from voxlive.store.audio import AudioFolder, OpusFile, source_name
from voxlive.store.backends import open_store
from voxlive.store.contract import SessionFilter
from voxlive.streaming.ingest.formats import Report
from voxlive.streaming.ingest.media import read_file

SPEECH = clip("minute").samples[:200_000]
ANY = SessionFilter(None)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(audio, "_GATHER_S", 0.0)


def decoded(path: Path) -> np.ndarray:
    report = Report()
    found = np.concatenate([np.zeros(0, np.float32), *read_file(path, report)])
    assert report.warnings == ()
    return found


def alike(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def settled(folder: AudioFolder) -> None:
    while folder._waiting or folder._waiting_bytes:
        time.sleep(0.005)
    for writer in tuple(folder._writers.values()):
        with writer.lock:
            pass


def keep(folder: AudioFolder, ident: str, *pieces: tuple[int, np.ndarray], end: int | None) -> Path:
    """Keep pieces of audio at their samples; returns the file, which is complete."""
    writer = folder.open(ident, lambda *_: None)
    for at, samples in pieces:
        writer.put(samples, at)
    writer.close(end)
    while ident in folder._writers:
        time.sleep(0.005)
    return folder.path / f"{ident}.ogg"


def test_a_file_is_its_sessions_audio_sample_by_sample(tmp_path):
    folder = AudioFolder(tmp_path / "audio")
    pieces = [(at, SPEECH[at : at + 1777]) for at in range(0, len(SPEECH), 1777)]
    path = keep(folder, "s", *pieces, end=len(SPEECH))
    found = decoded(path)
    assert len(found) == len(SPEECH)
    fits = {
        by: alike(SPEECH[1000:-1000], found[1000 + by : len(found) - 1000 + by])
        for by in range(-40, 41, 4)
    }
    assert max(fits, key=fits.get) == 0
    assert fits[0] > 0.95
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert folder.bytes == path.stat().st_size
    folder.close()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5000), st.lists(st.integers(1, 4000), max_size=3), st.booleans())
def test_every_length_is_kept(tmp_path_factory, first, more, ended):
    folder = AudioFolder(tmp_path_factory.mktemp("audio") / "a")
    at, pieces = 0, []
    for size in (first, *more):
        pieces.append((at, SPEECH[at : at + size]))
        at += size
    path = keep(folder, "s", *pieces, end=at if ended else None)
    folder.close()
    if not at:
        assert not path.exists()
    elif ended or at >= 960:
        assert at - (0 if ended else 960 + 104) <= len(decoded(path)) <= at


@pytest.mark.parametrize("frames", range(13, 19))
@pytest.mark.parametrize("more", [0, 1, 900])
def test_the_last_page_says_where_the_audio_ends(tmp_path, frames, more):
    """Also where its last packet fills a page, which has sixteen."""
    length = 960 * frames + more
    path = keep(AudioFolder(tmp_path), "s", (0, SPEECH[:length]), end=length)
    data = path.read_bytes()
    assert data[data.rfind(b"OggS") + 5] & 4
    assert len(decoded(path)) == length


def test_what_was_not_kept_is_silence(tmp_path):
    folder = AudioFolder(tmp_path / "audio")
    half = SPEECH[:32_000]
    path = keep(folder, "s", (16_000, half), (160_000, half), end=200_000)
    folder.close()
    found = decoded(path)
    assert len(found) == 200_000
    for at in (16_000, 160_000):
        assert alike(half, found[at : at + 32_000]) > 0.9
    for quiet in (found[:15_000], found[50_000:159_000], found[193_000:]):
        assert np.abs(quiet).max() < 0.02


def test_a_sample_that_comes_again_is_in_the_file_once(tmp_path):
    folder = AudioFolder(tmp_path / "audio")
    pieces = [(0, SPEECH[:20_000]), (10_000, SPEECH[10_000:30_000]), (5000, SPEECH[5000:9000])]
    path = keep(folder, "s", *pieces, (30_000, SPEECH[30_000:40_000]), end=40_000)
    folder.close()
    assert len(decoded(path)) == 40_000
    assert alike(decoded(path), SPEECH[:40_000]) > 0.9


@pytest.mark.parametrize("end", [None, 33_333])
def test_a_file_goes_on_in_another_process(tmp_path, end):
    """Also one that has ended, of which 60 ms are lost."""
    for first, last, final in ((0, 33_333, end), (33_333, 70_000, 70_000)):
        folder = AudioFolder(tmp_path / "audio")
        path = keep(folder, "s", (first, SPEECH[first:last]), end=final)
        folder.close()
    found = decoded(path)
    assert len(found) == 70_000
    assert alike(found[:15_000], SPEECH[:15_000]) > 0.9
    assert alike(found[36_000:], SPEECH[36_000:70_000]) > 0.9
    if end:
        assert alike(found[20_000:32_500], SPEECH[20_000:32_500]) > 0.9


@given(st.integers(0, 20_000))
@settings(max_examples=40, deadline=None)
def test_a_file_that_is_cut_anywhere_is_playable_and_goes_on(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("audio") / "s.ogg"
    file = OpusFile(path)
    file.write((SPEECH[:96_000] * 32767).astype(np.int16))
    file.close()
    cut = min(cut, path.stat().st_size)
    os.truncate(path, cut)
    again = OpusFile(path)
    kept = again.position
    again.skip(96_000)
    again.write((SPEECH[:16_000] * 32767).astype(np.int16))
    again.end()
    again.close()
    found = decoded(path)
    assert len(found) == 112_000
    # A page has 16 packets of 60 ms, and at most 2.5 kB here.
    assert kept % 15_360 == 0 or kept == 96_000
    assert kept >= 16_000 * (cut / 3000 - 2.5)
    assert kept < 8000 or alike(found[:kept][:-1000], SPEECH[: kept - 1000]) > 0.9


WRITES = """
import sys, time
from pathlib import Path
import numpy as np
from support.clips import clip
from voxlive.store.audio import AudioFolder
samples = clip("minute").samples
writer = AudioFolder(Path(sys.argv[1])).open("s", print)
for at in range(0, len(samples), 1600):
    writer.put(samples[at : at + 1600], at)
    print(at + 1600, flush=True)
    time.sleep(0.002)
time.sleep(60)
"""


@pytest.mark.parametrize("after", [pytest.param(200, marks=pytest.mark.endurance), 400])
def test_a_process_that_is_killed_loses_a_few_seconds_at_most(tmp_path, after):
    writing = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(tmp_path / "audio")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    for _ in range(after):
        sent = int(writing.stdout.readline())
    time.sleep(1.0)  # the audio comes fifty times as fast as anybody speaks
    os.kill(writing.pid, signal.SIGKILL)
    rest = writing.stdout.read().split()
    writing.stdout.close()
    writing.wait()
    sent = int(rest[-1]) if rest else sent
    found = decoded(tmp_path / "audio" / "s.ogg")
    assert 16_000 * 15 < len(found) <= sent
    speech = clip("minute").samples
    assert alike(found, speech[: len(found)]) > 0.9


@pytest.mark.parametrize("deleted", [False, True])
def test_who_opened_a_file_last_is_its_only_writer(tmp_path, deleted):
    """What the one before was given by then stays; it may wake late, and may not end the file."""
    folder, warnings = AudioFolder(tmp_path / "audio"), []
    first = folder.open("one", lambda code, _: warnings.append(code))
    first.put(SPEECH[:60_000], 0)
    second = folder.open("one", lambda code, _: warnings.append(code))
    if deleted:
        folder.delete(["one"])
    first.put(np.zeros(40_000, np.float32), 60_000)
    second.put(SPEECH[50_000:100_000], 50_000)
    first.close(100_000)
    second.put(SPEECH[100_000:], 100_000)
    settled(folder)
    assert folder.is_written("one")
    second.close(len(SPEECH))
    while folder.is_written("one"):
        time.sleep(0.005)
    path = folder.find("one")
    folder.close()
    assert warnings == []
    if deleted:
        assert path is None
    else:
        found = decoded(path)
        assert len(found) == len(SPEECH)
        assert alike(found[50_000:70_000], SPEECH[50_000:70_000]) > 0.9
        assert alike(found, SPEECH) > 0.9


def test_a_deleted_session_leaves_nothing_though_it_goes_on(tmp_path):
    folder = AudioFolder(tmp_path / "audio")
    writer = folder.open("s", lambda *_: None)
    writer.put(SPEECH[:64_000], 0)
    settled(folder)
    assert folder.find("s")
    folder.delete(["s"])
    writer.put(SPEECH[64_000:], 64_000)
    settled(folder)
    assert (list(folder.path.iterdir()), folder.bytes, folder.find("s")) == ([], 0, None)
    writer.close(len(SPEECH))
    folder.close()
    assert list(folder.path.iterdir()) == []


def test_a_file_that_another_process_deletes_is_written_no_more(tmp_path):
    folder = AudioFolder(tmp_path / "audio")
    writer = folder.open("s", lambda *_: None)
    for at in range(0, 64_000, 16_000):
        writer.put(SPEECH[at : at + 16_000], at)
        settled(folder)
        (folder.path / "s.ogg").unlink(missing_ok=at > 0)
    writer.close(64_000)
    folder.close()
    assert writer.deleted
    assert list(folder.path.iterdir()) == []


def test_the_folder_has_a_bound_and_goes_on_below_it(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_RETRY_S", 0.0)
    warnings: list[str] = []
    folder = AudioFolder(tmp_path / "audio")
    old = keep(folder, "old", (0, SPEECH), end=len(SPEECH))
    folder.most = old.stat().st_size
    writer = folder.open("s", lambda code, _: warnings.append(code))
    for at in range(0, 48_000, 16_000):
        writer.put(SPEECH[at : at + 16_000], at)
        settled(folder)
        if at == 16_000:
            folder.delete(["old"])
    writer.close(48_000)
    folder.close()
    assert warnings == ["audio_full"]
    found = decoded(folder.path / "s.ogg")
    assert len(found) == 48_000
    assert np.abs(found[:31_000]).max() < 0.02
    assert alike(found[33_000:], SPEECH[33_000:48_000]) > 0.9


def test_what_waits_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "MAX_WAITING", 64_000)
    warnings: list[str] = []
    folder = AudioFolder(tmp_path / "audio")
    writer = folder.open("s", lambda code, _: warnings.append(code))
    with writer.lock:  # the disk takes its time
        writer.put(SPEECH[:1600], 0)
        while folder._waiting:
            time.sleep(0.005)
        for at in range(1600, 160_000, 1600):
            writer.put(SPEECH[at : at + 1600], at)
        assert folder._waiting_bytes <= 64_000
    settled(folder)
    writer.put(SPEECH[160_000:176_000], 160_000)
    writer.close(176_000)
    folder.close()
    found = decoded(folder.path / "s.ogg")
    assert (warnings, len(found)) == (["audio_late"], 176_000)
    assert alike(found[161_000:], SPEECH[161_000:176_000]) > 0.9


@pytest.mark.parametrize("ident", ["../s", "a/b", "", "x" * 65, "s.ogg", "s\0"])
def test_an_id_that_is_none_is_no_file(tmp_path, ident):
    folder = AudioFolder(tmp_path / "audio")
    (tmp_path / "s.ogg").write_bytes(b"x")
    assert folder.find(ident) is None
    folder.delete([ident])
    with pytest.raises(VoxliveError):
        folder.open(ident, print)
    assert (tmp_path / "s.ogg").exists()


def test_a_folder_that_others_may_enter_is_refused(tmp_path):
    (tmp_path / "audio").mkdir(mode=0o755)
    with pytest.raises(VoxliveError, match="chmod"):
        AudioFolder(tmp_path / "audio").open("s", print)


def test_a_store_deletes_audio_with_its_session(location, tmp_path, monkeypatch):
    store = open_store(location, tmp_path / "sound")
    try:
        for n, ident in enumerate(("s1", "s2", "s3")):
            store.apply(spoken(ident, ["Hello you"], minute=n))
            keep(store.audio, ident, (0, SPEECH[:16_000]), end=16_000)
        assert [one.audio for one in store.sessions(ANY).sessions] == [True] * 3
        store.delete("s1", None)
        assert not store.audio.find("s1")
        store.sweep(store.session("s3", None).ended_at)
        assert [one.id for one in store.sessions(ANY).sessions] == ["s3"]
        assert [one.name for one in store.audio.path.iterdir()] == ["s3.ogg"]
        keep(store.audio, "stray", (0, SPEECH[:16_000]), end=16_000)
        store.sweep(store.session("s3", None).started_at)
        assert store.audio.find("stray")  # its session may not be written yet
        monkeypatch.setattr(audio, "_ORPHAN_S", -1.0)
        store.sweep(store.session("s3", None).started_at)
        assert [one.name for one in store.audio.path.iterdir()] == ["s3.ogg"]
    finally:
        store.close()


def test_the_files_of_sources_are_swept_with_their_session(tmp_path):
    folder = AudioFolder(tmp_path / "audio")
    folder.make_folder()
    names = [source_name(one, source) for one in ("a", "b") for source in ("", "me", "them")]
    for name in names:
        path = folder.path / f"{name}.ogg"
        path.touch()
        os.utime(path, (0, 0))
    asked: list[str] = []

    def known(idents: list[str]) -> set[str]:
        asked.extend(idents)
        return {"a"}

    folder.sweep(known)
    assert sorted(asked) == ["a", "b"]
    assert {one.stem for one in folder.path.iterdir()} == {*names[:3]}
