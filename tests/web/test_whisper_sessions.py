"""A real server with a real, small Whisper as its live engine."""

import re
from itertools import pairwise

import pytest
from support.clips import clip
from support.server import serving
from support.weights import TINY_EN
from support.wire import START, dial, receive, send

CHUNK = 3200


@pytest.fixture(scope="module")
def whisper(real_weights):
    with serving("--model", TINY_EN, "--max-sessions", "2") as running:
        yield running


def spelt(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


async def test_spoken_words_come_once_before_the_pause_and_are_right(whisper):
    spoken = clip("doctor")
    async with dial(f"{whisper.ws}/v1/live") as socket:
        await send(socket, START)
        ready = await receive(socket)
        assert (ready["engine"], ready["languages"]) == ("whisper", ["en"])
        pcm = spoken.pcm.tobytes()
        for at in range(0, len(pcm), CHUNK):
            await send(socket, pcm[at : at + CHUNK])
        await send(socket, {"type": "stop"})
        messages = []
        while not messages or messages[-1]["type"] != "done":
            messages.append(await receive(socket))
    words = [word for m in messages if m["type"] == "words" for word in m["words"]]
    assert "".join(word["text"] for word in words) == messages[-1]["text"]
    wanted = spelt(spoken.text)
    assert len(set(wanted) & set(spelt(messages[-1]["text"]))) > 0.8 * len(set(wanted))
    assert all(one["end"] <= two["start"] for one, two in pairwise(words))
    assert words[-1]["end"] <= spoken.duration
    kinds = [message["type"] for message in messages]
    assert kinds.index("words") < kinds.index("segment")


async def test_another_language_is_refused_with_what_the_model_knows(whisper):
    async with dial(f"{whisper.ws}/v1/live") as socket:
        await send(socket, {**START, "language": "de"})
        error = await receive(socket)
    assert (error["type"], error["code"]) == ("error", "unsupported_option")
    assert "German" in error["message"]
    assert "English only" in error["message"]
    await whisper.until(in_use=0)
