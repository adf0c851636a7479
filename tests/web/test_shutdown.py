"""How a server ends: gracefully at a signal, at once at a second one, and what SIGKILL leaves."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
from pathlib import Path

import psutil
import pytest
from support.clips import clip
from support.server import AT_PAUSES, Server, serving, workers_of
from support.wire import START, dial, listen, receive, receive_until, s16le, send, text_of_lines

SPEECH = s16le(clip("doctor").samples)[: 32_000 * 4]


# Each signal is tried in `make test`; every one in every state in `make endurance`.
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.endurance)]
)
async def test_a_signal_notifies_drains_and_closes_every_client(number):
    with serving(*AT_PAUSES) as server:
        async with (
            dial(f"{server.ws}/v1/live") as native,
            dial(f"{server.ws}/asr") as theirs,
            dial(f"{server.ws}/v1/live") as waiting,
        ):
            await send(native, START, SPEECH)
            await send(theirs, SPEECH)
            await receive_until(native, "speech_started")
            await receive_until(theirs, "config")
            await receive(theirs)
            server.process.send_signal(number)
            heard, asr, idle = await asyncio.gather(listen(native), listen(theirs), listen(waiting))
        assert heard.errors == ["shutting_down"]
        assert heard.of("error")[0]["fatal"] is False
        [done] = heard.of("done")
        assert "doctor" in done["text"]
        assert heard.code == 1012
        assert asr.errors == ["shutting_down"]
        assert text_of_lines(asr.of(None)[-1]["lines"]).split() == done["text"].split()
        assert asr.messages[-1] == {"type": "ready_to_stop"}
        assert idle.code == 1012
        assert server.process.wait(60) == 0


@contextlib.contextmanager
def frozen(server: Server):
    """Its recogniser stands still meanwhile: no session can be drained."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    workers = workers_of(server.process.pid)
    processes = [process for process in children if process not in workers]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        psutil.wait_procs(processes, timeout=60)


def uploading(server: Server) -> socket.socket:
    """A file on its way, of which the first part has been sent."""
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    head = f"POST /v1/listen HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: 1000000\r\n\r\n"
    client.sendall(head.encode() + b"a" * 100_000)
    return client


def _uploads(folder: Path) -> list[Path]:
    return [*folder.glob("*/upload-*")]


async def arrived(folder: Path, count: int = 1) -> list[Path]:
    """The files of so many uploads, once something is in each."""
    while True:
        files = [file for file in _uploads(folder) if file.stat().st_size]
        if len(files) >= count:
            return files
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGINT, signal.SIGINT),
        pytest.param(signal.SIGTERM, signal.SIGHUP, marks=pytest.mark.endurance),
        pytest.param(signal.SIGHUP, signal.SIGTERM, marks=pytest.mark.endurance),
    ],
)
async def test_a_second_signal_exits_at_once_and_leaves_no_file(first, second, tmp_path):
    with serving("--max-sessions", "1", env={"TMPDIR": str(tmp_path)}) as server:
        upload = uploading(server)
        await arrived(tmp_path)
        async with dial(f"{server.ws}/v1/live") as socket_:
            await send(socket_, START, SPEECH)
            await receive_until(socket_, "speech_started")
            with frozen(server):
                server.process.send_signal(first)
                told = await receive_until(socket_, "error")
                assert told[-1]["code"] == "shutting_down"
                assert server.process.poll() is None
                server.process.send_signal(second)
                assert server.process.wait(60) == 128 + second
            assert not (await listen(socket_)).of("done")
        upload.close()
    assert [*tmp_path.rglob("*")] == []


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, pytest.param(signal.SIGTERM, marks=pytest.mark.endurance)]
)
async def test_a_signal_during_an_upload_leaves_no_file(number, tmp_path):
    with (
        serving("--max-sessions", "1", env={"TMPDIR": str(tmp_path)}) as server,
        uploading(server),
    ):
        [file] = await arrived(tmp_path)
        assert stat.S_IMODE(file.parent.stat().st_mode) == stat.S_IRWXU
        server.process.send_signal(number)
        assert server.process.wait(60) == 0
    assert [*tmp_path.rglob("*")] == []


@pytest.mark.long
async def test_files_of_a_killed_server_are_removed(tmp_path):
    env = {"TMPDIR": str(tmp_path)}
    others = tmp_path / "voxlive-scratch-notes"
    others.mkdir(mode=0o755)
    with (
        serving("--max-sessions", "1", env=env) as living,
        serving("--max-sessions", "1", env=env) as killed,
        uploading(living),
    ):
        [kept] = await arrived(tmp_path)
        with uploading(killed):
            left = set(await arrived(tmp_path, 2)) - {kept}
            killed.process.send_signal(signal.SIGKILL)
            killed.process.wait(60)
        assert all(file.exists() for file in left)
        with serving("--max-sessions", "1", env=env):
            assert {*tmp_path.iterdir()} == {kept.parent, others}
            assert kept.exists()
    assert [*tmp_path.iterdir()] == [others]


@pytest.mark.long
async def test_nohup_keeps_the_server_after_its_terminal():
    nohup = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    with serving("--max-sessions", "1", under=nohup) as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.health()["status"] == "ok"
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(60) == 0


async def test_the_port_can_be_reused_at_once():
    with serving("--max-sessions", "1") as first:
        port = first.url.rsplit(":", 1)[1]
    with serving("--max-sessions", "1", "--port", port) as second:
        assert second.url == first.url
        assert second.health()["status"] == "ok"
