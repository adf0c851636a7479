import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.timed import timed_segment, timed_word

from voxlive.errors import RequestRefused
from voxlive.runners.contract import Transcript
from voxlive.runners.outputs.formats import FORMATS, OutputOptions, dump_json
from voxlive.values import CodedWarning

WORDS = (timed_word("Good", 0.1, 0.5, 0.9), timed_word(" day.", 0.5, 1.0))
SAID = Transcript(
    "Good day. Bye",
    (timed_segment(0, "Good day.", 0.1, 1.0, WORDS), timed_segment(1, " Bye", 2.0, 2.5, ())),
    2.5,
    "en",
)
NOTHING = Transcript("", (), 3.0)
UNTIMED = Transcript("Good day.", (timed_segment(0, "Good day."),), 2.0)
TOLD = Transcript(
    " Hi. Ho.",
    (
        timed_segment(0, " Hi.", 0.0, 1.0, speaker="A"),
        timed_segment(1, " Ho.", 1.0, 2.0, speaker="B"),
    ),
    2.0,
    prompt_tokens=7,
    completion_tokens=2,
)
MODEL = OutputOptions("tiny")


def written(name: str, transcript: Transcript, options: OutputOptions = MODEL) -> str:
    return FORMATS[name].write(transcript, options)


def test_every_format_has_the_words():
    for name in FORMATS:
        assert "Hi." in written(name, TOLD), name


def test_every_format_takes_an_empty_transcript():
    usage = '"usage": {"type": "duration", "seconds": 3}}'
    assert {name: written(name, NOTHING, OutputOptions("m", words=True)) for name in FORMATS} == {
        "text": "\n",
        "json": f'{{"text": "", "model": "m", "language": null, {usage}',
        "srt": "",
        "vtt": "WEBVTT\n\n",
        "verbose_json": '{"task": "transcribe", "language": null, "duration": 3.0, "text": "", '
        f'"model": "m", "segments": [], "words": [], {usage}',
        "diarized_json": '{"task": "transcribe", "duration": 3.0, "text": "", "segments": [], '
        + usage,
    }


def test_verbose_json_lists_segments_and_words_if_asked():
    full = json.loads(written("verbose_json", SAID, OutputOptions("tiny", words=True)))
    figures = ("tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob")
    unknown = dict.fromkeys(figures)
    assert full["segments"] == [
        {"id": 0, "seek": 10, "start": 0.1, "end": 1.0, "text": "Good day.", **unknown},
        {"id": 1, "seek": 200, "start": 2.0, "end": 2.5, "text": "Bye", **unknown},
    ]
    assert full["words"] == [
        {"word": "Good", "start": 0.1, "end": 0.5},
        {"word": "day.", "start": 0.5, "end": 1.0},
    ]
    assert (full["language"], full["duration"], full["text"]) == ("en", 2.5, "Good day. Bye")
    assert "segments" not in json.loads(
        written("verbose_json", SAID, OutputOptions("", segments=False))
    )
    assert "words" not in json.loads(written("verbose_json", SAID))


def test_warnings_are_listed_where_there_are_some():
    transcript = replace(SAID, warnings=(CodedWarning("damaged", "the MP3 is damaged"),))
    listed = json.loads(written("verbose_json", transcript))["warnings"]
    assert listed == [{"code": "damaged", "message": "the MP3 is damaged"}]
    assert "warnings" not in json.loads(written("verbose_json", SAID))


def test_the_familys_own_figures_are_shown():
    segment = timed_segment(
        0, " Hi.", 0.0, 1.0, details=(("avg_logprob", -0.25), ("tokens", [7, 8]))
    )
    [shown] = json.loads(written("verbose_json", Transcript(" Hi.", (segment,), 1.0)))["segments"]
    assert (shown["avg_logprob"], shown["tokens"], shown["no_speech_prob"]) == (-0.25, [7, 8], None)


def test_usage_has_tokens_where_they_are_counted():
    assert json.loads(written("json", TOLD))["usage"] == {
        "type": "duration",
        "seconds": 2,
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "total_tokens": 9,
    }


def test_speakers_are_listed_where_the_model_labels_them():
    listed = json.loads(written("diarized_json", TOLD))["segments"]
    assert [(part["speaker"], part["text"], part["id"]) for part in listed] == [
        ("A", "Hi.", "0"),
        ("B", "Ho.", "1"),
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("srt", "no_times"),
        ("vtt", "no_times"),
        ("diarized_json", "no_speakers"),
        ("verbose_json", "no_word_times"),
    ],
)
def test_unknown_times_words_and_speakers_are_refused(name, code):
    with pytest.raises(RequestRefused) as refused:
        written(name, UNTIMED, OutputOptions("tiny", words=True))
    assert (refused.value.status, refused.value.code) == (422, code)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), plain))
def test_json_is_the_same_however_it_is_encoded(answer):
    assert dump_json(answer) == json.dumps(answer, ensure_ascii=False)
