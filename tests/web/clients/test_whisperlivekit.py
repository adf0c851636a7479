"""WhisperLiveKit's own test client against ``/asr``, in both modes."""

import importlib.util
import sys
from importlib.metadata import distribution

import pytest
from support.clips import clip
from support.wire import live, s16le


@pytest.fixture(scope="module")
def client():
    """Its file alone: the package around it loads a server with torch in it."""
    path = distribution("whisperlivekit").locate_file("whisperlivekit/test_client.py")
    spec = importlib.util.spec_from_file_location("whisperlivekit_test_client", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("mode", ["full", "diff"])
async def test_it_hears_every_word_once(server, client, monkeypatch, mode):
    """Three sentences with a pause of ten seconds, in chunks of half a second."""
    audio = s16le(clip("pauses").samples)
    # It would have ffmpeg read the file.
    monkeypatch.setattr(client, "load_audio_pcm", lambda path: audio)
    updates = []
    result = await client.transcribe_audio(
        "pauses", f"{server.ws}/asr?language=en", speed=0, mode=mode, on_response=updates.append
    )
    [done] = (await live(server.ws, audio)).of("done")
    assert result.text.split() == done["text"].split()
    assert result.committed_text == result.text
    assert {"this", "sentence", "wait", "still", "waiting"} <= set(result.text.split())
    assert result.n_updates > 1
    silences = [line for line in result.lines if line["speaker"] == -2]
    assert len(silences) == 1
    assert all("error" not in update for update in updates)
    assert result.responses[-1]["status"] == "active_transcription"
