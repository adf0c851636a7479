import asyncio

from voxlive.streaming.inbox import Inbox


async def test_commands_keep_their_order_and_a_full_inbox_makes_wait():
    inbox: Inbox[int] = Inbox(2)
    assert [inbox.offer(n) for n in range(3)] == [True, True, False]
    late = [asyncio.create_task(inbox.put(n)) for n in (2, 3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in late)
    assert [await inbox.take() for _ in range(4)] == [0, 1, 2, 3]
    await asyncio.gather(*late)


async def test_a_reader_waits_and_may_give_up():
    inbox: Inbox[int] = Inbox(2)
    reading = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    reading = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    await inbox.put(1)
    assert await reading == 1


async def test_a_reader_that_gives_up_just_then_loses_nothing():
    inbox: Inbox[int] = Inbox(2)
    reading = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    inbox.offer(1)
    reading.cancel()
    await asyncio.wait([reading])
    assert reading.cancelled()
    assert await inbox.take() == 1


async def test_who_waits_for_room_has_it_when_all_is_forgotten():
    inbox: Inbox[int] = Inbox(1)
    inbox.offer(1)
    late = asyncio.create_task(inbox.put(2))
    await asyncio.sleep(0)
    inbox.clear()
    await late
    assert await inbox.take() == 2
