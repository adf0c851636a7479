import av
import numpy as np
import pytest

from voxlive.errors import BadAudio
from voxlive.streaming.ingest.formats import ENCODINGS, AudioFormat, to_unit


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
