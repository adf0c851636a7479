import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.tiny_voxtral import front_end, mel_of

from training.golden.audio import synthetic_audio
from training.golden.weights import TINY
from voxlive.engines.voxtral.stream import AudioBuffer
from voxlive.layers.mel import mel_filters

TOKEN = TINY.samples_per_token
LOOKAHEAD = TINY.audio.n_fft // 2 - TINY.audio.hop
AUDIO = synthetic_audio(12 * 16_000)
FRONT_END = front_end()
WHOLE = mel_of(AUDIO)


def taken(buffer: AudioBuffer, tokens: int) -> np.ndarray:
    mel = FRONT_END(buffer.read(tokens))
    buffer.drop(tokens)
    return mel


@examples(60)
@given(st.lists(st.one_of(st.integers(0, 400), st.integers(1, 160_000)), max_size=60), st.data())
def test_every_chunking_gives_the_same_bits(sizes, data):
    buffer, frames, at = AudioBuffer(FRONT_END), [], 0
    for size in [*sizes, len(AUDIO)]:
        buffer.push(AUDIO[at : at + size])
        at += size
        if buffer.ready:
            frames.append(taken(buffer, data.draw(st.integers(1, buffer.ready))))
    if buffer.ready:
        frames.append(taken(buffer, buffer.ready))
    assert np.array_equal(np.concatenate(frames), WHOLE)


def test_sample_by_sample_is_the_same():
    buffer = AudioBuffer(FRONT_END)
    for sample in range(3 * TOKEN):
        buffer.push(AUDIO[sample : sample + 1])
    assert np.array_equal(taken(buffer, 2), WHOLE[:16])
    assert buffer.ready == 0


@pytest.mark.parametrize("tokens", [1, 3])
def test_rows_that_go_through_together_have_the_bits_that_each_has_alone(tokens):
    random = np.random.default_rng(0)
    rows = random.normal(size=(5, FRONT_END.span(tokens))).astype(np.float32)
    rows *= np.array([[0.0], [1e-4], [1e-2], [0.3], [1.0]], np.float32)
    together = FRONT_END(rows)
    assert together.shape == (5, 8 * tokens, 128)
    assert all(np.array_equal(FRONT_END(row), mel) for row, mel in zip(rows, together, strict=True))


def test_a_token_is_complete_as_soon_as_its_last_frame_can_be_known():
    buffer = AudioBuffer(FRONT_END)
    buffer.push(AUDIO[: TOKEN + LOOKAHEAD - 1])
    assert (buffer.ready, buffer.missing) == (0, 1)
    with pytest.raises(ValueError, match="0 tokens are complete, not 1"):
        buffer.read(1)
    buffer.push(AUDIO[TOKEN + LOOKAHEAD - 1 : TOKEN + LOOKAHEAD])
    assert buffer.ready == 1
    taken(buffer, 1)
    assert (buffer.ready, buffer.missing) == (0, TOKEN)


def test_what_is_kept_is_bounded():
    buffer = AudioBuffer(FRONT_END)
    for start in range(0, len(AUDIO), 777):
        buffer.push(AUDIO[start : start + 777])
        if buffer.ready:
            taken(buffer, buffer.ready)
        assert sum(map(len, buffer._items)) < TOKEN + TINY.audio.n_fft


def test_silence_lies_on_the_floor_and_nothing_above_the_clamp():
    floor = (TINY.audio.log_mel_max - 8 + 4) / 4
    silence = mel_of(np.zeros(10 * TOKEN, np.float32))
    assert silence.dtype == np.float32
    assert np.array_equal(silence, np.full_like(silence, floor))
    assert WHOLE.min() >= np.float32(floor)


def test_a_tone_rings_in_the_filter_around_its_frequency():
    filters = mel_filters(TINY.audio.mel_bins, TINY.audio.n_fft, TINY.audio.sample_rate)
    centre = filters.argmax(axis=0) * 40.0
    for hz in (300.0, 1000.0, 3400.0, 7000.0):
        tone = 0.5 * np.sin(2 * np.pi * hz * np.arange(8 * TOKEN) / 16_000)
        loudest = int(mel_of(tone.astype(np.float32))[20].argmax())
        assert centre[loudest] == pytest.approx(hz, rel=0.03, abs=40)


def test_filters_have_the_same_area_and_cover_every_frequency():
    filters = mel_filters(TINY.audio.mel_bins, TINY.audio.n_fft, TINY.audio.sample_rate)
    assert filters.shape == (201, 128)
    # Slaney's norm: each triangle has area 1 Hz; 40 Hz bins measure it coarsely.
    assert filters[:, 60:].sum(axis=0) * 40 == pytest.approx(1.0, rel=0.1)
    assert (filters.sum(axis=1)[1:-1] > 0).all()
