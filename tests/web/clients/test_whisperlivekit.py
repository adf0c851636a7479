"""WhisperLiveKit's own test client and its page against ``/asr``."""

import asyncio
import importlib.util
import sys
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from itertools import groupby
from urllib.parse import urlsplit

import pytest
from support.browser import browsing
from support.clips import clip, two_people, write_wav
from support.scoring import spelt
from support.server import serving
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


class ItsFiles(SimpleHTTPRequestHandler):
    """Its page's files at ``/web/``, where its own server has them."""

    def translate_path(self, path: str) -> str:
        name = path.rpartition("/web/")[2] or "live_transcription.html"
        return str(distribution("whisperlivekit").locate_file(f"whisperlivekit/web/{name}"))

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def its_page():
    with ThreadingHTTPServer(("127.0.0.1", 0), ItsFiles) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{files.server_port}"
        files.shutdown()


@pytest.mark.endurance
async def test_its_client_shows_who_speaks(server, client, monkeypatch):
    """Two people, as far as it can tell from speakers' numbers: the first, the other, the first."""
    monkeypatch.setattr(client, "load_audio_pcm", lambda path: s16le(two_people()))
    url = f"{server.ws}/asr?language=en&diarize=true"
    full, diff = await asyncio.gather(
        *(
            client.transcribe_audio("two", url, speed=0, timeout=150, mode=mode)
            for mode in ("full", "diff")
        )
    )
    for result in (full, diff):
        assert [one for one, _ in groupby(line["speaker"] for line in result.lines)] == [1, 2, 1]
    assert full.lines == diff.lines


@pytest.mark.long
async def test_its_page_shows_who_speaks(tmp_path):
    wav = write_wav(tmp_path / "two.wav", s16le(two_people()))
    with its_page() as address, serving("--allow-origin", address, "--diarize") as telling:
        async with browsing(f"{address}/web/", ready="#recordButton", microphone=wav) as watched:
            watched.expected.append("404")  # it has no icon
            watched.others.add(urlsplit(telling.url).netloc)
            page = watched.page
            await page.click("#settingsToggle")
            await page.fill("#websocketInput", f"{telling.ws}/asr?language=en")
            await page.press("#websocketInput", "Tab")
            await page.click("#recordButton")
            badges = "[...document.querySelectorAll('.speaker-badge')].map((one) => one.innerText)"
            await page.wait_for_function(
                f"{badges}.filter((badge, at, all) => badge !== all[at - 1]).join() === '1,2,1'"
            )
