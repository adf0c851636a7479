import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.clips import clip
from support.timed import timed_segment, timed_word

from voxlive.errors import RequestRefused, VoxliveError
from voxlive.runners.assembly import measure_job, stretches
from voxlive.runners.contract import Job
from voxlive.runners.stretches import CutOptions, Cutter, join, needs_space
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.vad.detector import Silero
from voxlive.vad.gate import WINDOW
from voxlive.values import Segment, samples

RATE = 16_000
OPTIONS = CutOptions(longest_s=4, pause_s=1, overlap_s=0.8)

# Speech and silence in turn, as lengths in windows.
turns = st.lists(st.tuples(st.booleans(), st.integers(1, 200)), max_size=20)
EARLY_PAUSE = [(True, 2), (False, 126), (True, 2)]
"""One that goes on beyond what a stretch may have, and is too short to end one by itself."""


def cut(turns, rest=0, options=OPTIONS, block=31):
    """The stretches of audio whose sample n has the value n, and its probabilities."""
    probabilities = [0.9 if speech else 0.05 for speech, length in turns for _ in range(length)]
    audio = np.arange(len(probabilities) * WINDOW + rest, dtype=np.float64)
    cutter = Cutter(options)
    found = []
    for at in range(0, len(probabilities), block):
        window = audio[at * WINDOW : min(at + block, len(probabilities)) * WINDOW]
        found += cutter.push(window, probabilities[at : at + block])
    found += cutter.finish(audio[len(audio) - rest :])
    return found, probabilities


@settings(deadline=None)
@example(turns=EARLY_PAUSE, rest=0, block=1)
@given(turns=turns, rest=st.integers(0, WINDOW - 1), block=st.sampled_from([1, 7, 31, 500]))
def test_stretches_cover_all_speech_once_but_for_the_overlaps(turns, rest, block):
    found, probabilities = cut(turns, rest, block=block)
    covered = np.zeros(len(probabilities) * WINDOW + rest, bool)
    end, trail = 0, 0
    for stretch in found:
        assert stretch.lead == trail
        assert stretch.start >= end - trail if trail == 0 else stretch.start == end - trail
        assert 0 < len(stretch.samples) <= 4 * RATE
        assert np.array_equal(stretch.samples, np.arange(stretch.start, stretch.end))
        covered[stretch.start : stretch.end] = True
        end, trail = stretch.end, stretch.trail
    assert trail == 0
    run = 0
    for window, probability in enumerate([*probabilities, 0]):
        run = run + 1 if probability > 0.5 else 0
        if run >= 2:  # a single window of speech is none
            assert covered[(window - 1) * WINDOW : (window + 1) * WINDOW].all()


def cuts(*parts: tuple[bool, float, float]) -> list[float]:
    """Starts and ends of the stretches of noise, in seconds, by the options that models have.

    ``parts``: whether it is speech, its seconds, and how loud it is.
    """
    rng, cutter = np.random.default_rng(0), Cutter(CutOptions(longest_s=30))
    windows = [(speech, level) for speech, s, level in parts for _ in range(int(s * RATE / WINDOW))]
    audio = [level * rng.standard_normal(WINDOW).astype(np.float32) for _, level in windows]
    probabilities = [0.9 if speech else 0.05 for speech, _ in windows]
    found = [*cutter.push(np.concatenate(audio), probabilities), *cutter.finish(audio[0][:0])]
    return [round(at / RATE, 1) for one in found for at in (one.start, one.end)]


def test_a_pause_ends_a_stretch_sooner_where_there_is_nothing_in_it():
    speech, room = (True, 4.0, 0.1), 0.001
    assert cuts(speech, (False, 3.0, 0.0), speech) == [0.0, 4.3, 6.7, 11.0]
    assert cuts(speech, (False, 1.5, 0.0), speech) == [0.0, 9.5]
    assert cuts(speech, (False, 3.0, 4 * room), speech) == [0.0, 11.0]
    assert cuts(speech, (False, 6.0, 4 * room), speech) == [0.0, 4.3, 9.7, 14.0]
    # The tone of a room, and then nothing, as where recordings are joined.
    assert cuts(speech, (False, 0.5, room), (False, 2.5, 0.0), speech)[1] == 4.3
    # A long one ends it whatever is in it.
    assert cuts(speech, (False, 20.0, 4 * room), speech) == [0.0, 4.3, 23.7, 28.0]


def test_what_is_loud_behind_speech_is_kept_for_there_may_be_more():
    speech = (True, 4.0, 0.1)
    assert cuts(speech, (False, 3.0, 0.08)) == [0.0, 7.0]
    assert cuts(speech, (False, 3.0, 0.004)) == [0.0, 4.3]
    assert cuts(speech, (False, 9.0, 0.08), speech) == [0.0, 9.0, 12.7, 17.0]


@settings(deadline=None)
@example(turns=EARLY_PAUSE, block=1)
@given(turns=turns, block=st.integers(1, 300))
def test_the_cuts_do_not_depend_on_how_the_audio_is_pushed(turns, block):
    def spans(found):
        return [(stretch.start, stretch.end, stretch.lead, stretch.trail) for stretch in found]

    assert spans(cut(turns, block=block)[0]) == spans(cut(turns)[0])


def test_silence_has_no_stretches():
    assert cut([(False, 500)])[0] == []


def test_a_cut_lies_in_the_longest_pause_of_the_later_half():
    # 1.6 s, pause 0.32 s, 0.64 s, pause 0.64 s, 0.96 s, pause 0.32 s, speech: 4 s are the most.
    turns = [(True, 50), (False, 10), (True, 20), (False, 20), (True, 30), (False, 10), (True, 60)]
    first, second, *_ = cut(turns)[0]
    pause = 80 * WINDOW, 100 * WINDOW
    assert pause[0] < first.end < pause[1]
    assert pause[0] < second.start < pause[1]
    assert (first.trail, second.lead) == (0, 0)


def test_speech_without_a_pause_is_cut_with_an_overlap():
    first, second, *_ = cut([(True, 200)])[0]
    assert len(first.samples) == 4 * RATE
    assert first.trail == second.lead == 0.8 * RATE == first.end - second.start


def test_a_long_pause_ends_a_stretch_and_is_left_out_but_for_its_edges():
    first, second = cut([(False, 100), (True, 20), (False, 100), (True, 20)])[0]
    assert first.start == 100 * WINDOW - 0.3 * RATE
    assert first.end == 120 * WINDOW + 0.3 * RATE
    assert second.start == 220 * WINDOW - 0.3 * RATE


def test_halves_share_their_middle():
    (stretch,) = cut([(True, 100)])[0]
    first, second = stretch.halves(RATE)
    assert (first.start, first.lead, second.trail, second.end) == (0, 0, 0, stretch.end)
    assert first.trail == second.lead == RATE == first.end - second.start


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="cut"):
        CutOptions(longest_s=4, overlap_s=2)


@pytest.fixture(scope="module")
def silero():
    return Silero()


def cut_file(job, silero, options=None, cancelled=lambda: False):
    return list(stretches(job, silero, options or CutOptions(longest_s=30), cancelled))


def test_the_speech_of_a_real_file_is_all_in_its_stretches(silero):
    pauses = clip("pauses")
    found = cut_file(Job(pauses.path), silero)
    for sentence in pauses.sentences:
        assert any(
            stretch.start / RATE <= sentence.start and sentence.end <= stretch.end / RATE
            for stretch in found
        ), sentence
    assert sum(len(stretch.samples) for stretch in found) < 0.7 * pauses.duration * RATE


@pytest.mark.parametrize("name", ["silence", "noise"])
def test_audio_without_speech_has_no_stretches(name, silero):
    assert cut_file(Job(clip(name).path), silero) == []


def test_raw_pcm_is_cut_like_its_container(silero, tmp_path):
    yes = clip("yes")
    path = tmp_path / "yes.raw"
    path.write_bytes(yes.pcm.tobytes() + b"\0")
    raw = Job(path, raw=AudioFormat("s16le", yes.rate))
    spans = [[(s.start, s.end) for s in cut_file(job, silero)] for job in (raw, Job(yes.path))]
    assert spans[0] == spans[1]
    measured = [measure_job(job) for job in (raw, Job(yes.path))]
    assert [one.seconds for one in measured] == [round(yes.duration, 3)] * 2
    assert [[one.code for one in found.warnings] for found in measured] == [["cut_off"], []]


def test_audio_that_is_too_long_is_refused():
    with pytest.raises(RequestRefused, match="longer than the 3 s") as refused:
        measure_job(Job(clip("minute").path, longest_s=3))
    assert (refused.value.status, refused.value.param) == (413, "file")


def test_a_file_without_audio_is_refused(tmp_path):
    path = tmp_path / "no.wav"
    path.write_text("this is no audio")
    with pytest.raises(VoxliveError) as refused:
        measure_job(Job(path))
    assert (refused.value.status, refused.value.code) == (400, "bad_audio")


def test_cancelling_ends_the_decoding(silero):
    assert cut_file(Job(clip("minute").path), silero, cancelled=lambda: True) == []


def segments_of(words, timed=False, **more):
    text = "".join(f" {word}" for word in words)
    if not timed:
        return (timed_segment(0, text, **more),) if words else ()
    own = tuple(timed_word(f" {word}", at / 4, (at + 1) / 4) for word, at in words)
    return (Segment(0, "".join(word.text for word in own), own[0].start, own[-1].end, own),)


def joined(before, after, start, end):
    return join(before, after, samples(start), samples(end))


def text_of(*parts):
    return " ".join(segment.text.strip() for part in parts for segment in part)


vocabulary = st.lists(st.text("abcdefghij", min_size=2, max_size=6), min_size=1, unique=True)


@given(words=vocabulary, data=st.data())
def test_no_word_is_lost_or_stands_twice(words, data):
    """Two hearings of one text, which overlap; what an edge cuts off is heard as something else."""
    begin = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(begin + 1, min(len(words), begin + 12)))
    before, after = words[:end], words[begin:]
    common = end - begin
    if common > 1 and data.draw(st.booleans()):
        before = [*before[:-1], "XX"]
        common -= 1
    if common > 1 and data.draw(st.booleans()):
        after = ["YY", *after[1:]]
    assert text_of(*joined(segments_of(before), segments_of(after), 10.0, 12.0)) == " ".join(words)


@given(words=vocabulary)
def test_without_a_common_word_all_stay(words):
    other = [f"x{word}" for word in words]
    assert text_of(*joined(segments_of(words), segments_of(other), 1, 3)) == " ".join(
        [*words, *other]
    )


def test_case_and_punctuation_do_not_hide_a_word():
    first, second = joined(
        segments_of(["we", "saw", "The", "dog,"]), segments_of(["the", "dog", "ran."]), 1, 3
    )
    assert text_of(first, second) == "we saw The dog, ran."


def test_a_repeated_word_is_not_joined_with_its_first():
    before = ["the", "cat", "and", "the", "dog"]
    after = ["the", "dog", "and", "the", "cow"]
    assert (
        text_of(*joined(segments_of(before), segments_of(after), 1, 3))
        == "the cat and the dog and the cow"
    )


def test_words_with_times_are_divided_in_the_middle_when_none_agrees():
    before = segments_of([("one", 0), ("two", 4), ("tree", 7)], timed=True)
    after = segments_of([("wo", 4), ("three", 6), ("four", 9)], timed=True)
    first, second = joined(before, after, 1.0, 2.0)
    assert text_of(first, second) == "one two three four"
    assert (first[-1].end, second[0].start) == (samples(1.25), samples(1.5))


def test_a_common_word_far_from_the_overlap_in_time_joins_nothing():
    before = segments_of([("so", 0), ("one", 8), ("two", 9)], timed=True)
    after = segments_of([("three", 11), ("four", 13), ("so", 40)], timed=True)
    assert text_of(*joined(before, after, 2.0, 3.0)) == "so one two three four so"


def test_a_script_without_spaces_is_joined_by_characters():
    before, after = (timed_segment(0, "今日はいい天気"),), (timed_segment(0, "い天気ですね"),)
    first, second = joined(before, after, 1, 3)
    assert "".join(segment.text for segment in (*first, *second)) == "今日はいい天気ですね"


def test_segments_that_lose_all_their_words_are_gone_and_the_others_untouched():
    before = (
        timed_segment(0, " a b", 0, 1, speaker="1"),
        timed_segment(1, " c d", 1, 3, speaker="2"),
    )
    after = (timed_segment(0, " c d", 2, 3), timed_segment(1, " e", 3, 4))
    first, second = joined(before, after, 2, 3)
    assert first == before
    assert second == after[1:]


@pytest.mark.parametrize(
    ("before", "after", "needed"),
    [
        ("a", "b", True),
        ("a", " b", False),
        ("天", "気", False),
        ("天", "a", True),
        ("", "a", False),
    ],
)
def test_a_space_goes_between_words_of_scripts_that_have_it(before, after, needed):
    assert needs_space(before, after) is bool(needed)
