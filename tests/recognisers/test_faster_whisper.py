"""The adapter over real weights: words, times, languages, limits, and what cannot be loaded."""

import _ctypes
import ctypes
import importlib
import itertools
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import clip
from support.scoring import word_errors
from support.weights import BASE, TINY_EN

from voxlive.checkpoints.local_model import read_model
from voxlive.checkpoints.resolve import resolve
from voxlive.errors import RequestRefused
from voxlive.recognisers import load_recogniser
from voxlive.recognisers.contract import (
    LoadingOptions,
    PassOptions,
    Recognition,
    SpokenBefore,
    split_tokens,
)
from voxlive.recognisers.faster_whisper import CUBLAS_EXTRA, FasterWhisper, open_cublas
from voxlive.values import SAMPLE_RATE

DRAFT = PassOptions(margin_s=1.0, beam=1, temperatures=(0.0,), max_tokens=60)


def loaded(name: str, **options) -> FasterWhisper:
    return load_recogniser("faster_whisper", resolve(name, offline=True), LoadingOptions(**options))


@pytest.fixture(scope="module")
def tiny(real_weights) -> FasterWhisper:
    return loaded(TINY_EN)


@pytest.fixture(scope="module")
def base(real_weights) -> FasterWhisper:
    return loaded(BASE)


def test_words_have_their_times_and_join_to_the_text(tiny):
    sentence = clip("market")
    found = tiny.recognise(sentence.samples)
    assert word_errors(sentence.text, found.text) <= 2
    assert "".join(word.text for word in found.words) == found.text
    written = [word.text.strip(" .,?!").lower() for word in found.words]
    near = [
        abs(word.start / SAMPLE_RATE - true.start)
        for text, word in zip(written, found.words, strict=True)
        for true in sentence.words
        if true.text.strip(" .,?!").lower() == text and written.count(text) == 1
    ]
    assert len(near) >= 5
    assert np.median(near) < 0.2
    starts = [word.start for word in found.words]
    assert starts == sorted(starts)
    assert all(word.start <= word.end <= len(sentence.samples) for word in found.words)
    assert all(0 < word.probability <= 1 for word in found.words)
    assert found.language is None
    assert found.no_speech < 0.5
    assert found.compression < 2
    assert found.mean_logprob < 0
    assert found.temperature == 0
    assert not found.cut_short


@pytest.mark.endurance
def test_a_short_pass_has_the_words_for_a_part_of_the_cost(tiny):
    samples = clip("doctor").samples

    def cost(how: PassOptions) -> float:
        began = time.process_time_ns()
        tiny.recognise(samples, how=how)
        return time.process_time_ns() - began

    short = tiny.recognise(samples, how=DRAFT)
    assert word_errors(clip("doctor").text, short.text) <= 3
    cost(DRAFT)
    assert min(cost(DRAFT) for _ in range(3)) < 0.7 * min(cost(PassOptions()) for _ in range(3))


@pytest.mark.endurance
def test_short_audio_in_a_window_of_some_length_ends_in_fewer_loops(tiny):
    """Those loops write up to the limit of tokens."""
    names = ("doctor", "market", "library", "train", "message", "phone")
    parts = [clip(name).samples[: round(0.7 * SAMPLE_RATE)] for name in names]
    parts += [clip(name).samples[: round(1.4 * SAMPLE_RATE)] for name in names]

    def loops(how: PassOptions) -> int:
        return sum(tiny.recognise(part, "en", how=how).cut_short for part in parts)

    assert loops(replace(DRAFT, least_s=6.0)) < loops(DRAFT)


@pytest.mark.parametrize("sentences", [8, pytest.param(12, marks=pytest.mark.endurance)])
def test_audio_of_several_windows_is_recognised_to_its_end(tiny, sentences):
    spoken = clip("minute").sentences[:sentences]
    end, text = round(spoken[-1].end * SAMPLE_RATE), " ".join(one.text for one in spoken)
    found = tiny.recognise(clip("minute").samples[: end + SAMPLE_RATE // 2])
    assert end > 30 * SAMPLE_RATE
    assert word_errors(text, found.text) < 0.1 * len(text.split())
    assert found.segments[-1].end > end - 2 * SAMPLE_RATE
    starts = [segment.start for segment in found.segments]
    assert starts == sorted(starts)


def test_a_pass_goes_on_behind_what_is_known(tiny, base):
    """It writes what follows, at its places, and its figures are those of what it wrote."""
    one, two = clip("minute").sentences[:2]
    samples = clip("minute").samples[: round((two.end + 0.5) * SAMPLE_RATE)]
    start = round((two.start - 0.1) * SAMPLE_RATE)
    before = SpokenBefore(one.text, round(one.end * SAMPLE_RATE), start)
    how = PassOptions(margin_s=3.0, temperatures=(0.0,), before=before)
    for recogniser in (tiny, base):
        alone = recogniser.recognise(samples[start:], "en", how=replace(how, before=None))
        found = recogniser.recognise(samples, "en", how=how)
        assert word_errors(two.text, found.text) <= 1
        assert abs(found.words[0].start - start) < SAMPLE_RATE // 2
        assert abs(found.words[-1].end - alone.words[-1].end - start) < SAMPLE_RATE // 5
        assert abs(found.tokens - alone.tokens) <= 4
        assert abs(found.mean_logprob - alone.mean_logprob) < 0.2
        assert not found.cut_short


def test_audio_of_any_length_is_taken(tiny):
    assert tiny.recognise(np.zeros(0, np.float32)) == Recognition()
    for length in (1, 100, SAMPLE_RATE // 3):
        for how in (DRAFT, PassOptions()):
            found = tiny.recognise(np.zeros(length, np.float32), how=how)
            assert all(word.start <= word.end <= length + 160 for word in found.words)
            assert found == Recognition() or 0 <= found.no_speech <= 1


@pytest.mark.parametrize(
    "silences",
    [
        pytest.param((100, SAMPLE_RATE), id="some"),
        pytest.param(
            (1, 100, 480, SAMPLE_RATE // 2, SAMPLE_RATE), id="all", marks=pytest.mark.endurance
        ),
    ],
)
@pytest.mark.parametrize(
    "how",
    [
        DRAFT,
        PassOptions(margin_s=3.0),
        pytest.param(PassOptions(), marks=pytest.mark.endurance),
    ],
)
def test_silence_behind_the_speech_changes_nothing(tiny, how, silences):
    """Whoever ends a stream at once is given what one is that leaves the microphone open."""
    speech = clip("phone").samples[: int(clip("phone").sentences[-1].end * SAMPLE_RATE)]
    ended = tiny.recognise(speech, how=how)
    assert ended.words
    for silence in silences:
        assert tiny.recognise(np.pad(speech, (0, silence)), how=how) == ended


def test_max_tokens_end_the_text(tiny):
    samples = clip("minute").samples[: 20 * SAMPLE_RATE]
    found = tiny.recognise(samples, how=PassOptions(max_tokens=9, temperatures=(0.0,)))
    assert found.cut_short
    assert found.tokens == 9
    assert 1 <= len(found.text.split()) <= 9


def test_words_are_found_only_where_they_are_asked_for(tiny):
    found = tiny.recognise(clip("yes").samples, how=PassOptions(words=False))
    assert found.segments
    assert found.words == ()
    assert {segment.words for segment in found.segments} == {None}


@pytest.mark.long
def test_passes_of_several_threads_do_not_mix(real_weights):
    tiny = loaded(TINY_EN, parallel=2)
    clips = [clip(name).samples for name in ("yes", "train", "doctor", "market")]
    alone = [tiny.recognise(samples, how=DRAFT) for samples in clips]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda samples: tiny.recognise(samples, how=DRAFT), clips)) == alone
    tiny.close()


def test_an_english_only_model_refuses_others_with_a_message(tiny):
    samples = clip("yes").samples
    with pytest.raises(RequestRefused, match="does not know German") as refused:
        tiny.recognise(samples, "de")
    assert (refused.value.code, refused.value.param) == ("unsupported_language", "language")
    with pytest.raises(RequestRefused, match="only English") as refused:
        tiny.recognise(samples, task="translate")
    assert (refused.value.code, refused.value.param) == ("unsupported_task", "task")
    assert tiny.info.languages == ("en",)
    assert tiny.languages_of(samples) == (("en", 1.0),)


def test_a_multilingual_model_finds_the_language_or_is_given_it(base):
    samples = clip("doctor").samples
    assert len(base.info.languages) == 99
    likeliest = base.languages_of(samples)
    assert likeliest[0][0] == "en"
    assert [p for _, p in likeliest] == sorted((p for _, p in likeliest), reverse=True)
    found = base.recognise(samples)
    assert found.language == "en"
    assert found.language_p > 0.5
    assert word_errors(clip("doctor").text, found.text) <= 1
    given = base.recognise(samples, "en", "translate", how=DRAFT)
    assert given.language is None
    assert given.text.strip()


def test_a_vocabulary_spells_names_as_it_is_told(base):
    samples = clip("doctor").samples
    named = base.recognise(samples, "en", vocabulary=("Dokter", "Dokter Tomorrow"))
    assert "dokter" in named.text.lower()
    assert "dokter" not in base.recognise(samples, "en").text.lower()


def test_a_folder_that_lacks_something_is_refused(tmp_path, real_weights):
    whole = resolve(TINY_EN, offline=True)
    folder = tmp_path / "model"
    shutil.copytree(whole.folder, folder)
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:1_000_000])
    with pytest.raises(RequestRefused, match="cannot be loaded by faster-whisper") as refused:
        load_recogniser("faster_whisper", read_model(folder), LoadingOptions())
    assert refused.value.code == "unusable_model"
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RequestRefused, match=r"no tokenizer\.json"):
        load_recogniser("faster_whisper", read_model(folder), LoadingOptions())


def test_options_and_libraries_that_there_are_not(real_weights):
    with pytest.raises(RequestRefused, match="no recogniser for 'nemo': use faster_whisper"):
        load_recogniser("nemo", resolve(TINY_EN, offline=True), LoadingOptions())
    with pytest.raises(ValueError, match="at least one thread"):
        LoadingOptions(threads=0)
    for wrong in ({"beam": 0}, {"temperatures": ()}, {"margin_s": -1.0}, {"max_tokens": 0}):
        with pytest.raises(ValueError, match="no pass can be made"):
            PassOptions(**wrong)


def test_a_gpu_that_is_not_here_is_refused(real_weights):
    import ctranslate2

    if ctranslate2.get_cuda_device_count():
        assert loaded(TINY_EN, device="gpu").info.device == "gpu"
        return
    with pytest.raises(RequestRefused, match="finds no NVIDIA GPU") as refused:
        loaded(TINY_EN, device="gpu")
    assert (refused.value.code, refused.value.param) == ("missing_dependency", "device")


def test_cublas_is_opened_from_its_package_and_its_lack_names_the_extra(tmp_path, monkeypatch):
    library = tmp_path / "vendor" / "blas" / "lib" / "libnotcublas.so.12"
    library.parent.mkdir(parents=True)
    shutil.copy(_ctypes.__file__, library)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    open_cublas("vendor.blas", [library.name])
    if sys.platform == "linux":
        assert str(library) in Path("/proc/self/maps").read_text()
    with pytest.raises(OSError, match="libnotcublas"):
        ctypes.CDLL(library.name.replace(".12", ".13"))
    for package in ("vendor.blas", "vendor.none", "none.at.all"):
        with pytest.raises(RequestRefused) as refused:
            open_cublas(package, ["libnotthere.so.12"])
        assert refused.value.code == "missing_dependency"
        assert CUBLAS_EXTRA in refused.value.message
        assert "--device cpu" in refused.value.message


TIME = 1000


@given(st.lists(st.one_of(st.integers(0, 99), st.integers(TIME, TIME + 1500)), max_size=40))
def test_a_windows_tokens_fall_into_segments_in_order(tokens):
    tokens = [TIME, *tokens]  # the model is made to begin with a time
    pieces, settled = split_tokens(tokens, TIME, 700, 3000)
    assert 1 <= settled <= 3000
    kept = [token for piece in pieces for token in piece["tokens"]]
    assert kept == tokens[: len(kept)]
    finished = len(tokens) > 1 and tokens[-2] < TIME <= tokens[-1]
    paired = any(min(pair) >= TIME for pair in itertools.pairwise(tokens))
    if finished or not paired:
        assert (kept, settled) == (tokens, 3000)
    assert all(piece["start"] >= 7 for piece in pieces)


def test_what_is_unfinished_is_left_to_the_next_window():
    said = [TIME, 1, 2, TIME + 100, TIME + 100, 3, 4]
    pieces, settled = split_tokens(said, TIME, 0, 3000)
    assert [(piece["start"], piece["end"]) for piece in pieces] == [(0.0, 2.0)]
    assert settled == 200
    pieces, settled = split_tokens([*said, TIME + 200], TIME, 0, 3000)
    assert [(piece["start"], piece["end"]) for piece in pieces] == [(0.0, 2.0), (2.0, 4.0)]
    assert settled == 3000
