"""WhisperLive's own Python client against this server; only the sound device is not there."""

import sys
import threading
import types
from collections.abc import Iterator

import pytest
from support.clips import clip
from support.scoring import spelt
from support.server import Server
from support.wire import START, dial, live, receive, s16le, send


class _NoDevice:
    """pyaudio where sound goes nowhere and takes no time."""

    paInt16 = 8  # noqa: N815

    def open(self, **_options) -> "_NoDevice":
        return self

    def get_format_from_width(self, width: int) -> int:
        return width

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def client_module() -> Iterator[types.ModuleType]:
    """Its client, which wants pyaudio as soon as it is imported."""
    pyaudio = types.ModuleType("pyaudio")
    pyaudio.PyAudio, pyaudio.paInt16 = _NoDevice, _NoDevice.paInt16
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pyaudio", pyaudio)
        from whisper_live import client

        yield client


def address(server: Server) -> tuple[str, int]:
    host, port = server.others["WhisperLive"].removeprefix("ws://").split(":")
    return host, int(port)


async def text_of(server: Server, audio: bytes) -> str:
    [done] = (await live(server.ws, audio)).of("done")
    return done["text"]


@pytest.mark.long
async def test_a_file_becomes_a_transcript_and_subtitles(
    small, client_module, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    expected = await text_of(small, s16le(clip("market").samples))
    updates = []

    def note(text: str, segments: list[dict]) -> None:
        updates.append(segments)
        # The client waits until nothing new has come for so long; the test waits for the words.
        if "".join(s["text"] for s in segments if s["completed"]) == expected:
            client.client.disconnect_if_no_response_for = 0

    client = client_module.TranscriptionClient(
        *address(small),
        lang="en",
        output_transcription_path=str(tmp_path / "out.srt"),
        transcription_callback=note,
    )
    client.client.disconnect_if_no_response_for = 120
    assert client(str(clip("market").path)) == expected
    assert {"bread", "milk", "total", "less"} <= set(spelt(expected))
    subtitles = (tmp_path / "out.srt").read_text().split("\n\n")
    assert " ".join(cue.splitlines()[2].strip() for cue in subtitles if cue) == expected
    assert any(not segments[-1]["completed"] for segments in updates)
    await small.until(in_use=0)


async def test_chunks_become_partial_and_committed_segments(small, client_module):
    audio = s16le(clip("doctor").samples)
    expected = await text_of(small, audio)
    await small.until(in_use=0)
    committed, partial, started, closed = [], [], threading.Event(), threading.Event()
    stream = client_module.StreamingTranscriptionClient(
        *address(small),
        on_session_started=started.set,
        on_committed_transcript=lambda text, _: committed.append(text),
        on_partial_transcript=lambda text, _: partial.append(text),
        on_close=closed.set,
    )
    with stream:
        for at in range(0, len(audio), 8192):
            stream.send(audio[at : at + 8192])
        stream.close(timeout=120)
    assert started.is_set()
    assert closed.is_set()
    assert " ".join(committed) == expected
    assert {"doctor", "afternoon", "results"} <= set(spelt(expected))
    assert partial[-1] == expected
    assert stream._client.language is None


async def test_a_full_server_makes_the_client_wait(small, client_module):
    async with dial(f"{small.ws}/v1/live") as first:
        await send(first, START)
        await receive(first)
        stream = client_module.StreamingTranscriptionClient(*address(small))
        with pytest.raises(RuntimeError, match="full"):
            stream.connect()
    await small.until(in_use=0)
