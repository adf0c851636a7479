"""Messages that cross from a thread to the loop."""

import asyncio

from voxlive.streaming.answers import Answers
from voxlive.streaming.engine import Progressed


class Loop:
    """Counts the calls that are made into it, and makes them when told."""

    def __init__(self) -> None:
        self.calls = []

    def call_soon_threadsafe(self, call) -> None:
        self.calls.append(call)


def test_what_comes_together_is_one_call() -> None:
    loop, heard = Loop(), []
    answers = Answers(loop, heard.append)
    for upto in range(3):
        answers.put(Progressed(upto))
    assert len(loop.calls) == 1
    loop.calls.pop()()
    assert heard == [Progressed(upto) for upto in range(3)]
    answers.put(Progressed(3))
    loop.calls.pop()()
    assert heard[-1] == Progressed(3)


async def test_nothing_is_lost_or_turned_round_between_two_threads() -> None:
    heard: list[int] = []
    all_heard = asyncio.Event()

    def hear(message: Progressed) -> None:
        heard.append(message.upto)
        if message.upto == 20_000:
            all_heard.set()

    answers = Answers(asyncio.get_running_loop(), hear)
    await asyncio.to_thread(lambda: [answers.put(Progressed(n)) for n in range(20_001)])
    await all_heard.wait()
    assert heard == list(range(20_001))


def test_a_closed_loop_is_no_error() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    Answers(loop, print).put(Progressed(1))
