import asyncio

from voxlive.web.ahead import EACH, MAX_OTHERS, Ahead
from voxlive.web.protocols.contract import Audio, Flush, Stop


async def test_actions_keep_their_order_and_audio_is_counted() -> None:
    ahead = Ahead(limit=2 * EACH + 10)
    actions = [Audio(b"12345"), Flush("a"), Audio(b"123456"), Stop()]
    for action in actions[:3]:
        await ahead.put(action)
    late = asyncio.create_task(ahead.put(actions[3]))
    await asyncio.sleep(0)
    assert not late.done()
    assert [await ahead.get() for _ in range(3)] == actions[:3]
    await late
    assert await ahead.get() == actions[3]


async def test_a_reader_waits_for_a_writer() -> None:
    ahead = Ahead()
    reading = asyncio.create_task(ahead.get())
    await asyncio.sleep(0)
    assert not reading.done()
    await ahead.put(Stop())
    assert await reading == Stop()


async def test_what_is_no_audio_has_a_bound_too():
    ahead = Ahead()
    for _ in range(MAX_OTHERS):
        await ahead.put(Stop())
    late = asyncio.create_task(ahead.put(Stop()))
    await asyncio.sleep(0)
    assert not late.done()
    await ahead.get()
    await late


async def test_it_is_idle_while_its_reader_waits_for_something_to_do() -> None:
    ahead = Ahead()
    assert not ahead.idle
    reading = asyncio.create_task(ahead.get())
    await asyncio.sleep(0)
    assert ahead.idle
    await ahead.put(Stop())
    assert not ahead.idle
    assert await reading == Stop()
    assert not ahead.idle


async def test_many_small_pieces_of_audio_are_joined_and_none_is_lost() -> None:
    ahead = Ahead()
    for n in range(10_000):
        await ahead.put(Audio(bytes([n % 251]), "ab"[n // 5000]))
    got = []
    while ahead.waiting:
        got.append(await ahead.get())
    assert len(got) < 10
    assert b"".join(audio.data for audio in got) == bytes(n % 251 for n in range(10_000))
    assert [audio.source for audio in got] == sorted(audio.source for audio in got)
