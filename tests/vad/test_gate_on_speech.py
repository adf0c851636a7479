"""The real network and the gate on real audio."""

import numpy as np
import pytest
from support.clips import clip, names

from voxlive.vad.detector import Silero, VoiceDetector
from voxlive.vad.gate import Feed, Gate, GateOptions, Skip, Started, Stopped

RATE = 16_000
SPOKEN = [name for name in names() if clip(name).sentences]


@pytest.fixture(scope="module")
def detector():
    detector = VoiceDetector(Silero())
    yield detector
    detector.close()


def run(detector, samples, sizes=(RATE,), trail=0):
    """Actions for a stream that comes in pieces of ``sizes``, and the audio that was fed."""
    lane, gate = detector.lane(), Gate(GateOptions(), trail)
    actions, fed, at = [], [], 0

    def act(more):
        actions.extend(more)
        for action in more:
            if isinstance(action, Feed):
                fed.append((action.start, lane.audio.take(action.start, action.end)))
            elif isinstance(action, Skip):
                lane.audio.drop(action.end)

    while at < len(samples):
        piece = samples[at : at + sizes[len(actions) % len(sizes)]]
        at += len(piece)
        for probability in lane.push_blocking(piece):
            act(gate.push(float(probability)))
    act(gate.finish(len(samples)))
    lane.close()
    assert lane.audio.start == lane.audio.end == len(samples)
    return actions, fed


def audible(samples, start):
    """Where, at or after ``start``, 10 ms of audio exceed -45 dBFS: a stop begins in silence."""
    return next(
        at
        for at in range(start, len(samples), 160)
        if np.sqrt(np.mean(samples[at : at + 160] ** 2)) > 10 ** (-45 / 20)
    )


@pytest.mark.parametrize("name", [name for name in SPOKEN if name not in ("noisy", "stereo")])
def test_onsets_and_stops_are_where_speech_is(detector, name):
    c = clip(name)
    actions, _ = run(detector, c.samples)
    onsets = [action.at for action in actions if isinstance(action, Started)]
    stops = [action.at for action in actions if isinstance(action, Stopped)]
    truth = [audible(c.samples, round(s.start * RATE)) for s in c.sentences]
    assert len(onsets) == len(stops) == len(truth)
    for onset, true in zip(onsets, truth, strict=True):
        assert abs(onset - true) <= 0.1 * RATE
    for stop, sentence in zip(stops, c.sentences, strict=True):
        assert -0.05 * RATE <= stop - sentence.end * RATE <= 0.2 * RATE


@pytest.mark.parametrize("name", SPOKEN)
def test_no_sentence_is_clipped(detector, name):
    c = clip(name)
    _, fed = run(detector, c.samples)
    was_fed = np.zeros(len(c.samples), bool)
    for start, audio in fed:
        was_fed[start : start + len(audio)] = True
        assert np.array_equal(audio, c.samples[start : start + len(audio)])
    for sentence in c.sentences:
        assert was_fed[round(sentence.start * RATE) : round(sentence.end * RATE)].all()


@pytest.mark.parametrize(
    "samples",
    [
        clip("silence").samples,
        clip("noise").samples,
        np.zeros(60 * RATE, np.float32),
        np.random.default_rng(5).normal(0, 10 ** (-30 / 20), 60 * RATE).astype(np.float32),
    ],
    ids=["silence", "noise", "a-minute-of-silence", "a-minute-of-noise"],
)
def test_silence_and_noise_are_never_fed(detector, samples):
    actions, fed = run(detector, samples)
    assert fed == []
    assert all(isinstance(action, Skip) for action in actions)


def test_pieces_of_any_size_give_the_same_actions(detector):
    samples = clip("pauses").samples
    expected, _ = run(detector, samples, trail=16_000)
    for sizes in [(160,), (512,), (1, 7, 3_000, 640)]:
        assert run(detector, samples, sizes, trail=16_000)[0] == expected
