"""Damaged, late and odd files at every endpoint: the same words and warnings.

Live and from a file a Whisper may write the same sound differently, so that the model is one that
does not: the tiny Voxtral, which knows the clip's voice.
"""

import json
from collections.abc import Iterator

import httpx
import pytest
import websockets
from support.held_out import TINY_VOXTRAL
from support.odd_media import CORPUS, Odd
from support.server import Server, serving
from typer.testing import CliRunner

from voxlive.cli.main import app

PATH = "/v1/audio/transcriptions"
NAMES = ["mp3-twice", "m4a-30-bytes-changed", "wav-without-10-bytes", "mkv-late", "wav-opposite"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--model", str(TINY_VOXTRAL), "--device", "cpu") as running:
        yield running


def post(server, odd: Odd, **fields) -> httpx.Response:
    files = {"file": ("odd", odd.data)}
    return httpx.post(f"{server.url}{PATH}", files=files, data=fields, timeout=120)


async def live(server, data: bytes) -> list[dict]:
    async with websockets.connect(f"{server.url.replace('http', 'ws')}/v1/live") as socket:
        await socket.send('{"type": "start", "format": "container"}')
        for at in range(0, len(data), 5_000):
            await socket.send(data[at : at + 5_000])
        await socket.send('{"type": "stop"}')
        return [json.loads(message) async for message in socket]


@pytest.mark.parametrize("name", NAMES)
async def test_every_endpoint_has_the_same_text_and_warnings(server, name):
    odd = CORPUS[name]
    answer = post(server, odd, response_format="verbose_json")
    assert answer.status_code == 200
    body = answer.json()
    assert abs(body["duration"] - odd.duration) <= odd.slack
    assert "bottle of milk at the market" in body["text"]
    warnings = body.get("warnings", [])
    assert {warning["code"] for warning in warnings} == odd.warnings
    assert body["segments"][0]["start"] >= odd.expected[0].at
    plain = post(server, odd, response_format="text")
    assert json.loads(plain.headers.get("x-voxlive-warnings", "[]")) == warnings
    assert plain.text.strip() == body["text"]
    streamed = post(server, odd, stream="true")
    events = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert json.loads(events[-1]).get("warnings", []) == warnings

    messages = await live(server, odd.data)
    kinds = [message["type"] for message in messages]
    assert kinds[-1] == "done"
    assert "error" not in kinds
    warned = [message for message in messages if message["type"] == "warning"]
    assert {warning["code"] for warning in warned} == odd.warnings
    assert messages[-1]["text"].strip() == body["text"]
    assert abs(messages[-1]["duration"] - body["duration"]) < 0.001


def test_undecodable_files_are_refused(server):
    for name in ("noise", "zeros", "mp4-noise", "playlist"):
        refused = post(server, CORPUS[name])
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_audio")


def test_a_folder_is_transcribed_whatever_its_files_are_called(tmp_path):
    files = {"new\nline.aiff": "aiff", "cut.wav": "wav-without-10-bytes", "none.mp3": "noise"}
    for file, name in files.items():
        (tmp_path / file).write_bytes(CORPUS[name].data)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n")
    ran = CliRunner().invoke(app, ["transcribe", str(tmp_path)])
    assert ran.exit_code == 1
    assert ran.stdout.count("bottle of milk") == 2
    assert "cut.wav: warning: the WAV was cut off" in ran.stderr
    assert "none.mp3: the audio is none of" in ran.stderr
    (tmp_path / "none.mp3").unlink()
    ran = CliRunner().invoke(app, ["transcribe", str(tmp_path)])
    assert ran.exit_code == 0
