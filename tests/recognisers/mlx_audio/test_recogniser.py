"""mlx-audio's families as recognisers: a real Whisper's words, small checkpoints of others."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.clips import clip
from support.scoring import word_errors
from support.tiny_speech import (
    SAID,
    write_mms,
    write_moonshine,
    write_parakeet,
    write_qwen3,
    write_sensevoice,
    write_voxtral,
)
from support.tiny_whisper import write_whisper

from voxlive.checkpoints.local_model import read_model
from voxlive.engines.utterances.engine import DRAFT
from voxlive.errors import RequestRefused
from voxlive.recognisers import library_of, load_recogniser
from voxlive.recognisers.contract import LoadingOptions, PassOptions, Recognition, in_windows
from voxlive.recognisers.mlx_audio import outputs
from voxlive.values import SAMPLE_RATE, Segment

WRITERS = {
    "whisper": write_whisper,
    "parakeet": write_parakeet,
    "qwen3_asr": write_qwen3,
    "voxtral": write_voxtral,
    "mms": write_mms,
    "moonshine": write_moonshine,
    "sensevoice": write_sensevoice,
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A family's small checkpoint, loaded once."""
    every = {}

    def load(family):
        if family not in every:
            local = read_model(WRITERS[family](tmp_path_factory.mktemp(family)))
            assert library_of(local) == "mlx_audio"
            every[family] = load_recogniser("mlx_audio", local, LoadingOptions())
        return every[family]

    yield load
    for recogniser in every.values():
        recogniser.close()


@pytest.fixture(scope="module")
def tiny(mlx_whisper):
    recogniser = load_recogniser("mlx_audio", read_model(mlx_whisper), LoadingOptions())
    yield recogniser
    recogniser.close()


# Its words over files have their times in make test: tests/runners/mlx_audio/test_whisper.py.
@pytest.mark.endurance
@pytest.mark.parametrize("how", [DRAFT, PassOptions()], ids=["short", "padded"])
def test_real_words_have_their_times_and_join_to_the_text(tiny, how):
    spoken = clip("doctor")
    found = tiny.recognise(spoken.samples, how=how)
    assert word_errors(spoken.text, found.text) <= 2
    assert "".join(word.text for word in found.words) == found.text
    written = [word.text.strip(" .,").lower() for word in found.words]
    near = [
        abs(word.start / SAMPLE_RATE - true.start)
        for text, word in zip(written, found.words, strict=True)
        for true in spoken.words
        if true.text.strip(" .,").lower() == text and written.count(text) == 1
    ]
    assert len(near) >= 5
    assert np.median(near) < 0.2
    assert all(0 < word.probability <= 1 for word in found.words)
    assert (found.language, found.language_p) == (None, None)
    assert found.no_speech < 0.5
    assert found.compression < 2
    assert -1 < found.mean_logprob < 0


def test_an_english_only_whisper_refuses_others_with_a_message(tiny):
    assert tiny.info.languages == ("en",)
    assert tiny.languages_of(clip("yes").samples) == (("en", 1.0),)
    with pytest.raises(RequestRefused, match="does not know German"):
        tiny.recognise(clip("yes").samples, "de")
    with pytest.raises(RequestRefused, match="only English") as refused:
        tiny.recognise(clip("yes").samples, task="translate")
    assert (refused.value.code, refused.value.param) == ("unsupported_task", "task")


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("how", [DRAFT, PassOptions(max_tokens=40)], ids=["short", "padded"])
def test_every_family_gives_words_in_order_inside_the_audio(loaded, family, how):
    recogniser, samples = loaded(family), clip("yes").samples
    found = recogniser.recognise(samples, how=how)
    assert found.segments
    assert "".join(word.text for word in found.words) == found.text
    times = [time for word in found.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= len(samples)
    timed = family in ("whisper", "parakeet")
    assert recogniser.info.timed_words == timed
    assert all((word.probability is not None) == (family == "whisper") for word in found.words)
    assert recogniser.recognise(np.zeros(0, np.float32)) == Recognition()


@pytest.mark.parametrize("family", WRITERS)
def test_words_are_there_only_where_they_are_asked_for(loaded, family):
    found = loaded(family).recognise(clip("yes").samples, how=PassOptions(words=False))
    assert found.segments
    assert {segment.words for segment in found.segments} == {None}


def test_the_language_is_detected_or_given(loaded):
    samples = clip("yes").samples
    found = loaded("qwen3_asr").recognise(samples)
    assert (found.text.strip(), found.language, found.language_p) == (SAID, "en", None)
    assert loaded("qwen3_asr").recognise(samples, "zh").language is None
    assert loaded("qwen3_asr").languages_of(samples) == ()
    whisper = loaded("whisper")
    found = whisper.recognise(samples)
    assert found.language == "en"
    likeliest = whisper.languages_of(samples)
    assert likeliest[0] == ("en", pytest.approx(found.language_p))
    assert len(likeliest) == len(whisper.info.languages) == 99


def test_a_limit_of_tokens_holds_over_windows(loaded):
    recogniser = loaded("whisper")
    samples = clip("minute").samples[: 40 * SAMPLE_RATE]
    whole = recogniser.recognise(samples, how=PassOptions(words=False))
    assert [segment.id for segment in whole.segments] == [0, 1]
    assert whole.segments[1].start > 18 * SAMPLE_RATE
    limited = recogniser.recognise(
        samples, how=PassOptions(words=False, max_tokens=whole.tokens // 2 + 2)
    )
    assert limited.cut_short
    assert limited.tokens < whole.tokens


def test_passes_of_several_threads_do_not_mix(loaded):
    recogniser = loaded("parakeet")
    assert recogniser.info.parallel == 1
    clips = [clip(name).samples for name in ("yes", "train", "doctor", "market")]
    alone = [recogniser.recognise(samples) for samples in clips]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(recogniser.recognise, clips)) == alone


def test_words_without_times_share_their_segments_time():
    segment = Segment(0, "ab cdef.", 1000, 2000)
    spread = outputs.spread_words(segment, 9000)
    assert [(word.text, word.start, word.end) for word in spread.words] == [
        (" ab", 1000, 1333),
        (" cdef.", 1333, 2000),
    ]
    assert spread.text == " ab cdef."
    assert {word.probability for word in spread.words} == {None}
    chinese = outputs.spread_words(Segment(0, "你好"), 100)
    assert [(word.text, word.start, word.end) for word in chinese.words] == [
        ("你", 0, 50),
        ("好", 50, 100),
    ]


def test_long_audio_is_cut_where_it_is_quiet():
    audio = np.ones(10 * SAMPLE_RATE, np.float32)
    audio[7 * SAMPLE_RATE : 8 * SAMPLE_RATE] = 0
    parts = list(in_windows(audio, 9 * SAMPLE_RATE))
    [(first, _), (second, _)] = parts
    assert first == 0
    assert 7 * SAMPLE_RATE < second < 8 * SAMPLE_RATE
    assert np.array_equal(np.concatenate([part for _, part in parts]), audio)
    assert len(list(in_windows(audio[: 9 * SAMPLE_RATE], 9 * SAMPLE_RATE))) == 1
