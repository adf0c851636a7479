"""OpenAI's realtime protocol: turns are items, of the voice detector and of the client."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversations import ENGLISH
from support.examples import examples
from support.openai_realtime import (
    CLEAR,
    COMMIT,
    MANUAL,
    SECOND,
    TRANSCRIPTION,
    append,
    client,
    decoded,
    frame,
    kinds,
    one,
    samples,
    update,
    word,
)
from support.scripted_session import ScriptedSession

from voxlive.streaming.events import Flushed, SpeechStarted, SpeechStopped, UtteranceEnded, Words
from voxlive.vad.gate import GateOptions
from voxlive.values import Word
from voxlive.web.protocols.contract import AudioFrame, FlushSession, ReconfigureSession
from voxlive.web.protocols.openai import OpenAIRealtimeProtocol

# Turns of the voice detector.


@pytest.mark.conforms(
    "OpenAI",
    "`usage`",
    "`duration` of the item",
)
def test_a_turn_from_its_beginning_to_its_last_word():
    protocol = client(append(bytes(5 * SECOND)))
    started = one(protocol.on_event(SpeechStarted(samples(1))))
    item = started["item_id"]
    assert started == {
        "type": "input_audio_buffer.speech_started",
        "event_id": started["event_id"],
        "audio_start_ms": 700,
        "item_id": item,
    }
    delta = one(protocol.on_event(word("Hello", 1.2)))
    assert delta["type"] == f"{TRANSCRIPTION}.delta"
    assert (delta["delta"], delta["item_id"], delta["content_index"]) == ("Hello", item, 0)
    stopped, committed, added = decoded(protocol.on_event(SpeechStopped(samples(2))))
    assert stopped["type"] == "input_audio_buffer.speech_stopped"
    assert (stopped["audio_end_ms"], stopped["item_id"]) == (2500, item)
    assert committed["type"] == "input_audio_buffer.committed"
    assert (committed["item_id"], committed["previous_item_id"]) == (item, None)
    assert added["type"] == "conversation.item.added"
    assert added["item"] == {
        "id": item,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
    assert one(protocol.on_event(word(" you", 1.6)))["delta"] == " you"
    completed, done = decoded(protocol.on_event(UtteranceEnded(samples(2.2))))
    assert completed["type"] == f"{TRANSCRIPTION}.completed"
    assert (completed["transcript"], completed["item_id"]) == ("Hello you", item)
    assert completed["usage"] == {"type": "duration", "seconds": 1.3}
    assert done["type"] == "conversation.item.done"
    assert done["item"]["content"][0]["transcript"] == "Hello you"


def test_speech_without_words_is_an_item_without_words():
    protocol = client(append(bytes(5 * SECOND)))
    protocol.on_event(SpeechStarted(0))
    protocol.on_event(SpeechStopped(samples(1)))
    completed, _ = decoded(protocol.on_event(UtteranceEnded(samples(1))))
    assert completed["transcript"] == ""


def test_late_words_go_to_the_turn_that_their_time_lies_in():
    protocol = client(append(bytes(9 * SECOND)))
    first = one(protocol.on_event(SpeechStarted(0)))["item_id"]
    protocol.on_event(SpeechStopped(samples(2)))
    second = one(protocol.on_event(SpeechStarted(samples(3))))["item_id"]
    protocol.on_event(SpeechStopped(samples(4)))
    late = Words(
        0, tuple(Word(f" {at}", samples(at), samples(at + 0.5)) for at in (0.5, 1.4, 3.1, 3.4))
    )
    messages = decoded(protocol.on_event(late))
    assert [
        (m["item_id"], m.get("delta", m.get("transcript"))) for m in messages if "item_id" in m
    ] == [
        (first, "0.5 1.4"),
        (first, "0.5 1.4"),
        (second, "3.1 3.4"),
    ]
    assert kinds(protocol.on_event(UtteranceEnded(samples(4)))) == ["completed", "done"]


def test_an_utterances_end_completes_only_turns_that_have_ended():
    protocol = client(append(bytes(9 * SECOND)))
    protocol.on_event(SpeechStarted(0))
    assert protocol.on_event(UtteranceEnded(samples(1))) == []
    protocol.on_event(SpeechStopped(samples(2)))
    protocol.on_event(SpeechStarted(samples(3)))
    protocol.on_event(SpeechStopped(samples(4)))
    assert kinds(protocol.on_event(UtteranceEnded(samples(2)))) == ["completed", "done"]
    assert kinds(protocol.on_event(UtteranceEnded(samples(4)))) == ["completed", "done"]


def test_items_follow_each_other():
    protocol = client(append(bytes(9 * SECOND)))
    previous = None
    for second in range(3):
        protocol.on_event(SpeechStarted(samples(second)))
        committed = decoded(protocol.on_event(SpeechStopped(samples(second + 0.4))))[1]
        assert committed["previous_item_id"] == previous
        previous = committed["item_id"]


def test_a_commit_in_mid_speech_ends_the_turn():
    protocol = client(append(bytes(2 * SECOND)))
    item = one(protocol.on_event(SpeechStarted(0)))["item_id"]
    [reconfiguration] = protocol.received(COMMIT)
    assert isinstance(reconfiguration, ReconfigureSession)
    assert reconfiguration.options.gate == GateOptions(min_silence_ms=500)
    outs = [
        *protocol.on_event(SpeechStopped(samples(2))),
        *protocol.on_event(word(" so far", 1)),
        *protocol.on_event(Flushed(reconfiguration.marker)),
    ]
    assert kinds(outs) == ["speech_stopped", "committed", "added", "delta", "completed", "done"]
    assert {m["item_id"] for m in decoded(outs) if "item_id" in m} == {item}


def test_a_commit_after_the_detectors_own_is_no_error_and_makes_no_item():
    protocol = client(append(bytes(2 * SECOND)))
    protocol.on_event(SpeechStarted(0))
    protocol.on_event(SpeechStopped(samples(1)))
    protocol.on_event(UtteranceEnded(samples(1)))
    [reconfiguration] = protocol.received(COMMIT)
    assert protocol.on_event(Flushed(reconfiguration.marker)) == []
    assert protocol.received(COMMIT) == []


def test_a_commit_of_silence_is_answered_by_an_item_without_words():
    protocol = client(append(bytes(2 * SECOND)))
    [reconfiguration] = protocol.received(COMMIT)
    outs = protocol.on_event(Flushed(reconfiguration.marker))
    assert kinds(outs) == ["committed", "added", "completed", "done"]
    assert decoded(outs)[2]["transcript"] == ""
    assert decoded(outs)[2]["usage"]["seconds"] == 2


@pytest.mark.conforms(
    "OpenAI",
    "`input_audio_buffer.clear`",
    "works: what was not committed is not sent any more and is no item, though deltas may "
    "have been sent",
)
def test_clear_drops_the_open_turn_and_keeps_committed_ones():
    protocol = client(append(bytes(4 * SECOND)))
    kept = one(protocol.on_event(SpeechStarted(0)))["item_id"]
    protocol.on_event(SpeechStopped(samples(1)))
    dropped = one(protocol.on_event(SpeechStarted(samples(2))))["item_id"]
    cleared, reconfiguration = protocol.received(CLEAR)
    assert kinds([cleared]) == ["cleared"]
    assert protocol.received(CLEAR)[1:] == []
    outs = [
        *protocol.on_event(Words(0, (Word(" yes", 0, 900), Word(" no", samples(3), samples(3.1))))),
        *protocol.on_event(SpeechStopped(samples(4))),
        *protocol.on_event(SpeechStarted(samples(4))),
        *protocol.on_event(word(" never", 4.1)),
        *protocol.on_event(SpeechStopped(samples(4.5))),
        *protocol.on_event(UtteranceEnded(samples(4.5))),
        *protocol.on_event(Flushed(reconfiguration.marker)),
    ]
    assert kinds(outs) == ["delta", "completed", "done"]
    assert {m["item_id"] for m in decoded(outs) if "item_id" in m} == {kept}
    assert dropped not in json.dumps(decoded(outs))
    again = one(protocol.on_event(SpeechStarted(samples(5))))
    assert again["type"] == "input_audio_buffer.speech_started"


def test_a_clear_after_a_commit_drops_only_what_came_between():
    protocol = client(append(bytes(SECOND)))
    kept = one(protocol.on_event(SpeechStarted(0)))["item_id"]
    [commit] = protocol.received(COMMIT)
    protocol.received(append(bytes(SECOND)))
    cleared, clearing = protocol.received(CLEAR)
    assert kinds([cleared]) == ["cleared"]
    outs = [
        *protocol.on_event(SpeechStopped(samples(1))),
        *protocol.on_event(word("kept", 0.5)),
        *protocol.on_event(Flushed(commit.marker)),
        *protocol.on_event(SpeechStarted(samples(1))),
        *protocol.on_event(word("gone", 1.5)),
        *protocol.on_event(SpeechStopped(samples(2))),
        *protocol.on_event(Flushed(clearing.marker)),
    ]
    assert kinds(outs) == ["speech_stopped", "committed", "added", "delta", "completed", "done"]
    assert {m["item_id"] for m in decoded(outs) if "item_id" in m} == {kept}


# Turns of the client.


@pytest.mark.conforms(
    "OpenAI",
    "`turn_detection` null",
    "works: words come before the commit too",
)
def test_a_commit_is_an_item_and_words_may_come_before_it():
    protocol = client(update(MANUAL), append(bytes(2 * SECOND)))
    assert protocol.on_event(SpeechStarted(0)) == []
    early = one(protocol.on_event(word("one", 0.5)))
    *messages, flush = protocol.received(COMMIT)
    assert isinstance(flush, FlushSession)
    assert kinds(messages) == ["committed", "added"]
    assert protocol.received(append(bytes(SECOND))) == [AudioFrame(bytes(SECOND))]
    assert protocol.on_event(SpeechStopped(samples(2))) == []
    late = one(protocol.on_event(word(" two", 1.5)))
    completed, _ = decoded(protocol.on_event(Flushed(flush.marker)))
    assert completed["transcript"] == "one two"
    assert completed["usage"]["seconds"] == 2
    item = decoded(messages)[0]["item_id"]
    assert item == early["item_id"] == late["item_id"] == completed["item_id"]
    following = one(protocol.on_event(word(" three", 2.5)))
    assert following["item_id"] != item
    assert following["delta"] == "three"


def test_commits_are_completed_in_order():
    protocol = client(update(MANUAL), append(bytes(SECOND)))
    first = decoded(protocol.received(COMMIT)[:2])[0]["item_id"]
    protocol.received(append(bytes(SECOND)))
    second = decoded(protocol.received(COMMIT)[:2])[0]["item_id"]
    assert one(protocol.on_event(word("one", 0)))["item_id"] == first
    assert decoded(protocol.on_event(Flushed("")))[0]["item_id"] == first
    assert one(protocol.on_event(word(" two", 0)))["item_id"] == second
    assert decoded(protocol.on_event(Flushed("")))[0]["item_id"] == second


@pytest.mark.conforms(
    "OpenAI",
    "`input_audio_buffer.commit`",
    "works; under 100 ms: `error` `input_audio_buffer_commit_empty` with `event_id`. With"
    " `server_vad` it ends a turn, and is never an error",
)
@pytest.mark.parametrize("audio", [b"", bytes(SECOND // 10 - 2)])
def test_a_commit_under_100_ms_is_an_error_with_its_event_id(audio):
    protocol = client(update(MANUAL), append(audio))
    error = one(protocol.received(frame("input_audio_buffer.commit", event_id="c1")))["error"]
    assert error["code"] == "input_audio_buffer_commit_empty"
    assert error["type"] == "invalid_request_error"
    assert error["event_id"] == "c1"
    protocol.received(append(bytes(SECOND // 10)))
    assert kinds(protocol.received(COMMIT)[:2]) == ["committed", "added"]
    assert one(protocol.received(COMMIT))["error"]["code"] == "input_audio_buffer_commit_empty"


def test_cleared_audio_has_no_messages_and_cannot_be_committed():
    protocol = client(update(MANUAL), append(bytes(SECOND)))
    cleared, flush = protocol.received(CLEAR)
    assert kinds([cleared]) == ["cleared"]
    assert one(protocol.received(COMMIT))["error"]["code"] == "input_audio_buffer_commit_empty"
    protocol.received(append(bytes(SECOND)))
    assert protocol.on_event(word("gone", 0.5)) == []
    assert protocol.on_event(Flushed(flush.marker)) == []
    assert one(protocol.on_event(word(" kept", 1.5)))["delta"] == "kept"


def test_clear_of_an_empty_buffer_is_answered():
    assert kinds(client().received(CLEAR)) == ["cleared"]
    assert kinds(client(update(MANUAL)).received(CLEAR)) == ["cleared"]


# Any conversation.

audio = st.integers(0, 3 * SECOND).map(lambda n: append(bytes(n)))
turn_detections = st.sampled_from(
    [None, {"type": "server_vad"}, {"type": "server_vad", "silence_duration_ms": 200}]
)
updates = st.fixed_dictionaries(
    {},
    optional={"turn_detection": turn_detections, "format": st.sampled_from(["pcm16", "g711_alaw"])},
).map(lambda inside: update({"audio": {"input": inside}}))
without_clear = st.one_of(audio, audio, audio, st.just(COMMIT), updates)
frames = st.one_of(without_clear, st.just(CLEAR))


def converse(client_frames: list[str], data: st.DataObject) -> ScriptedSession:
    session = ScriptedSession(OpenAIRealtimeProtocol({}, ENGLISH), data)
    for one_frame in client_frames:
        session.client_sends(one_frame)
        for _ in range(data.draw(st.integers(0, 4), "steps")):
            session.work()
    session.shut_down()
    return session


class ProtocolClient:
    """A client that checks the server's messages against the protocol."""

    def __init__(self, session: ScriptedSession):
        self.deltas: dict[str, str] = {}
        self.speaking: str | None = None
        self.started: set[str] = set()
        self.committed: list[str] = []
        self.completed: dict[str, str] = {}
        self.cleared: set[str] = set()
        self.order: list[str] = []
        self.between = session.between
        for self.number, out in enumerate(session.outs):
            for message in decoded([out]):
                kind = message["type"].split(".")[-1]
                getattr(self, f"on_{kind}", self.ignore)(message)
        assert set(self.completed) == set(self.committed)

    def ignore(self, message):
        assert message["type"] in (
            *("session.created", "session.updated"),
            *("conversation.item.added", "conversation.item.done"),
        )

    def on_speech_started(self, message):
        assert self.speaking is None or self.speaking not in self.committed
        assert message["item_id"] not in self.started
        self.speaking = message["item_id"]
        self.started.add(self.speaking)

    def on_speech_stopped(self, message):
        assert message["item_id"] == self.speaking
        self.speaking = None

    def on_committed(self, message):
        item = message["item_id"]
        assert item not in self.committed
        assert item not in self.cleared
        assert message["previous_item_id"] == (self.committed[-1] if self.committed else None)
        self.committed.append(item)

    def on_cleared(self, _message):
        # What a commit or an update on its way will commit cannot be cleared any more.
        if self.number not in self.between:
            self.cleared |= (self.started | set(self.deltas)) - set(self.committed)

    def on_delta(self, message):
        item = message["item_id"]
        assert item not in self.completed
        assert item not in self.cleared
        assert message["delta"]
        self.deltas[item] = self.deltas.get(item, "") + message["delta"]
        self.order.append(message["delta"])

    def on_completed(self, message):
        item = message["item_id"]
        assert item in self.committed
        assert item not in self.completed
        assert message["transcript"] == self.deltas.get(item, "")
        assert message["usage"]["seconds"] >= 0
        self.completed[item] = message["transcript"]

    def on_error(self, message):
        assert message["error"]["code"] == "input_audio_buffer_commit_empty"


@pytest.mark.conforms(
    "OpenAI",
    "deltas",
    "each word once, as it is committed: joined they are `completed.transcript`",
)
@examples(300)
@given(st.lists(frames, max_size=12), st.data())
def test_deltas_are_transcripts_and_items_are_consistent(client_frames, data):
    ProtocolClient(converse(client_frames, data))


@examples(200)
@given(st.lists(without_clear, max_size=12), st.data())
def test_every_word_that_is_not_cleared_is_in_a_transcript_and_in_order(client_frames, data):
    session = converse(client_frames, data)
    listener = ProtocolClient(session)
    assert "".join("".join(listener.order).split()) == "".join("".join(session.words).split())
    # What a client had yet to commit when the server shut down has its deltas and no transcript.
    left = [text for item, text in listener.deltas.items() if item not in listener.committed]
    assert len(left) <= 1
    transcripts = "".join([*listener.completed.values(), *left])
    assert "".join(transcripts.split()) == "".join("".join(session.words).split())


@examples(100)
@given(st.lists(st.one_of(audio, st.just(COMMIT), st.just(CLEAR)), max_size=12), st.data())
def test_with_the_voice_detector_on_no_buffer_event_is_an_error(client_frames, data):
    assert "error" not in kinds(converse(client_frames, data).outs)
