import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_voxtral import front_end

from voxlive.encoders.mel import MelState, mel_filters
from voxlive.training.golden.audio import synthetic_audio
from voxlive.training.golden.weights import TINY

TOKEN = TINY.samples_per_token
LOOKAHEAD = TINY.audio.n_fft // 2 - TINY.audio.hop
AUDIO = synthetic_audio(12 * 16_000)
WHOLE = MelState(front_end()).push(AUDIO)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 400), st.integers(1, 160_000)), max_size=60))
def test_every_chunking_gives_the_same_bits(sizes):
    state, frames, at = MelState(front_end()), [], 0
    for size in [*sizes, len(AUDIO)]:
        frames.append(state.push(AUDIO[at : at + size]))
        at += size
    assert np.array_equal(np.concatenate(frames), WHOLE)


def test_sample_by_sample_is_the_same():
    state = MelState(front_end())
    frames = [state.push(AUDIO[i : i + 1]) for i in range(3 * TOKEN)]
    assert np.array_equal(np.concatenate(frames), WHOLE[:16])


def test_a_token_is_complete_as_soon_as_its_last_frame_can_be_known():
    state = MelState(front_end())
    assert state.push(AUDIO[: TOKEN + LOOKAHEAD - 1]).shape == (0, 128)
    assert state.push(AUDIO[TOKEN + LOOKAHEAD - 1 : TOKEN + LOOKAHEAD]).shape == (8, 128)


def test_what_is_kept_is_bounded():
    state = MelState(front_end())
    for start in range(0, len(AUDIO), 777):
        state.push(AUDIO[start : start + 777])
        assert len(state._rest) < TOKEN + TINY.audio.n_fft


def test_silence_lies_on_the_floor_and_nothing_above_the_clamp():
    floor = (TINY.audio.log_mel_max - 8 + 4) / 4
    silence = MelState(front_end()).push(np.zeros(10 * TOKEN, np.float32))
    assert silence.dtype == np.float32
    assert np.array_equal(silence, np.full_like(silence, floor))
    assert WHOLE.min() >= np.float32(floor)


def test_a_tone_rings_in_the_filter_around_its_frequency():
    filters = mel_filters(TINY.audio)
    centre = filters.argmax(axis=0) * 40.0
    for hz in (300.0, 1000.0, 3400.0, 7000.0):
        tone = 0.5 * np.sin(2 * np.pi * hz * np.arange(8 * TOKEN) / 16_000)
        loudest = int(MelState(front_end()).push(tone.astype(np.float32))[20].argmax())
        assert centre[loudest] == pytest.approx(hz, rel=0.03, abs=40)


def test_filters_have_the_same_area_and_cover_every_frequency():
    filters = mel_filters(TINY.audio)
    assert filters.shape == (201, 128)
    # Slaney's norm: each triangle has area 1 Hz; 40 Hz bins measure it coarsely.
    assert filters[:, 60:].sum(axis=0) * 40 == pytest.approx(1.0, rel=0.1)
    assert (filters.sum(axis=1)[1:-1] > 0).all()
