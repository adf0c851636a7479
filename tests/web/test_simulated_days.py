"""Sessions of a whole day beside abandoned connections: memory and objects stay constant."""

import sys

import pytest
from support.day import Day, Hour, Loud, Played, play

from voxlive.vad.detector import Silero

SLACK = 400
"""Blocks and objects: what is under way at one moment or another."""


def is_flat(played: Played, warm: int, last: int) -> None:
    """Of the last readings none has more than that at ``warm``, and only what lasts is there.

    Far more than ``SLACK`` words were said meanwhile, and a connection that was given up had more
    than ten blocks, so that neither can have left any. A session's text is bytes in one block.
    """
    base = played.readings[warm]
    for reading in played.readings[-last:]:
        assert reading.opened > base.opened + SLACK / 10
        assert reading.words > base.words + 2 * SLACK
        assert reading.blocks < base.blocks + SLACK, (base, reading)
        assert reading.objects < base.objects + SLACK, (base, reading)
        assert reading.tasks == base.tasks
    for reading in played.readings:
        assert reading.in_use == reading.lanes == reading.feeds == played.lasting


def test_minutes_with_abandoned_connections_leak_nothing():
    """A quarter of an hour in four readings; captions are full after ten minutes."""
    played = play(lambda: Day(Loud(), seed=5, every_s=2, period_s=6), 4, 240, lambda _: None)
    assert played.abandoned > 300
    is_flat(played, warm=2, last=1)


def write_hour(hour: Hour) -> None:
    """What `make endurance ARGS="-s -n 0"` shows."""
    sys.stderr.write(f"{hour}\n")


@pytest.mark.endurance
@pytest.mark.timeout(6 * 3600)
def test_a_day_of_sessions_leaks_nothing():
    played = play(lambda: Day(Loud(), seed=1, every_s=20), 24, 3600, write_hour)
    assert played.abandoned > 4000
    is_flat(played, warm=1, last=4)
    hours = played.readings
    # The texts of five sessions that speak all day are a few of these.
    assert max(hour.rss_mib for hour in hours[-4:]) < hours[1].rss_mib + 16


@pytest.mark.endurance
@pytest.mark.timeout(6 * 3600)
def test_hours_with_the_voice_detector_leak_nothing():
    """Much slower: it is stepped for every 32 ms of every session."""
    played = play(lambda: Day(Silero(), seed=12, every_s=10), 3, 3600, write_hour)
    is_flat(played, warm=1, last=1)
