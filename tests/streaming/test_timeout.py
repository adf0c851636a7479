"""One time-out for many blocks, in simulated time."""

import asyncio

import pytest
from support.simulated import simulate

from voxlive.streaming.timeout import Timeout


def test_only_a_block_that_takes_too_long_is_ended():
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
def test_every_block_has_its_own_time(first):
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


def test_between_two_blocks_nothing_is_ended():
    async def run():
        timeout = Timeout()
        with timeout.within(1):
            pass
        await asyncio.sleep(5)

    simulate(run())


def test_one_task_after_another_may_use_it():
    async def run():
        timeout = Timeout()

        async def wait(seconds):
            with timeout.within(1):
                await asyncio.sleep(seconds)

        await asyncio.create_task(wait(0.5))
        with pytest.raises(TimeoutError):
            await asyncio.create_task(wait(5))

    simulate(run())


def test_a_task_that_someone_else_cancels_is_cancelled():
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
