"""Replays: what they are called, which recording a session gets, and what cannot be replayed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from voxlive.engines import load_apart, load_engine
from voxlive.engines.contract import (
    Committed,
    Engine,
    EngineOptions,
    Message,
    Progressed,
    Reached,
    StreamOptions,
)
from voxlive.engines.recording import LOG
from voxlive.errors import EngineFull, VoxliveError
from voxlive.values import Word

INFO = {"engine": "whisper", "model": "tiny", "device": "cpu", "capacity": 2, "languages": ["en"]}


def write(
    folder: Path, word: str, *, version: int = 1, end: str = "", **info: object
) -> list[dict]:
    """A recording of 1 s with a word in it, which a flush brings out."""
    folder.mkdir(parents=True)
    about = {**INFO, "delays_ms": [0, 0, 1], "of_a_later_version": 1, **info}
    lines = [
        {"voxlive_recording": version, "session": "s", "trail": 800, "engine": about},
        {"t": 0.1, "received": 8000},
        {"t": 0.2, "received": 16_000},
        {"t": 0.2, "command": "stop"},
        {"t": 0.2, "flush": 1, "at": 16_000},
        {"t": 0.25, "words": [[word, 100, 9000, None]]},
        {"t": 0.25, "reached": 1},
        {"t": 0.25, "end": 16_000},
    ]
    (folder / LOG).write_text("".join(f"{json.dumps(line)}\n" for line in lines) + end)
    return lines


def replay(name: str, **options: object) -> Engine:
    return load_engine(f"replay:{name}", EngineOptions(**options))


def text_of(engine: Engine, **options: object) -> str:
    """What a session gets that feeds a second of anything and flushes."""
    sent: list[Message] = []
    stream = engine.open(StreamOptions(**options), sent.append)
    assert stream.trail == 800
    stream.feed(np.zeros(16_000, np.float32), 0)
    stream.flush(7)
    while not (sent and isinstance(sent[-1], Reached)):
        time.sleep(0.001)
    stream.close()
    assert sent[-1] == Reached(7)
    return "".join(word.text for one in sent if isinstance(one, Committed) for word in one.words)


@pytest.fixture
def three(tmp_path) -> Path:
    for word in ("one", "two", "three"):
        write(tmp_path / f"{len(word)}-{word}", word)
    return tmp_path


def test_recordings_come_in_the_order_of_their_names_or_by_name(three):
    engine = replay(f"{three}")
    assert [text_of(engine) for _ in range(4)] == ["one", "two", "three", "one"]
    assert text_of(engine, name="5-three") == "three"
    assert text_of(engine, name="nova-3") == "two"
    engine.shutdown()
    alone = replay(f"{three}/3-two")
    assert [text_of(alone), text_of(alone)] == ["two", "two"]
    alone.shutdown()


def test_a_replay_says_what_it_is_and_is_what_was_recorded(three):
    engine = load_apart(f"replay:{three},drop-at=2s", EngineOptions(max_sessions=1))
    info = engine.info
    assert (info.engine, info.model, info.languages) == ("whisper", "tiny", ("en",))
    assert info.note == "a replay of 3 recorded sessions; no model is loaded"
    assert info.names == ("3-one", "3-two", "5-three")
    assert info.drop_at == 32_000
    assert engine.check(1.0) is None
    with pytest.raises(VoxliveError, match="does not know German"):
        engine.open(StreamOptions("de"), print)
    stream = engine.open(StreamOptions(), print)
    assert engine.in_use == 1
    with pytest.raises(EngineFull):
        engine.open(StreamOptions(), print)
    stream.close()
    stream.close()
    assert engine.in_use == 0
    engine.shutdown()


def test_a_session_is_killed_once_and_its_next_stream_has_the_same_recording(three):
    engine = replay(f"{three},kill-at=500ms")
    sent: list[Message] = []
    stream = engine.open(StreamOptions(session="a"), sent.append)
    stream.feed(np.zeros(16_000, np.float32), 0)
    stream.flush(1)
    assert [(one.code, engine.in_use) for one in sent] == [("engine_failed", 0)]
    sent.clear()
    stream = engine.open(StreamOptions(session="a"), sent.append)
    stream.feed(np.zeros(16_000, np.float32), 0)
    stream.flush(1)
    while not sent or sent[-1] != Reached(1):
        time.sleep(0.001)
    assert Committed((Word("one", 100, 9000),)) in sent
    stream.close()
    engine.shutdown()


def test_a_mark_whose_answer_waits_for_more_audio_is_answered_without(tmp_path, monkeypatch):
    monkeypatch.setattr("voxlive.engines.replay._GRACE_S", 0.01)
    lines = write(tmp_path / "a", "late")
    lines[4] = {"t": 0.2, "pause": 1, "at": 16_000}
    lines.insert(5, {"t": 0.21, "received": 17_600})
    (tmp_path / "a" / LOG).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    engine = replay(f"{tmp_path}")
    sent: list[Message] = []
    stream = engine.open(StreamOptions(), sent.append)
    stream.feed(np.zeros(16_000, np.float32), 0)
    stream.end_utterance(3)
    while not sent or sent[-1] != Reached(3):
        time.sleep(0.001)
    assert sent == [Committed((Word("late", 100, 9000),)), Progressed(16_000), Reached(3)]
    engine.shutdown()


def test_a_last_line_that_is_cut_short_is_left_out(tmp_path):
    write(tmp_path / "a", "one", end='{"t": 0.3, "wor')
    engine = replay(f"{tmp_path}")
    assert text_of(engine) == "one"
    engine.shutdown()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere is no folder: `voxlive serve --record DIR` makes recordings"),
        ("empty", "empty has no recorded session: `voxlive serve --record DIR`"),
        ("later", "is a recording of version 2, and this voxlive replays version 1"),
        ("damaged", "session.jsonl is no recording of a session"),
        ("mixed", r"has sessions with tiny and base, and a replay is of one .*,model=tiny"),
        ("mixed,model=large", "has no session with large, only with tiny and base"),
        ("good,pace=2", "'pace=2' is no option of a replay: there are model=NAME, delay=200ms"),
        ("good,delay=soon", "'delay=soon' is no option of a replay"),
        ("good,kill-at=-1", "'kill-at=-1' is no option of a replay"),
    ],
)
def test_what_cannot_be_replayed_says_why(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "good" / "a", "one")
    write(tmp_path / "later" / "a", "one", version=2)
    write(tmp_path / "damaged" / "a", "one", end="{}\n")
    write(tmp_path / "mixed" / "a", "one")
    write(tmp_path / "mixed" / "b", "two", model="base")
    with pytest.raises(VoxliveError, match=message):
        replay(f"{tmp_path}/{name}")


def test_of_several_models_one_is_chosen(tmp_path):
    write(tmp_path / "a", "one")
    write(tmp_path / "b", "two", model="base")
    engine = replay(f"{tmp_path},model=base")
    assert (engine.info.model, text_of(engine)) == ("base", "two")
    engine.shutdown()


@pytest.mark.parametrize(
    "options", [{"quantize": 4}, {"delay_ms": 480}, {"vocabulary": ("x",)}, {"commit": "fast"}]
)
def test_options_of_a_model_are_refused(options, three):
    with pytest.raises(VoxliveError, match=r"leave (it )?out"):
        replay(f"{three}", **options)
