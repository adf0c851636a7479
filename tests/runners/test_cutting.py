import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clips import clip

from voxlive.errors import RequestRefused, VoxliveError
from voxlive.runners.assembly import measure_job, stretches
from voxlive.runners.contract import Job
from voxlive.runners.cutting import CutOptions, Cutter
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.vad.detector import Silero
from voxlive.vad.gate import WINDOW

RATE = 16_000
OPTIONS = CutOptions(longest_s=4, pause_s=1, overlap_s=0.8)

# Speech and silence in turn, as lengths in windows.
turns = st.lists(st.tuples(st.booleans(), st.integers(1, 200)), max_size=20)


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


@settings(deadline=None)
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
