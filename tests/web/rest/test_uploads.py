"""Uploads: many at once, slow, broken, mislabelled, and far longer than they look."""

import asyncio
import resource
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from support.clips import clip
from support.encode import encode
from support.server import serving
from support.tiny_speech import write_parakeet

PATH = "/v1/audio/transcriptions"
YES = clip("yes").path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Where the server's temporary files go."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def server(scratch, tmp_path_factory):
    """Its model of files is a small one, whose words do not matter here."""
    quick = str(write_parakeet(tmp_path_factory.mktemp("parakeet")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        with serving("--max-file-minutes", "5", "--file-model", quick) as running:
            yield running


@pytest.fixture(autouse=True)
def leaves_nothing(server, scratch):
    yield
    assert server.process.poll() is None
    assert [*scratch.glob("*/upload-*")] == []


def post(server, data, name="clip"):
    files = {"file": (name, data)}
    return httpx.post(f"{server.url}{PATH}", files=files, data={"model": "whisper-1"}, timeout=120)


def error(response):
    return response.status_code, response.json()["error"]["code"]


@pytest.mark.long
async def test_twenty_uploads_at_once_are_transcribed_or_refused(server):
    async with httpx.AsyncClient(base_url=server.url, timeout=170) as client:
        files = {"file": ("yes.flac", YES)}
        answers = await asyncio.gather(*(client.post(PATH, files=files) for _ in range(20)))
    states = Counter(answer.status_code for answer in answers)
    assert set(states) <= {200, 503}
    assert states[200] >= 16
    assert len({answer.json()["text"] for answer in answers if answer.status_code == 200}) == 1
    for refused in (answer for answer in answers if answer.status_code == 503):
        assert refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1


def test_a_slow_upload_does_not_delay_others(server):
    """One client sends a byte at a time, another stops in the middle and leaves."""
    address = server.url.removeprefix("http://").split(":")
    body = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body += YES + b"\r\n--x--\r\n"
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: {':'.join(address)}\r\nconnection: close\r\n"
        f"content-type: multipart/form-data; boundary=x\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    place = (address[0], int(address[1]))
    with socket.create_connection(place) as slow, socket.create_connection(place) as never:
        never.sendall(head + body[: len(body) // 2])
        slow.sendall(head)
        for at in range(200):
            slow.sendall(body[at : at + 1])
        assert post(server, YES).status_code == 200
        slow.sendall(body[200:])
        answer = b""
        while piece := slow.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "C:\\x\\y", "a\x00b", ".."])
def test_a_file_name_is_never_a_path(server, name):
    assert post(server, YES, name).status_code == 200


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (YES[:2000], "cut.flac"),
        (encode(clip("yes").samples, "mp4", "aac")[:3000], "cut.m4a"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", "cut.wav"),
        (b"%PDF-1.7 not a sound", "paper.wav"),
        (b"\x00" * 4096, "zeros.mp3"),
        (b"", "empty.wav"),
        (b"#EXTM3U\n/etc/passwd\n", "list.m3u8"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "list.wav"),
    ],
)
def test_data_that_is_no_audio_is_refused(server, data, name):
    status, code = error(post(server, data, name))
    assert status == 400
    assert code


def test_a_wrong_file_extension_is_ignored(server):
    assert post(server, encode(clip("yes").samples, "mp3", "libmp3lame"), "yes.flac").json()["text"]


def test_a_decompression_bomb_is_refused_within_bounded_memory(server):
    silence = np.zeros(16_000 * 60 * 10, np.float32)
    bomb = encode(silence, "flac", "flac", rate=16_000)
    assert len(bomb) < silence.nbytes / 300
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    assert error(post(server, bomb, "bomb.flac")) == (413, "audio_too_long")
    assert process.memory_info().rss - before < 50_000_000


def test_uploads_leave_no_memory_behind(server):
    """40 MB that are no audio: they go to a file, and the server stays as small as it was."""
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    assert error(post(server, bytes(40_000_000)))[0] == 400
    assert process.memory_info().rss - before < 20_000_000


def test_files_of_the_server_cannot_be_read(server):
    assert Path("/etc/passwd").exists()
    for field in ("file_url", "file_id"):
        wish = {"model": "whisper-1", field: "file:///etc/passwd"}
        refused = httpx.post(f"{server.url}{PATH}", files={"file": YES}, data=wish)
        assert error(refused) == (422, "unsupported_option")


BIG = 30_000_000


async def _head(server, path: str, length: int, *more: str):
    """A connection with the head of a POST sent, and nothing of its body."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {host}:{port}",
        f"content-length: {length}",
        "content-type: multipart/form-data; boundary=x",
        *more,
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    return reader, writer


async def test_size_and_full_queue_are_refused_before_the_body(server, scratch):
    """Nobody says 100 Continue to a body that is not wanted; what is refused was not written."""
    reader, writer = await _head(server, PATH, 60_000_000, "expect: 100-continue")
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()
    taken = [await _head(server, PATH, BIG, "expect: 100-continue") for _ in range(25)]
    said = [(await reader.readline())[9:12] for reader, _ in taken]
    assert said[:16] == [b"100"] * 16
    assert said[16:] == [b"503"] * 9
    for path in ("/v1/listen", "/v1/chat/completions"):
        reader, writer = await _head(server, path, 1000)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in answer
        writer.close()
    for _, writer in taken:
        writer.close()
    # The other side is another process: there is nothing to wait on but its answers.
    while post(server, YES).status_code == 503:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert post(server, YES).json()["text"]


async def test_an_unknown_model_is_refused_before_the_file(server):
    part = '--x\r\ncontent-disposition: form-data; name="{}"{}\r\n\r\n'
    reader, writer = await _head(server, PATH, BIG)
    begun = part.format("model", "") + "no/such-model\r\n" + part.format("file", '; filename="a"')
    writer.write(begun.encode() + bytes(1000))
    assert (await reader.readline()).startswith(b"HTTP/1.1 404")
    writer.close()


def test_a_full_disk_is_507(scratch):
    """The limit on a file's size is one that a write fails at, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))
        try:
            full = stack.enter_context(serving())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert error(post(full, bytes(5_000_000))) == (507, "insufficient_storage")
        raw = httpx.post(f"{full.url}/v1/listen", content=bytes(5_000_000), timeout=60)
        assert raw.status_code == 507
        assert post(full, YES).json()["text"]
        assert "Traceback" not in full.logged()
