"""The reference client in JavaScript, outside of the page: in Node, over lines that break."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support.breaking import breaking
from support.clips import clip
from support.javascript import FOLDER, without
from support.restarting import END_SERVER, KILL_SERVER, restarted
from support.server import AT_PAUSES
from support.wire import s16le
from websockets.asyncio.server import ServerConnection, serve

import voxlive.web

STATIC = Path(voxlive.web.__file__).parent / "static"
FILES = ("link.js", "connection.js", "kept.js", "progress.js")
READY = {"type": "ready", "seq": 0, "session": "one", "resume": "secret"}
DONE = {"type": "done", "duration": 0.1, "text": ""}


@pytest.fixture
def talk(tmp_path):
    """What the client has of a session with some audio: all that its listener is called with."""
    if shutil.which("node") is None:
        without("no node on this machine: install nodejs")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    old = int(version.stdout[1:].split(".")[0]) < 22
    for name in FILES:
        shutil.copy(STATIC / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    flags = ("--experimental-websocket", "--no-warnings") if old else ()

    async def run(url: str, pcm: bytes, **options: object) -> dict:
        (tmp_path / "speech.pcm").write_bytes(pcm)
        program = (FOLDER / "reference.mjs", tmp_path, url, tmp_path / "speech.pcm")
        process = await asyncio.create_subprocess_exec(
            "node", *flags, *map(str, program), json.dumps(options), stdout=subprocess.PIPE
        )
        try:
            out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0
        return json.loads(out)

    return run


def kept(seen: dict) -> list[object]:
    """What a cut may not change: words with their times, segments, and the end."""
    events = [{k: v for k, v in event.items() if k != "seq"} for event in seen["events"]]
    words = [word for event in events if event["type"] == "words" for word in event["words"]]
    segments = [(e["start"], e["end"], e["text"]) for e in events if e["type"] == "segment"]
    return [words, segments, [e for e in events if e["type"] == "done"], seen["failure"]]


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.endurance) for seed in (2, 3))]
)
async def test_a_line_that_breaks_changes_nothing(server, talk, seed):
    pcm = s16le(clip("market").samples[: int(3.7 * 16_000)])  # its first sentence
    whole = await talk(server.ws + "/v1/live", pcm)
    async with breaking(server.url, seed, most=6) as (url, relay):
        cut = await talk(url, pcm)
    assert kept(cut) == kept(whole)
    assert (whole["resumed"], whole["restarted"], whole["failure"]) == (0, [], None)
    assert cut["resumed"] >= 1 <= relay.breaks
    assert cut["restarted"] == []
    numbers = [event["seq"] for event in cut["events"] if "seq" in event]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.endurance
@pytest.mark.parametrize("fault", [KILL_SERVER, END_SERVER])
async def test_another_server_goes_on_with_the_session(talk, tmp_path, fault):
    pcm = s16le(clip("market").samples)
    options = (*AT_PAUSES, "--store", str(tmp_path / "store"), "--drain-seconds", "0")
    with restarted(*options) as running:
        whole = await talk(running.url, pcm)
        speaking = asyncio.create_task(talk(running.url, pcm, giveUpS=120))
        await running.server.until(in_use=1)
        await asyncio.sleep(0.3)
        await running.suffer(fault)
        cut = await speaking
    assert kept(cut) == kept(whole)
    assert (cut["resumed"] >= 1, cut["restarted"]) == (True, [])
    numbers = [event["seq"] for event in cut["events"] if "seq" in event]
    assert numbers == list(range(1, len(numbers) + 1))


class ScriptedServer:
    """Answers the first message of each connection with a list of messages, then closes it.

    ``asked``: the first messages; ``audio``: bytes of each connection.
    """

    def __init__(self, *answers: list[dict]) -> None:
        self._answers = iter(answers)
        self.asked: list[dict] = []
        self.audio: list[int] = []

    async def __call__(self, socket: ServerConnection) -> None:
        self.asked.append(json.loads(await socket.recv()))
        self.audio.append(0)
        for message in next(self._answers):
            if message == "stop":
                if not await self._until_stop(socket):
                    return
            elif message == "silence":
                async for _ in socket:  # unread audio would keep the close from being read
                    pass
            elif isinstance(message, int):
                await socket.close(message)
            else:
                await socket.send(json.dumps(message))
        await socket.close()

    async def _until_stop(self, socket: ServerConnection) -> bool:
        async for frame in socket:
            if isinstance(frame, str):
                assert json.loads(frame) == {"type": "stop"}
                return True
            self.audio[-1] += len(frame)
        return False


async def scripted(
    talk, *answers: list, seconds: float = 0.1, **options: object
) -> tuple[dict, ScriptedServer]:
    server = ScriptedServer(*answers)
    async with serve(server, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        url = f"ws://127.0.0.1:{port}/v1/live"
        return await talk(url, bytes(int(seconds * 32_000)), **options), server


def started(seq: int, t: float) -> dict:
    return {"type": "speech_started", "seq": seq, "t": t}


async def test_a_number_that_is_left_out_is_asked_for_over_another_connection(talk):
    seen, server = await scripted(
        talk,
        [READY, started(1, 0.0), started(3, 0.2), "stop"],
        [
            {"type": "resumed", "session": "one", "epoch": 2, "samples": 0},
            started(2, 0.1),
            {"type": "draft", "segment": 0, "text": "a"},
            {"type": "recovered", "t": 0.0},
            started(3, 0.2),
            "stop",
            {**DONE, "seq": 4},
        ],
    )
    assert server.asked[1] == {"type": "resume", "token": "secret", "have": 1}
    got = [event["t"] for event in seen["events"] if event["type"] == "speech_started"]
    assert got == [0.0, 0.1, 0.2]
    assert server.audio[1] == 3200
    assert (seen["failure"], seen["resumed"], seen["waiting"]) == (None, 1, ["bad_server"])


async def test_what_is_not_stored_is_given_back_to_the_next_server(talk):
    back = {"type": "resumed", "session": "one", "epoch": 2, "samples": 0}
    acks = [{"type": "ack", "samples": 0, "stored": n} for n in range(5)]
    seen, server = await scripted(
        talk,
        [{**READY, "store": True}, acks[0], started(1, 0.1), started(2, 0.2), acks[1]],
        [back, acks[1], started(3, 0.3)],
        [back, acks[3]],
        [back, "stop", {**DONE, "seq": 4}],
    )
    given = [one.get("received") for one in server.asked]
    assert given == [None, [started(2, 0.2)], [started(2, 0.2), started(3, 0.3)], None]
    assert seen["failure"] is None


@pytest.mark.endurance
async def test_a_line_that_is_dead_without_a_word_is_left(talk):
    back = {"type": "resumed", "session": "one", "epoch": 2, "samples": 0}
    later = [back, "stop", {**DONE, "seq": 1, "duration": 6.0}]
    # It takes more than a second to send so much, so the line is dead before the client stops.
    seen, server = await scripted(talk, [READY, "silence"], *[later] * 9, seconds=6, silentS=1)
    assert [message["type"] for message in server.asked[:2]] == ["start", "resume"]
    assert (seen["failure"], seen["restarted"], seen["waiting"][0]) == (None, [], "no_answer")


async def test_a_server_that_closes_without_a_word_is_resumed(talk):
    """1011 is also what a WebSocket library says that has had no answer to its pings."""
    back = {"type": "resumed", "session": "one", "epoch": 2, "samples": 800}
    seen, server = await scripted(
        talk, [READY, 1011], [back, 1012], [back, "stop", {**DONE, "seq": 1}]
    )
    assert [message["type"] for message in server.asked] == ["start", "resume", "resume"]
    assert server.audio[2] == 3200 - 1600
    assert (seen["failure"], seen["resumed"], seen["restarted"]) == (None, 2, [])


async def test_a_server_that_ends_a_session_is_followed_by_another_session(talk):
    expired = {"type": "error", "seq": 1, "code": "session_expired", "message": "", "fatal": False}
    seen, server = await scripted(
        talk,
        [READY, expired, {"type": "done", "seq": 2, "duration": 0.0, "text": ""}],
        [{**READY, "session": "two"}, "stop", {**DONE, "seq": 1}],
    )
    assert [message["type"] for message in server.asked] == ["start", "start"]
    assert server.audio[1] == 3200
    assert seen["failure"] is None
    assert [(gap["code"], gap["lost"]) for gap in seen["restarted"]] == [("session_expired", 0)]


@pytest.mark.parametrize("code", ["unknown_session", "resume_gap", "internal"])
async def test_a_session_that_cannot_go_on_is_followed_by_another(talk, code):
    error = {"type": "error", "seq": 0, "code": code, "message": "", "fatal": True}
    seen, server = await scripted(
        talk, [READY], [error], [{**READY, "session": "two"}, "stop", {**DONE, "seq": 1}]
    )
    assert [message["type"] for message in server.asked] == ["start", "resume", "start"]
    assert server.audio[2] == 3200
    assert seen["failure"] is None
    assert [(gap["code"], gap["lost"]) for gap in seen["restarted"]] == [("lost", 0)]


@pytest.mark.parametrize("code", ["server_full", "too_many_sessions", "store_failed"])
async def test_a_refused_connection_leaves_the_session_as_it_is(talk, code):
    error = {"type": "error", "seq": 0, "code": code, "message": "", "fatal": True}
    seen, server = await scripted(
        talk,
        [READY],
        [error],
        [
            {"type": "resumed", "session": "one", "epoch": 2, "samples": 0},
            "stop",
            {**DONE, "seq": 1},
        ],
    )
    assert [message["type"] for message in server.asked] == ["start", "resume", "resume"]
    assert (seen["failure"], seen["resumed"], seen["waiting"]) == (None, 1, ["lost", code])


async def test_a_server_without_resumable_sessions_is_asked_for_another(talk):
    error = {"type": "error", "seq": 0, "code": "unsupported_option", "message": "", "fatal": True}
    plain = {"type": "ready", "seq": 0, "session": "one"}
    seen, server = await scripted(talk, [error], [plain, "stop", {**DONE, "seq": 1}])
    assert [message.get("resumable") for message in server.asked] == [True, None]
    assert (seen["failure"], seen["waiting"]) == (None, [])
    seen, server = await scripted(talk, [error], [error])
    assert seen["failure"]["code"] == "unsupported_option"


async def test_a_final_error_is_said_once(talk):
    error = {"type": "error", "seq": 1, "code": "invalid_api_key", "message": "no", "fatal": True}
    seen, _ = await scripted(talk, [READY, error])
    assert seen["failure"] == error
    assert seen["missing"] == pytest.approx(0.1)
