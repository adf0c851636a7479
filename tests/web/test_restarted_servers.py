"""Real servers that die, end and come back in mid-word: nobody loses a word."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from itertools import islice
from pathlib import Path

import av
import httpx
import numpy as np
import psycopg
import pytest
from support.clips import clip
from support.restarting import (
    BREAK_LINE,
    END_SERVER,
    FAULTS,
    KILL_SERVER,
    KILL_WORKER,
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
from support.voices import check_turns, labels_of, turns_of
from support.wire import s16le

from voxlive.streaming.ingest.formats import Report
from voxlive.streaming.ingest.media import read_file

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
@pytest.mark.parametrize("model", ["pause", pytest.param("voxtral", marks=pytest.mark.endurance)])
async def test_a_session_outlives_its_servers_in_mid_word(store, model):
    pcm = s16le(clip("market").samples)
    rng = random.Random(model)
    # A pause ends a turn, whatever is said: what is known of that by then depends on the machine.
    ways = {"turns": {"threshold": 0.99, "max_wait_ms": 300}, "diarize": True, "drafts": False}
    with restarted(*MODELS[model], "--store", store, *AT_ONCE) as running:
        whole = await speak(running, pcm, **ways)
        places = in_words(whole, 2, rng)
        happens = list(zip(places, (KILL_SERVER, END_SERVER), strict=True))
        messages = await speak(running, pcm, happens, **ways)
    assert kept(messages) == kept(whole)
    assert turns_of(messages) == turns_of(whole)
    check_turns(turns_of(messages), messages[-1]["text"])
    labels = [labels_of(one) for one in (messages, whole)]
    told, expected = ({place: said[-1] for place, said in one.items()} for one in labels)
    assert told == expected
    assert numbers(messages) == list(range(len(numbers(messages))))
    assert {m["code"] for m in messages if m["type"] == "error"} == set()


def decoded(path: Path) -> np.ndarray:
    return np.concatenate(list(read_file(path, Report())))


def is_whole(path: Path) -> bool:
    """Whether an Ogg file has its last page, which alone says at which sample the audio ends."""
    data = path.read_bytes() if path.exists() else b""
    last = data.rfind(b"OggS")
    return last >= 0 and bool(data[last + 5] & 4)


def missing_s(found: np.ndarray, samples: np.ndarray) -> float:
    """Seconds of sound that are silence in what was kept of it."""
    windows = len(samples) // 1600
    loud, kept = (
        np.abs(one[: 1600 * windows].reshape(windows, 1600)).max(axis=1) for one in (samples, found)
    )
    return 0.1 * int(((loud > 0.05) & (kept < 0.005)).sum())


ONE, TWO = (), ("me", "them")
ENDED, KILLED = ([(8.0, END_SERVER), (13.0, END_SERVER)], 0.0), ([(8.0, KILL_SERVER)], 4.0)
WORKERS = ([(4.0, KILL_WORKER), (8.0, BREAK_LINE), (12.0, END_SERVER)], 1.0)


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("sources", "faults", "most_s"),
    [
        pytest.param(TWO, *WORKERS, id="two sources-SIGKILL of a worker, SIGTERM"),
        pytest.param(TWO, *ENDED, id="two sources-SIGTERM", marks=pytest.mark.endurance),
        pytest.param(ONE, *KILLED, id="one source-SIGKILL", marks=pytest.mark.endurance),
        pytest.param(ONE, *ENDED, id="one source-SIGTERM", marks=pytest.mark.endurance),
        pytest.param(TWO, *KILLED, id="two sources-SIGKILL", marks=pytest.mark.endurance),
    ],
)
async def test_kept_audio_goes_on_over_restarts(tmp_path, faults, most_s, sources):
    """One file on the session's clock: what was written stays, what comes again is in it once.

    What a killed process had not written yet is missing, where its client need not send it again.
    """
    samples = clip("minute").samples[: 18 * 16_000]
    pcm = s16le(samples if not sources else np.stack((samples, samples), axis=1).ravel())
    options = ("--store", str(tmp_path / "store"), "--keep-audio", "asked", *AT_ONCE, *AT_PAUSES)
    options += ("--workers", "3") if (faults, most_s) == WORKERS else ()
    more = {"sources": sources, "channels": 2, "suppress_leaks": False} if sources else {}
    more |= {"frame_bytes": 2 * (len(sources) or 1), "drafts": False}
    with restarted(*options) as running:
        messages = await speak(running, pcm, faults, keep_audio=True, **more)
        path = tmp_path / "store" / "audio" / f"{messages[0]['session']}.ogg"
        # A thread writes it; a server before may have ended it too.
        while not is_whole(path) or len(found := decoded(path)) < len(samples):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        async with httpx.AsyncClient(timeout=60) as http:
            url = f"{running.server.url}/v1/sessions/{messages[0]['session']}/audio"
            answer = await http.get(url)
            part = await http.get(url, headers={"range": "bytes=5000-5999"})
    assert {m["code"] for m in messages if m["type"] in ("error", "restarted")} == set()
    assert messages[0]["keep_audio"] is True
    assert path.read_bytes() == answer.content
    assert part.content == answer.content[5000:6000]
    assert len(found) == len(samples)
    assert missing_s(found, samples) <= most_s
    for at_s, _ in faults:
        behind = slice(int((at_s + most_s) * 16_000), None)
        assert np.corrcoef(found[behind], samples[behind])[0, 1] > 0.9
    for at_s in (3, 9, 16):  # seeking finds the sample that a time stands for
        with av.open(path) as container:
            container.seek(at_s * 1_000_000 - 500_000)
            frames = list(islice(container.decode(audio=0), 40))
        at = round(frames[0].time * 16_000)
        assert at <= at_s * 16_000
        heard = np.concatenate([frame.to_ndarray().ravel() for frame in frames])[::3]
        there = slice(at_s * 16_000 - at, at_s * 16_000 - at + 8000)
        if missing_s(found, samples) == 0:
            assert np.corrcoef(heard[there], found[at_s * 16_000 :][:8000])[0, 1] > 0.9


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


@pytest.mark.endurance
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


@pytest.mark.endurance
@pytest.mark.timeout(3600)
async def test_a_late_store_s_server_is_killed_twenty_times(postgres_server, monkeypatch, capsys):
    """What was sent and not stored is given back: with Voxtral no word comes twice."""
    pcm = s16le(clip("minute").samples)
    url, differences, waited = postgres_server.new_database(), Differences(), []
    suffer = RestartedServer.suffer

    async def kill_while_words_wait(running: RestartedServer, fault: str) -> None:
        async with await psycopg.AsyncConnection.connect(url) as held, httpx.AsyncClient() as http:
            await held.execute("LOCK TABLE words IN EXCLUSIVE MODE")
            waiting = 0
            while not waiting:
                await asyncio.sleep(0.05)
                health = await http.get(f"{running.server.url}/health", timeout=60)
                waiting = health.json()["store"]["waiting"]
            waited.append(waiting)
            running.server.process.kill()
            running.server.process.wait(60)
        await suffer(running, fault)

    monkeypatch.setattr(RestartedServer, "suffer", kill_while_words_wait)
    with restarted(*MODELS["voxtral"], "--store", url, *AT_ONCE) as running:
        whole = await speak(running, pcm)
        for seed in range(TIMES):
            # One at a time: a client that waits for the next server is no pause of the speaker.
            places = in_words(whole, 1, random.Random(seed))
            messages = await speak(running, pcm, [(at, KILL_SERVER) for at in places])
            differences.count(messages, whole)
            assert kept(messages) == kept(whole)
            assert numbers(messages) == list(range(len(numbers(messages))))
            assert "words_may_repeat" not in {m.get("code") for m in messages}
    with capsys.disabled():
        sys.stdout.write(f"\n{KILL_SERVER}, late, {waited} waiting: {differences}\n")


@pytest.mark.endurance
@pytest.mark.timeout(180)
async def test_sources_that_leak_go_on_at_the_next_server(tmp_path):
    """It learns the room anew from the seconds before: no word is lost or in the wrong source."""
    them, me = clip("train").samples, clip("doctor").samples
    quiet = np.zeros(8000, np.float32)
    second = np.concatenate((them, quiet, np.zeros_like(me), quiet, them))
    first = np.concatenate((np.zeros_like(them), quiet, me, quiet, np.zeros_like(them)))
    first[160:] += 0.25 * second[:-160]
    pcm = s16le(np.stack((first, second), axis=1).ravel())
    more = {"channels": 2, "sources": ["me", "them"], "frame_bytes": 4}
    lasts_s = [len(one) / 16_000 for one in (them, me, them)]
    faults = [
        (lasts_s[0] / 2, KILL_SERVER),
        (lasts_s[0] + 0.5 + lasts_s[1] / 2, END_SERVER),
        (lasts_s[0] + lasts_s[1] + 1 + lasts_s[2] / 2, KILL_SERVER),
    ]
    with restarted(*AT_PAUSES, "--store", str(tmp_path / "store"), *AT_ONCE) as running:
        whole = await speak(running, pcm, **more)
        messages = await speak(running, pcm, faults, **more)
    assert {m["code"] for m in messages if m["type"] in ("error", "restarted")} == set()
    assert numbers(messages) == list(range(len(numbers(messages))))
    for source in ("me", "them"):
        differences = Differences()
        differences.count(
            *([m for m in one if m.get("source") == source] for one in (messages, whole))
        )
        assert (differences.lost, differences.added, differences.changed <= 1) == (0, 0, True), (
            differences
        )
