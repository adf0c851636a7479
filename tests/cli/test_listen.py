from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest
from support.browser import line_to
from support.clips import clip
from support.restarting import KILL_SERVER, restarted
from support.server import AT_PAUSES
from support.wire import live, s16le

from voxlive.cli.listen import (
    MOST_BLOCKS,
    MicrophoneQueue,
    TerminalCaptions,
    event_of,
    live_url,
)
from voxlive.streaming.events import (
    Draft,
    Lag,
    SegmentClosed,
    SessionError,
    SessionWarning,
    Words,
)
from voxlive.values import SAMPLE_RATE, Word


def test_a_line_grows_and_is_printed_when_its_segment_closes():
    captions = TerminalCaptions()
    start = 3725 * SAMPLE_RATE
    assert captions.on_event(Words(0, (Word(" Good", start, start + 800),))) == []
    assert captions.on_event(Draft(0, " morn")) == []
    assert (captions.committed, captions.draft) == (" Good", " morn")
    captions.on_event(Words(0, (Word(" morning.", start + 800, start + 1600),)))
    captions.on_event(Draft(0, ""))
    assert captions.on_event(SegmentClosed(0, start, start + 1600, " Good morning.")) == [
        "1:02:05  Good morning."
    ]
    assert (captions.committed, captions.draft) == ("", "")


def test_large_lag_is_shown():
    captions = TerminalCaptions()
    captions.on_event(Lag(0.4))
    assert captions.note == ""
    captions.on_event(Lag(3.2))
    assert captions.note == "(3 s behind)"


def test_an_error_is_a_line():
    assert TerminalCaptions().on_event(SessionError("code", "what to do")) == [
        "voxlive: what to do"
    ]


async def read(blocks: MicrophoneQueue) -> list[bytes]:
    return [block async for block in blocks.read()]


async def test_blocks_come_out_in_order_up_to_the_end():
    blocks = MicrophoneQueue(lambda: None)
    blocks.put(b"1")
    reading = asyncio.create_task(read(blocks))
    await asyncio.sleep(0)
    blocks.put(b"2")
    blocks.end()
    blocks.put(b"late")
    assert await reading == [b"1", b"2"]


async def test_a_full_queue_reports_once_and_ends():
    text = []
    blocks = MicrophoneQueue(lambda: text.append("overrun"))
    for _ in range(MOST_BLOCKS + 50):
        blocks.put(b"x")
    assert text == ["overrun"]
    assert len(await read(blocks)) == MOST_BLOCKS
    blocks.put(b"x")
    assert text == ["overrun"]


# PortAudio's module with one microphone: it plays a file at twice its pace, then silence.
MICROPHONE = """
import os, threading, time

class PortAudioError(Exception):
    pass

def query_devices(name, kind):
    return {"name": "a file", "index": 0, "default_samplerate": 16000.0}

class RawInputStream:
    def __init__(self, rate, frames, index, channels, kind, callback):
        self._frames, self._callback = frames, callback
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._play)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _play(self):
        with open(os.environ["SPEECH"], "rb") as file:
            while not self._over.wait(self._frames / 32000):
                block = file.read(2 * self._frames).ljust(2 * self._frames, bytes(1))
                self._callback(block, self._frames, None, None)
"""


class ListenCommand:
    """``voxlive listen --server URL`` with a microphone that plays a clip."""

    started: ClassVar[list[asyncio.subprocess.Process]] = []

    def __init__(self, folder: Path, name: str) -> None:
        (folder / "sounddevice.py").write_text(MICROPHONE)
        (folder / "speech").write_bytes(s16le(clip(name).samples))
        paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        self._env = {**os.environ, "PYTHONPATH": paths, "SPEECH": str(folder / "speech")}

    async def start(self, *args: str) -> None:
        command = [sys.executable, "-m", "voxlive.cli.main", "listen", *args]
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *command, env=self._env, stdout=pipe, stderr=pipe
        )
        self.started.append(self._process)

    async def lines(self, count: int) -> list[str]:
        """The next lines of captions."""
        out = self._process.stdout
        return [(await out.readline()).decode().rstrip() for _ in range(count)]

    async def complaint(self) -> str:
        """The next line of stderr."""
        return (await self._process.stderr.readline()).decode().rstrip()

    async def end(self) -> tuple[list[str], str, int]:
        """Ctrl-C; the rest of the captions and of stderr, and the exit code."""
        self._process.send_signal(signal.SIGINT)
        return await self.ended()

    async def ended(self) -> tuple[list[str], str, int]:
        try:
            out, err = await self._process.communicate()
        finally:
            if self._process.returncode is None:
                self._process.kill()
        lines = [line.rstrip() for line in out.decode().splitlines() if line.strip()]
        return lines, err.decode(), self._process.returncode


@pytest.fixture(autouse=True)
async def _nothing_left() -> AsyncIterator[None]:
    """What a test that fails has started ends with it."""
    yield
    for process in ListenCommand.started:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    ListenCommand.started.clear()


@pytest.mark.long
async def test_a_broken_line_is_one_quiet_line_and_no_word(server, tmp_path):
    listening = ListenCommand(tmp_path, "doctor")
    [said] = (await live(server.ws, s16le(clip("doctor").samples))).of("segment")
    whole = [f"0:00:00  {said['text']}"]
    assert whole[0].startswith("0:00:00  The doctor")

    async with line_to(server.url) as line:
        await listening.start("--server", line.url)
        await server.until(in_use=1)
        for pause in (0.5, 0.5):
            await asyncio.sleep(pause)
            line.cut()
            await asyncio.sleep(0.3)
            line.mend()
            assert await listening.complaint() == (
                "voxlive: the connection was lost and is back: nothing is missing"
            )
        cut = await listening.lines(1)
        rest, complaints, code = await listening.end()
    assert cut == whole
    assert (rest, complaints, code) == ([], "", 0)
    await server.until(in_use=0)


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_a_server_that_has_lost_the_session_is_one_line_and_no_word(tmp_path):
    """It keeps nothing, and is killed after the first sentence."""
    listening = ListenCommand(tmp_path, "market")
    with restarted(*AT_PAUSES) as running:
        await listening.start("--server", running.server.url)
        before = await listening.lines(1)
        await running.suffer(KILL_SERVER)
        assert (await listening.complaint()).startswith(
            "voxlive: the server has lost the session (unknown_session); a new one goes on, "
        )
        after = await listening.lines(1)
        rest, complaints, code = await listening.end()
    assert (rest, complaints, code) == ([], "", 0)
    texts = [line.split("  ", 1)[1] for line in (*before, *after)]
    assert texts[0].endswith("milk at the market.")
    assert texts[1].startswith("The total was less")
    assert texts[1].endswith("$20.")


async def test_a_server_that_refuses_is_one_line(server, tmp_path):
    listening = ListenCommand(tmp_path, "yes")
    await listening.start("--server", server.url, "--language", "fr")
    lines, complaint, code = await listening.ended()
    assert (lines, code) == ([], 1)
    assert complaint.startswith("voxlive: ")
    assert complaint.count("\n") == 1


async def test_options_of_a_model_here_are_none_of_a_server(tmp_path):
    listening = ListenCommand(tmp_path, "yes")
    await listening.start("--server", "localhost:8000", "--device", "cpu")
    _, complaint, code = await listening.ended()
    assert code == 2
    assert "--device is for a model on this machine" in complaint


@pytest.mark.endurance
async def test_a_session_s_options_go_to_the_server(server, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("DOCTOR\n")
    listening = ListenCommand(tmp_path, "doctor")
    options = ("--commit", "pause", "--vocabulary", str(names))
    await listening.start("--server", server.url, *options)
    [line] = await listening.lines(1)
    assert "DOCTOR" in line
    assert (await listening.end())[1:] == ("", 0)


@pytest.mark.long
async def test_a_session_s_options_go_to_a_model_here(tmp_path):
    listening = ListenCommand(tmp_path, "doctor")
    await listening.start("--commit", "pause", "--vocabulary", "Lyme, DOCTOR")
    [line] = await listening.lines(1)
    assert "DOCTOR" in line
    assert (await listening.end())[1:] == ("", 0)


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (("--translate",), 1, "knows only English"),
        (("--vocabulary", "no-such.txt"), 2, "no-such.txt cannot be read"),
    ],
)
async def test_an_option_that_cannot_be_met_is_one_line(tmp_path, options, code, complaint):
    listening = ListenCommand(tmp_path, "yes")
    await listening.start(*options)
    lines, error, found = await listening.ended()
    assert (lines, found) == ([], code)
    assert complaint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("127.0.0.1:8000", "ws://127.0.0.1:8000/v1/live"),
        ("http://host", "ws://host/v1/live"),
        ("https://host/voxlive/", "wss://host/voxlive/v1/live"),
        ("ws://host:1/v1/live", "ws://host:1/v1/live"),
        ("https://host/?captions=stage", "wss://host/v1/live?captions=stage"),
    ],
)
def test_a_server_s_address_is_that_of_its_live_sessions(server, url):
    assert live_url(server) == url


@pytest.mark.parametrize("server", ["ftp://host", "http://", "http:///v1/live"])
def test_what_is_no_address_is_refused(server):
    with pytest.raises(ValueError, match="is not the address of a server"):
        live_url(server)


def test_messages_of_a_server_are_events():
    word = {"text": " Good", "start": 0.5, "end": 1.0, "p": None}
    assert event_of({"type": "words", "seq": 1, "segment": 2, "words": [word]}) == Words(
        2, (Word(" Good", 8000, 16_000),)
    )
    assert event_of({"type": "draft", "segment": 2, "text": " m"}) == Draft(2, " m")
    closed = {"type": "segment", "id": 2, "start": 0.5, "end": 1, "text": " Good"}
    assert event_of(closed) == SegmentClosed(2, 8000, 16_000, " Good")
    assert event_of({"type": "lag", "behind_s": 0.3}) == Lag(0.3)
    said = {"code": "a", "message": "b"}
    assert event_of({"type": "error", **said}) == SessionError("a", "b", fatal=False)
    assert event_of({"type": "warning", **said}) == SessionWarning("a", "b")
    assert event_of({"type": "ready", "session": "x"}) is None


def test_a_lost_connection_is_shown_beside_the_line():
    captions = TerminalCaptions()
    captions.on_event(Lag(9))
    captions.connected = False
    assert captions.note == "(no connection: what is said is kept)"
