"""Sessions of ``/v1/live`` whose line breaks: the client gets what it would have got anyway."""

from __future__ import annotations

import asyncio
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock_engine import ClockEngine
from support.counting import LoudnessModel, pcm
from support.examples import examples
from support.line import START, Line
from support.simulated import SimulatedDetector, simulate
from support.voices import WHO_AND_WHEN, Levels, Onsets, check_turns, labels_of, turns_of

from voxlive.speakers.encoder import SpeakerDetector
from voxlive.streaming.service import Service
from voxlive.turns import tracker
from voxlive.turns.detector import TurnDetector
from voxlive.vad.detector import VoiceDetector
from voxlive.web import resume
from voxlive.web.access.access import Access
from voxlive.web.access.keys import Limits
from voxlive.web.access.middleware import Authenticator
from voxlive.web.live_endpoints import LiveEndpoints
from voxlive.web.live_models import LiveModels
from voxlive.web.protocols.contract import Refuse, ResumeSession
from voxlive.web.protocols.live import LiveProtocol

PASSING = ("draft", "lag", "ack", "recovered", "resumed")


class Cuts:
    """Breaks a client's lines at random, before some of what was sent or received has arrived."""

    def __init__(self, seed: int, chance: float) -> None:
        self._random = random.Random(seed)
        self._chance = chance
        self.count = 0

    def chunk(self) -> int:
        """Bytes of the next piece of audio: not always whole samples."""
        return self._random.choice([1, 333, 2560, 2560, 2560, 9001, 40_000])

    def now(self) -> bool:
        self.count += (cut := self._random.random() < self._chance)
        return cut

    def lost(self, most: int) -> int:
        """How many of the newest ``most`` messages the client never saw."""
        return self._random.randint(0, most)

    def yields(self) -> int:
        return self._random.choice([0, 1, 3, 20])


async def talk(
    endpoints: LiveEndpoints, data: bytes, cuts: Cuts, start: dict = START
) -> list[dict]:
    """One session over as many lines as it takes; every numbered message that the client has."""
    line = Line(endpoints)
    line.send(start)
    [ready] = await line.until("ready")
    seen, at = [ready], 0
    while True:
        at_once = data[at : at + cuts.chunk()]
        at += len(at_once)
        line.send(at_once or {"type": "stop"})
        got = await (line.read(cuts.yields()) if at_once else line.until("done"))
        seen += [message for message in got if message["type"] not in PASSING]
        if seen[-1]["type"] == "done" and not cuts.now():
            await line.end()
            return seen
        if at_once and not cuts.now():
            continue
        keep = len(seen) - cuts.lost(len(seen) - 1)
        del seen[keep:]
        await line.break_off()
        if seen[-1]["type"] == "done":
            return seen
        line = Line(endpoints)
        have = seen[-1]["seq"]
        line.send({"type": "resume", "token": ready["resume"], "have": have, "from": 0})
        [resumed] = await line.until("resumed")
        assert resumed["session"] == ready["session"]
        at = 2 * len(start.get("sources", "1")) * resumed["samples"]
        if at == len(data) and cuts.count > 200:
            raise AssertionError("the session does not come to its end")


async def served(data: bytes, cuts: Cuts, engine: ClockEngine, start: dict = START) -> list[dict]:
    turns, speakers = TurnDetector(Onsets()), SpeakerDetector(Levels())
    detector = VoiceDetector(LoudnessModel())
    service = Service(engine, detector, turns=turns, speakers=speakers)
    endpoints = LiveEndpoints(LiveModels(service))
    try:
        return await talk(endpoints, data, cuts, start)
    finally:
        await service.aclose()
        await endpoints.wait_closed(1)
        assert engine.in_use == 0


def kept(messages: list[dict]) -> list[object]:
    """What a cut may not change, in its order."""
    return [
        [word for m in messages if m["type"] == "words" for word in m["words"]],
        *(
            [
                {key: value for key, value in m.items() if key != "seq"}
                for m in messages
                if m["type"] in kinds
            ]
            for kinds in (("segment",), ("speech_started", "speech_stopped"), ("done",))
        ),
    ]


SPANS = st.lists(st.tuples(st.booleans(), st.integers(1, 30_000)), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(SPANS, st.integers(0, 2**32), st.floats(0.02, 0.4))
def test_cuts_anywhere_change_no_word_no_time_and_no_number(
    spans: list[tuple[bool, int]], seed: int, chance: float
) -> None:
    check_cuts(spans, seed, chance)


@pytest.mark.endurance
@settings(max_examples=1000, deadline=None)
@given(SPANS, st.integers(0, 2**32), st.floats(0.02, 0.4))
def test_a_thousand_times(spans: list[tuple[bool, int]], seed: int, chance: float) -> None:
    check_cuts(spans, seed, chance)


def check_cuts(spans: list[tuple[bool, int]], seed: int, chance: float) -> None:
    data = pcm(np.concatenate([np.full(n, 0.5 * loud, np.float32) for loud, n in spans]))
    whole = asyncio.run(served(data, Cuts(0, 0.0), ClockEngine()))
    cut = asyncio.run(served(data, Cuts(seed, chance), ClockEngine()))
    assert kept(cut) == kept(whole)
    assert [message["seq"] for message in cut] == list(range(len(cut)))
    assert cut[-1]["duration"] == whole[-1]["duration"]


@settings(max_examples=15, deadline=None)
@given(SPANS, st.integers(0, 2**32), st.floats(0.02, 0.4))
def test_cuts_anywhere_change_no_turn_and_no_speaker(
    spans: list[tuple[bool, int]], seed: int, chance: float
) -> None:
    levels = [(0.3, 0.5, 0.8)[n % 3] * loud for n, (loud, _) in enumerate(spans)]
    parts = zip(levels, spans, strict=True)
    data = pcm(np.concatenate([np.full(n, level, np.float32) for level, (_, n) in parts]))
    start = START | WHO_AND_WHEN
    with pytest.MonkeyPatch.context() as patch:
        # Otherwise where a turn ends depends on whether its last word is known by then.
        patch.setattr(tracker, "_NUMBER_ODDS", 0.0)
        whole = asyncio.run(served(data, Cuts(0, 0.0), ClockEngine(), start))
        cut = asyncio.run(served(data, Cuts(seed, chance), ClockEngine(), start))
    assert kept(cut) == kept(whole)
    assert turns_of(cut) == turns_of(whole)
    check_turns(turns_of(cut), cut[-1]["text"])
    told, expected = labels_of(cut), labels_of(whole)
    assert {place: said[-1] for place, said in told.items()} == {
        place: said[-1] for place, said in expected.items()
    }


@pytest.fixture
async def endpoints():
    service = Service(ClockEngine(), VoiceDetector(LoudnessModel()))
    serving = LiveEndpoints(LiveModels(service))
    yield serving
    await service.aclose()
    await serving.wait_closed(1)


def tone(seconds: float) -> bytes:
    return pcm(np.full(int(seconds * 16_000), 0.5, np.float32))


async def opened(endpoints: LiveEndpoints, **more: object) -> tuple[Line, dict]:
    line = Line(endpoints)
    line.send(START | more)
    [ready] = await line.until("ready")
    return line, ready


async def test_a_second_connection_takes_over_and_the_first_learns_it(endpoints):
    first, ready = await opened(endpoints)
    first.send(tone(1))
    await first.until("words")
    second = Line(endpoints)
    second.send({"type": "resume", "token": ready["resume"], "have": ready["seq"], "from": 0})
    [resumed, *_] = await second.until("words")
    assert (resumed["type"], resumed["epoch"], resumed["samples"]) == ("resumed", 2, 16_000)
    with pytest.raises(ConnectionError) as closed:
        await first.until("never")
    code, got = closed.value.args
    assert code == 4409
    assert (got[-1]["type"], got[-1]["code"]) == ("error", "taken_over")
    second.send(tone(1))
    second.send({"type": "stop"})
    *_, done = await second.until("done")
    assert done["text"] == "0 1 2 3"
    await second.end()


async def test_on_a_full_server_a_session_is_taken_over_from_a_line_that_hangs():
    """The server learns only later that the first line is dead."""
    engine = ClockEngine()
    engine.info = engine.info.__class__("clock", "none", "cpu", 1, ("en",))
    service = Service(engine, VoiceDetector(LoudnessModel()))
    serving = LiveEndpoints(LiveModels(service))
    _, ready = await opened(serving)
    assert engine.in_use == 1
    back = Line(serving)
    back.send({"type": "resume", "token": ready["resume"], "have": ready["seq"]})
    [resumed] = await back.until("resumed")
    assert resumed["samples"] == 0
    late = Line(serving)
    late.send(START)
    with pytest.raises(ConnectionError) as closed:
        await late.until("never")
    assert closed.value.args[1][-1]["code"] == "server_full"
    back.send(tone(1))
    back.send({"type": "stop"})
    *_, done = await back.until("done")
    assert done["text"] == "0 1"
    await back.end()
    await service.aclose()
    await serving.wait_closed(1)


async def test_what_only_some_sessions_need_is_in_their_messages_alone(endpoints):
    line, ready = await opened(endpoints, resumable=False)
    assert "resume" not in ready
    assert "epoch" not in ready
    line.send(tone(1))
    line.send({"type": "stop"})
    messages = await line.until("done")
    assert [m["seq"] for m in messages] == list(range(1, len(messages) + 1))
    assert "ack" not in {m["type"] for m in messages}
    await line.end()


async def test_an_acknowledgement_says_whose_words_are_closed(endpoints):
    line, _ = await opened(endpoints, rate=48_000)
    line.send(pcm(np.full(96_000, 0.5, np.float32)))
    line.send({"type": "flush", "id": "a"})
    messages = await line.until("ack")
    assert messages[-2]["type"] == "segment"
    assert messages[-1] == {"type": "ack", "samples": messages[-2]["end"] * 48_000}
    await line.break_off()


def test_a_line_that_holds_brings_something_every_two_seconds():
    """In silence too; a session that cannot be resumed has no such messages."""

    async def talk(**more: object) -> list[bool]:
        service = Service(ClockEngine(), SimulatedDetector(LoudnessModel()))
        serving = LiveEndpoints(LiveModels(service))
        line, _ = await opened(serving, **more)
        line.send(tone(1))
        line.send({"type": "flush", "id": "a"})
        before = await line.until("flushed")
        await asyncio.sleep(15)
        got = list(line.received)
        line.received.clear()
        line.send({"type": "stop"})
        numbered = [m for m in [*before, *got, *await line.until("done")] if "seq" in m]
        assert [m["seq"] for m in numbered] == list(range(1, len(numbered) + 1))
        await line.end()
        await service.aclose()
        await serving.wait_closed(1)
        [end] = [m["end"] for m in before if m["type"] == "segment"]
        return [m["samples"] == end * 16_000 for m in got if m["type"] == "ack"]

    assert simulate(talk()) == [True] * 7
    assert simulate(talk(resumable=False)) == []


@pytest.mark.parametrize(
    ("change", "code", "close"),
    [
        ({"token": "wrong"}, "unknown_session", 4404),
        ({"from": 20_000}, "resume_gap", 4409),
        ({"have": 1000}, "resume_gap", 4409),
        ({"have": -2}, "bad_start", 4400),
        ({"token": None}, "bad_start", 4400),
        ({"what": 1}, "bad_start", 4400),
    ],
)
async def test_a_resume_that_cannot_be_is_refused_and_the_session_waits_on(
    endpoints, change, code, close
):
    line, ready = await opened(endpoints)
    line.send(tone(1))
    await line.until("words")
    await line.break_off()
    asked = {"type": "resume", "token": ready["resume"], "have": ready["seq"], "from": 0}
    wrong = Line(endpoints)
    wrong.send({k: v for k, v in (asked | change).items() if v is not None})
    with pytest.raises(ConnectionError) as closed:
        await wrong.until("never")
    assert closed.value.args[0] == close
    assert closed.value.args[1][-1]["code"] == code
    right = Line(endpoints)
    right.send(asked)
    await right.until("words")
    await right.break_off()


async def test_a_container_cannot_be_resumed(endpoints):
    line = Line(endpoints)
    line.send({"type": "start", "format": "container", "resumable": True})
    [error] = await line.until("error")
    assert (error["code"], line.closed) == ("bad_start", None)
    with pytest.raises(ConnectionError):
        await line.until("never")
    assert line.closed == 4400


async def test_another_key_cannot_resume_a_session():
    service = Service(ClockEngine(), VoiceDetector(LoudnessModel()))
    serving = LiveEndpoints(LiveModels(service))
    line, ready = await opened(serving)
    await line.break_off()
    [session] = serving.resumables._sessions.values()
    session.owner = "somebody else"
    thief = Line(serving)
    thief.send({"type": "resume", "token": ready["resume"]})
    with pytest.raises(ConnectionError) as closed:
        await thief.until("never")
    assert closed.value.args[1][-1]["code"] == "unknown_session"
    await service.aclose()
    await serving.wait_closed(1)


async def test_a_suspended_session_gives_its_slot_back_and_gets_one_first(monkeypatch):
    monkeypatch.setattr(resume, "_RELEASE_S", 0.01)
    engine = ClockEngine()
    engine.info = engine.info.__class__("clock", "none", "cpu", 1, ("en",))
    service = Service(engine, VoiceDetector(LoudnessModel()))
    serving = LiveEndpoints(LiveModels(service))
    line, ready = await opened(serving)
    line.send(tone(1.25))
    await line.until("words")
    await line.break_off()
    assert engine.in_use == 1
    await asyncio.sleep(0.1)
    assert engine.in_use == 0
    other, _ = await opened(serving)
    back = Line(serving)
    back.send({"type": "resume", "token": ready["resume"], "have": ready["seq"], "from": 0})
    [resumed] = await back.until("resumed")
    back.send(tone(2)[2 * resumed["samples"] :])
    await asyncio.sleep(0.05)
    other.send({"type": "stop"})
    await other.until("done")
    late = Line(serving)
    late.send(START)
    with pytest.raises(ConnectionError) as closed:
        await late.until("never")
    assert closed.value.args[1][-1]["code"] == "server_full"
    back.send({"type": "stop"})
    *messages, done = await back.until("done")
    assert done["text"] == "0 1 2 3"
    assert [m["t"] for m in messages if m["type"] == "recovered"] == [0.0]
    await back.end()
    await service.aclose()
    await serving.wait_closed(1)


async def test_a_session_waits_so_long_for_its_client_and_as_many_as_may(monkeypatch):
    engine = ClockEngine()
    service = Service(engine, VoiceDetector(LoudnessModel()))
    serving = LiveEndpoints(LiveModels(service), resume_s=0.2, max_suspended=1)
    first, one = await opened(serving)
    await first.break_off()
    second, two = await opened(serving)
    await second.break_off()
    await asyncio.sleep(0.02)
    assert len(serving.resumables.suspended) == engine.in_use == 1
    for token in (one["resume"], two["resume"]):
        line = Line(serving)
        line.send({"type": "resume", "token": token})
        if token == one["resume"]:
            with pytest.raises(ConnectionError):
                await line.until("never")
        else:
            await line.until("resumed")
            await line.break_off()
    await asyncio.sleep(0.4)
    assert len(serving.resumables.suspended) == engine.in_use == 0
    await service.aclose()


async def test_a_key_with_many_waiting_sessions_gives_way_first():
    engine = ClockEngine()
    engine.info = engine.info.__class__("clock", "none", "cpu", 4, ("en",))
    serving = LiveEndpoints(
        LiveModels(Service(engine, VoiceDetector(LoudnessModel()))), max_suspended=3
    )
    tokens = {}
    for owner, number in (("one", 1), ("many", 1), ("many", 2), ("many", 3)):
        line, ready = await opened(serving)
        serving.resumables._sessions[ready["resume"]].owner = owner
        await line.break_off()
        tokens[owner, number] = ready["resume"]
    await asyncio.sleep(0.02)
    assert set(serving.resumables._sessions) == set(tokens.values()) - {tokens["many", 1]}
    await serving.wait_closed(1)


def test_a_session_s_time_counts_over_all_its_connections():
    """The limit is a minute; the first connection lasts 40 s of it."""

    async def talk() -> float:
        service = Service(ClockEngine(), SimulatedDetector(LoudnessModel()))
        limited = Authenticator(Access((), Limits(session_minutes=1)))
        serving = LiveEndpoints(LiveModels(service), limited)
        line, ready = await opened(serving)
        await asyncio.sleep(40)
        await line.break_off()
        again = Line(serving)
        again.send({"type": "resume", "token": ready["resume"], "have": ready["seq"]})
        messages = await again.until("done")
        assert [m["code"] for m in messages if m["type"] == "error"] == ["session_expired"]
        ended = asyncio.get_running_loop().time()
        await again.end()
        await service.aclose()
        await serving.wait_closed(1)
        return ended

    assert 60 <= simulate(talk()) < 63


def test_a_client_that_does_not_read_may_come_back_over_another_line():
    """The error of the line is none of the session's messages, and does not end it."""

    async def talk() -> list[dict]:
        service = Service(ClockEngine(), SimulatedDetector(LoudnessModel()))
        serving = LiveEndpoints(LiveModels(service))
        line, ready = await opened(serving)
        line.send(tone(1))
        await line.until("words")
        line.flows.clear()
        line.send({"type": "flush", "id": "unread"})
        await asyncio.sleep(30)
        assert len(serving.resumables.suspended) == 1
        again = Line(serving)
        again.send({"type": "resume", "token": ready["resume"], "have": ready["seq"]})
        messages = await again.until("flushed")
        again.send(tone(1))
        again.send({"type": "stop"})
        messages += await again.until("done")
        await again.end()
        await service.aclose()
        await serving.wait_closed(1)
        return messages

    messages = simulate(talk())
    assert messages[0]["samples"] == 16_000
    assert messages[-1]["text"] == "0 1 2 3"
    assert "error" not in {message["type"] for message in messages}


async def test_after_stop_a_resumed_session_takes_stop_again_and_nothing_else():
    protocol = LiveProtocol({}, ClockEngine().info)
    [opening] = protocol.received(json.dumps(START))
    protocol.on_resumable("secret")
    protocol.opened("id", opening.options)
    protocol.received('{"type": "stop"}')
    assert [type(a) for a in protocol.received('{"type": "stop"}')] == [Refuse]
    protocol.resumed(ResumeSession("secret", 0, 0), 0)
    assert protocol.received('{"type": "stop"}') == []
    for frame in ('{"type": ', '{"type": "flush", "id": "a"}', b"\0\0"):
        [refused] = protocol.received(frame)
        assert (type(refused), refused.code) == (Refuse, "bad_message")


async def test_a_server_may_have_none():
    service = Service(ClockEngine(), VoiceDetector(LoudnessModel()))
    serving = LiveEndpoints(LiveModels(service), resume_s=0)
    line = Line(serving)
    line.send(START)
    [error] = await line.until("error")
    assert error["code"] == "unsupported_option"
    await service.aclose()


@examples(40, deadline=None)
@given(SPANS, SPANS, st.integers(0, 2**32), st.floats(0.02, 0.4))
def test_cuts_change_nothing_of_any_of_several_sources(
    me: list[tuple[bool, int]], them: list[tuple[bool, int]], seed: int, chance: float
) -> None:
    channels = [
        np.concatenate([np.full(n, 0.5 * loud, np.float32) for loud, n in spans])
        for spans in (me, them)
    ]
    length = max(map(len, channels))
    padded = [np.pad(channel, (0, length - len(channel))) for channel in channels]
    data = pcm(np.stack(padded, axis=1))
    start = START | {"sources": ["me", "them"]}
    whole = asyncio.run(served(data, Cuts(0, 0.0), ClockEngine(), start))
    cut = asyncio.run(served(data, Cuts(seed, chance), ClockEngine(), start))
    assert [message["seq"] for message in cut] == list(range(len(cut)))
    assert cut[-1]["sources"] == whole[-1]["sources"]
    assert cut[-1]["duration"] == whole[-1]["duration"]
    for source in start["sources"]:
        of_whole, of_cut = (
            [
                {key: value for key, value in m.items() if key not in ("seq", "id", "segment")}
                for m in messages
                if m.get("source") == source
            ]
            for messages in (whole, cut)
        )
        assert kept([*of_cut]) == kept([*of_whole])


async def test_several_sources_give_their_slots_back_and_acknowledge_what_all_have(monkeypatch):
    monkeypatch.setattr(resume, "_RELEASE_S", 0.0)
    engine = ClockEngine()
    service = Service(engine, VoiceDetector(LoudnessModel()))
    endpoints = LiveEndpoints(LiveModels(service))
    line, ready = await opened(endpoints, sources=["me", "them"])
    loud, silent = np.full(32_000, 0.5, np.float32), np.zeros(32_000, np.float32)
    line.send(pcm(np.stack([np.concatenate([loud, silent]), np.zeros(64_000)], axis=1)))
    [*_, segment, ack] = await line.until("ack")
    assert (segment["type"], segment["source"]) == ("segment", "me")
    assert 32_000 < ack["samples"] <= 64_000
    await line.break_off()
    while engine.in_use:  # noqa: ASYNC110 - it has no event for that
        await asyncio.sleep(0.01)
    line = Line(endpoints)
    line.send({"type": "resume", "token": ready["resume"], "have": segment["seq"], "from": 0})
    [resumed] = await line.until("resumed")
    assert resumed["samples"] == 64_000
    assert engine.in_use == 2
    line.send({"type": "stop"})
    assert (await line.until("done"))[-1]["duration"] == 4.0
    await line.end()
    await service.aclose()
    await endpoints.wait_closed(1)
