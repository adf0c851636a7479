"""PCM encodings, and PCM to float32 mono at 16 kHz."""

import asyncio
from itertools import pairwise

import av
import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st
from support.clips import clip
from support.examples import examples

from voxlive.errors import BadAudio
from voxlive.streaming.ingest.formats import (
    ENCODINGS,
    AudioFormat,
    Mixer,
    PcmDecoder,
    mix_down,
    to_unit,
)
from voxlive.streaming.ingest.live import open_ingest


def test_integers_are_divided_by_their_full_scale():
    assert to_unit(np.array([-32768, -1, 0, 16384], np.int16)).tolist() == [
        -1,
        -1 / 32768,
        0,
        0.5,
    ]
    assert to_unit(np.array([-(2**31), 2**30], np.int32)).tolist() == [-1, 0.5]
    assert to_unit(np.array([0, 128, 192], np.uint8)).tolist() == [-1, 0, 0.5]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_clipped_and_nan_becomes_silence(dtype):
    values = np.array([np.nan, np.inf, -np.inf, 3, -3, 0.25, -1], dtype)
    result = to_unit(values)
    assert result.dtype == np.float32
    assert result.tolist() == [0, 0, 0, 1, -1, 0.25, -1]


@pytest.mark.parametrize("name", ["mulaw", "alaw"])
def test_g711_agrees_with_libav_for_every_code(name):
    decoder = av.CodecContext.create(f"pcm_{name}", "r")
    decoder.sample_rate, decoder.layout = 8000, "mono"
    (frame,) = decoder.decode(av.Packet(bytes(range(256))))
    assert frame.format.name == "s16"
    expected = frame.to_ndarray()[0] / np.float32(32768)
    assert np.array_equal(ENCODINGS[name].decode(bytes(range(256))), expected)


@pytest.mark.parametrize(
    ("name", "bits", "codes"),
    [
        ("mulaw", {0xFF: 0, 0x80: 32124, 0x00: -32124, 0xFE: 8}, 0x80),
        ("alaw", {0xD5: 8, 0x55: -8, 0xAA: 32256, 0x2A: -32256}, 0x80),
    ],
)
def test_g711_values_of_the_recommendation(name, bits, codes):
    table = ENCODINGS[name].decode(bytes(range(256))) * 32768
    for code, value in bits.items():
        assert table[code] == value
    positive = np.array([table[code] for code in range(256) if code & codes])
    negative = np.array([table[code] for code in range(256) if not code & codes])
    assert np.array_equal(positive, -negative)
    assert (positive >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("opus",), "'opus' is not supported: use one of s16le, s32le"),
        (("s16le", 7_999), "7999 Hz is not supported: use 8000 to 96000"),
        (("s16le", 96_001), "96001 Hz"),
        (("s16le", 16_000, 0), "0 channels are not supported: use 1 to 8"),
        (("s16le", 16_000, 9), "9 channels"),
        (("container", 48_000), "leave them out"),
        (("container", 16_000, 2), "leave them out"),
    ],
)
def test_an_unsupported_format_is_refused_with_the_supported_ones(arguments, words):
    with pytest.raises(BadAudio, match=words) as caught:
        AudioFormat(*arguments)
    assert caught.value.code == "bad_audio"


def test_the_limits_of_the_ranges_are_supported():
    AudioFormat("s16le", 8_000, 1)
    AudioFormat("f32le", 96_000, 8)
    AudioFormat("container")


FORMATS = st.builds(
    AudioFormat,
    st.sampled_from(sorted(ENCODINGS)),
    st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])
    | st.integers(8_000, 96_000),
    st.integers(1, 8),
)


def through(audio, pieces):
    """The pieces through one decoder, in one array."""
    decoder = PcmDecoder(audio)
    samples = [decoder.push(piece) for piece in pieces]
    return np.concatenate([*samples, decoder.finish()]), decoder.pending


def cut(data, cuts):
    edges = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def pcm16(clip_):
    return clip_.pcm.astype("<i2").tobytes()


@examples(200)
@given(
    audio=FORMATS,
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(0, 40_000),
    cuts=st.lists(st.integers(0, 40_000), max_size=40),
)
def test_any_chunking_gives_the_same_samples(audio, seed, size, cuts):
    data = np.random.default_rng(seed).bytes(size)
    whole, pending = through(audio, [data])
    pieces, pending_too = through(audio, cut(data, cuts))
    assert np.array_equal(whole, pieces)
    frame = ENCODINGS[audio.encoding].dtype.itemsize * audio.channels
    assert pending == pending_too == size % frame
    assert abs(len(whole) - size // frame * 16_000 / audio.rate) <= 1
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("step", [7, 1920, 65_536])
def test_real_speech_in_steps_equals_soxr_in_one_go(rate, step):
    speech = soxr.resample(clip("yes").samples, 16_000, rate)
    data = speech.astype("<f4").tobytes()
    samples, _ = through(
        AudioFormat("f32le", rate), [data[at : at + step] for at in range(0, len(data), step)]
    )
    expected = soxr.resample(speech.clip(-1, 1), rate, 16_000)
    assert np.array_equal(samples, expected)


@pytest.mark.parametrize("encoding", ["f32le", "s16le"])
def test_16_khz_mono_passes_untouched(encoding):
    pcm = clip("market").pcm[:, 0]
    data = (pcm / np.float32(32768)).astype("<f4") if encoding == "f32le" else pcm.astype("<i2")
    samples, _ = through(AudioFormat(encoding), [data.tobytes()])
    assert np.array_equal(samples * 32768, pcm)


def test_channels_are_mixed_down_to_their_mean():
    stereo = clip("stereo")
    samples, _ = through(AudioFormat("s16le", stereo.rate, 2), [pcm16(stereo)])
    assert np.array_equal(samples, stereo.samples)
    frames = np.arange(24, dtype=np.float32).reshape(3, 8)
    assert mix_down(frames).tolist() == [3.5, 11.5, 19.5]


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_companding_keeps_speech_within_its_steps(encoding):
    """Nearest code of the table and back: the error of speech stays 30 dB below it."""
    speech = clip("phone").pcm[:, 0] / np.float32(32768)
    table = ENCODINGS[encoding].decode(bytes(range(256)))
    codes = np.abs(table[None] - speech[:, None]).argmin(1).astype(np.uint8)
    audio = AudioFormat(encoding, 8_000)
    samples, _ = through(audio, [codes.tobytes()])
    error = samples - soxr.resample(speech, 8_000, 16_000)
    assert np.mean(error**2) < np.mean(speech**2) / 1000


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_sample_of_the_client_is_shared(encoding, channels):
    data = bytearray(b"\x01\x22\x33\x3c" * 10)
    samples = PcmDecoder(AudioFormat(encoding, channels=channels)).push(memoryview(data))
    before = samples.copy()
    data[:] = bytes(len(data))
    assert before.any()
    assert samples.tolist() == before.tolist()


async def collect(pieces):
    return [samples async for samples in pieces]


async def test_a_large_message_comes_out_in_bounded_pieces():
    ingest = open_ingest(AudioFormat("mulaw", 8_000))
    pieces = await collect(ingest.push(bytes(5_000_001)))
    assert max(map(len, pieces)) < 200_000
    pieces += await collect(ingest.finish())
    assert sum(map(len, pieces)) == 10_000_002


async def test_bytes_short_of_a_frame_at_the_end_are_a_warning():
    ingest = open_ingest(AudioFormat("s16le", 16_000, 2))
    assert len((await collect(ingest.push(bytes(11))))[0]) == 2
    assert ingest.warnings == ()
    assert await collect(ingest.finish()) == []
    [warning] = ingest.warnings
    assert warning.code == "cut_off"
    assert "3 bytes at the end are no whole frame" in warning.message


def test_an_ingest_of_pcm_needs_no_loop_to_open_and_close():
    ingest = open_ingest(AudioFormat("s16le"))
    ingest.close()
    ingest.close()
    assert asyncio.run(collect(ingest.finish())) == []


def power(samples):
    return float(np.mean(np.asarray(samples, np.float64) ** 2))


@pytest.mark.parametrize("gain", [0.99, 0.8, 0.7])
@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_channels_that_cancel_are_replaced_by_the_louder_one(gain, rate):
    speech = soxr.resample(clip("market").samples, 16_000, rate)
    frames = np.stack([-gain * speech, speech], axis=1)
    mono = Mixer(rate, 2).push(frames)
    start = rate  # the decision has fallen long before
    assert power(mono[start:] - speech[start:]) < 1e-6 * power(speech[start:])


def test_channels_that_do_not_cancel_are_their_exact_mean():
    speech = clip("market").samples
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.1, len(speech)).astype(np.float32)
    for other in (speech, noise, np.zeros_like(speech), -0.1 * speech):
        frames = np.stack([speech, other], axis=1)
        assert np.array_equal(Mixer(16_000, 2).push(frames), mix_down(frames))


def test_channels_are_mixed_again_once_they_stop_cancelling():
    speech = clip("market").samples
    frames = np.stack([speech, np.concatenate([-speech[:50_000], speech[50_000:]])], axis=1)
    mono = Mixer(16_000, 2).push(frames)
    assert np.array_equal(mono[-30_000:], mix_down(frames)[-30_000:])
    assert power(mono[16_000:50_000] - speech[16_000:50_000]) < 1e-6
    assert np.abs(np.diff(mono)).max() < 1.5 * np.abs(np.diff(speech)).max()


@examples(100)
@given(
    channels=st.integers(2, 8),
    seed=st.integers(0, 2**32 - 1),
    flips=st.lists(st.integers(0, 20_000), max_size=4),
    cuts=st.lists(st.integers(0, 20_000), max_size=30),
)
def test_mixing_does_not_depend_on_the_cuts(channels, seed, flips, cuts):
    rng = np.random.default_rng(seed)
    tone = rng.normal(0, 0.1, (20_000, 1)).astype(np.float32)
    signs = np.where(np.arange(channels) % 2, -1, 1).astype(np.float32)
    frames = tone * signs * rng.uniform(0.8, 1, channels).astype(np.float32)
    for at in flips:
        frames[at:, 0] *= -1
    whole = Mixer(16_000, channels).push(frames)
    mixer = Mixer(16_000, channels)
    edges = [0, *sorted(cuts), len(frames)]
    pieces = [mixer.push(frames[a:b]) for a, b in pairwise(edges)]
    assert np.array_equal(np.concatenate(pieces), whole)
