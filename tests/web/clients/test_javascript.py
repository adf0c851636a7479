"""The JavaScript clients of OpenAI, Deepgram and Mistral over https, with a key."""

import pytest
import soxr
from support.clips import clip
from support.javascript import node, ready
from support.scoring import spelt
from support.server import serving
from support.wire import s16le

KEY = "a-key-of-the-tests"
SPOKEN = {"doctor", "call", "afternoon", "results"}


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    ready()
    cache = tmp_path_factory.mktemp("cache")
    with serving("--https", "--api-key", KEY, "--max-sessions", "2", cache=cache) as server:
        yield server


@pytest.fixture
def run_client(secure, tmp_path):
    """What a client program gets for the clip ``doctor``, as PCM at a rate and as a file."""

    async def run(program: str, rate: int) -> dict:
        samples = soxr.resample(clip("doctor").samples, 16_000, rate).clip(-1, 1 - 2**-15)
        pcm = tmp_path / "speech.pcm"
        pcm.write_bytes(s16le(samples))
        path = clip("doctor").path
        return await node(program, secure.url, KEY, pcm, path, trusts=secure.certificate)

    return run


def words(text: str) -> set[str]:
    return set(spelt(text))


@pytest.mark.long
async def test_openai(run_client):
    result = await run_client("openai.mjs", 24_000)
    assert result["protocol"] == "wss:"
    assert words(result["rest"]["text"]) >= SPOKEN
    assert words(" ".join(word["word"] for word in result["rest"]["words"])) >= SPOKEN
    assert words(result["ws"]["text"]) >= SPOKEN
    assert "input_audio_buffer.speech_started" in result["ws"]["events"]
    # A short-lived key, in the sub-protocol: that is how browsers connect.
    assert words(result["browser"]["text"]) >= SPOKEN
    assert "input_audio_buffer.committed" in result["browser"]["events"]
    assert result["models"]
    assert result["wrong"]["status"] == 401


async def test_deepgram(run_client):
    result = await run_client("deepgram.mjs", 16_000)
    results = [message for message in result["messages"] if message["type"] == "Results"]
    finals = [result for result in results if result["is_final"]]
    best = [result["channel"]["alternatives"][0] for result in finals]
    assert words(" ".join(one["transcript"] for one in best)) >= SPOKEN
    assert sum(result["from_finalize"] for result in results) == 1
    assert words(" ".join(word["word"] for one in best for word in one["words"])) >= SPOKEN
    kinds = [message["type"] for message in result["messages"]]
    assert "SpeechStarted" in kinds
    assert kinds[-1] == "Metadata"
    assert result["code"] == 1000
    [channel] = result["file"]["results"]["channels"]
    assert words(channel["alternatives"][0]["transcript"]) >= SPOKEN
    assert result["file"]["results"]["utterances"]
    assert result["wrong"] == 401


@pytest.mark.long
async def test_mistral(run_client):
    result = await run_client("mistral.mjs", 16_000)
    deltas = [e["text"] for e in result["stream"] if e["type"] == "transcription.text.delta"]
    done = result["stream"][-1]
    assert done["type"] == "transcription.done"
    assert words(done["text"]) >= SPOKEN
    assert "".join(deltas).strip() == done["text"]
    assert [words(text) >= SPOKEN for text in result["dones"]] == [True, True]
    assert result["requestId"]
    assert words(result["file"]["text"]) >= SPOKEN
    assert "Failed to connect" in result["wrong"]
