"""Sessions of ``/v1/live`` that outlive their server: another one on the same store goes on."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from support.clock_engine import ClockEngine
from support.counting import LoudnessModel, pcm
from support.line import START, Line
from support.voices import (
    WHO_AND_WHEN,
    Levels,
    Onsets,
    check_turns,
    labels_of,
    turns_of,
    words_by_place,
)

from voxlive.client import UnstoredMessages
from voxlive.speakers.encoder import SpeakerDetector
from voxlive.store import writer
from voxlive.store.backends import open_store
from voxlive.store.contract import Guarded, Operation, SessionStore, StoreError
from voxlive.streaming.events import Words
from voxlive.streaming.service import Service
from voxlive.turns import tracker
from voxlive.turns.detector import TurnDetector
from voxlive.vad.detector import VoiceDetector
from voxlive.values import SAMPLE_RATE, seconds
from voxlive.web.captions.events import ClosedCaption
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels
from voxlive.web.recorder import Recorder
from voxlive.web.recording import token_digest

PASSING = ("draft", "lag", "ack", "recovered", "resumed", "suspended")
MOST = 4
PATIENT_S = 20.0
RATES = (8000, 16_000, 44_100, 48_000)


class Gone:
    """The store of a server that was killed."""

    def apply(self, _operations: object) -> None:
        raise StoreError("the server was killed")


class LateStore:
    """A store that may be held; its server loses what it has not written."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._free = threading.Event()
        self._free.set()
        self._gone = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def apply(self, operations: Sequence[Operation]) -> frozenset[Guarded]:
        self._free.wait()
        if self._gone:
            raise StoreError("the server was killed")
        return self._store.apply(operations)

    def hold(self) -> None:
        """From now on it writes nothing, and what is sent does not wait for it."""
        writer.MAX_WAIT_S = 0.0
        self._free.clear()

    def lose(self) -> None:
        self._gone = True
        self._free.set()


class Servers:
    """One server after another on the same store, each in this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def start(self) -> LiveEndpoints:
        writer.MAX_WAIT_S = PATIENT_S
        turns, speakers = TurnDetector(Onsets()), SpeakerDetector(Levels())
        detector = VoiceDetector(LoudnessModel())
        self.service = Service(ClockEngine(), detector, turns=turns, speakers=speakers)
        self.store = LateStore(open_store(self._folder))
        self.endpoints = LiveEndpoints(LiveModels(self.service), recorder=Recorder(self.store))
        return self.endpoints

    async def die(self) -> None:
        """As though by SIGKILL: nothing more is written, not what waits either."""
        self.endpoints.recorder.writer._store = Gone()
        self.store.lose()
        await asyncio.to_thread(self.endpoints.recorder.close)

    async def heard(self, samples: int) -> None:
        """Until the session has had so many, but for what a resampler may hold back."""
        [resumable] = self.endpoints.resumables._sessions.values()
        while resumable.session.received < samples - SAMPLE_RATE // 4:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def written(self) -> None:
        """Until nothing waits for the store."""
        while self.endpoints.recorder.writer.waiting:  # noqa: ASYNC110, a thread ends it
            await asyncio.sleep(0.001)

    async def end(self, drain_s: float = 0) -> None:
        """As by SIGTERM."""
        await asyncio.gather(self.endpoints.leave(drain_s), self.service.drain(drain_s))
        await self.free()

    async def free(self) -> None:
        await self.service.aclose()
        await self.endpoints.wait_closed(1)
        await asyncio.to_thread(self.endpoints.recorder.close)


@pytest.fixture
async def servers(tmp_path: Path) -> Servers:
    return Servers(tmp_path / "store")


def audio(
    rng: random.Random, rate: int, channels: int = 1, voices: Sequence[float] = (0.5,)
) -> bytes:
    """Tones, as loud as one of these voices, and silences of random lengths, on each channel."""
    spoken = [
        np.concatenate(
            [
                np.full(
                    rng.randrange(rate // 10, 2 * rate), rng.choice(voices) * (n % 2), np.float32
                )
                for n in range(rng.randrange(3, 9) * len(voices))
            ]
        )
        for _ in range(channels)
    ]
    longest = max(map(len, spoken))
    padded = [np.pad(one, (0, longest - len(one))) for one in spoken]
    return pcm(np.stack(padded, axis=1))


class RestartedClient:
    """What a client does that outlives its lines: it keeps what it was sent, and what it sends."""

    def __init__(
        self, rate: int, data: bytes, sources: tuple[str, ...] = (), **more: object
    ) -> None:
        self.start = START | {"rate": rate} | more
        if sources:
            self.start |= {"sources": sources, "suppress_leaks": False}
        self.frame = 2 * max(len(sources), 1)
        self.data = data
        self.seen: list[dict] = []
        self.at = self.first = 0
        self.line: Line | None = None
        self.unstored = UnstoredMessages()
        self.given_back = 0
        """Messages of which the server knew nothing."""

    async def connect(self, endpoints: LiveEndpoints) -> None:
        self.line = Line(endpoints, "captions=hall")
        if not self.seen:
            self.line.send(self.start)
            self.take(await self.line.until("ready"))
            return
        have = self.seen[-1]["seq"]
        token = self.seen[0]["resume"]
        found = endpoints.recorder.store.resumable(token_digest(token))
        self.given_back += max(0, have + 1 - found.next)
        resume = {"type": "resume", "token": token, "have": have, "from": self.first}
        self.line.send(resume | {"received": [*self.unstored]})
        [resumed] = await self.line.until("resumed")
        assert resumed["session"] == self.seen[0]["session"]
        assert self.first <= resumed["samples"] <= len(self.data) // self.frame
        self.at = self.frame * resumed["samples"]

    def take(self, messages: list[dict]) -> None:
        for message in messages:
            if message["type"] == "ack":
                assert message["samples"] >= self.first
                self.first = message["samples"]
                self.unstored.stored(message["stored"])
            elif message.get("seq"):
                self.unstored.append(message, 0)
        self.seen += [one for one in messages if one["type"] not in PASSING]

    async def speak(self, rng: random.Random) -> bool:
        """Send a piece; whether there is more."""
        piece = self.data[self.at : self.at + rng.choice([333, 2560, 9001, 20_000])]
        self.at += len(piece)
        if piece:
            self.line.send(piece)
            self.take(await self.line.read(rng.choice([0, 1, 3, 20, 60])))
        return bool(piece)

    async def finish(self) -> list[dict]:
        self.line.send({"type": "stop"})
        self.take(await self.line.until("done"))
        await self.line.end()
        return self.seen


async def spoken(
    servers: Servers,
    seed: int,
    how: str,
    chance: float,
    sources: tuple[str, ...] = (),
    late: float = 0,
    voices: Sequence[float] = (0.5,),
) -> tuple[list[dict], int, int]:
    """A session over servers that end or die at random, some (``late``) with stores that are late.

    What its client has, how many servers, and how many messages it had and they had not.
    """
    rng = random.Random(seed)
    rate = rng.choice(RATES)
    more = WHO_AND_WHEN if len(voices) > 1 else {}
    data = audio(rng, rate, len(sources) or 1, voices)
    client, count = RestartedClient(rate, data, sources, **more), 1
    rng = random.Random(seed + 1)
    await client.connect(await servers.start())
    await servers.written()
    while await client.speak(rng):
        if rng.random() >= chance or count > MOST:
            continue
        if rng.random() < late:
            servers.store.hold()
            for _ in range(rng.randrange(2, 10)):
                await client.speak(rng)
                await servers.heard(client.at // client.frame * SAMPLE_RATE // rate)
                client.take(await client.line.read(300))
        if how == "die":
            await servers.die()
            await client.line.break_off()
        else:
            await servers.end(0)
            client.take(await client.line.read(1))
            assert client.line.closed == 1012
        await servers.service.aclose()
        await client.connect(await servers.start())
        count += 1
    messages = await client.finish()
    await servers.free()
    return messages, count, client.given_back


def kept(messages: list[dict]) -> list[object]:
    """What no restart may change: each kind in its order."""
    kinds = ("words", "segment", "speech_started", "speech_stopped", "done")
    return [
        [{k: v for k, v in m.items() if k != "seq"} for m in messages if m["type"] == kind]
        for kind in kinds
    ]


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """A store that is late is waited for: what it does not have is lost with its server."""
    monkeypatch.setattr(writer, "MAX_WAIT_S", PATIENT_S)


@pytest.mark.parametrize("how", ["die", "end"])
@pytest.mark.parametrize("seed", range(3))
async def test_words_times_segments_and_numbers_are_those_of_one_server(tmp_path, how, seed):
    await check_restarts(tmp_path, how, seed)


@pytest.mark.endurance
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("how", ["die", "end"])
@pytest.mark.parametrize("seed", range(3, 103))
async def test_restarts_a_hundred_times(tmp_path, how, seed):
    await check_restarts(tmp_path, how, seed)


async def check_restarts(tmp_path: Path, how: str, seed: int) -> None:
    whole, *_ = await spoken(Servers(tmp_path / "one"), seed, how, 0)
    cut, count, _ = await spoken(Servers(tmp_path / "many"), seed, how, 0.3)
    assert count > 1
    assert kept(cut) == kept(whole)
    assert [message["seq"] for message in cut] == list(range(len(cut)))


SOURCES = ("me", "them")


def kept_of(source: str, messages: list[dict]) -> list[object]:
    """What no restart may change of one of several sources, whose ids depend on the others."""
    mine = [m for m in messages if m.get("source") == source]
    segments = [{k: v for k, v in m.items() if k not in ("seq", "id")} for m in mine]
    return [
        [word for m in mine if m["type"] == "words" for word in m["words"]],
        [m for m in segments if m["type"] == "segment"],
        [(m["type"], m["t"]) for m in mine if m["type"].startswith("speech")],
        messages[-1]["sources"][source],
    ]


@pytest.mark.parametrize("how", ["die", "end"])
@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(n, marks=pytest.mark.endurance) for n in range(3, 53))]
)
async def test_every_source_of_a_session_goes_on_at_another_server(tmp_path, how, seed):
    whole, *_ = await spoken(Servers(tmp_path / "one"), seed, how, 0, SOURCES)
    cut, count, _ = await spoken(Servers(tmp_path / "many"), seed, how, 0.3, SOURCES)
    assert count > 1
    check_sources(cut, whole)


def check_sources(cut: list[dict], whole: list[dict]) -> None:
    for source in SOURCES:
        assert kept_of(source, cut) == kept_of(source, whole)
    assert [message["seq"] for message in cut] == list(range(len(cut)))
    segments = [m for m in cut if m["type"] == "segment"]
    assert len({m["id"] for m in segments}) == len(segments)
    for segment in segments:
        said = [m for m in cut if m["type"] == "words" and m["segment"] == segment["id"]]
        assert "".join(word["text"] for m in said for word in m["words"]) == segment["text"]
        assert {m["source"] for m in said} == {segment["source"]}
    lines = cut[-1]["text"].splitlines()
    assert sorted(lines) == sorted(f"{m['source']}: {m['text'].strip()}" for m in segments)


VOICES = (0.3, 0.5, 0.8)


# `make test` has each end and each number of sources, once.
@pytest.mark.parametrize(
    ("how", "late", "sources"),
    [
        pytest.param("die", 0.0, (), id="die-one source", marks=pytest.mark.endurance),
        pytest.param("die", 0.0, SOURCES, id="die-two sources"),
        pytest.param("end", 0.0, (), id="end-one source"),
        pytest.param("end", 0.0, SOURCES, id="end-two sources", marks=pytest.mark.endurance),
        pytest.param("die", 0.6, (), id="late-one source", marks=pytest.mark.endurance),
        pytest.param("die", 0.6, SOURCES, id="late-two sources"),
    ],
)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.endurance) for n in range(1, 52))]
)
async def test_turns_and_speakers_go_on_at_another_server(
    tmp_path, monkeypatch, how, late, sources, seed
):
    # Otherwise where a turn ends depends on whether its last word is known by then.
    monkeypatch.setattr(tracker, "_NUMBER_ODDS", 0.0)
    whole, *_ = await spoken(Servers(tmp_path / "one"), seed, how, 0, sources, 0, VOICES)
    cut, count, _ = await spoken(Servers(tmp_path / "many"), seed, how, 0.2, sources, late, VOICES)
    assert count > 1
    assert turns_of(whole, *sources[:1])
    for source in sources or (None,):
        assert turns_of(cut, source) == turns_of(whole, source)
        check_turns(turns_of(cut, source), said_by(cut, source))
    if sources:
        check_sources(cut, whole)
    else:
        assert kept(cut) == kept(whole)
    words, expected = words_by_place(cut), words_by_place(whole)
    labels, whole_labels = labels_of(cut), labels_of(whole)
    assert labels.keys() <= words.keys()
    assert all(len(told) <= 2 for told in labels.values())
    last = {place: labels.get(place, [None])[-1] for place in words}
    # What is short and comes first is nobody's.
    assert sorted((str(word), str(last[place])) for place, word in words.items()) == sorted(
        (str(word), str(whole_labels.get(place, [None])[-1])) for place, word in expected.items()
    )
    assert len({*last.values()}) > 1 or seed not in (0, 1)
    # The store has what the client has.
    store = open_store(tmp_path / "many")
    stored = store.transcript(cut[0]["session"], None)
    store.close()
    assert [one.speaker for one in stored.words] == [*last.values()]
    texts = {
        (turn.source or None, turn.number): "".join(
            word.text
            for word in stored.words
            if word.source == turn.source and turn.first <= word.number < turn.stop
        ).strip()
        for turn in stored.turns
    }
    told = [one for source in sources or (None,) for one in turns_of(cut, source)]
    closed = [one for one in told if one["type"] == "turn"]
    assert texts == {(one.get("source"), one["turn"]): one["text"] for one in closed}


def said_by(messages: list[dict], source: str | None) -> str:
    done = messages[-1]
    return done["text"] if source is None else done["sources"][source]


LATE = 0.6
ONE_AND_TWO = pytest.mark.parametrize("sources", [(), SOURCES], ids=["one source", "two sources"])


@ONE_AND_TWO
async def test_what_a_late_store_does_not_have_its_client_gives_back(tmp_path, sources):
    """Servers die while their stores are held, until one of them dies with messages unstored."""
    for seed in range(10, 20):
        if await check_late_stores(tmp_path / str(seed), seed, sources):
            return
    raise AssertionError("no server died before its store had everything")


@pytest.mark.endurance
@ONE_AND_TWO
@pytest.mark.parametrize("seed", range(100, 200))
async def test_late_stores_a_hundred_times(tmp_path, seed, sources):
    await check_late_stores(tmp_path, seed, sources)


async def check_late_stores(tmp_path: Path, seed: int, sources: tuple[str, ...]) -> int:
    """No word is repeated, lost or changed, nor in the store, which has in the end what the client
    has. How many messages a client gave back.
    """
    whole, *_ = await spoken(Servers(tmp_path / "one"), seed, "die", 0, sources)
    cut, count, given = await spoken(Servers(tmp_path / "many"), seed, "die", 0.15, sources, LATE)
    assert count > 1 or not given
    if sources:
        check_sources(cut, whole)
    else:
        assert kept(cut) == kept(whole)
        assert [message["seq"] for message in cut] == list(range(len(cut)))
    assert {m["code"] for m in cut if m["type"] == "warning"} <= {"store_late"}
    store = open_store(tmp_path / "many")
    stored = store.transcript(cut[0]["session"], None)
    store.close()
    said = [(m["segment"], word) for m in cut if m["type"] == "words" for word in m["words"]]
    assert [
        (word.segment, word.text, seconds(word.start), seconds(word.end)) for word in stored.words
    ] == [(segment, word["text"], word["start"], word["end"]) for segment, word in said]
    closed = sorted((m["id"], m["start"], m["end"]) for m in cut if m["type"] == "segment")
    assert [(s.id, seconds(s.start), seconds(s.end)) for s in stored.segments] == closed
    return given


async def test_several_sources_need_a_slot_each_at_the_next_server_too(servers):
    more = {"sources": SOURCES, "suppress_leaks": False}
    line, ready = await opened(await servers.start(), **more)
    line.send(pcm(np.full((20_000, 2), 0.5, np.float32)))
    await line.until("words")
    await servers.end()
    endpoints = await servers.start()
    other, _ = await opened(endpoints)
    assert await refused(await resume(endpoints, ready["resume"])) == "server_full"
    await other.break_off()
    for kept in endpoints.resumables.suspended:
        endpoints.resumables._end(kept)
    await endpoints.resumables.aclose()
    back = await resume(endpoints, ready["resume"])
    await back.until("resumed")
    back.send(pcm(np.full((40_000, 2), 0.5, np.float32)))
    back.send({"type": "stop"})
    *_, done = await back.until("done")
    assert done["sources"] == dict.fromkeys(SOURCES, "0 1 2 3 4")
    await back.end()
    await servers.free()


async def opened(endpoints: LiveEndpoints, query: str = "", **more: object) -> tuple[Line, dict]:
    line = Line(endpoints, query)
    line.send(START | more)
    [ready] = await line.until("ready")
    return line, ready


def tone(seconds: float) -> bytes:
    return pcm(np.full(int(seconds * 16_000), 0.5, np.float32))


async def resume(endpoints: LiveEndpoints, token: str, have: int = 0, first: int = 0) -> Line:
    line = Line(endpoints)
    line.send({"type": "resume", "token": token, "have": have, "from": first})
    return line


async def refused(line: Line) -> str:
    """By which error the connection ends, at once."""
    with pytest.raises(ConnectionError) as closed:
        await line.until("never")
    return closed.value.args[1][-1]["code"]


async def test_a_restart_tells_the_client_and_keeps_what_it_said(servers):
    line, ready = await opened(await servers.start())
    line.send(tone(1.25))
    words = await line.until("words")
    await servers.end()
    messages = await line.read(1)
    assert messages[-1] == {"type": "suspended", "resume_s": 120.0}
    assert line.closed == 1012
    assert {m["type"] for m in messages} <= {*PASSING, "words"}
    endpoints = await servers.start()
    store = endpoints.recorder.store
    assert store.session(ready["session"], None).state == "suspended"
    back = await resume(endpoints, ready["resume"], words[-1]["seq"])
    [resumed] = await back.until("resumed")
    assert (resumed["session"], resumed["epoch"], resumed["samples"]) == (ready["session"], 2, 0)
    back.send(tone(2))
    back.send({"type": "stop"})
    *_, done = await back.until("done")
    assert done["text"] == "0 1 2 3"
    await back.end()
    await servers.free()


async def test_what_was_not_seen_before_the_restart_comes_again(servers):
    line, ready = await opened(await servers.start())
    line.send(tone(1.25))
    line.send({"type": "flush", "id": "a"})
    before = [m for m in await line.until("flushed") if "seq" in m]
    await line.break_off()
    await servers.die()
    await servers.service.aclose()
    back = await resume(await servers.start(), ready["resume"])
    _, *again = await back.until("flushed")
    assert again == before
    await back.break_off()
    await servers.end()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"token": "wrong"}, "unknown_session"),
        ({"have": -1}, "resume_gap"),
        ({"first": 20_000}, "resume_gap"),
    ],
)
async def test_a_resume_that_cannot_be_is_refused_and_the_session_waits_on(servers, change, code):
    line, ready = await opened(await servers.start())
    line.send(tone(1))
    await line.until("words")
    await servers.end()
    endpoints = await servers.start()
    assert await refused(await resume(endpoints, **({"token": ready["resume"]} | change))) == code
    right = await resume(endpoints, ready["resume"])
    await right.until("words")
    await right.break_off()
    await servers.end()


async def test_what_a_late_store_did_not_have_in_time_comes_again(servers, monkeypatch):
    """The client has messages that its next server knows nothing of: words are not lost."""
    line, ready = await opened(await servers.start())
    monkeypatch.setattr(writer, "MAX_WAIT_S", 0.05)
    await asyncio.sleep(0.2)
    await servers.die()
    line.send(tone(1))
    seen = [m for m in await line.until("words") if "seq" in m]
    await line.break_off()
    await servers.service.aclose()
    monkeypatch.setattr(writer, "MAX_WAIT_S", 20.0)
    for _ in range(2):
        back = await resume(await servers.start(), ready["resume"], seen[-1]["seq"])
        await back.until("resumed")
        back.send(tone(2))
        got = [m for m in await back.until("words") if "seq" in m]
        assert [m["seq"] for m in got] == [seen[-1]["seq"] + 1 + n for n in range(len(got))]
        seen += got
        await back.break_off()
        await servers.end()
    assert [m["code"] for m in seen if m["type"] == "warning"][-1] == "words_may_repeat"
    texts = [word["text"] for m in seen if m["type"] == "words" for word in m["words"]]
    assert {"0", " 1"} <= set(texts)


async def lost(servers: Servers, line: Line, **more: object) -> list[dict]:
    """What a client has of a tone of 1.25 s of which its server, which dies, stores nothing."""
    await servers.written()
    servers.store.hold()
    line.send(tone(1.25))
    line.send({"type": "flush", "id": "a"})
    line.send(tone(0.75))
    seen = [m for m in await line.until("flushed") if "seq" in m]
    await line.break_off()
    await servers.die()
    await servers.service.aclose()
    return seen


async def given_back(endpoints: LiveEndpoints, token: str, seen: list[dict]) -> Line:
    line = Line(endpoints)
    have = seen[-1]["seq"]
    line.send({"type": "resume", "token": token, "have": have, "received": seen})
    await line.until("resumed")
    return line


async def finished(line: Line, seconds: float) -> list[dict]:
    line.send(tone(seconds))
    line.send({"type": "stop"})
    messages = [m for m in await line.until("done") if "seq" in m]
    await line.end()
    return messages


async def test_readers_of_captions_get_what_a_client_gives_back_once(servers):
    line, ready = await opened(await servers.start(), "captions=hall")
    seen = await lost(servers, line)
    endpoints = await servers.start()
    feed = endpoints.feeds.wait(await endpoints.recorder.transcript(ready["session"]), 60)
    reading = feed.read()
    snapshot = await anext(reading)
    back = await given_back(endpoints, ready["resume"], seen)
    messages = await finished(back, 3)
    shown = [one async for one in reading]
    told = [word["text"] for m in seen + messages if m["type"] == "words" for word in m["words"]]
    assert (snapshot.words, snapshot.segments) == ((), ())
    assert [one.text for one in shown if isinstance(one, Words)] == told
    segments = [(m["id"], m["text"]) for m in seen + messages if m["type"] == "segment"]
    assert [(s.id, s.text) for s in shown if isinstance(s, ClosedCaption)] == segments
    assert told == ["0", " 1", " 2", " 3", " 4", " 5"]
    await servers.free()


async def test_a_client_that_has_no_words_gives_back_its_segments(servers):
    line, ready = await opened(await servers.start(), words=False)
    seen = await lost(servers, line)
    assert "words" not in {m["type"] for m in seen}
    messages = await finished(await given_back(await servers.start(), ready["resume"], seen), 3)
    segments = [m["text"] for m in seen + messages if m["type"] == "segment"]
    assert "".join(segments) == messages[-1]["text"] == "0 1 2 3 4 5"
    assert "words_may_repeat" not in {m.get("code") for m in messages}
    await servers.free()


@pytest.mark.parametrize("change", [{"segment": 70}, {"source": "me"}, {"seq": None}])
async def test_what_cannot_be_of_the_session_is_not_taken(servers, change):
    """It is recognised again, and the client is told."""
    line, ready = await opened(await servers.start())
    seen = await lost(servers, line)
    if change == {"seq": None}:
        changed = seen[1:]  # one is missing
    else:
        changed = [m | change if m["type"] == "words" else m for m in seen]
    back = await given_back(await servers.start(), ready["resume"], changed)
    messages = await finished(back, 3)
    assert "words_may_repeat" in {m.get("code") for m in messages}
    assert messages[-1]["text"] == "0 1 2 3 4 5"
    await servers.free()


async def test_another_key_cannot_resume_a_session_of_another_server(servers):
    _, ready = await opened(await servers.start())
    await servers.end()
    endpoints = await servers.start()
    found = await endpoints.recorder.find_resumable(ready["resume"], "somebody else")
    assert found is None
    assert await endpoints.recorder.find_resumable(ready["resume"], "anyone")
    await servers.free()


async def test_a_session_waits_so_long_for_the_next_server(servers):
    _, ready = await opened(await servers.start())
    await servers.end()
    endpoints = await servers.start()
    endpoints.recorder.resume_time = timedelta(0)
    assert await refused(await resume(endpoints, ready["resume"])) == "unknown_session"
    endpoints.recorder._expire(datetime.now(UTC))
    kept = endpoints.recorder.store.session(ready["session"], None)
    assert (kept.state, kept.error) == ("ended", "interrupted")
    await servers.free()


async def test_a_server_that_only_seemed_dead_speaks_no_more(servers, tmp_path):
    """Two servers at once on one store: the first learns that the session is the second's."""
    first = await servers.start()
    line, ready = await opened(first)
    line.send(tone(1))
    before = await line.until("words")
    others = Servers(tmp_path / "store")
    second = await others.start()
    back = await resume(second, ready["resume"], before[-1]["seq"])
    [resumed] = await back.until("resumed")
    assert resumed["epoch"] == 2
    await line.read(1)
    line.send(tone(1))
    with pytest.raises(ConnectionError) as closed:
        await line.until("never")
    code, got = closed.value.args
    assert (code, got[-1]["code"]) == (4409, "taken_over")
    assert "words" not in {m["type"] for m in got}
    back.send(tone(2))
    back.send({"type": "stop"})
    *_, done = await back.until("done")
    assert done["text"] == "0 1 2 3"
    await others.written()
    kept = second.recorder.store.transcript(ready["session"], None)
    assert (kept.text, kept.session.error) == ("0 1 2 3", None)
    await back.end()
    await servers.free()
    await others.free()


async def test_a_client_may_come_back_to_a_server_that_lost_its_session_meanwhile(
    servers, tmp_path
):
    first = await servers.start()
    line, ready = await opened(first)
    line.send(tone(1))
    words = await line.until("words")
    await line.break_off()
    others = Servers(tmp_path / "store")
    away = await resume(await others.start(), ready["resume"], words[-1]["seq"])
    await away.until("resumed")
    away.send(tone(2))
    seen = [m for m in await away.until("words") if "seq" in m]
    await away.break_off()
    home = await resume(first, ready["resume"], seen[-1]["seq"])
    [resumed] = await home.until("resumed")
    assert (resumed["epoch"], resumed["samples"]) == (3, 0)
    home.send(tone(2))
    home.send({"type": "stop"})
    *_, done = await home.until("done")
    assert done["text"] == "0 1 2 3"
    await home.end()
    await servers.free()
    await others.free()


async def test_the_end_of_a_session_may_be_asked_for_at_the_next_server(servers):
    line, ready = await opened(await servers.start())
    line.send(tone(1))
    line.send({"type": "stop"})
    messages = await line.until("done")
    await line.break_off()
    await servers.die()
    await servers.service.aclose()
    endpoints = await servers.start()
    back = await resume(endpoints, ready["resume"])
    *_, done = await back.until("done")
    assert done == messages[-1]
    await back.end()
    assert endpoints.recorder.store.session(ready["session"], None).state == "ended"
    await servers.free()


@pytest.mark.parametrize("more", [{"store": False}, {"resumable": False}])
async def test_a_session_that_is_not_kept_or_not_resumable_ends_with_its_server(servers, more):
    line, ready = await opened(await servers.start(), **more)
    line.send(tone(1))
    await line.until("words")
    await servers.end(5)
    messages = await line.until("done")
    assert [m["code"] for m in messages if m["type"] == "error"] == ["shutting_down"]
    endpoints = await servers.start()
    assert await refused(await resume(endpoints, ready.get("resume", "x"))) == "unknown_session"
    await servers.free()


async def test_a_session_is_left_at_a_pause_where_there_is_time(servers):
    line, ready = await opened(await servers.start())
    line.send(tone(1.25))
    have = (await line.until("words"))[-1]["seq"]
    ending = asyncio.create_task(servers.end(30))
    await asyncio.sleep(0.2)
    assert line.closed is None
    line.send(pcm(np.zeros(16_000, np.float32)))
    await ending
    messages = await line.read(1)
    kinds = [m["type"] for m in messages]
    assert kinds[-1] == "suspended"
    assert "segment" in kinds
    assert kinds.index("ack") > kinds.index("segment")
    back = await resume(await servers.start(), ready["resume"], have)
    [resumed] = await back.until("resumed")
    assert resumed["samples"] > 16_000
    await back.break_off()
    await servers.end()


async def test_a_suspended_session_is_left_to_the_next_server_too(servers):
    line, ready = await opened(await servers.start())
    line.send(tone(1))
    await line.until("words")
    await line.break_off()
    await servers.end(5)
    back = await resume(await servers.start(), ready["resume"])
    await back.until("words")
    await back.break_off()
    await servers.end()


async def test_in_a_long_silence_the_client_need_not_keep_its_audio(servers):
    line, _ = await opened(await servers.start())
    line.send(tone(1))
    line.send(pcm(np.zeros(35 * 16_000, np.float32)))
    acks = [0]
    while acks[-1] < 30 * 16_000:
        acks += [m["samples"] for m in await line.until("ack") if m["type"] == "ack"]
    assert acks == sorted(acks)
    await line.break_off()
    await servers.end()


async def test_nothing_of_a_session_is_left_once_it_is_over_or_deleted(servers, tmp_path):
    """Its messages go when nobody can resume it, everything goes when it is deleted."""
    endpoints = await servers.start()
    line, ready = await opened(endpoints, replacements={"0": "secretword"})
    line.send(tone(1))
    line.send({"type": "stop"})
    await line.until("done")
    await line.end()
    [kept] = endpoints.resumables._sessions.values()
    store = endpoints.recorder.store
    assert store.resumable(token_digest(ready["resume"])).next > 1
    endpoints.resumables._end(kept)
    await endpoints.wait_closed(1)
    while endpoints.recorder.writer.waiting:  # noqa: ASYNC110, a thread ends it
        await asyncio.sleep(0.01)
    assert store.resumable(token_digest(ready["resume"])) is None
    assert "secretword" in store.transcript(ready["session"], None).text
    await asyncio.to_thread(store.delete, ready["session"], None)
    for file in (tmp_path / "store").iterdir():
        data = file.read_bytes()
        assert b"secretword" not in data
        assert ready["resume"].encode() not in data
    await servers.free()


async def test_the_secret_of_a_session_is_in_no_file(servers, tmp_path):
    line, ready = await opened(await servers.start())
    line.send(tone(1))
    await line.until("words")
    await servers.end()
    for file in (tmp_path / "store").iterdir():
        assert ready["resume"].encode() not in file.read_bytes()
