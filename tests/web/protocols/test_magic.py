import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.encode import encode

from voxlive.web.protocols.magic import ENOUGH, is_container

TONE = (np.sin(np.arange(16_000) * 0.05) * 0.3).astype(np.float32)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("webm", "libopus"),
        ("ogg", "libopus"),
        ("mp4", "aac"),
        ("mp3", "libmp3lame"),
        ("flac", "flac"),
        ("wav", "pcm_s16le"),
    ],
)
def test_real_containers_are_known(container, codec):
    data = encode(TONE, container, codec)
    assert is_container(data[:ENOUGH]) is not False
    assert is_container(data[:4096]) is True


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_an_mp3_without_a_tag_is_known_by_its_second_frame(rate):
    data = encode(TONE, "mp3", "libmp3lame", rate, id3v2_version="0")
    assert not data.startswith(b"ID3")
    assert is_container(data[:ENOUGH]) is None
    assert is_container(data[:4096]) is True


def test_a_few_bytes_are_not_enough():
    assert is_container(b"") is None
    assert is_container(b"OggS") is None


def test_pcm_that_begins_like_an_mp3_frame_is_pcm():
    quiet = np.random.default_rng(1).integers(-300, 300, 4000).astype("<i2").tobytes()
    assert is_container(b"\xff\xfb\x90\x44" + quiet) is False


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000))
def test_pcm_of_moderate_level_is_never_a_container(seed, peak):
    pcm = np.random.default_rng(seed).integers(-peak, peak, 3000).astype("<i2").tobytes()
    assert is_container(pcm) is False
