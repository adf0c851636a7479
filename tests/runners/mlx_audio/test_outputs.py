"""What the families give back, made with the library's own result types, as one transcript type."""

import json

import numpy as np
import pytest
from mlx_audio.stt.models.base import STTOutput
from mlx_audio.stt.models.granite_speech.granite_speech import _parse_timestamps
from mlx_audio.stt.models.nemo.alignment import (
    AlignedToken,
    sentences_to_result,
    tokens_to_sentences,
)
from mlx_audio.stt.models.vibevoice_asr import Model as VibeVoice
from support.timed import timed_segment, timed_word

from voxlive.runners.contract import Job
from voxlive.runners.mlx_audio import outputs
from voxlive.runners.mlx_audio.families import FAMILIES
from voxlive.runners.mlx_audio.family import FamilyRequest
from voxlive.values import samples


def ask(seconds=10.0, max_tokens=100, **wishes):
    return FamilyRequest(
        Job(None, **wishes), np.zeros(1, np.float32), seconds, None, None, max_tokens
    )


def test_times_that_mean_nothing_become_the_bounds_of_the_stretch():
    said = STTOutput(" Hello there. ", [{"text": "Hello there.", "start": 0.0, "end": 0.0}])
    (segment,) = outputs.whole(said, ask()).segments
    assert segment == timed_segment(0, "Hello there.", 0.0, 10.0)


def test_an_empty_text_is_no_segment():
    assert outputs.whole(STTOutput(" "), ask()).segments == ()


@pytest.mark.parametrize(
    ("language", "code"),
    [
        (["English"], "en"),
        (["None", "Cantonese"], "yue"),
        (["None"], None),
        ([None], None),
        ("zh", "zh"),
        ("en-US", "en"),
        ("Canton", "yue"),
        ("nospeech", None),
        ("unknown", None),
        (None, None),
    ],
)
def test_languages_become_codes_and_what_is_not_said_stays_unknown(language, code):
    assert outputs.whole(STTOutput("a", language=language), ask()).language == code


def test_a_text_at_its_limit_is_cut_short():
    at, below = (STTOutput("a", generation_tokens=n, prompt_tokens=3) for n in (100, 99))
    assert outputs.whole(at, ask()).cut_short
    heard = outputs.whole(below, ask())
    assert (heard.cut_short, heard.prompt_tokens, heard.completion_tokens) == (False, 3, 99)


def test_models_without_tokens_count_none():
    heard = outputs.whole(STTOutput("a"), ask(max_tokens=None))
    assert (heard.prompt_tokens, heard.completion_tokens, heard.cut_short) == (None, None, False)


def test_sentences_of_tokens_become_segments_of_words():
    pieces = [
        (" He", 0.2, 0.1),
        ("llo", 0.3, 0.2),
        (".", 0.5, 0.1),
        (" By", 2.0, 0.4),
        ("e", 9.9, 1),
    ]
    tokens = [AlignedToken(0, *piece) for piece in pieces]
    result = sentences_to_result(tokens_to_sentences(tokens))
    first, second = outputs.aligned(result, ask()).segments
    assert first.text == " Hello."
    assert first.words == (timed_word(" Hello.", 0.2, 0.6),)
    assert (second.text, second.start, second.end) == (" Bye", samples(2.0), samples(10.0))


def test_sentences_in_a_script_without_spaces_keep_their_text():
    tokens = [AlignedToken(0, "今", 0.0, 0.2), AlignedToken(0, "日", 0.2, 0.2)]
    (segment,) = outputs.aligned(sentences_to_result(tokens_to_sentences(tokens)), ask()).segments
    assert segment.text == "今日"
    assert "".join(word.text for word in segment.words) == segment.text


def test_nothing_aligned_is_nothing():
    assert outputs.aligned(sentences_to_result([]), ask()).segments == ()


def vibevoice(text, tokens=5):
    segments = VibeVoice.parse_transcription(None, text)
    return outputs.diarised(STTOutput(text, segments, generation_tokens=tokens), ask())


SPOKEN = [
    {"Start": 0.0, "End": 2.5, "Speaker": 0, "Content": "Hello."},
    {"Start time": "2.5", "End time": 9, "Speaker ID": 1, "Content": "Hi."},
    {"Start": 9, "End": 11, "Content": "[Music]"},
]


def test_vibevoice_says_who_said_what_and_when():
    heard = vibevoice(f"```json\n{json.dumps(SPOKEN)}\n```")
    assert heard.segments == (
        timed_segment(0, "Hello.", 0.0, 2.5, speaker="0"),
        timed_segment(0, "Hi.", 2.5, 9.0, speaker="1"),
        timed_segment(0, "[Music]", 9.0, None),  # its end lies beyond the audio
    )
    assert not heard.cut_short


def test_json_that_breaks_off_is_cut_short_and_never_a_text():
    heard = vibevoice(json.dumps(SPOKEN)[:-20])
    assert heard.cut_short
    assert heard.segments == ()


def test_a_vibevoice_that_writes_plain_text_is_taken_at_its_word():
    assert vibevoice("Hello.").segments == (timed_segment(0, "Hello.", 0.0, 10.0),)


def test_moss_has_its_label_beside_the_text():
    said = {"start": 0.5, "end": 2.0, "text": "[S01] Hello.", "speaker_id": "S01"}
    heard = outputs.diarised(STTOutput("[0.5][S01] Hello.[2.0]", [said]), ask())
    assert heard.segments == (timed_segment(0, "Hello.", 0.5, 2.0, speaker="S01"),)


def test_granite_plus_times_its_words():
    segments = _parse_timestamps("_ [T:50] hello [T:90] world [T:140]")
    said = STTOutput("raw", segments, generation_tokens=9)
    heard = FAMILIES["granite_speech_plus"].heard(said, ask(words=True))
    (segment,) = heard.segments
    assert segment.text == " hello world"
    assert segment.words == (timed_word(" hello", 0.5, 0.9), timed_word(" world", 0.9, 1.4))


def test_whisper_drops_figures_that_are_none():
    segment = {
        "text": " Hi.",
        "start": 0.0,
        "end": 12.0,
        "tokens": [1, 2],
        "temperature": 0.0,
        "avg_logprob": float("nan"),
        "compression_ratio": 0.5,
        "no_speech_prob": 0.1,
    }
    heard = outputs.whisper(STTOutput(" Hi.", [segment], "en"), ask())
    assert heard.segments[0].end == samples(10.0)
    assert "avg_logprob" not in dict(heard.segments[0].details)
    assert (heard.completion_tokens, heard.cut_short) == (2, False)
    assert outputs.whisper(STTOutput(" Hi.", [segment], "en"), ask(max_tokens=2)).cut_short
