import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voxlive.vad.gate import (
    WINDOW,
    Feed,
    Gate,
    GateOptionError,
    GateOptions,
    OpenGate,
    Paused,
    Skip,
    Started,
    Stopped,
    UndecidedAudio,
    UndecidedOverflow,
)
from voxlive.values import SAMPLE_RATE

HIGH, MIDDLE, LOW = 0.9, 0.4, 0.1
LEVEL = {"H": HIGH, "M": MIDDLE, "L": LOW}
# Three windows start speech, five end it, two are pre-roll: whole windows, so easy to read.
PLAIN = GateOptions(min_speech_ms=96, min_silence_ms=160, pre_roll_ms=64)


def w(windows):
    return windows * WINDOW


def play(gate, pattern):
    return [action for letter in pattern for action in gate.push(LEVEL[letter])]


def run(pattern, options=PLAIN, trail=0, rest=0):
    """All actions for a session of one window per letter, with ``rest`` samples behind them."""
    gate = Gate(options, trail)
    return play(gate, pattern) + gate.finish(w(len(pattern)) + rest)


def merged(actions):
    """Neighbouring ranges of one kind joined, so that a scenario reads as one line."""
    result = []
    for action in actions:
        last = result[-1] if result else None
        if type(action) is type(last) and isinstance(action, Feed | Skip):
            assert last.end == action.start
            result[-1] = type(action)(last.start, action.end)
        else:
            result.append(action)
    return result


def test_silence_is_skipped_to_the_last_sample():
    assert merged(run("L" * 20, rest=100)) == [Skip(0, w(20) + 100)]


def test_a_session_without_audio_does_nothing():
    assert run("") == []


def test_an_utterance_with_its_pre_roll_and_hangover():
    assert merged(run("LLLLHHHHLLLLLLL")) == [
        Skip(0, w(2)),
        Started(w(4)),
        Feed(w(2), w(13)),
        Stopped(w(8)),
        Paused(),
        Skip(w(13), w(15)),
    ]


def test_speech_at_the_first_sample():
    assert merged(run("HHHLLLLL")) == [
        Started(0),
        Feed(0, w(8)),
        Stopped(w(3)),
        Paused(),
    ]


def test_started_comes_once_speech_is_certain_and_has_the_onset():
    gate = Gate(PLAIN, 0)
    assert merged(play(gate, "LLLLHH")) == [Skip(0, w(2))]
    assert not gate.speaking
    assert gate.push(HIGH) == [Started(w(4)), Feed(w(2), w(7))]
    assert gate.speaking
    assert gate.push(LOW) == [Feed(w(7), w(8))]


def test_a_click_shorter_than_min_speech_is_not_speech():
    assert merged(run("LLLHHLLLHLLL")) == [Skip(0, w(12))]


def test_a_pause_shorter_than_min_silence_is_within_the_utterance():
    assert merged(run("HHHLLLLHLLLLL")) == [
        Started(0),
        Feed(0, w(13)),
        Stopped(w(8)),
        Paused(),
    ]


@pytest.mark.parametrize(("min_silence_ms", "utterances"), [(500, 1), (300, 2)])
def test_two_words_400_ms_apart(min_silence_ms, utterances):
    actions = run(
        "LHHHH" + "L" * 13 + "HHHH" + "L" * 20, GateOptions(min_silence_ms=min_silence_ms)
    )
    assert [a for a in actions if isinstance(a, Started)] == [Started(w(1)), Started(w(18))][
        :utterances
    ]
    assert sum(isinstance(a, Paused) for a in actions) == utterances


def test_between_the_thresholds_a_candidate_and_speech_go_on_but_neither_begins():
    assert merged(run("MMMM")) == [Skip(0, w(4))]
    assert merged(run("HMMLLLLMLLLLL")) == [
        Started(0),
        Feed(0, w(13)),
        Stopped(w(8)),
        Paused(),
    ]


def test_the_pre_roll_does_not_reach_into_what_was_fed():
    assert merged(run("HHHLLLLLLHHHLLLLL")) == [
        Started(0),
        Feed(0, w(8)),
        Stopped(w(3)),
        Paused(),
        Started(w(9)),
        Feed(w(8), w(17)),
        Stopped(w(12)),
        Paused(),
    ]


@pytest.mark.parametrize("trail", [w(7) + 1, w(8)])
def test_a_trail_longer_than_the_hangover_is_fed_before_the_pause(trail):
    assert merged(run("HHH" + "L" * 12, trail=trail)) == [
        Started(0),
        Feed(0, w(8)),
        Stopped(w(3)),
        Feed(w(8), w(11)),
        Paused(),
        Skip(w(11), w(15)),
    ]


def test_speech_that_resumes_in_the_trail_goes_on_without_a_pause():
    assert merged(run("HHHLLLLLLHHHLLLLL", trail=w(7))) == [
        Started(0),
        Feed(0, w(8)),
        Stopped(w(3)),
        Feed(w(8), w(11)),
        Started(w(9)),
        Feed(w(11), w(17)),
        Stopped(w(12)),
        Paused(),
    ]


@pytest.mark.parametrize("trail", [w(6), w(7)])
def test_no_pause_comes_while_there_is_a_candidate(trail):
    """Where the trail ends in a candidate, it is fed on until that is speech or is none."""
    assert merged(run("HHHLLLLLHHLLL", trail=trail)) == [
        Started(0),
        Feed(0, w(8)),
        Stopped(w(3)),
        Feed(w(8), w(11)),
        Paused(),
        Skip(w(11), w(13)),
    ]


def test_min_speech_and_min_silence_of_zero_follow_every_window():
    options = GateOptions(min_speech_ms=0, min_silence_ms=0, pre_roll_ms=0)
    assert merged(run("LHLH", options)) == [
        Skip(0, w(1)),
        Started(w(1)),
        Feed(w(1), w(3)),
        Stopped(w(2)),
        Paused(),
        Started(w(3)),
        Feed(w(3), w(4)),
        Stopped(w(4)),
        Paused(),
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", [Skip(0, 100)]),
        ("LLL", [Skip(0, w(3) + 100)]),
        ("LLLH", [Skip(0, w(1)), Started(w(3)), Feed(w(1), w(4) + 100), Stopped(w(4) + 100)]),
        ("HHHH", [Started(0), Feed(0, w(4) + 100), Stopped(w(4) + 100)]),
        ("HHHLL", [Started(0), Feed(0, w(5) + 100), Stopped(w(3))]),
        (
            "HHHLLLLLL",
            [Started(0), Feed(0, w(8)), Stopped(w(3)), Feed(w(8), w(9) + 100)],
        ),
        (
            "HHHLLLLLLH",
            [
                Started(0),
                Feed(0, w(8)),
                Stopped(w(3)),
                Feed(w(8), w(10)),
                Started(w(9)),
                Feed(w(10), w(10) + 100),
                Stopped(w(10) + 100),
            ],
        ),
    ],
    ids=["empty", "quiet", "candidate", "speech", "hangover", "trail", "trail-candidate"],
)
def test_finish_in_each_state(pattern, expected):
    pause = [Paused()] if Started in map(type, expected) else []
    assert merged(run(pattern, trail=w(20), rest=100)) == expected + pause


def flushed(pattern, rest=100, trail=0):
    """A gate and the actions of its flush, ``rest`` samples after the windows of ``pattern``."""
    gate = Gate(PLAIN, trail)
    play(gate, pattern)
    return gate, gate.flush(w(len(pattern)) + rest)


def test_flush_in_silence_skips_undecided_audio():
    gate, actions = flushed("LLLL")
    assert actions == [Skip(w(2), w(4) + 100)]
    assert merged(play(gate, "HHHH")) == [Started(w(4) + 100), Feed(w(4) + 100, w(8))]


def test_flush_in_speech_feeds_what_was_received_and_speech_goes_on():
    gate, actions = flushed("HHHHL")
    assert actions == [Feed(w(5), w(5) + 100)]
    assert gate.speaking
    assert merged(play(gate, "LHLLLLL")) == [
        Feed(w(5) + 100, w(12)),
        Stopped(w(7)),
        Paused(),
    ]


def test_flush_counts_a_candidate_as_speech():
    gate, actions = flushed("LLLH")
    assert actions == [Started(w(3)), Feed(w(1), w(4) + 100)]
    assert merged(play(gate, "LLLLL")) == [Feed(w(4) + 100, w(9)), Stopped(w(4)), Paused()]


def test_flush_in_the_trail_ends_the_utterance():
    gate, actions = flushed("HHHLLLLLL", trail=w(20))
    assert actions == [Feed(w(9), w(9) + 100), Paused()]
    assert merged(gate.finish(w(9) + 100)) == []


def test_a_second_flush_at_the_same_sample_does_nothing():
    for pattern in ("", "LLL", "LLLH", "HHHH"):
        gate, _ = flushed(pattern)
        assert gate.flush(w(len(pattern)) + 100) == []


def test_the_open_gate_feeds_everything_as_one_utterance():
    gate = OpenGate()
    assert not gate.speaking
    assert gate.flush(0) == []
    assert gate.push(0.0) == [Started(0), Feed(0, w(1))]
    assert gate.speaking
    assert gate.flush(w(1) + 9) == [Feed(w(1), w(1) + 9)]
    assert gate.push(0.0) == [Feed(w(1) + 9, w(2))]
    assert gate.finish(w(2) + 5) == [Feed(w(2), w(2) + 5), Stopped(w(2) + 5), Paused()]
    assert not gate.speaking
    assert OpenGate().finish(0) == []


@pytest.mark.parametrize("gate", [Gate(PLAIN, 0), OpenGate()], ids=["gate", "open"])
def test_invalid_probabilities_and_totals_are_refused(gate):
    gate.push(LOW)
    for probability in (float("nan"), -0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            gate.push(probability)
    for total in (0, w(1) - 1, w(2)):
        with pytest.raises(ValueError, match="push every complete window first"):
            gate.flush(total)
    gate.flush(w(1) + 50)
    with pytest.raises(ValueError, match="samples dealt with"):
        gate.finish(w(1) + 49)
    gate.finish(w(1) + 50)
    with pytest.raises(RuntimeError, match="new gate"):
        gate.push(LOW)
    with pytest.raises(RuntimeError, match="new gate"):
        gate.finish(w(1) + 50)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("threshold", 0.0, "a number from 0.01 to 0.99"),
        ("threshold", 1, "a number from 0.01 to 0.99"),
        ("threshold", True, "a number from 0.01 to 0.99"),
        ("threshold", "0.5", "a number from 0.01 to 0.99"),
        ("threshold", float("nan"), "a number from 0.01 to 0.99"),
        ("exit_threshold", 0.6, "a number from 0.01 to threshold (0.5)"),
        ("exit_threshold", None, "a number from 0.01 to threshold (0.5)"),
        ("min_speech_ms", -1, "a whole number from 0 to 2000"),
        ("min_speech_ms", 96.5, "a whole number from 0 to 2000"),
        ("min_silence_ms", 10_001, "a whole number from 0 to 10000"),
        ("min_silence_ms", False, "a whole number from 0 to 10000"),
        ("pre_roll_ms", 2001, "a whole number from 0 to 2000"),
        ("pre_roll_ms", "x" * 1000, "a whole number from 0 to 2000"),
    ],
)
def test_an_option_out_of_range_is_refused_with_its_range(field, value, allowed):
    with pytest.raises(GateOptionError) as error:
        GateOptions(**{field: value})
    assert error.value.field == field
    assert str(error.value).startswith(f"{field} must be {allowed}, not ")
    assert len(str(error.value)) < 120


def test_the_limits_of_the_ranges_are_allowed():
    GateOptions(0.99, 0.99, 2_000, 10_000, 2_000)
    GateOptions(0.01, 0.01, 0, 0, 0)


# Any probabilities, any options.


@st.composite
def gate_options(draw):
    threshold = draw(st.floats(0.01, 0.99))
    return GateOptions(
        threshold,
        draw(st.floats(0.01, threshold)),
        draw(st.integers(0, 400)),
        draw(st.integers(0, 700)),
        draw(st.integers(0, 600)),
    )


runs = st.tuples(st.sampled_from([0.0, 0.1, 0.4, 0.9, 1.0]), st.integers(1, 25))
probabilities = st.lists(runs, max_size=12).map(lambda r: [p for p, n in r for _ in range(n)]) | (
    st.lists(st.floats(0, 1), max_size=60)
)
trails = st.integers(0, 30_000)
rests = st.integers(0, WINDOW - 1)
flush_points = st.dictionaries(st.integers(0, 60), rests, max_size=4)


def session(options, trail, probs, rest, flushes):
    """Actions of a whole session, checked at every step for order and completeness."""
    gate = Gate(options, trail)
    done = 0
    actions = []

    def take(more):
        nonlocal done
        for action in more:
            if isinstance(action, Feed | Skip):
                assert done == action.start < action.end
                done = action.end
        actions.extend(more)

    for index, probability in enumerate(probs):
        if index in flushes:
            total = w(index) + flushes[index]
            take(gate.flush(total))
            assert done == total
        take(gate.push(probability))
        assert w(index + 1) - done <= gate.max_undecided
        assert not gate.speaking or done == w(index + 1)
    total = w(len(probs)) + rest
    take(gate.finish(total))
    assert done == total
    assert not gate.speaking
    return actions


def utterances(actions):
    """(onset, stop) of each; Started, Stopped and Paused come in turn and in order."""
    marks = [a for a in actions if isinstance(a, Started | Stopped | Paused)]
    order = "".join(type(a).__name__[2] for a in marks)  # a, o, u
    assert re.fullmatch("(aou?)*", order)
    assert order.endswith("u") or not order
    times = [a.at for a in marks if not isinstance(a, Paused)]
    assert all(before <= after for before, after in pairwise(times))
    return list(zip(times[::2], times[1::2], strict=True))


def reference(options, probs, total):
    """The utterances as an expression over the whole session at once."""
    letters = "".join(
        "H" if p >= options.threshold else "M" if p >= options.exit_threshold else "L"
        for p in probs
    )
    speech = max(1, -(-options.min_speech_ms * 16 // WINDOW))
    silence = max(1, -(-options.min_silence_ms * 16 // WINDOW))
    pattern = rf"((?:H[HM]{{{speech - 1}}}|H[HM]*$).*?)(?:L{{{silence}}}|L*$)"
    found = [(m.start(1), m.end(1)) for m in re.finditer(pattern, letters)]
    return [(w(a), total if b == len(letters) else w(b)) for a, b in found]


@given(gate_options(), trails, probabilities, rests, flush_points)
def test_every_sample_is_fed_or_skipped_once_in_order(options, trail, probs, rest, flushes):
    spans = utterances(session(options, trail, probs, rest, flushes))
    assert all(onset < stop for onset, stop in spans)


@given(gate_options(), trails, probabilities, rests)
@example(GateOptions(0.5, 0.35, 96, 160, 64), 0, [HIGH] * 3 + [LOW] * 5 + [HIGH], 1)
def test_speech_is_found_as_by_the_reference(options, trail, probs, rest):
    total = w(len(probs)) + rest
    spans = utterances(session(options, trail, probs, rest, {}))
    assert spans == reference(options, probs, total)


@given(gate_options(), trails, probabilities, rests)
def test_only_speech_with_its_pre_roll_and_trail_is_fed(options, trail, probs, rest):
    actions = session(options, trail, probs, rest, {})
    fed, needed, allowed = np.zeros((3, w(len(probs)) + rest), bool)
    for action in actions:
        if isinstance(action, Feed):
            fed[action.start : action.end] = True
    after = max(trail, options.min_silence_ms * 16)
    # Windows are whole, and a candidate may hold the pause up until it is decided.
    slack = 2 * WINDOW + options.min_speech_ms * 16
    for onset, stop in utterances(actions):
        first = max(0, onset - options.pre_roll_ms * 16)
        needed[first : stop + after] = True
        allowed[first : stop + after + slack] = True
    assert not (needed & ~fed).any()
    assert not (fed & ~allowed).any()


@given(gate_options(), trails, probabilities, rests)
def test_a_pause_comes_once_the_trail_is_complete_and_not_in_a_candidate(
    options, trail, probs, rest
):
    gate = Gate(options, trail)
    stopped = 0
    for index, probability in enumerate(probs):
        for action in gate.push(probability):
            if isinstance(action, Stopped):
                stopped = action.at
            if isinstance(action, Paused):
                assert w(index + 1) - stopped >= trail
                assert probability < options.threshold
    gate.finish(w(len(probs)) + rest)


@given(gate_options(), trails, probabilities, rests)
def test_feeding_ahead_feeds_nothing_else(options, trail, probs, rest):
    gate, early = Gate(options, trail), []
    for at, probability in enumerate(probs, 1):
        early += gate.push(probability)
        ahead = gate.feed_ahead(w(at) + (rest if at == len(probs) else WINDOW - 1))
        assert not ahead or gate.speaking
        early += ahead
    early += gate.finish(w(len(probs)) + rest)
    assert merged(early) == merged(session(options, trail, probs, rest, {}))


def test_only_speech_is_fed_ahead():
    gate = Gate(PLAIN, w(2))
    play(gate, "LHH")
    assert gate.feed_ahead(w(3) + 100) == []
    play(gate, "H")
    assert gate.feed_ahead(w(4) + 100) == [Feed(w(4), w(4) + 100)]
    assert gate.feed_ahead(w(4) + 100) == []
    play(gate, "LLLLL")
    assert gate.feed_ahead(w(9) + 100) == []


@given(gate_options(), trails, probabilities, rests, st.integers(1, 5))
def test_windows_processed_together_are_fed_together(options, trail, probs, rest, windows):
    gate, fed, total = Gate(options, trail), [], w(len(probs)) + rest
    for at in range(0, len(probs), windows):
        upto = min(len(probs), at + windows)
        actions = gate.process(
            probs[at:upto], w(upto) + (rest if upto == len(probs) else WINDOW - 1)
        )
        assert not any(isinstance(a, Feed) and isinstance(b, Feed) for a, b in pairwise(actions))
        fed += actions
    fed += gate.finish(total)
    assert merged(fed) == merged(session(options, trail, probs, rest, {}))


def ramp(start, end):
    return np.arange(start, end, dtype=np.float32)


def test_ranges_are_taken_as_they_were_appended():
    undecided = UndecidedAudio()
    undecided.append(ramp(0, 5))
    undecided.append(ramp(5, 6))
    undecided.append(ramp(6, 20))
    assert undecided.take(0, 3).tolist() == [0, 1, 2]
    undecided.drop(4)
    taken = undecided.take(4, 10)
    assert taken.dtype == np.float32
    assert taken.tolist() == [4, 5, 6, 7, 8, 9]
    assert undecided.take(12, 20).tolist() == ramp(12, 20).tolist()
    assert (undecided.start, undecided.end) == (20, 20)


def test_an_empty_range_can_be_taken():
    undecided = UndecidedAudio()
    undecided.append(ramp(0, 0))
    assert undecided.take(0, 0).shape == (0,)
    undecided.drop(0)
    assert undecided.end == 0


def test_a_range_within_one_piece_is_not_copied():
    undecided, samples = UndecidedAudio(), ramp(0, 10)
    undecided.append(samples)
    undecided.drop(2)
    assert undecided.take(3, 7).base is samples
    assert undecided.take(7, 10).base is samples


def test_an_append_beyond_the_capacity_is_refused():
    undecided = UndecidedAudio(capacity=10)
    undecided.append(ramp(0, 8))
    with pytest.raises(UndecidedOverflow, match=r"8 samples wait .* 3 more .* 10"):
        undecided.append(ramp(8, 11))
    undecided.append(ramp(8, 10))
    undecided.drop(4)
    undecided.append(ramp(10, 14))
    assert undecided.take(4, 14).tolist() == ramp(4, 14).tolist()


@pytest.mark.parametrize(("start", "end"), [(1, 5), (2, 11), (6, 5), (-1, 3)])
def test_a_range_that_is_not_held_is_refused(start, end):
    undecided = UndecidedAudio()
    undecided.append(ramp(0, 10))
    undecided.drop(2)
    with pytest.raises(ValueError, match="not within 2 to 10"):
        undecided.take(start, end)
    assert (undecided.start, undecided.end) == (2, 10)


def test_dropping_samples_that_are_not_held_is_refused():
    undecided = UndecidedAudio()
    undecided.append(ramp(0, 10))
    undecided.drop(2)
    for upto in (1, 11):
        with pytest.raises(ValueError, match="not within 2 to 10"):
            undecided.drop(upto)


def test_the_default_capacity_suffices_for_every_gate_and_two_seconds():
    longest = GateOptions(min_speech_ms=2_000, pre_roll_ms=2_000)
    undecided = UndecidedAudio()
    undecided.append(ramp(0, Gate(longest, 0).max_undecided + WINDOW + 2 * SAMPLE_RATE))


def test_decided_samples_can_be_read_as_far_back_as_the_history_goes():
    undecided = UndecidedAudio(at=100, history=3)
    assert undecided.read(97).tolist() == [0, 0, 0]
    undecided.append(ramp(100, 105))
    undecided.drop(105)
    assert undecided.read(102).tolist() == [102, 103, 104]
    undecided.append(ramp(105, 106))
    assert undecided.read(103).tolist() == [103, 104, 105]
    assert undecided.take(105, 106).tolist() == [105]


@pytest.mark.parametrize("history", [0, 7])
def test_an_append_can_be_retracted(history):
    undecided = UndecidedAudio(history=history)
    undecided.append(ramp(0, 10))
    undecided.drop(4)
    undecided.append(ramp(50, 56))
    undecided.retract(6)
    assert (undecided.start, undecided.end) == (4, 10)
    undecided.append(ramp(10, 12))
    assert undecided.take(4, 12).tolist() == ramp(4, 12).tolist()


@given(
    st.lists(st.integers(0, 40), max_size=30),
    st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=30),
)
def test_pieces_of_any_size_give_the_same_samples(sizes, steps):
    undecided, steps = UndecidedAudio(), iter(steps)
    for size in sizes:
        undecided.append(ramp(undecided.end, undecided.end + size))
        taken, length = next(steps, (True, 0))
        start, end = undecided.start, min(undecided.end, undecided.start + length)
        if taken:
            assert undecided.take(start, end).tolist() == ramp(start, end).tolist()
        else:
            undecided.drop(end)
        assert undecided.start == end
    start, end = undecided.start, undecided.end
    assert undecided.take(start, end).tolist() == ramp(start, end).tolist()
    assert end == sum(sizes)
