"""A server that records, and servers that answer as it did, without its model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.clips import clip
from support.server import Server, serving
from support.talk import PORTS, append
from support.ways import FILES, SPEECH, WAYS
from support.wire import START, dial, play, receive_until, s16le, send
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from voxlive.client import LiveClient

CLIPS = (SPEECH, s16le(clip("doctor").samples), s16le(clip("yes").samples))
PACE = 4
TINY = Path(__file__).parents[1] / "models" / "tiny-voxtral"
LIVE_WAYS = [name for name in WAYS if not name.startswith(FILES) and "file" not in name]


async def frames(
    server: Server, audio: bytes, *, pace: float | None = None, chunk: int = 3200, **start: object
) -> list[str]:
    """All that a client of ``/v1/live`` is sent, as it is on the wire."""
    received: list[str] = []

    async def listen(socket) -> None:
        try:
            while True:
                received.append(await socket.recv())
        except ConnectionClosed:
            pass

    async with dial(f"{server.ws}/v1/live") as socket:
        listening = asyncio.create_task(listen(socket))
        await send(socket, {**START, **start})
        half = len(audio) // 6 * 2
        await play(socket, audio[:half], pace, chunk)
        await send(socket, {"type": "flush", "id": "half"})
        await play(socket, audio[half:], pace, chunk)
        await send(socket, {"type": "stop"})
        await listening
    return received


def masked(received: list[str]) -> list[str]:
    """With the session's id, which is another one every time, left out."""
    ident = json.loads(received[0])["session"]
    return [frame.replace(ident, "") for frame in received]


def of(kind: str, received: list[str]) -> list[dict]:
    return [one for one in map(json.loads, received) if one["type"] == kind]


def text(received: list[str]) -> str:
    return of("done", received)[0]["text"]


@dataclass(frozen=True)
class Recorded:
    """``sessions`` are in the order of CLIPS, and so are ``folders``."""

    folder: Path
    sessions: list[list[str]]

    @property
    def folders(self) -> list[Path]:
        return sorted(self.folder.iterdir())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Recorded:
    folder = tmp_path_factory.mktemp("server") / "recordings"

    async def sessions(server: Server) -> list[list[str]]:
        return [await frames(server, audio, pace=PACE) for audio in CLIPS]

    with serving("--record", str(folder)) as server:
        received = asyncio.run(sessions(server))
    return Recorded(folder, received)


@pytest.fixture(scope="module")
def replay(recorded) -> Iterator[Server]:
    first = f"replay:{recorded.folders[0]}"
    faults = ("killed", "kill-at=2s"), ("dropped", "drop-at=2s"), ("slow", "delay=100ms")
    live = [text for name, fault in faults for text in ("--live", f"{name}={first},{fault}")]
    with serving("--model", f"replay:{recorded.folder}", *live) as server:
        yield server


def test_the_recordings_are_worth_a_replay(recorded):
    """They have what comes at a time of its own beside what comes in order by itself."""
    kinds = {json.loads(frame)["type"] for session in recorded.sessions for frame in session}
    assert kinds >= {"ready", "speech_started", "speech_stopped", "words", "draft", "segment"}
    assert kinds >= {"flushed", "done"}
    assert all(text(session) for session in recorded.sessions)


@pytest.mark.parametrize(
    ("pace", "chunk"),
    [
        (None, 1000),
        pytest.param(20, 8000, marks=pytest.mark.endurance),
        pytest.param(PACE, 3200, marks=pytest.mark.endurance),
        pytest.param(None, 3200, marks=pytest.mark.endurance),
    ],
)
async def test_three_sessions_are_the_same_byte_for_byte(recorded, replay, pace, chunk):
    for audio, session in zip(CLIPS, recorded.sessions, strict=True):
        assert masked(await frames(replay, audio, pace=pace, chunk=chunk)) == masked(session)


@pytest.mark.endurance
async def test_voxtrals_sessions_are_the_same_byte_for_byte(tmp_path):
    """A word or a draft every 80 ms, and marks that are reached while audio comes."""
    with serving("--model", str(TINY), "--device", "cpu", "--record", str(tmp_path)) as server:
        recorded = [await frames(server, audio, pace=PACE) for audio in CLIPS[1:]]
    with serving("--model", f"replay:{tmp_path}") as server:
        replayed = [await frames(server, audio, chunk=5000) for audio in CLIPS[1:]]
    assert all(map(text, recorded))
    assert [*map(masked, replayed)] == [*map(masked, recorded)]


async def test_a_client_may_choose_a_recording_by_its_name(recorded, replay):
    name = recorded.folders[1].name
    assert masked(await frames(replay, CLIPS[1], model=name)) == masked(recorded.sessions[1])
    assert text(await frames(replay, bytes(len(CLIPS[1])), model=name)) == text(
        recorded.sessions[1]
    )


@pytest.mark.endurance
async def test_every_protocol_has_the_recorded_text(recorded):
    expected = text(recorded.sessions[0])
    with serving("--model", f"replay:{recorded.folders[0]}", *PORTS) as server:
        for name in LIVE_WAYS:
            received = await WAYS[name](server)
            assert received.text.split() == expected.split(), name
            if received.deltas is not None:
                assert received.deltas.split() == expected.split(), name


async def test_an_engine_that_is_killed_costs_no_word(recorded, replay):
    died = await frames(replay, CLIPS[0], model="killed")
    assert len(of("recovered", died)) == 1
    for kind in ("segment", "flushed", "done"):
        without_seq = [
            [{**message, "seq": 0} for message in of(kind, session)]
            for session in (died, recorded.sessions[0])
        ]
        assert without_seq[0] == without_seq[1]


async def test_delayed_messages_are_the_same_messages(recorded, replay):
    late = await frames(replay, CLIPS[0], model="slow")
    assert text(late) == text(recorded.sessions[0])
    assert len(of("draft", late)) == len(of("draft", recorded.sessions[0]))


async def test_a_connection_is_dropped_as_a_line_breaks_and_a_resumable_session_goes_on(
    recorded, replay
):
    async with dial(f"{replay.ws}/v1/live") as socket:
        await send(socket, {**START, "model": "dropped"}, CLIPS[0])
        with pytest.raises(ConnectionClosedError) as dropped:
            await receive_until(socket, "done")
        assert dropped.value.rcvd is None
    url = f"{replay.ws}/v1/live"
    async with LiveClient(url, rate=16_000, model="dropped") as client:
        await client.send(CLIPS[0])
        await client.stop()
        messages = [message async for message in client]
    assert client.connections == 2
    assert messages[-1]["text"] == text(recorded.sessions[0])


async def test_a_replay_is_listed_as_one_and_has_no_files(recorded, replay):
    async with httpx.AsyncClient(base_url=replay.url, timeout=60) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        first = listed[0]
        assert (await client.get(f"/v1/models/{first['id']}")).json() == first
        health = (await client.get("/health")).json()
        fields = {"model": "whisper-1"}  # whatever serves files where none is chosen
        sent = await client.post(FILES, files={"file": bytes(100)}, data=fields)
    names = [folder.name for folder in recorded.folders]
    ready = of("ready", recorded.sessions[0])[0]
    assert (first["id"], first["default"], first["live"]) == (ready["model"], True, True)
    assert first["recordings"] == names
    assert first["note"] == health["note"] == "a replay of 3 recorded sessions; no model is loaded"
    assert [one["recordings"] for one in listed[1:4]] == [names[:1]] * 3
    assert len({one["id"] for one in listed}) == len(listed)
    assert sent.status_code == 404


@pytest.mark.endurance
async def test_sessions_at_the_same_time_have_a_recording_each(recorded, replay):
    names = [folder.name for folder in recorded.folders]
    same_time = [
        frames(replay, audio, model=name) for audio, name in zip(CLIPS, names, strict=True)
    ]
    with_two_places = await asyncio.gather(*same_time[:2])
    assert [*map(masked, (*with_two_places, await same_time[2]))] == [
        *map(masked, recorded.sessions)
    ]


async def test_a_single_replay_serves_by_name_and_by_the_clock_alone(recorded):
    """In silence with voice detection off there are no pauses, and nothing to begin with."""
    update = {"type": "session.update", "model": recorded.folders[0].name}
    commit = {"type": "input_audio_buffer.commit"}
    begin, end = {**commit, "final": False}, {**commit, "final": True}
    with serving("--model", f"replay:{recorded.folder}") as server:
        silence = s16le(np.zeros(len(SPEECH) // 2))
        silent = await frames(server, silence, vad=False)
        assert text(silent) == text(recorded.sessions[0])
        # The next one would be the second.
        async with dial(f"{server.ws}/v1/realtime") as socket:
            await send(socket, update, begin, append(SPEECH), end)
            done = (await receive_until(socket, "transcription.done"))[-1]
    assert done["text"].split() == text(recorded.sessions[0]).split()
