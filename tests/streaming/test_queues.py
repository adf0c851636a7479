"""The queues of a session, and the time-out for many blocks in simulated time."""

from __future__ import annotations

import asyncio

import pytest
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
)


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


async def test_an_outbox_is_idle_once_its_reader_comes_back_for_more() -> None:
    """What the reader has taken and not dealt with yet counts as unread."""
    outbox: Outbox[str] = Outbox()
    seen: list[bool] = []
    outbox.on_idle = lambda: seen.append(outbox.idle)

    async def read() -> None:
        for _ in range(2):
            await outbox.take()
            assert not outbox.idle
        await outbox.take()

    reading = asyncio.create_task(read())
    assert not outbox.idle
    await asyncio.sleep(0)
    assert (outbox.idle, seen) == (True, [True])
    outbox.put(Flushed("0"))
    outbox.put(Flushed("1"))
    assert not outbox.idle
    await asyncio.sleep(0)
    assert (outbox.idle, seen) == (True, [True, True])
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert not outbox.idle
