import re

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import clip
from support.encode import encode
from support.examples import examples

from voxlive.errors import BadAudio
from voxlive.streaming.ingest.formats import Report
from voxlive.streaming.ingest.media import decode, read_file

SPEECH = clip("market").samples
FASTSTART = {"movflags": "faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"}

# container, codec, rate, layout, options, least correlation with the clip
MEDIA = {
    "webm": ("webm", "libopus", 48_000, "mono", {}, 0.99),
    "webm-live": ("webm", "libopus", 48_000, "stereo", {"seekable": False, "live": "1"}, 0.99),
    "ogg-opus": ("ogg", "libopus", 48_000, "mono", {"page_duration": "200000"}, 0.99),
    "ogg-vorbis": ("ogg", "vorbis", 44_100, "stereo", {}, 0.98),
    "ogg-flac": ("ogg", "flac", 16_000, "mono", {}, 0.9999),
    "m4a": ("ipod", "aac", 44_100, "stereo", FASTSTART, 0.99),
    "mp4-fragments": ("mp4", "aac", 48_000, "mono", {"seekable": False, **FRAGMENTS}, 0.98),
    "mp4-alac": ("mp4", "alac", 48_000, "mono", FASTSTART, 0.9999),
    "mp3": ("mp3", "libmp3lame", 44_100, "mono", {}, 0.99),
    "mp3-8k": ("mp3", "libmp3lame", 8_000, "mono", {}, 0.95),
    "flac": ("flac", "flac", 48_000, "mono", {}, 0.9999),
    "flac-5.1": ("flac", "flac", 48_000, "5.1", {}, 0.9999),
    "wav": ("wav", "pcm_s16le", 16_000, "mono", {}, 0.9999),
    "wav-live": ("wav", "pcm_s16le", 44_100, "stereo", {"seekable": False}, 0.9999),
    "wav-24": ("wav", "pcm_s24le", 48_000, "stereo", {}, 0.9999),
    "wav-float": ("wav", "pcm_f32le", 44_100, "mono", {}, 0.9999),
    "wav-mulaw": ("wav", "pcm_mulaw", 8_000, "mono", {}, 0.98),
    "wav-u8": ("wav", "pcm_u8", 16_000, "mono", {}, 0.97),
    "aac": ("adts", "aac", 44_100, "mono", {}, 0.98),
}
_made: dict[str, bytes] = {}


def made(name):
    if name not in _made:
        container, codec, rate, layout, options, _ = MEDIA[name]
        _made[name] = encode(SPEECH, container, codec, rate, layout, **options)
    return _made[name]


class Steps:
    """A reader that gives at most ``step`` bytes at a time."""

    def __init__(self, data, step):
        self.data, self.step, self.at = data, step, 0

    def read(self, size, /):
        piece = self.data[self.at : self.at + min(size, self.step)]
        self.at += len(piece)
        return piece


def gather(pieces, report):
    """All samples, and the warnings, or the error that ends them, or None."""
    samples, problem = [np.empty(0, np.float32)], None
    try:
        samples.extend(pieces)
    except BadAudio as error:
        problem = str(error)
    warnings = "; ".join(warning.message for warning in report.warnings)
    return np.concatenate(samples), problem or warnings or None


def decode_all(data, step=1 << 20):
    report = Report()
    return gather(decode(Steps(data, step), report), report)


def correlation(samples):
    """The highest normalised cross-correlation with the clip, within 0.1 s."""
    size = 1 << 18
    cross = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(SPEECH, size).conj())
    return max(cross[:1600].max(), cross[-1600:].max()) / np.sqrt(
        (samples**2).sum() * (SPEECH**2).sum()
    )


@pytest.mark.parametrize("name", MEDIA)
def test_every_container_decodes_to_the_clip(name):
    samples, problem = decode_all(made(name))
    assert problem is None
    assert abs(len(samples) - len(SPEECH)) < 1_600
    assert correlation(samples) > MEDIA[name][-1]
    assert samples.dtype == np.float32
    assert np.abs(samples).max() < 1.5


@pytest.mark.parametrize("name", MEDIA)
@pytest.mark.parametrize("step", [13, 1000])
def test_samples_do_not_depend_on_how_the_bytes_come(name, step):
    whole, _ = decode_all(made(name))
    samples, problem = decode_all(made(name), step)
    assert problem is None
    assert np.array_equal(samples, whole)


@pytest.mark.parametrize("name", MEDIA)
def test_a_file_gives_the_same_in_blocks_of_about_a_second(name, tmp_path):
    path = tmp_path / "media"
    path.write_bytes(made(name))
    blocks = list(read_file(path))
    assert all(16_000 <= len(block) < 40_000 for block in blocks[:-1])
    samples = np.concatenate(blocks)
    assert abs(len(samples) - len(SPEECH)) < 1_600
    assert correlation(samples) > MEDIA[name][-1]


@pytest.mark.parametrize("name", MEDIA)
def test_sound_comes_out_long_before_the_end(name):
    """A second and a half of sound, or the 64 KiB of a WAV, is the most that is waited for."""
    source = Steps(made(name), 100)
    next(decode(source))
    enough = len(source.data) * 1.5 / 7.075
    assert source.at < max(enough, (1 << 16) + 1000 if name.startswith("wav") else 0)


@pytest.mark.parametrize(
    "name", ["webm", "ogg-opus", "ogg-flac", "m4a", "mp4-fragments", "flac", "wav", "wav-24"]
)
def test_a_cut_stream_is_reported_after_its_samples(name):
    data = made(name)
    whole, _ = decode_all(data)
    samples, problem = decode_all(data[: len(data) * 2 // 3 + 1])
    assert "cut off" in problem
    assert 0.5 * len(whole) < len(samples) < 0.75 * len(whole)
    # The last frame may differ, and the resampler rings into the end.
    same = len(samples) - 3_000
    assert np.array_equal(samples[:same], whole[:same])


@pytest.mark.parametrize("name", ["mp3", "aac", "webm-live"])
def test_a_cut_stream_without_a_length_gives_its_samples(name):
    data = made(name)
    whole, _ = decode_all(data)
    samples, _ = decode_all(data[: len(data) * 2 // 3 + 1])
    assert 0.5 * len(whole) < len(samples) < 0.75 * len(whole)


@pytest.mark.parametrize("name", ["m4a", "mp3"])
def test_damaged_packets_are_left_out_and_reported(name):
    data = bytearray(made(name))
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    samples, problem = decode_all(bytes(data))
    assert "is damaged" in problem
    assert re.search(r"\d+ of its [a-z ]+, the first at [23]\.\d s", problem)
    assert 0.7 * len(SPEECH) < len(samples) < 1.01 * len(SPEECH)


@pytest.mark.parametrize("name", MEDIA)
@pytest.mark.parametrize("size", [1, 5, 20])
def test_a_stream_that_is_only_a_beginning_is_bad(name, size):
    samples, problem = decode_all(made(name)[:size])
    assert problem
    assert len(samples) == 0


@pytest.mark.parametrize("name", ["webm", "ogg-opus", "m4a", "mp3", "flac", "wav-24", "aac"])
def test_noise_behind_the_right_first_bytes_is_bad(name):
    samples, problem = decode_all(made(name)[:16] + np.random.default_rng(1).bytes(30_000))
    assert problem
    assert len(samples) < 16_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"The quick brown fox jumps over the lazy dog",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n",
        np.random.default_rng(2).bytes(5000),
        clip("yes").pcm.tobytes(),
    ],
)
def test_what_is_no_container_is_bad(data):
    samples, problem = decode_all(data)
    assert "none of WebM, Ogg, MP4, FLAC" in problem
    assert len(samples) == 0


def test_a_container_under_the_wrong_name_is_still_read(tmp_path):
    path = tmp_path / "speech.wav"
    path.write_bytes(made("mp3"))
    assert correlation(np.concatenate(list(read_file(path)))) > 0.99


def test_an_mp4_with_its_index_last_is_refused_live_and_read_from_a_file(tmp_path):
    data = encode(SPEECH, "mp4", "aac", 44_100)
    source = Steps(data, 100)
    with pytest.raises(BadAudio, match="send it as a file, or rewrite it"):
        next(decode(source))
    assert source.at <= 200
    path = tmp_path / "late.m4a"
    path.write_bytes(data)
    assert correlation(np.concatenate(list(read_file(path)))) > 0.99


@pytest.mark.parametrize("name", ["webm", "ogg-opus", "flac"])
def test_a_second_recording_in_the_same_stream_is_decoded_too(name):
    once, _ = decode_all(made(name))
    samples, problem = decode_all(made(name) * 2)
    assert problem is None
    assert abs(len(samples) - 2 * len(once)) < 1_000


def test_the_rate_may_change_in_mid_stream():
    low = encode(SPEECH, "mp3", "libmp3lame", 22_050, write_xing="0", id3v2_version="0")
    high = encode(SPEECH, "mp3", "libmp3lame", 44_100, write_xing="0", id3v2_version="0")
    samples, problem = decode_all(low + high)
    assert problem is None
    assert abs(len(samples) - 2 * len(SPEECH)) < 6_000
    assert correlation(samples[: len(samples) // 2]) > 0.97
    assert correlation(samples[-len(SPEECH) - 1_000 :]) > 0.97


def test_a_video_without_sound_is_bad(tmp_path):
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(BadAudio, match="no audio track in the MP4"):
        list(read_file(path))


def test_sound_in_an_unknown_coding_is_bad():
    data = made("m4a").replace(b"mp4a", b"zzzz").replace(b"esds", b"zzzz")
    samples, problem = decode_all(data)
    assert problem == "the coding of the sound in the MP4 is not known here"
    assert len(samples) == 0


@pytest.mark.parametrize(
    ("field", "size", "value", "words"),
    [
        (12, 4, 100, "a rate of 100 Hz is not supported: use 8000 to 192000"),
        (12, 4, 10_000_000, "a rate of 10000000 Hz is not supported"),
        (10, 2, 9, "9 channels are not supported: use 1 to 8"),
        (22, 2, 64, "samples of the kind s64 are not supported"),
    ],
)
def test_a_wav_header_beyond_reason_is_bad(field, size, value, words):
    wav = bytearray(made("wav"))
    at = wav.find(b"fmt ") + field
    wav[at : at + size] = value.to_bytes(size, "little")
    if field == 10:
        wav[at + 10 : at + 12] = (2 * value).to_bytes(2, "little")
    samples, problem = decode_all(bytes(wav))
    assert words in problem
    assert len(samples) == 0


def test_tags_in_an_old_character_set_do_no_harm():
    data = made("flac").replace(b"Lavf", b"L\xe9\xff\xb4")
    assert data != made("flac")
    samples, problem = decode_all(data)
    assert problem is None
    assert len(samples) == len(SPEECH)


@examples(150)
@given(
    name=st.sampled_from(sorted(MEDIA)),
    changes=st.lists(st.tuples(st.integers(4, 2_000), st.integers(0, 255)), max_size=8),
    end=st.integers(1, 20_000),
)
def test_a_corrupt_header_gives_samples_or_bad_audio(name, changes, end):
    data = bytearray(made(name)[:end])
    for at, value in changes:
        data[at % len(data)] = value
    samples, _ = decode_all(bytes(data))
    assert np.isfinite(samples).all()


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        next(read_file(tmp_path / "none.wav"))


def test_a_cut_file_gives_its_blocks_first(tmp_path):
    path = tmp_path / "cut.flac"
    path.write_bytes(made("flac")[: len(made("flac")) // 2])
    report = Report()
    samples, problem = gather(read_file(path, report), report)
    assert problem.startswith("the FLAC was cut off after 2.")
    assert len(samples) > 2.5 * 16_000
