"""Whose pass comes next and how often drafts come: many sessions on a simulated clock."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.scripted_recogniser import ScriptedRecogniser, spoken
from support.simulated_cores import SimulatedCores, SimulatedStream, chunks

from voxlive.engines.contract import Committed, Reached
from voxlive.engines.utterances import PassCost
from voxlive.engines.utterances.commitment import CommitRule
from voxlive.engines.utterances.engine import LONGEST_S, SHORTEST_S, PassScheduler
from voxlive.engines.utterances.utterance import PassPlan, UtteranceStream
from voxlive.values import SAMPLE_RATE

CHUNK_S = 0.1


def talk(
    sessions: int, threads: int, draft_s: float, last_s: float, utterances: int = 4
) -> SimulatedCores:
    """Sessions that speak 12 words in 6 s, pause a second, and so on, one a little after another.

    Passes take what is given, less for a beginning utterance, as a recogniser's do.
    """
    recogniser = ScriptedRecogniser()

    def make_pass(due):
        whole_s = last_s if due.final else draft_s
        took_s = whole_s * (0.5 + 0.5 * min(1, len(due.audio) / (6 * SAMPLE_RATE)))
        return recogniser.recognise(due.audio), took_s

    cores = SimulatedCores(threads, make_pass)
    for session in range(sessions):
        stream = cores.add(UtteranceStream(CommitRule(2, 1.2), PassPlan()))
        phase = 7.0 * session / sessions
        for number in range(utterances):
            begin = number * 7 * SAMPLE_RATE
            words = spoken(*range(number * 12 + 1, number * 12 + 13))
            for at, piece in chunks(words, CHUNK_S):
                end_s = (begin + at + len(piece)) / SAMPLE_RATE
                cores.feed(stream, piece, begin + at, phase + end_s)
            cores.mark(stream, number, phase + number * 7 + 6.5)
    cores.run()
    return cores


def gaps(stream: SimulatedStream) -> list[float]:
    """Between the ends of drafts of one utterance."""
    ends = [end for _, end in stream.drafts]
    finals = [began for _, began, _ in stream.finals]
    pairs = itertools.pairwise(ends)
    return [two - one for one, two in pairs if not any(one < at <= two for at in finals)]


def words(stream: SimulatedStream) -> list[str]:
    found = [m.words for _, m in stream.messages if isinstance(m, Committed)]
    return [word.text for some in found for word in some]


def check_finals_first(cores: SimulatedCores) -> None:
    began = sorted(at for stream in cores.streams for at, _ in stream.drafts)
    finals = sorted(one for stream in cores.streams for one in stream.finals)
    for since, start, _ in finals:
        assert not any(since < at < start for at in began), "a draft began before a last pass"
    starts = [start for _, start, _ in finals]
    assert starts == sorted(starts), "a last pass overtook one that waited longer"


def check_all_words(cores: SimulatedCores, utterances: int = 4) -> None:
    for stream in cores.streams:
        assert words(stream) == [f" w{n}" for n in range(1, 12 * utterances + 1)]
        marks = [m.marker for _, m in stream.messages if isinstance(m, Reached)]
        assert marks == list(range(utterances))


def test_one_session_has_a_draft_every_half_second():
    cores = talk(1, 2, 0.05, 0.1)
    [stream] = cores.streams
    assert all(gap <= SHORTEST_S + CHUNK_S + 1e-6 for gap in gaps(stream))
    assert len(stream.drafts) >= 4 * 11
    check_all_words(cores)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize(("draft_s", "last_s"), [(0.1, 0.3), (0.3, 0.9), (0.05, 0.6)])
def test_at_capacity_drafts_are_three_seconds_apart_at_most(threads, draft_s, last_s):
    sessions = PassCost(draft_s, last_s).sessions(threads)
    cores = talk(sessions, threads, draft_s, last_s)
    assert max(max(gaps(stream)) for stream in cores.streams) <= 3.0
    check_finals_first(cores)
    check_all_words(cores)


@examples(20)
@given(st.integers(1, 8), st.integers(1, 4), st.floats(0.01, 1.0), st.floats(0.01, 2.0))
def test_last_passes_wait_for_no_draft_but_those_under_way(sessions, threads, draft_s, last_s):
    cores = talk(sessions, threads, draft_s, last_s, utterances=2)
    check_finals_first(cores)
    check_all_words(cores, 2)


def test_beyond_capacity_drafts_give_way_and_last_passes_stay_prompt():
    draft_s, last_s, threads = 0.2, 0.4, 2
    capacity = PassCost(draft_s, last_s).sessions(threads)
    few = talk(capacity, threads, draft_s, last_s)
    many = talk(2 * capacity, threads, draft_s, last_s)

    def latest(cores: SimulatedCores) -> float:
        return max(end - since for stream in cores.streams for since, _, end in stream.finals)

    def drafts(cores: SimulatedCores) -> float:
        return sum(len(stream.drafts) for stream in cores.streams) / len(cores.streams)

    check_all_words(many)
    check_finals_first(many)
    assert drafts(many) < drafts(few)
    assert latest(many) < latest(few) + 2 * last_s + draft_s


def test_whoever_is_most_behind_is_next():
    """While all threads are busy, audio waits for each stream; then drafts come in its order."""
    scheduler = PassScheduler(1)
    cores = SimulatedCores(1, lambda _: pytest.fail("no pass is made here"))
    streams = [cores.add(UtteranceStream(CommitRule(0), PassPlan())) for _ in range(3)]
    for stream, count in zip(streams, (2, 5, 3), strict=True):
        stream.utterances.feed(spoken(*[1] * count), 0)
    order = []
    while stream := scheduler.choose(streams):
        stream.utterances.begin()
        order.append(streams.index(stream))
    assert order == [1, 2, 0]


@given(st.floats(0, 20), st.integers(0, 300), st.integers(1, 64))
def test_intervals_grow_with_cost_and_with_sessions_between_the_bounds(draft_s, speaking, threads):
    interval_s = PassScheduler(threads).draft_interval_s
    here = interval_s(draft_s, speaking)
    assert SHORTEST_S <= here <= LONGEST_S
    assert here <= interval_s(draft_s * 2, speaking)
    assert here <= interval_s(draft_s, speaking * 2)
    assert here >= PassScheduler(threads + 1).draft_interval_s(draft_s, speaking)
    assert interval_s(0, speaking) == SHORTEST_S
