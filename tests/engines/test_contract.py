"""Histograms of the engine contract."""

import asyncio
from collections import Counter

import pytest

from voxlive.engines.contract import DurationHistogram


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
