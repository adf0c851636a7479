"""WhisperLiveKit's own test client against ``/asr``, in both modes."""

import asyncio
import importlib.util
import sys
from importlib.metadata import distribution

import pytest
from support.clips import clip
from support.scoring import spelt
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


async def test_it_gets_every_word_once_in_both_modes(server, client, monkeypatch):
    audio = s16le(clip("train").samples)
    # It would have ffmpeg read the file.
    monkeypatch.setattr(client, "load_audio_pcm", lambda path: audio)
    url = f"{server.ws}/asr?language=en"
    native, full, diff = await asyncio.gather(
        live(server.ws, audio),
        *(
            client.transcribe_audio("train", url, speed=0, timeout=150, mode=mode)
            for mode in ("full", "diff")
        ),
    )
    [done] = native.of("done")
    assert {"train", "airport", "ticket", "bags"} <= set(spelt(done["text"]))
    for result in (full, diff):
        assert result.text.split() == done["text"].split()
        assert result.committed_text == result.text
        assert result.n_updates > 1
        assert result.responses[-1]["status"] == "active_transcription"
        assert not any("error" in update for update in result.responses)
    assert full.lines == diff.lines
