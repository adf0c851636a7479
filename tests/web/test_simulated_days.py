"""Sessions of a whole day beside abandoned connections: memory and objects stay constant."""

import logging
import random
import sys
from contextlib import nullcontext

import pytest
from support.cut_day import CutDay, CutHour, play_cut_day
from support.day import Day, Hour, Loud, Played, play

from voxlive.store import writer
from voxlive.vad.detector import Silero
from voxlive.web.protocols import sent

SLACK = 400
"""Blocks and objects: what is under way at one moment or another."""


def is_flat(played: Played, warm: int, last: int) -> None:
    """Of the last readings none has more than as many from ``warm`` on, and what lasts is there.

    Readings differ by some hundred with what is under way, so the most of several is taken. Far
    more than ``SLACK`` words were said between, and a connection that was given up had more than
    ten blocks, so that neither can have left any. A session's text is bytes in one block.
    """
    bases, ends = played.readings[warm : warm + last], played.readings[-last:]
    blocks, objects = max(base.blocks for base in bases), max(base.objects for base in bases)
    for base, reading in zip(bases, ends, strict=True):
        assert reading.opened > base.opened + SLACK / 10
        assert reading.words > base.words + 2 * SLACK
        assert reading.blocks < blocks + SLACK, (bases, reading)
        assert reading.objects < objects + SLACK, (bases, reading)
        assert reading.tasks == base.tasks
    for reading in played.readings:
        assert reading.in_use == reading.lanes == reading.feeds == played.lasting


@pytest.mark.endurance
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


@pytest.fixture
def _no_log():
    """What pytest captures of a log grows."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


GIVE_UP_S = 12
"""In a day so often that what every sixth session would leave is more than ``CUT_SLACK``."""
CUT_SLACK = 500
"""Blocks and objects: what is under way, and that messages differ in length by a digit or two."""


def is_flat_over_cuts(readings: list[CutHour], lasting: int, warm: int, last: int) -> None:
    """Of the last readings none has more than as many from ``warm`` on; what lasts is there.

    The most of several is compared, as in ``is_flat``.
    """
    bases, ends = readings[warm : warm + last], readings[-last:]
    blocks, objects = max(base.blocks for base in bases), max(base.objects for base in bases)
    sent_chars = max(base.sent_chars for base in bases)
    for reading in readings:
        assert (reading.in_use, reading.lanes) == (4, 4)
        assert reading.feeds == reading.resumable == lasting
    for base, reading in zip(bases, ends, strict=True):
        words = reading.words - base.words
        assert reading.cuts > base.cuts
        assert reading.given_up > base.given_up
        assert words > CUT_SLACK
        assert reading.blocks < blocks + CUT_SLACK, (bases, reading)
        assert reading.objects < objects + CUT_SLACK, (bases, reading)
        assert reading.tasks == base.tasks
        assert reading.sent_chars < sent_chars + 10_000
        # A word, with its part of the segment and of the index.
        assert reading.size - base.size < 400 * words + 200_000


def check_words(day: CutDay) -> None:
    """Every word came once, in every period as many."""
    for client in day.clients:
        assert client.cuts > 0
        assert len(client.period_words) == 1, client.period_words


@pytest.mark.parametrize("leak", [False, True])
def test_a_block_that_every_sixth_session_leaves_is_seen_in_a_day(leak):
    """Beside what is under way in one reading or another, as much as was ever seen."""
    rng = random.Random(6)
    hours = []
    for hour in range(1, 25):
        given_up = hour * 3600 // (GIVE_UP_S + 2)
        left, noise = leak * given_up // 6, rng.randrange(420)
        kept = {"tasks": 90, "in_use": 4, "lanes": 4, "feeds": 3, "resumable": 3}
        kept |= {"sent": 900, "sent_chars": 290_000 + rng.randrange(9000)}
        grown = {"cuts": 60 * hour, "given_up": given_up, "words": 4300 * hour, "size": hour << 19}
        python = {"rss_mib": 150.0, "blocks": 594_600 + noise + left, "objects": 149_300 + noise}
        hours.append(CutHour(float(hour), **python, **kept, **grown))
    with pytest.raises(AssertionError) if leak else nullcontext():
        is_flat_over_cuts(hours, 3, warm=2, last=4)


@pytest.mark.endurance
@pytest.mark.usefixtures("_no_log")
def test_minutes_over_lines_that_break_leave_nothing_but_words(tmp_path, monkeypatch):
    """A quarter of an hour and more in four readings."""
    monkeypatch.setattr(sent, "MAX_SENT", 20_000)
    monkeypatch.setattr(writer, "MAX_WAIT_S", 1e6)
    day, readings = play_cut_day(
        lambda: CutDay(tmp_path / "store", 3, cut_every_s=10, give_up_s=10, period_s=6),
        4,
        240,
        lambda _: None,
    )
    check_words(day)
    is_flat_over_cuts(readings, len(day.clients), warm=2, last=1)


@pytest.mark.endurance
@pytest.mark.timeout(6 * 3600)
@pytest.mark.usefixtures("_no_log")
def test_a_day_over_lines_that_break_leaves_nothing_but_words(tmp_path, monkeypatch):
    """A cut of each session every three minutes."""
    monkeypatch.setattr(sent, "MAX_SENT", 100_000)
    monkeypatch.setattr(writer, "MAX_WAIT_S", 1e6)
    day, readings = play_cut_day(
        lambda: CutDay(tmp_path / "store", 4, cut_every_s=180, give_up_s=GIVE_UP_S, period_s=20),
        24,
        3600,
        lambda hour: sys.stderr.write(f"{hour}\n"),
    )
    check_words(day)
    is_flat_over_cuts(readings, len(day.clients), warm=2, last=4)
    assert max(hour.rss_mib for hour in readings[-4:]) < readings[2].rss_mib + 16
