"""Real servers that die, end and come back in mid-word: nobody loses a word."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from pathlib import Path

import httpx
import pytest
from support.clips import clip
from support.restarting import (
    END_SERVER,
    FAULTS,
    KILL_SERVER,
    STOP_ENGINE,
    Differences,
    RestartedServer,
    in_words,
    kept,
    numbers,
    restarted,
    speak,
    words_of,
)
from support.server import AT_PAUSES
from support.wire import s16le

TINY = Path(__file__).parents[1] / "models" / "tiny-voxtral"
MODELS = {
    "pause": AT_PAUSES,
    "steady": (),
    "voxtral": ("--model", str(TINY), "--device", "cpu"),
}
STORES = ("sqlite", "postgresql")
AT_ONCE = ("--drain-seconds", "0")
TIMES, A_SESSION = 20, 4


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "store")
    return request.getfixturevalue("postgres_server").new_database()


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("model", ["pause", "voxtral"])
async def test_a_session_outlives_its_servers_in_mid_word(store, model):
    pcm = s16le(clip("market").samples)
    rng = random.Random(model)
    with restarted(*MODELS[model], "--store", store, *AT_ONCE) as running:
        whole = await speak(running, pcm)
        places = in_words(whole, 2, rng)
        happens = list(zip(places, (KILL_SERVER, END_SERVER), strict=True))
        messages = await speak(running, pcm, happens)
    assert kept(messages) == kept(whole)
    assert numbers(messages) == list(range(len(numbers(messages))))
    assert {m["code"] for m in messages if m["type"] == "error"} == set()


class EventReader:
    """One of server-sent events, as a browser's: it connects again, behind the last event's id."""

    def __init__(self, running: RestartedServer, path: str) -> None:
        self._running, self._path = running, path
        self.events: list[tuple[str, dict]] = []
        self.connections = 0
        self._last = ""

    async def read(self) -> None:
        """Until an event says that the session is over."""
        async with httpx.AsyncClient(timeout=None) as client:
            while not self.events or self.events[-1][0] != "done":
                url = f"{self._running.server.url}{self._path}"
                headers = {"last-event-id": self._last}
                with contextlib.suppress(httpx.TransportError):
                    async with client.stream("GET", url, headers=headers) as answer:
                        assert answer.status_code == 200, await answer.aread()
                        self.connections += 1
                        await self._events(answer)
                await asyncio.sleep(0.05)

    @property
    def shown(self) -> str:
        """All words of captions, of which a snapshot has those so far."""
        shown: list[str] = []
        for kind, event in self.events:
            if kind == "snapshot":
                shown = [segment["text"] for segment in event["segments"]]
                shown += [word["text"] for word in event["words"]]
            elif kind == "words":
                shown.append(event["text"])
        return "".join(shown)

    async def _events(self, answer: httpx.Response) -> None:
        kind = ""
        async for line in answer.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "id":
                self._last = value
            kind = value if field == "event" else kind
            if field == "data":
                self.events.append((kind, json.loads(value)))


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_readers_go_on_by_the_session_s_name_and_by_the_last_event(store):
    pcm = s16le(clip("market").samples)
    options = (*AT_PAUSES, "--store", store, *AT_ONCE)
    with restarted(*options) as running:
        begun: asyncio.Future[dict] = asyncio.get_running_loop().create_future()
        speaking = asyncio.create_task(
            speak(
                running,
                pcm,
                [(5.0, END_SERVER), (6.0, KILL_SERVER)],
                query="?captions=hall",
                on_ready=begun.set_result,
            )
        )
        ready = await begun
        captions = EventReader(running, "/captions/hall")
        stored = EventReader(running, f"/v1/sessions/{ready['session']}/events")
        reading = asyncio.create_task(captions.read())
        _, messages = await asyncio.gather(stored.read(), speaking)
        told = [word["text"] for word in words_of(messages)]
        # Their end comes when the session cannot be resumed any more.
        while captions.shown != "".join(told):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        reading.cancel()
    assert told
    assert [w["text"] for kind, e in stored.events if kind == "words" for w in e["words"]] == told
    assert min(stored.connections, captions.connections) >= 2


@pytest.mark.endurance
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("store", STORES, indirect=True)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_twenty_times_in_mid_word_of_a_minute(store, model, fault, capsys):
    """No word is lost; none is repeated or changed but where words are committed in mid-speech."""
    pcm = s16le(clip("minute").samples)
    differences = Differences()
    options = (*MODELS[model], "--store", store, *AT_ONCE, "--engine-timeout", "5")
    with restarted(*options) as running:
        whole = await speak(running, pcm)
        # Three engines that fail in the same audio end a session.
        at_a_time = 1 if fault == STOP_ENGINE else A_SESSION
        for seed in range(TIMES // at_a_time):
            places = in_words(whole, at_a_time, random.Random(seed))
            messages = await speak(running, pcm, [(at, fault) for at in places])
            differences.count(messages, whole)
            assert numbers(messages) == list(range(len(numbers(messages))))
            assert {m["code"] for m in messages if m["type"] == "error"} == set()
            if model != "steady":
                assert kept(messages) == kept(whole)
    with capsys.disabled():
        sys.stdout.write(f"\n{fault}, {model}: {differences}\n")
    assert differences.lost == 0
