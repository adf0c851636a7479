"""The queues of a session, and the time-out for many blocks in simulated time."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.simulated import simulate

from voxlive.streaming.events import Draft, Flushed, Lag, SessionClosed, SessionError
from voxlive.streaming.intake import Command, Flush, Stop
from voxlive.streaming.queues import (
    MAX_OTHER_COMMANDS,
    MAX_SOCKET_BYTES,
    PIECE_OVERHEAD,
    Inbox,
    Outbox,
    Timeout,
    UndecidedAudio,
    UndecidedOverflow,
)
from voxlive.vad.gate import WINDOW, Gate, GateOptions
from voxlive.values import SAMPLE_RATE


async def test_put_waits_while_the_inbox_is_full():
    inbox: Inbox[int] = Inbox(max_others=2)
    assert [inbox.offer(n) for n in range(3)] == [True, True, False]
    late = [asyncio.create_task(inbox.put(n)) for n in (2, 3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in late)
    assert [await inbox.take() for _ in range(4)] == [0, 1, 2, 3]
    await asyncio.gather(*late)


async def test_take_waits_and_may_be_cancelled():
    inbox: Inbox[int] = Inbox(max_others=2)
    reading = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    reading = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    await inbox.put(1)
    assert await reading == 1


async def test_a_cancelled_take_loses_no_command():
    inbox: Inbox[int] = Inbox(max_others=2)
    reading = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    inbox.offer(1)
    reading.cancel()
    await asyncio.wait([reading])
    assert reading.cancelled()
    assert await inbox.take() == 1


async def test_clear_makes_room_for_a_put_that_waits():
    inbox: Inbox[int] = Inbox(max_others=1)
    inbox.offer(1)
    late = asyncio.create_task(inbox.put(2))
    await asyncio.sleep(0)
    inbox.clear()
    await late
    assert await inbox.take() == 2


async def test_the_bound_counts_bytes_of_audio() -> None:
    inbox: Inbox[Command] = Inbox(2 * PIECE_OVERHEAD + 10)
    commands = [b"12345", Flush("a"), b"123456", Stop()]
    for command in commands[:3]:
        await inbox.put(command)
    late = asyncio.create_task(inbox.put(commands[3]))
    await asyncio.sleep(0)
    assert not late.done()
    assert [await inbox.take() for _ in range(3)] == commands[:3]
    await late
    assert await inbox.take() == commands[3]


async def test_take_waits_for_a_put() -> None:
    inbox: Inbox[Command] = Inbox()
    reading = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    assert not reading.done()
    await inbox.put(Stop())
    assert await reading == Stop()


async def test_commands_other_than_audio_have_a_bound() -> None:
    inbox: Inbox[Command] = Inbox()
    for _ in range(MAX_OTHER_COMMANDS):
        await inbox.put(Stop())
    late = asyncio.create_task(inbox.put(Stop()))
    await asyncio.sleep(0)
    assert not late.done()
    await inbox.take()
    await late


async def test_small_pieces_of_audio_are_joined() -> None:
    inbox: Inbox[Command] = Inbox()
    for n in range(10_000):
        await inbox.put(bytes([n % 251]))
        if n == 5000:
            await inbox.put(Flush("between"))
    got = []
    while inbox.waiting:
        got.append(await inbox.take())
    audio = [piece for piece in got if isinstance(piece, bytes)]
    assert len(got) < 10
    assert b"".join(audio) == bytes(n % 251 for n in range(10_000))
    between = got.index(Flush("between"))
    assert sum(len(piece) for piece in audio[:between]) == 5001


async def test_trim_drops_the_newest_commands() -> None:
    inbox: Inbox[Command] = Inbox(MAX_SOCKET_BYTES)
    pieces = [bytes([n]) * 5000 for n in range(100)]
    for piece in pieces:
        assert inbox.offer(piece)
    await inbox.put(Flush("dropped"))
    inbox.trim(10 * (5000 + PIECE_OVERHEAD))
    await inbox.put(Stop())
    assert [await inbox.take() for _ in range(11)] == [*pieces[:10], Stop()]
    assert not inbox.waiting


async def read_all(outbox: Outbox) -> list[object]:
    return [event async for event in outbox.read()]


async def test_only_unread_drafts_and_lags_are_replaced() -> None:
    outbox = Outbox(limit=10)
    for event in (Draft(0, "a"), Draft(0, "ab"), Flushed("x"), Flushed("y"), Lag(1.0), Lag(2.0)):
        assert outbox.put(event)
    outbox.close(SessionClosed(5))
    assert await read_all(outbox) == [
        Draft(0, "ab"), Flushed("x"), Flushed("y"), Lag(2.0), SessionClosed(5),
    ]  # fmt: skip


async def test_put_returns_false_at_the_bound_and_the_last_events_pass_it() -> None:
    outbox = Outbox(limit=3)
    assert [outbox.put(Flushed(str(n))) for n in range(3)] == [True, True, False]
    error = SessionError("slow_client", "")
    outbox.close(error, SessionClosed(0))
    outbox.put(Flushed("late"))
    assert await read_all(outbox) == [
        Flushed("0"), Flushed("1"), Flushed("2"), error, SessionClosed(0),
    ]  # fmt: skip


async def test_events_of_several_sources_and_notices_keep_their_order() -> None:
    outbox: Outbox[str] = Outbox()
    outbox.put(Draft(0, "a"), "mic")
    outbox.put(Draft(0, "b"), "system")
    outbox.add_notice("notice")
    outbox.close(SessionClosed(1), source="mic")
    outbox.put(Flushed("late"), "mic")
    outbox.put(Flushed("x"), "system")
    assert [await outbox.take() for _ in range(5)] == [
        ("mic", Draft(0, "a")), ("system", Draft(0, "b")), ("", "notice"),
        ("mic", SessionClosed(1)), ("system", Flushed("x")),
    ]  # fmt: skip
    assert outbox.pop() is None


async def test_notices_wait_while_the_outbox_is_half_full() -> None:
    outbox: Outbox[str] = Outbox(limit=4)
    await outbox.put_notice("a")
    await outbox.put_notice("b")
    late = asyncio.create_task(outbox.put_notice("c"))
    await asyncio.sleep(0)
    assert not late.done()
    assert outbox.put(Flushed("x"))
    assert [(await outbox.take())[1] for _ in range(2)] == ["a", "b"]
    await late
    assert [(await outbox.take())[1] for _ in range(2)] == [Flushed("x"), "c"]


def test_only_a_block_over_its_timeout_is_cancelled():
    async def run():
        timeout, loop = Timeout(), asyncio.get_running_loop()
        for _ in range(100):
            with timeout.within(2):
                await asyncio.sleep(1.9)
        with pytest.raises(TimeoutError), timeout.within(2):
            await asyncio.Event().wait()
        assert loop.time() == pytest.approx(192, abs=0.01)
        with timeout.within(2):
            await asyncio.sleep(1.9)

    simulate(run())


def test_there_is_one_timer_for_many_blocks():
    async def run():
        timeout, loop = Timeout(), asyncio.get_running_loop()
        timers, call_at = [], loop.call_at
        loop.call_at = lambda when, *args, **more: (
            timers.append(when) or call_at(when, *args, **more)
        )
        for _ in range(1000):
            with timeout.within(10):
                await asyncio.sleep(0)
        assert len(timers) == 1

    simulate(run())


@pytest.mark.parametrize("first", [None, 60, 0.5])
def test_every_block_has_its_own_timeout(first):
    async def run():
        timeout, loop = Timeout(), asyncio.get_running_loop()
        with timeout.within(first):
            await asyncio.sleep(0.1)
        with pytest.raises(TimeoutError), timeout.within(1):
            await asyncio.Event().wait()
        assert loop.time() == pytest.approx(1.1, abs=0.01)
        with timeout.within(None):
            await asyncio.sleep(3600)

    simulate(run())


def test_nothing_is_cancelled_between_blocks():
    async def run():
        timeout = Timeout()
        with timeout.within(1):
            pass
        await asyncio.sleep(5)

    simulate(run())


def test_several_tasks_may_use_a_timeout_in_turn():
    async def run():
        timeout = Timeout()

        async def wait(seconds):
            with timeout.within(1):
                await asyncio.sleep(seconds)

        await asyncio.create_task(wait(0.5))
        with pytest.raises(TimeoutError):
            await asyncio.create_task(wait(5))

    simulate(run())


def test_a_task_cancelled_by_others_is_cancelled():
    async def run(cancel_after):
        timeout = Timeout()

        async def wait():
            with timeout.within(1):
                await asyncio.Event().wait()

        waiting = asyncio.create_task(wait())
        asyncio.get_running_loop().call_at(cancel_after, waiting.cancel)
        with pytest.raises(asyncio.CancelledError):
            await waiting

    simulate(run(0.5))


def test_an_error_in_a_block_is_no_timeout():
    async def run():
        timeout = Timeout()
        with pytest.raises(ValueError, match="own"), timeout.within(1):
            raise ValueError("its own")
        await asyncio.sleep(2)

    simulate(run())


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
