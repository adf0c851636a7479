"""Stretches through a model that is played: what is told, joined, halved and refused."""

from dataclasses import replace

import numpy as np
import pytest
from support.clips import clip
from support.timed import timed_segment, timed_word

from voxlive.errors import RequestRefused
from voxlive.runners.assembly import Assembly, Recognised, stretches, transcribe
from voxlive.runners.contract import Delta, Job, JobProgress
from voxlive.runners.stretches import CutOptions, Stretch
from voxlive.vad.detector import Silero
from voxlive.values import SAMPLE_RATE as RATE
from voxlive.values import samples


@pytest.fixture(scope="module")
def silero():
    return Silero()


def perfect(name):
    """Hears every word of a clip whose middle is in the stretch, and the one that it cuts off."""

    def recognise(stretch):
        start, end = stretch.start / RATE, stretch.end / RATE
        words = [
            timed_word(f" {word.text}", word.start - start, word.end - start)
            for word in clip(name).words
            if start <= (word.start + word.end) / 2 < end
        ]
        text = "".join(word.text for word in words)
        return Recognised((timed_segment(0, text),) if words else (), "en", 2, len(words))

    return recognise


def run(name, recognise, silero, options, cancelled=lambda: False):
    updates = []
    job = Job(clip(name).path)
    stretches_of = lambda job: stretches(job, silero, options, cancelled)  # noqa: E731
    return transcribe(job, stretches_of, recognise, updates.append, cancelled), updates


@pytest.mark.parametrize("longest_s", [3, 8, 30])
def test_the_text_is_whole_however_it_is_cut(silero, longest_s):
    options = CutOptions(longest_s=longest_s, overlap_s=0.7)
    transcript, updates = run("minute", perfect("minute"), silero, options)
    assert transcript.text.split() == [word.text for word in clip("minute").words]
    assert "".join(each.text for each in updates if isinstance(each, Delta)) == transcript.text
    assert updates[-1] == JobProgress(transcript.duration, transcript.duration)
    assert transcript.language == "en"


def test_a_model_at_its_token_limit_gets_less_audio(silero):
    most = 20

    def terse(stretch):
        recognised = perfect("minute")(stretch)
        return (
            recognised
            if recognised.completion_tokens <= most
            else Recognised((), None, 0, most, True)
        )

    transcript, _ = run("minute", terse, silero, CutOptions(longest_s=30))
    assert transcript.text.split() == [word.text for word in clip("minute").words]


def test_a_model_without_an_end_is_refused_with_the_place(silero):
    def endless(stretch):
        return Recognised((), None, 0, 64, cut_short=True)

    with pytest.raises(RequestRefused, match=r"64 tokens for the audio from 0") as refused:
        run("doctor", endless, silero, CutOptions(longest_s=30))
    assert (refused.value.status, refused.value.code) == (422, "endless_text")


def test_a_job_at_its_token_limit_is_truncated(silero):
    calls = []

    def limited(stretch):
        calls.append(stretch)
        return replace(perfect("minute")(stretch), last=len(calls) == 2)

    transcript, updates = run("minute", limited, silero, CutOptions(longest_s=8))
    assert transcript.truncated
    assert len(calls) == 2
    assert (
        transcript.text.split()
        == [word.text for word in clip("minute").words][: len(transcript.text.split())]
    )
    assert updates[-1] == JobProgress(transcript.duration, transcript.duration)


def stretch(start_s, seconds, lead_s=0.0, trail_s=0.0):
    lead, trail = int(lead_s * RATE), int(trail_s * RATE)
    return Stretch(int(start_s * RATE), np.zeros(int(seconds * RATE), np.float32), lead, trail)


def test_times_are_the_files_and_unsettled_text_is_held_back():
    assembly = Assembly()
    words = (timed_word("one", 0.5, 1.0), timed_word(" two", 3.2, 3.6))
    first = Recognised((timed_segment(0, "one two", 0.5, 3.6, words),))
    assert assembly.add(stretch(10, 4, trail_s=1), first) == ""
    second = Recognised((timed_segment(0, "two three", 0.2, 1.5),))
    assert assembly.add(stretch(13, 4, lead_s=1), second) == "one two three"
    transcript = assembly.transcript(Job(None), 20.0)
    assert transcript.text == "one two three"
    assert [(segment.id, segment.start, segment.end) for segment in transcript.segments] == [
        (0, samples(10.5), samples(13.6)),
        (1, samples(13.2), samples(14.5)),
    ]
    assert transcript.segments[0].words[1] == timed_word(" two", 13.2, 13.6)


def test_texts_without_space_get_one_between_them_where_the_script_has_spaces():
    assembly = Assembly()
    updates = [
        assembly.add(
            stretch(at, 1), Recognised((timed_segment(0, text, words=(timed_word(text, 0, 1),)),))
        )
        for at, text in enumerate((" Hello.", "And.", "天", "気"))
    ]
    assert updates == ["Hello.", " And.", " 天", "気"]
    segments = assembly.transcript(Job(None), 4.0).segments
    assert [segment.words[0].text for segment in segments] == updates


def test_the_language_is_that_of_most_text():
    assembly = Assembly()
    for text, language in (("ja", "de"), ("a long sentence", "en"), ("nein", "de")):
        assembly.add(stretch(0, 1), Recognised((timed_segment(0, text),), language))
    assert assembly.transcript(Job(None), 1.0).language == "en"
    assert assembly.transcript(Job(None, language="de"), 1.0).language == "en"


def test_values_that_no_model_gives_are_none():
    transcript = Assembly().transcript(Job(None, task="translate"), 3.0)
    assert (transcript.text, transcript.language, transcript.prompt_tokens, transcript.task) == (
        "",
        None,
        None,
        "translate",
    )
