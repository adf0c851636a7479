"""A server's log: whole JSON objects, the session in every line about one, and no key."""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import random
import sys

import httpx
import pytest
from support.clips import clip
from support.keys import bearer
from support.server import serving
from support.wire import START, dial, listen, receive_until, s16le, send

from voxlive.cli.console import JsonFormatter, TextFormatter
from voxlive.processes.logs import log_context

KEY, WRONG = "the-key-of-this-server", "no-key-of-this-server"
NOISE = random.Random(1).randbytes(5000)  # of no format: some noise may become one yet
SPEECH = s16le(clip("yes").samples)


@pytest.fixture(scope="module")
def server():
    with serving("--log-json", "--log-level", "debug", "--max-sessions", "2", key=KEY) as running:
        yield running


def logged(server) -> list[dict]:
    return [json.loads(line) for line in server.logged().splitlines()]


async def test_every_line_of_a_session_has_its_id(server):
    async with dial(f"{server.ws}/v1/live", additional_headers=server.headers) as socket:
        await send(socket, START)
        ready = (await receive_until(socket, "ready"))[-1]
        await send(socket, SPEECH + b"\0", {"type": "stop"})
        await listen(socket)
    await server.until(in_use=0)
    about_it = [line for line in logged(server) if line.get("session") == ready["session"]]
    said = [line["message"] for line in about_it]
    assert [m for m in said if "opened over live" in m]
    assert [m for m in said if "closed after" in m]
    # From deep inside, where nobody knows of sessions.
    assert [m for m in said if "1 bytes at the end are no whole frame" in m]
    assert {line["protocol"] for line in about_it} == {"live"}
    assert {line["level"] for line in about_it} == {"info", "warning"}
    for line in about_it:
        assert {"time", "level", "logger", "message"} <= set(line)
        assert line["time"].endswith("Z")


async def test_the_error_code_of_a_session_is_a_field(server):
    async with dial(f"{server.ws}/v1/live", additional_headers=server.headers) as socket:
        await send(socket, {"type": "start", "format": "container"}, NOISE)
        assert (await listen(socket)).errors == ["bad_audio"]
    await server.until(in_use=0)
    ends = [line for line in logged(server) if line.get("code") and line["level"] == "info"]
    assert [(line["code"], line["protocol"]) for line in ends] == [("bad_audio", "live")]
    about_it = [line for line in logged(server) if line.get("session") == ends[0]["session"]]
    assert "opened over live" in about_it[0]["message"]
    assert "closed after" in about_it[-1]["message"]


async def test_no_key_is_in_the_json_log(server):
    for secret in (KEY, WRONG):
        with contextlib.suppress(Exception):
            async with dial(f"{server.ws}/asr?token={secret}", additional_headers=bearer(secret)):
                pass
        async with httpx.AsyncClient(base_url=server.url) as http:
            await http.get("/metrics", headers=bearer(secret), params={"token": secret})
    assert any("/asr" in line["message"] for line in logged(server))
    for secret in (KEY, WRONG):
        assert secret not in server.logged()


ORIGIN = "https://" + "x" * 40_000
FLOOD = 300


async def flood(server) -> None:
    """Pages of another site, whose name is long."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        for _ in range(FLOOD // 10):
            posts = [http.post("/v1/models", headers={"origin": ORIGIN}) for _ in range(10)]
            assert {answer.status_code for answer in await asyncio.gather(*posts)} == {403}


async def test_an_unread_log_blocks_nothing_and_floods_are_counted():
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(read) as log:
        with serving("--log-json", "--log-level", "info", stderr=write) as server:
            os.close(write)
            await flood(server)
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
                assert (await http.get("/health/live")).status_code == 200
            async with dial(f"{server.ws}/v1/live") as socket:
                await send(socket, START, SPEECH, {"type": "stop"})
                assert "Yes" in (await listen(socket)).of("done")[0]["text"]
            written = asyncio.create_task(asyncio.to_thread(log.readlines))
            await server.until(in_use=0)
        lines = [json.loads(line) for line in await written]
        assert server.process.returncode == 0
    about_it = [line for line in lines if "https://xxx" in line["message"]]
    left_out = sum(line.get("left_out", 0) for line in about_it)
    whole = [line for line in about_it if "left_out" not in line]
    assert len(whole) + left_out == FLOOD
    assert left_out > 0
    assert max(len(line["message"]) for line in about_it) < 500
    assert [line for line in lines if "opened over live" in line["message"]]


@pytest.mark.endurance
async def test_a_server_ends_while_its_log_is_unread():
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    with serving("--log-level", "info", stderr=write) as server:
        os.close(write)
        await flood(server)
    assert server.process.returncode == 0
    os.close(read)


def record(message: str, *args: object, **fields: object) -> logging.LogRecord:
    return logging.getLogger("voxlive.test").makeRecord(
        "voxlive.test", logging.INFO, __file__, 1, message, args, None, extra=fields
    )


def test_a_message_of_several_lines_is_one_line_of_json():
    line = JsonFormatter().format(record('a "%s"\nnext', "ü\u2028", code="odd", unknown=object()))
    assert len(line.splitlines()) == 1
    said = json.loads(line)
    assert said["message"] == 'a "ü\u2028"\nnext'
    assert (said["level"], said["logger"], said["code"]) == ("info", "voxlive.test", "odd")
    assert "unknown" not in said


def test_a_traceback_is_a_field():
    try:
        raise ValueError("how it happened")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    assert "ValueError: how it happened" in json.loads(JsonFormatter().format(made))["error"]


def test_plain_lines_have_the_session_once():
    with log_context(session="abc123", protocol="live"):
        assert (
            TextFormatter().format(record("odd bytes")).endswith("test: odd bytes [session abc123]")
        )
        assert (
            TextFormatter()
            .format(record("session abc123 closed"))
            .endswith("session abc123 closed")
        )
    assert TextFormatter().format(record("odd bytes")).endswith("odd bytes")
