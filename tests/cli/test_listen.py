import asyncio

from voxlive.cli.listen import MOST_BLOCKS, Blocks


async def read(blocks: Blocks) -> list[bytes]:
    return [block async for block in blocks.read()]


async def test_blocks_come_out_in_order_up_to_the_end():
    blocks = Blocks(lambda: None)
    blocks.put(b"1")
    reading = asyncio.create_task(read(blocks))
    await asyncio.sleep(0)
    blocks.put(b"2")
    blocks.end()
    blocks.put(b"late")
    assert await reading == [b"1", b"2"]


async def test_at_the_bound_it_is_said_once_and_ends():
    said = []
    blocks = Blocks(lambda: said.append("overrun"))
    for _ in range(MOST_BLOCKS + 50):
        blocks.put(b"x")
    assert said == ["overrun"]
    assert len(await read(blocks)) == MOST_BLOCKS
    blocks.put(b"x")
    assert said == ["overrun"]
