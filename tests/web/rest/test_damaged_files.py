"""Damaged, late and odd files at every endpoint: the same words and warnings.

Whisper may write the same sound in other words live than from a file. So a file that is sent live
has, word for word, the text of its samples sent live, and nearly that of the file endpoints.
"""

import io
import json

import httpx
import numpy as np
import pytest
from support.commands import command_line
from support.odd_media import CORPUS, Odd
from support.scoring import word_errors
from support.wire import live

from voxlive.streaming.ingest.media import decode_file

PATH = "/v1/audio/transcriptions"
# `make test` has one that is longer than it says, and those of others where they are decoded.
NAMES = ["wav-without-10-bytes"]
MORE = ["mkv-late", "mp3-twice", "m4a-30-bytes-changed", "wav-opposite"]


def post(server, odd: Odd, **fields) -> httpx.Response:
    files = {"file": ("odd", odd.data)}
    return httpx.post(f"{server.url}{PATH}", files=files, data=fields, timeout=120)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [*NAMES, *(pytest.param(name, marks=pytest.mark.endurance) for name in MORE)]
)
async def test_every_endpoint_has_the_same_text_and_warnings(server, name):
    odd = CORPUS[name]
    answer = post(server, odd, response_format="verbose_json")
    assert answer.status_code == 200
    body = answer.json()
    assert abs(body["duration"] - odd.duration) <= odd.slack
    assert "bottle of milk at the market" in body["text"]
    warnings = body.get("warnings", [])
    assert {warning["code"] for warning in warnings} == odd.warnings
    margin = 0.3  # of what is cut before speech
    assert body["segments"][0]["start"] >= odd.expected[0].at - margin
    plain = post(server, odd, response_format="text")
    assert json.loads(plain.headers.get("x-voxlive-warnings", "[]")) == warnings
    assert plain.text.strip() == body["text"]
    streamed = post(server, odd, stream="true")
    events = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert json.loads(events[-1]).get("warnings", []) == warnings

    heard = await live(server.ws, odd.data, chunk=5_000, format="container", commit="pause")
    assert heard.messages[-1]["type"] == "done"
    assert not heard.errors
    assert {warning["code"] for warning in heard.of("warning")} == odd.warnings
    [done] = heard.of("done")
    assert abs(done["duration"] - body["duration"]) < 0.001
    assert word_errors(body["text"], done["text"]) <= 0.15 * len(body["text"].split())
    samples = np.concatenate([*decode_file(io.BytesIO(odd.data))])
    [same] = (
        await live(server.ws, samples.astype("<f4").tobytes(), format="f32le", commit="pause")
    ).of("done")
    assert done["text"] == same["text"]


def test_undecodable_files_are_refused(server):
    for name in ("noise", "zeros", "mp4-noise", "playlist"):
        refused = post(server, CORPUS[name])
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_audio")


@pytest.mark.endurance
def test_a_folder_is_transcribed_whatever_its_files_are_called(tmp_path):
    files = {"new\nline.aiff": "aiff", "cut.wav": "wav-without-10-bytes", "none.mp3": "noise"}
    for file, name in files.items():
        (tmp_path / file).write_bytes(CORPUS[name].data)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n")
    with command_line() as voxlive:
        ran = voxlive("transcribe", tmp_path)
        assert ran.returncode == 1
        assert ran.stdout.count("bottle of milk") == 2
        assert "cut.wav: warning: the WAV was cut off" in ran.stderr
        assert "none.mp3: the audio is none of" in ran.stderr
        (tmp_path / "none.mp3").unlink()
        assert voxlive("transcribe", tmp_path).returncode == 0
