"""Speakers of files: vectors to groups, groups to segments, and a file from end to end."""

from __future__ import annotations

import numpy as np
import pytest
from support.clips import two_people, write_wav
from support.wire import s16le

import voxlive
from voxlive.errors import RequestRefused
from voxlive.runners import refusals
from voxlive.runners.contract import Job, JobProgress, Transcript
from voxlive.runners.speakers import FileSpeakers, label_speakers
from voxlive.speakers import clustering
from voxlive.speakers.clustering import cluster
from voxlive.speakers.tracker import Likeness, SpeakerOptions, SpeakerPart
from voxlive.values import Segment, Word

ALIKE = Likeness().same


def voices(*people: int, spread: float = 0.5, seed: int = 0) -> np.ndarray:
    """A vector [64] of length 1 for each of these people, a little different every time."""
    draw = np.random.default_rng(seed)
    vectors = np.eye(64, dtype=np.float32)[list(people)]
    vectors += (draw.standard_normal(vectors.shape) * spread / 8).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def same(labels: list[int], people: list[int]) -> bool:
    """Whether they are the same but for their numbers."""
    return len({*zip(labels, people, strict=True)}) == len({*labels}) == len({*people})


@pytest.mark.parametrize("at_once", [600, 7])
def test_vectors_of_the_same_voice_are_one_group(monkeypatch, at_once):
    monkeypatch.setattr(clustering, "_AT_ONCE", at_once)
    people = [0, 1, 0, 2, 2, 1, 0] * 9
    vectors = voices(*people)
    assert same(cluster(vectors, None, 8, ALIKE), people)
    # A moment of two voices is nobody's own.
    both = (vectors[0] + vectors[1]) / np.linalg.norm(vectors[0] + vectors[1])
    labels = cluster(np.concatenate([vectors, both[None]]), None, 8, ALIKE)
    assert same(labels[:-1], people)
    assert len({*cluster(vectors, 2, 8, ALIKE)}) == 2
    assert len({*cluster(vectors, None, 2, ALIKE)}) == 2
    assert cluster(vectors[:1], None, 8, ALIKE) == [0]
    # Of little speech every group counts.
    assert same(cluster(vectors[:4], None, 8, ALIKE), people[:4])


def part(start: int, end: int, person: int | None) -> SpeakerPart:
    vector = None if person is None else voices(person, spread=0)[0]
    return SpeakerPart(16_000 * start, 16_000 * end, None, vector)


def word(text: str, at: float) -> Word:
    return Word(text, int(16_000 * at), int(16_000 * (at + 0.5)))


def test_segments_are_parted_where_the_speaker_changes():
    parts = [part(0, 4, 5), part(4, 5, None), part(6, 9, 3), part(12, 14, 5)]
    speakers = FileSpeakers(parts, SpeakerOptions(), ALIKE)
    said = (word(" Hello", 1), word(" you.", 4.4), word(" Hi", 6.5), word(" Bye.", 12.2))
    text = "".join(one.text for one in said)
    found = [*speakers.split(Segment(0, text, 8000, 240_000, said))]
    assert [(one.speaker, one.text) for one in found] == [
        ("Speaker 1", " Hello you."),
        ("Speaker 2", " Hi"),
        ("Speaker 1", " Bye."),
    ]
    assert (found[0].start, found[-1].end) == (8000, 240_000)
    # Without times of words a segment stays whole.
    [whole] = speakers.split(Segment(0, text, 5 * 16_000, 14 * 16_000))
    assert (whole.speaker, whole.text) == ("Speaker 2", text)
    [alone] = FileSpeakers([part(0, 1, None)], SpeakerOptions(), ALIKE).split(
        Segment(0, " Yes.", 0, 9000)
    )
    assert alone.speaker == "Speaker 1"


def test_what_cannot_be_told_is_refused_and_cancelled(tmp_path, monkeypatch):
    path = write_wav(tmp_path / "two.wav", s16le(two_people()))
    job = Job(path, speakers=SpeakerOptions())
    untimed = Transcript("Hi", (Segment(0, "Hi"),), 1.0)
    with pytest.raises(RequestRefused) as refused:
        label_speakers(job, untimed, lambda _: None, lambda: False)
    assert refused.value.code == "no_times"
    timed = Transcript("Hi", (Segment(0, "Hi", 0, 16_000),), 20.0)
    assert label_speakers(job, timed, lambda _: None, lambda: True) == timed
    empty = Transcript("", (), 20.0)
    assert label_speakers(job, empty, lambda _: None, lambda: False) == empty
    told: list[object] = []
    [labelled] = label_speakers(job, timed, told.append, lambda: False).segments
    assert labelled.speaker == "Speaker 1"
    assert told == [JobProgress(20.0, 20.0)]
    monkeypatch.setattr(refusals, "speaker_model", lambda: None)
    with pytest.raises(RequestRefused, match="voxlive models fetch speaker-encoder") as missing:
        voxlive.transcribe(path, "whisper-tiny.en", diarize=True, offline=True)
    assert (missing.value.code, missing.value.status) == ("no_speakers", 422)
