"""Parakeet, Qwen3-ASR and Voxtral through the real library, from small checkpoints."""

import pytest
from support.clips import clip
from support.runner_jobs import running, transcribe
from support.tiny_speech import (
    SAID,
    write_parakeet,
    write_qwen3,
    write_voxtral,
    write_voxtral_tekken,
)
from support.tiny_whisper import add_tensor, drop_tensor

from voxlive.errors import RequestRefused
from voxlive.recognisers.mlx_audio.families.voxtral import VoxtralText
from voxlive.values import samples


@pytest.fixture(scope="module")
def parakeet(tmp_path_factory):
    # No word of "parakeet" in the folder's name, and no model_type in its config.
    with running("parakeet", write_parakeet(tmp_path_factory.mktemp("whisper-mms"))) as runner:
        yield runner


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    with running("qwen3_asr", write_qwen3(tmp_path_factory.mktemp("glm-canary"))) as runner:
        yield runner


@pytest.fixture(scope="module")
def voxtral(tmp_path_factory):
    with running("voxtral", write_voxtral(tmp_path_factory.mktemp("voxtral"))) as runner:
        yield runner


def test_parakeet_has_words_in_order_and_inside_the_audio(parakeet):
    transcript, _ = transcribe(parakeet, "yes")
    words = [word for segment in transcript.segments for word in segment.words]
    assert words
    assert all(0 <= word.start <= word.end <= samples(transcript.duration) for word in words)
    starts = [word.start for word in words]
    assert starts == sorted(starts)
    assert (transcript.language, transcript.completion_tokens) == (None, None)


def test_parakeet_warns_of_options_that_it_ignores(parakeet):
    transcript, _ = transcribe(parakeet, "yes", language="en", prompt="Anna", temperature=0.5)
    assert transcript.language is None
    assert [warning.code for warning in transcript.warnings] == [
        "prompt_ignored",
        "temperature_ignored",
        "language_ignored",
    ]


def test_qwen3_reports_the_detected_language(qwen3):
    transcript, _ = transcribe(qwen3, "yes")
    assert (transcript.text, transcript.language) == (SAID, "en")
    (segment,) = transcript.segments
    assert 0 <= segment.start < segment.end <= samples(clip("yes").duration)
    assert segment.words is None
    assert transcript.completion_tokens > len(SAID)


def test_a_language_given_to_qwen3_is_not_reported_as_detected(qwen3):
    transcript, _ = transcribe(qwen3, "yes", language="zh")
    assert (transcript.language, transcript.warnings) == (None, ())
    with pytest.raises(RequestRefused, match="use en, zh"):
        transcribe(qwen3, "yes", language="de")


def test_a_prompt_and_a_temperature_reach_qwen3(qwen3):
    plain, prompted = (transcribe(qwen3, "yes", **w)[0] for w in ({}, {"prompt": "ab"}))
    assert prompted.prompt_tokens > plain.prompt_tokens
    assert transcribe(qwen3, "yes", temperature=0.01)[0].text == SAID


def test_a_token_limit_truncates_the_text(qwen3):
    whole, _ = transcribe(qwen3, "yes")
    transcript, _ = transcribe(qwen3, "yes", max_tokens=whole.completion_tokens - 1)
    assert (transcript.text, transcript.truncated) == (SAID[:-1], True)
    transcript, _ = transcribe(qwen3, "yes", max_tokens=whole.completion_tokens + 1)
    assert (transcript.text, transcript.truncated) == (SAID, False)


@pytest.mark.parametrize("language", [None, "de"])
def test_voxtral_needs_neither_torch_nor_a_language(voxtral, language):
    transcript, _ = transcribe(voxtral, "yes", language=language)
    assert (transcript.text, transcript.language) == (SAID, None)
    assert transcript.prompt_tokens == 380 + (4 if language else 0)


@pytest.mark.parametrize(
    ("family", "write", "tensor", "named"),
    [
        ("parakeet", write_parakeet, "joint.pred.bias", "joint.pred.bias"),
        ("qwen3_asr", write_qwen3, "thinker.model.norm.weight", "model.norm.weight"),
        ("voxtral", write_voxtral, "language_model.model.norm.weight", "model.norm.weight"),
    ],
)
def test_a_missing_tensor_is_refused_by_name(family, write, tensor, named, tmp_path):
    drop_tensor(write(tmp_path), tensor)
    with pytest.raises(RequestRefused, match=named) as refused, running(family, tmp_path):
        pass
    assert refused.value.code == "unusable_model"


@pytest.mark.parametrize(
    ("family", "write", "of_a_layer"),
    [
        ("parakeet", write_parakeet, None),
        ("qwen3_asr", write_qwen3, "thinker.model.layers.7.input_layernorm.weight"),
        ("voxtral", write_voxtral, "language_model.model.layers.7.input_layernorm.weight"),
    ],
)
def test_surplus_tensors_are_left_out_and_named_but_no_layers(family, write, of_a_layer, tmp_path):
    add_tensor(write(tmp_path), "ctc_head.own.weight")
    with running(family, tmp_path) as runner:
        transcript, _ = transcribe(runner, "yes")
        [warning] = transcript.warnings
        assert warning.code == "surplus_tensors"
        assert "ctc_head.own.weight" in warning.message
    if of_a_layer:
        add_tensor(tmp_path, of_a_layer)
        with (
            pytest.raises(RequestRefused, match=r"layers\.7") as refused,
            running(family, tmp_path),
        ):
            pass
        assert refused.value.code == "unusable_model"


def test_the_prompt_is_encoded_as_mistral_does(tmp_path):
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    write_voxtral_tekken(tmp_path, extra=20_000)
    ours, theirs = VoxtralText(tmp_path), Tekkenizer.from_file(tmp_path / "tekken.json")
    for text in ("lang:en", "lang:de", "\n", "lang:pt"):
        assert ours.encode(text) == theirs.encode(text, bos=False, eos=False)
    assert ours.decode(ours.encode("grüße")) == "grüße"
