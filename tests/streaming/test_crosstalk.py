"""Leak suppression on made sounds: noise with the rhythm of syllables, through made rooms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sounds import leaked

from voxlive.streaming.crosstalk import LATENCY, MAX_SOURCES, LeakSuppressor
from voxlive.values import SAMPLE_RATE, Samples


def voice(seconds: float, seed: int) -> Samples:
    """Noise that is coloured anew for each syllable, with the pauses of speech, -23 dB."""
    rng = np.random.default_rng(seed)
    parts = []
    while sum(map(len, parts)) < seconds * SAMPLE_RATE:
        size = int(rng.uniform(0.1, 0.3) * SAMPLE_RATE)
        poles = np.exp(-np.arange(64) / rng.uniform(3, 12)) * np.cos(
            np.arange(64) * rng.uniform(0.1, 1.2)
        )
        sound = np.convolve(rng.standard_normal(size), poles)[:size] * np.hanning(size)
        parts += [sound / np.sqrt(np.mean(sound**2)), np.zeros(int(rng.uniform(0.02, 0.15) * 16e3))]
    joined = np.concatenate(parts)[: int(seconds * SAMPLE_RATE)]
    return (0.07 * joined).astype(np.float32)


def silent(seconds: float) -> Samples:
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def suppressed(*channels: Samples) -> list[Samples]:
    suppressor = LeakSuppressor(len(channels))
    frames = np.stack(channels, axis=1)
    out = np.concatenate([suppressor.push(frames), suppressor.flush()])
    assert out.shape == frames.shape
    assert out.dtype == np.float32
    return list(out.T)


def decibels(sound: Samples) -> float:
    return 10 * float(np.log10(np.mean(sound.astype(np.float64) ** 2) + 1e-12))


ME = np.concatenate([voice(4, 1), silent(5), voice(4, 2), silent(5)])
THEM = np.concatenate([silent(4.5), voice(4, 3), silent(5), voice(4.5, 4)])


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 9_000), max_size=12), st.booleans())
def test_the_result_does_not_depend_on_how_the_audio_is_cut(cuts: list[int], alone: bool) -> None:
    me, them = ME[2 * SAMPLE_RATE :][:80_000], THEM[2 * SAMPLE_RATE :][:80_000]
    frames = np.stack([me if alone else me + leaked(them), them], axis=1)
    whole = LeakSuppressor(2)
    expected = np.concatenate([whole.push(frames), whole.flush()])
    cut = LeakSuppressor(2)
    pieces, at, longest = [], 0, 0
    for size in [*cuts, len(frames)]:
        pieces.append(cut.push(frames[at : at + size]))
        at = min(at + size, len(frames))
        longest = max(longest, at - sum(map(len, pieces)))
    pieces.append(cut.flush())
    np.testing.assert_array_equal(np.concatenate(pieces), expected)
    assert longest <= LATENCY
    if alone:
        np.testing.assert_array_equal(expected, frames)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 3_000), max_size=8))
def test_a_flush_brings_out_every_sample_once_and_in_its_place(sizes: list[int]) -> None:
    frames = np.stack([voice(2, 5), silent(2)], axis=1)
    suppressor = LeakSuppressor(2)
    pieces, at = [], 0
    for size in sizes:
        pieces += [suppressor.push(frames[at : at + size]), suppressor.flush()]
        at = min(at + size, len(frames))
        assert sum(map(len, pieces)) == at
    pieces += [suppressor.push(frames[at:]), suppressor.flush()]
    np.testing.assert_array_equal(np.concatenate(pieces), frames)


@pytest.mark.parametrize("delay_ms", [-30, 0, 40, 180])
def test_a_leak_becomes_silence_and_every_voice_stays(delay_ms: float) -> None:
    me, them = suppressed(ME + leaked(THEM, -12, delay_ms), THEM)
    rate = SAMPLE_RATE
    assert decibels(me[int(5.5 * rate) : 8 * rate]) < -100  # it was -35
    assert decibels(me[int(14.5 * rate) :]) < -100
    for spoken in (slice(0, 4 * rate), slice(9 * rate, 13 * rate)):
        assert decibels(me[spoken] - ME[spoken]) < decibels(ME[spoken]) - 40
    loud = np.abs(THEM) > 0.01
    np.testing.assert_array_equal(them[loud], THEM[loud])


def test_in_double_talk_both_stay_and_the_leak_is_lower() -> None:
    own = voice(6, 7)
    mine = np.concatenate([silent(6), own])
    other = voice(12, 8)
    mixed = mine + leaked(other)
    me, them = suppressed(mixed, other)
    both = slice(6 * SAMPLE_RATE, None)
    loud = np.abs(own) > 0.02
    assert np.mean(me[both][loud] == 0) < 0.01
    assert np.mean(them[np.abs(other) > 0.02] == 0) < 0.01
    before = decibels(mixed[both] - own)
    assert decibels(me[both] - own) < before - 6


def test_noise_of_the_microphone_passes_and_lets_no_leak_through_with_it() -> None:
    noise = 0.001 * np.random.default_rng(5).standard_normal(len(THEM)).astype(np.float32)
    mixed = noise + leaked(THEM)
    me, _ = suppressed(mixed, THEM)
    rate = SAMPLE_RATE
    np.testing.assert_array_equal(me[: 4 * rate], mixed[: 4 * rate])
    assert np.abs(me[5 * rate : 8 * rate]).max() < 0.01  # it was up to 0.1
    assert decibels(me[5 * rate : 8 * rate]) < -55


@pytest.mark.parametrize(("first", "second"), [(1.0, 1.0), (1.0, 0.7), (0.7, 1.0)])
def test_a_voice_that_is_the_same_in_both_stays_in_the_louder_one(
    first: float, second: float
) -> None:
    sound = voice(8, 6)
    channels = suppressed(sound * np.float32(first), sound * np.float32(second))
    stays = 0 if first >= second else 1
    late = slice(2 * SAMPLE_RATE, None)
    assert decibels(channels[stays][late]) > decibels(sound[late]) - 4
    assert decibels(channels[1 - stays][late]) < -100


def test_of_three_channels_each_keeps_its_own_voice() -> None:
    one, two, three = (
        np.concatenate([silent(3.5 * n), voice(3, 20 + n), silent(7 - 3.5 * n), voice(3, 30 + n)])
        for n in range(3)
    )
    mic = one + leaked(two, -12, 40, 1) + leaked(three, -15, 60, 2)
    channels = suppressed(mic, two, three)
    rate = SAMPLE_RATE
    assert decibels(channels[0][int(4.5 * rate) : int(6.5 * rate)]) < -80
    assert decibels(channels[0][int(8 * rate) : int(10 * rate)]) < -80
    assert decibels(channels[0][: 3 * rate] - one[: 3 * rate]) < -70


def test_it_takes_two_to_four_channels() -> None:
    for channels in (1, MAX_SOURCES + 1):
        with pytest.raises(ValueError, match="sources"):
            LeakSuppressor(channels)
    assert LeakSuppressor(MAX_SOURCES).push(np.zeros((100, MAX_SOURCES), np.float32)).shape == (
        0,
        MAX_SOURCES,
    )
