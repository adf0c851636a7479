"""What the families give back, made with the library's own result types, as one transcript type."""

import json

import numpy as np
import pytest
from support.timed import timed_segment, timed_word

from voxlive.recognisers.mlx_audio import outputs
from voxlive.recognisers.mlx_audio.families import FAMILIES
from voxlive.recognisers.mlx_audio.family import CallOptions, FamilyRequest
from voxlive.values import samples

# The library is imported where it is used: it brings Transformers with it, a fifth of what it takes
# to collect all tests, in each of their processes.


def stt_output(*args, **more):
    from mlx_audio.stt.models.base import STTOutput

    return STTOutput(*args, **more)


def aligned_result(tokens):
    from mlx_audio.stt.models.nemo import alignment

    tokens = [alignment.AlignedToken(0, *token) for token in tokens]
    return alignment.sentences_to_result(alignment.tokens_to_sentences(tokens))


def request_for(seconds=10.0, max_tokens=100, **options):
    return FamilyRequest(
        CallOptions(**options), np.zeros(1, np.float32), seconds, None, None, max_tokens
    )


def test_meaningless_times_become_the_bounds_of_the_stretch():
    output = stt_output(" Hello there. ", [{"text": "Hello there.", "start": 0.0, "end": 0.0}])
    (segment,) = outputs.whole(output, request_for()).segments
    assert segment == timed_segment(0, "Hello there.", 0.0, 10.0)


def test_an_empty_text_is_no_segment():
    assert outputs.whole(stt_output(" "), request_for()).segments == ()


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
def test_languages_become_codes_or_stay_unknown(language, code):
    assert outputs.whole(stt_output("a", language=language), request_for()).language == code


def test_a_text_at_its_limit_is_cut_short():
    at, below = (stt_output("a", generation_tokens=n, prompt_tokens=3) for n in (100, 99))
    assert outputs.whole(at, request_for()).cut_short
    recognised = outputs.whole(below, request_for())
    assert (recognised.cut_short, recognised.prompt_tokens, recognised.tokens) == (
        False,
        3,
        99,
    )


def test_models_without_tokens_count_none():
    recognised = outputs.whole(stt_output("a"), request_for(max_tokens=None))
    assert (recognised.prompt_tokens, recognised.tokens, recognised.cut_short) == (
        None,
        None,
        False,
    )


def test_sentences_of_tokens_become_segments_of_words():
    pieces = [
        (" He", 0.2, 0.1),
        ("llo", 0.3, 0.2),
        (".", 0.5, 0.1),
        (" By", 2.0, 0.4),
        ("e", 9.9, 1),
    ]
    first, second = outputs.aligned(aligned_result(pieces), request_for()).segments
    assert first.text == " Hello."
    assert first.words == (timed_word(" Hello.", 0.2, 0.6),)
    assert (second.text, second.start, second.end) == (" Bye", samples(2.0), samples(10.0))


def test_sentences_in_a_script_without_spaces_keep_their_text():
    result = aligned_result([("今", 0.0, 0.2), ("日", 0.2, 0.2)])
    (segment,) = outputs.aligned(result, request_for()).segments
    assert segment.text == "今日"
    assert "".join(word.text for word in segment.words) == segment.text


def test_an_empty_alignment_has_no_segments():
    assert outputs.aligned(aligned_result([]), request_for()).segments == ()


def vibevoice(text, tokens=5):
    from mlx_audio.stt.models.vibevoice_asr import Model

    segments = Model.parse_transcription(None, text)
    return outputs.diarised(stt_output(text, segments, generation_tokens=tokens), request_for())


SPOKEN = [
    {"Start": 0.0, "End": 2.5, "Speaker": 0, "Content": "Hello."},
    {"Start time": "2.5", "End time": 9, "Speaker ID": 1, "Content": "Hi."},
    {"Start": 9, "End": 11, "Content": "[Music]"},
]


def test_vibevoice_segments_have_speakers_and_times():
    recognised = vibevoice(f"```json\n{json.dumps(SPOKEN)}\n```")
    assert recognised.segments == (
        timed_segment(0, "Hello.", 0.0, 2.5, speaker="0"),
        timed_segment(0, "Hi.", 2.5, 9.0, speaker="1"),
        timed_segment(0, "[Music]", 9.0, None),  # its end lies beyond the audio
    )
    assert not recognised.cut_short


def test_incomplete_json_is_cut_short_and_no_text():
    recognised = vibevoice(json.dumps(SPOKEN)[:-20])
    assert recognised.cut_short
    assert recognised.segments == ()


def test_plain_text_of_vibevoice_is_one_segment():
    assert vibevoice("Hello.").segments == (timed_segment(0, "Hello.", 0.0, 10.0),)


def test_moss_labels_are_taken_out_of_the_text():
    output = {"start": 0.5, "end": 2.0, "text": "[S01] Hello.", "speaker_id": "S01"}
    recognised = outputs.diarised(stt_output("[0.5][S01] Hello.[2.0]", [output]), request_for())
    assert recognised.segments == (timed_segment(0, "Hello.", 0.5, 2.0, speaker="S01"),)


def test_granite_plus_times_its_words():
    from mlx_audio.stt.models.granite_speech.granite_speech import _parse_timestamps

    segments = _parse_timestamps("_ [T:50] hello [T:90] world [T:140]")
    output = stt_output("raw", segments, generation_tokens=9)
    recognised = FAMILIES["granite_speech_plus"].parse_output(output, request_for(words=True))
    (segment,) = recognised.segments
    assert segment.text == " hello world"
    assert segment.words == (timed_word(" hello", 0.5, 0.9), timed_word(" world", 0.9, 1.4))


def test_whisper_drops_figures_that_are_not_finite():
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
    recognised = outputs.whisper(stt_output(" Hi.", [segment], "en"), request_for())
    assert recognised.segments[0].end == samples(10.0)
    assert "avg_logprob" not in dict(recognised.segments[0].details)
    assert (recognised.tokens, recognised.cut_short) == (2, False)
    assert outputs.whisper(stt_output(" Hi.", [segment], "en"), request_for(max_tokens=2)).cut_short
