"""Histograms and options of the engine contract."""

import asyncio
from collections import Counter

import pytest

from voxlive.engines.contract import DurationHistogram, EngineInfo, EngineOptions, StreamOptions
from voxlive.errors import UnsupportedOption


def test_a_duration_is_counted_in_every_bucket_it_fits():
    durations = DurationHistogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 1.0, 7.0):
        durations.observe(seconds)
    read = durations.read()
    assert (read.counts, read.count, read.total_s) == ((2, 4), 5, pytest.approx(8.65))


async def test_observations_from_several_threads_are_all_counted():
    durations = DurationHistogram()
    adding = [
        asyncio.to_thread(lambda: [durations.observe(0.3) for _ in range(500)]) for _ in "abcd"
    ]
    await asyncio.gather(*adding)
    read = durations.read()
    assert Counter(read.counts) == {0: 8, 2000: len(read.counts) - 8}
    assert read.total_s == pytest.approx(600)


PLAIN = EngineInfo("plain", "model-a", "cpu", 1, ("de", "en"))
ABLE = EngineInfo(
    *("able", "model-b", "cpu", 1, ("de", "en")),
    takes_language=True,
    vocabulary=("Lyme",),
    commit_rules=("fast", "steady"),
    default_commit="steady",
    no_translation=None,
)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (StreamOptions("fr"), "French"),
        (StreamOptions(task="translate"), r"plain \(model-a\) does not translate"),
        (StreamOptions(commit="fast"), "no rule of commitment"),
        (StreamOptions(delay_ms=80), "no delay to set"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_and_says_what_to_change(options, hint):
    with pytest.raises(UnsupportedOption, match=hint):
        PLAIN.validate(options)


def test_what_clients_send_as_a_hint_is_a_warning():
    options = StreamOptions("de", vocabulary=("Bath", "Lyme"))
    PLAIN.validate(options)
    assert [one.code for one in PLAIN.ignored(options)] == [
        "language_ignored",
        "vocabulary_ignored",
    ]
    assert (PLAIN.language_of(options), PLAIN.terms(options)) == (None, ())
    ABLE.validate(StreamOptions("de", task="translate", commit="fast"))
    assert ABLE.ignored(options) == ()
    assert (ABLE.language_of(options), ABLE.terms(options)) == ("de", ("Bath", "Lyme"))
    with pytest.raises(UnsupportedOption, match="one of fast, steady, not 'slow'"):
        ABLE.validate(StreamOptions(commit="slow"))


def test_an_engine_without_them_refuses_a_servers_rule_and_vocabulary():
    EngineOptions().require_no_rules("model-a")
    for options in (EngineOptions(commit="fast"), EngineOptions(vocabulary=("Lyme",))):
        with pytest.raises(UnsupportedOption, match="model-a"):
            options.require_no_rules("model-a")
