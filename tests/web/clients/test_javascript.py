"""The JavaScript clients of OpenAI, Deepgram and Mistral over https, with a key."""

import pytest
import soxr
from support.clips import clip
from support.javascript import node, ready
from support.server import serving
from support.wire import s16le

KEY = "a-key-of-the-tests"
SPOKEN = {"doctor", "tomorrow", "afternoon", "results"}


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    ready()
    cache = tmp_path_factory.mktemp("cache")
    with serving("--https", "--api-key", KEY, "--max-sessions", "2", cache=cache) as server:
        yield server


@pytest.fixture
def heard_by(secure, tmp_path):
    """What a program hears of the clip ``doctor``, as PCM at a rate and as a file."""

    async def hear(program: str, rate: int) -> dict:
        samples = soxr.resample(clip("doctor").samples, 16_000, rate).clip(-1, 1 - 2**-15)
        pcm = tmp_path / "speech.pcm"
        pcm.write_bytes(s16le(samples))
        path = clip("doctor").path
        return await node(program, secure.url, KEY, pcm, path, trusts=secure.certificate)

    return hear


def words(text: str) -> set[str]:
    return set(text.split())


async def test_openai(heard_by):
    heard = await heard_by("openai.mjs", 24_000)
    assert heard["protocol"] == "wss:"
    assert words(heard["rest"]["text"]) >= SPOKEN
    assert {word["word"] for word in heard["rest"]["words"]} >= SPOKEN
    assert words(heard["ws"]["text"]) >= SPOKEN
    assert "input_audio_buffer.speech_started" in heard["ws"]["events"]
    # A short-lived key, in the sub-protocol: that is how browsers connect.
    assert words(heard["browser"]["text"]) >= SPOKEN
    assert "input_audio_buffer.committed" in heard["browser"]["events"]
    assert heard["models"]
    assert heard["wrong"]["status"] == 401


async def test_deepgram(heard_by):
    heard = await heard_by("deepgram.mjs", 16_000)
    results = [message for message in heard["messages"] if message["type"] == "Results"]
    finals = [result for result in results if result["is_final"]]
    best = [result["channel"]["alternatives"][0] for result in finals]
    assert words(" ".join(one["transcript"] for one in best)) >= SPOKEN
    assert sum(result["from_finalize"] for result in results) == 1
    assert {word["word"] for one in best for word in one["words"]} >= SPOKEN
    kinds = [message["type"] for message in heard["messages"]]
    assert "SpeechStarted" in kinds
    assert kinds[-1] == "Metadata"
    assert heard["code"] == 1000
    [channel] = heard["file"]["results"]["channels"]
    assert words(channel["alternatives"][0]["transcript"]) >= SPOKEN
    assert heard["file"]["results"]["utterances"]
    assert heard["wrong"] == 401


async def test_mistral(heard_by):
    heard = await heard_by("mistral.mjs", 16_000)
    deltas = [e["text"] for e in heard["stream"] if e["type"] == "transcription.text.delta"]
    done = heard["stream"][-1]
    assert done["type"] == "transcription.done"
    assert words(done["text"]) >= SPOKEN
    assert "".join(deltas).strip() == done["text"]
    assert [words(text) >= SPOKEN for text in heard["dones"]] == [True, True]
    assert heard["requestId"]
    assert words(heard["file"]["text"]) >= SPOKEN
    assert "Failed to connect" in heard["wrong"]
