"""Whisper with made weights, through the real library: it says " ab cd ef." of every window."""

import json
from itertools import pairwise

import pytest
from support.clips import clip
from support.runner_jobs import UpdateList, running, transcribe
from support.scoring import word_errors
from support.tiny_whisper import BASE, drop_tensor, write_whisper

from voxlive.errors import RequestRefused
from voxlive.runners.contract import Job
from voxlive.values import seconds

ENGLISH_ONLY = BASE + 1607


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # The folder has other families' names, as renamed downloads do.
    return write_whisper(tmp_path_factory.mktemp("models") / "canary-vs-whisper")


@pytest.fixture(scope="module")
def runner(folder):
    with running("whisper", folder) as runner:
        yield runner


def test_each_stretch_of_speech_is_a_segment_in_its_place(runner):
    transcript, updates = transcribe(runner, "pauses")
    assert transcript.text == "ab cd ef. ab cd ef. ab cd ef."
    assert (transcript.language, transcript.task, transcript.completion_tokens) == (
        "en",
        "transcribe",
        27,
    )
    starts = [seconds(segment.start) for segment in transcript.segments]
    # Speech before a pause of more than 2 s begins a stretch; the margin is 0.3 s.
    sentences = clip("pauses").sentences
    after = [0, *(b.start for a, b in pairwise(sentences) if b.start - a.end > 2)]
    assert starts == pytest.approx([max(start - 0.3, 0) for start in after], abs=0.1)
    assert len(updates.progress) == 5


def test_details_have_openais_names_and_words_are_optional(runner):
    transcript, _ = transcribe(runner, "yes")
    details = dict(transcript.segments[0].details)
    assert set(details) == {
        "tokens",
        "temperature",
        "avg_logprob",
        "compression_ratio",
        "no_speech_prob",
    }
    assert details["temperature"] == 0.0
    assert transcript.segments[0].words is None


def test_words_have_times_and_probabilities(runner):
    transcript, _ = transcribe(runner, "yes", words=True)
    words = [word for segment in transcript.segments for word in segment.words]
    assert [word.text.strip() for word in words] == ["ab", "cd", "ef."]
    assert all(0 <= word.start <= word.end and 0 <= word.probability <= 1 for word in words)


def test_silence_has_no_text(runner):
    transcript, _ = transcribe(runner, "silence")
    assert (transcript.text, transcript.segments, transcript.language) == ("", (), None)


def test_a_language_is_passed_to_the_model_or_refused(runner):
    assert transcribe(runner, "yes")[0].language == "en"
    assert transcribe(runner, "yes", language="de")[0].language is None
    with pytest.raises(RequestRefused, match="tlh") as refused:
        transcribe(runner, "yes", language="tlh")
    assert (refused.value.status, refused.value.param) == (422, "language")


def test_translation_keeps_its_task(runner):
    assert transcribe(runner, "yes", task="translate")[0].task == "translate"


@pytest.mark.endurance
def test_a_limit_of_tokens_holds_for_the_whole_file(runner):
    transcript, _ = transcribe(runner, "pauses", max_tokens=20)
    assert transcript.text.startswith("ab cd ef. ab cd ef.")
    assert (transcript.truncated, transcript.completion_tokens) == (True, 20)


def test_a_job_ends_soon_after_it_is_cancelled(runner):
    updates = UpdateList()
    runner.run(Job(clip("minute").path), updates.append, lambda: bool(updates.text))
    assert updates.text == "ab cd ef."


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"n_vocab": ENGLISH_ONLY}, "only English"), ({"n_audio_layer": 2}, "turbo")],
)
def test_a_model_that_cannot_translate_names_the_reason(changes, why, tmp_path):
    folder = write_whisper(tmp_path, "mlx", **changes)
    with running("whisper", folder) as runner, pytest.raises(RequestRefused, match=why) as refused:
        transcribe(runner, "yes", task="translate")
    assert (refused.value.status, refused.value.param) == (422, "task")


@pytest.mark.endurance
def test_a_real_whisper_writes_what_was_spoken(mlx_whisper):
    spoken = clip("doctor")
    with running("whisper", mlx_whisper) as runner:
        transcript, _ = transcribe(runner, "doctor", words=True)
    assert word_errors(spoken.text, transcript.text) <= 2
    words = [word for segment in transcript.segments for word in segment.words]
    assert abs(seconds(words[-1].end) - spoken.words[-1].end) < 0.4
    assert dict(transcript.segments[0].details)["temperature"] == 0


def test_a_missing_tensor_is_refused_by_name(tmp_path):
    folder = write_whisper(tmp_path)
    drop_tensor(folder, "model.decoder.layers.0.fc1.bias")
    missing = pytest.raises(RequestRefused, match=r"decoder\.blocks\.0\.mlp1\.bias")
    with missing as refused, running("whisper", folder):
        pass
    assert (refused.value.status, refused.value.code) == (422, "unusable_model")


def test_a_whisper_without_its_tokenizer_is_refused(tmp_path):
    folder = write_whisper(tmp_path)
    for path in folder.glob("token*"):
        path.unlink()
    missing = pytest.raises(RequestRefused, match="tokenizer's files are missing")
    with missing, running("whisper", folder):
        pass


def test_a_tokenizer_that_is_code_is_not_run(folder, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": "x"}})
    )
    with pytest.raises(RequestRefused, match="Python code"), running("whisper", tmp_path):
        pass


@pytest.mark.parametrize(
    ("family", "options", "status"),
    [
        ("whisper", {"quantize": 4}, 422),
        ("whisper", {"delay_ms": 480}, 422),
        ("qwen3_forced_aligner", {}, 422),
        ("nothing", {}, 422),
    ],
)
def test_what_cannot_be_loaded_is_refused_before_anything_is(family, options, status, tmp_path):
    with pytest.raises(RequestRefused) as refused, running(family, tmp_path, **options):
        pass
    assert refused.value.status == status
