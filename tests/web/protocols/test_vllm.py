"""vLLM's dialect of ``/v1/realtime``: the translator alone, then over real sockets."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import clip
from support.conversations import ENGLISH, conversations
from support.scripted_session import ScriptedSession
from support.wire import dial, live, receive, receive_until, s16le, send

from voxlive.streaming.events import Flushed, SessionClosed, SessionError, Words
from voxlive.vad.gate import GateOptions
from voxlive.values import Word
from voxlive.web.protocols.contract import (
    AudioFrame,
    CloseSocket,
    FlushSession,
    OpenSession,
    Refuse,
    Reply,
)
from voxlive.web.protocols.realtime import VllmProtocol

SPEECH = s16le(clip("doctor").samples)
MESSAGE = s16le(clip("message").samples)
SECOND = 32_000
UPDATE = json.dumps({"type": "session.update", "model": "mistralai/Voxtral-Mini-4B-Realtime-2602"})


def append(audio: bytes) -> str:
    audio_field = base64.b64encode(audio).decode()
    return json.dumps({"type": "input_audio_buffer.append", "audio": audio_field})


def commit(**final) -> str:
    return json.dumps({"type": "input_audio_buffer.commit", **final})


BEGIN, END = commit(final=False), commit(final=True)


def client(*frames: str) -> VllmProtocol:
    protocol = VllmProtocol({}, ENGLISH)
    protocol.connected()
    for frame in frames:
        protocol.received(frame)
    return protocol


def decoded(outs) -> list[dict]:
    frames = [out.frame if isinstance(out, Reply) else out for out in outs]
    return [json.loads(out) for out in frames if isinstance(out, str)]


def test_session_created_comes_first():
    [created] = decoded(VllmProtocol({}, ENGLISH).connected())
    assert created["type"] == "session.created"
    assert created["id"].startswith("sess-")
    assert isinstance(created["created"], int)


@pytest.mark.conforms(
    "vLLM",
    "`commit` `final: false` before or after audio",
    "works; words come whether or not it was sent",
)
@pytest.mark.parametrize(
    "order", [[BEGIN, append(b"\0\1")], [append(b"\0\1"), BEGIN], [append(b"\0\1"), commit()]]
)
def test_a_first_commit_may_come_before_the_audio_or_after_it(order):
    protocol = client(UPDATE)
    actions = [action for frame in order for action in protocol.received(frame)]
    opening, audio = actions
    assert isinstance(opening, OpenSession)
    assert (opening.options.audio.encoding, opening.options.audio.rate) == ("s16le", 16_000)
    assert opening.options.gate == GateOptions()
    assert audio == AudioFrame(b"\0\1")
    [flush] = protocol.received(END)
    assert isinstance(flush, FlushSession)


@pytest.mark.conforms(
    "vLLM",
    "`commit` `final: true`",
    "works: `transcription.done` with the deltas since the last one, and more may follow",
)
def test_a_final_commit_is_answered_by_all_words_since_the_one_before():
    protocol = client(UPDATE, BEGIN, append(bytes(2 * SECOND)))
    outs = protocol.on_event(Words(0, (Word("Hello", 0, 800), Word(" you", 800, 1600))))
    [flush] = protocol.received(END)
    outs += protocol.on_event(Words(0, (Word(" there", 1600, 2400),)))
    outs += protocol.on_event(Flushed(flush.marker))
    assert decoded(outs) == [
        {"type": "transcription.delta", "delta": "Hello you"},
        {"type": "transcription.delta", "delta": " there"},
        {
            "type": "transcription.done",
            "text": "Hello you there",
            "usage": {"type": "duration", "seconds": 2},
        },
    ]
    protocol.received(append(bytes(SECOND)))
    [again] = protocol.received(END)
    outs = [
        *protocol.on_event(Words(1, (Word(" Again", 32_000, 33_000),))),
        *protocol.on_event(Flushed(again.marker)),
    ]
    delta, done = decoded(outs)
    assert delta["delta"] == done["text"] == "Again"
    assert done["usage"]["seconds"] == 1


def test_a_final_commit_without_audio_is_done_at_once():
    [reply] = client(UPDATE).received(END)
    assert decoded([reply]) == [
        {
            "type": "transcription.done",
            "text": "",
            "usage": {"type": "duration", "seconds": 0},
        }
    ]


@pytest.mark.conforms(
    "vLLM",
    "mistakes",
    "`error` with a plain string and vLLM's `code`, the session goes on",
)
@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("not json", "invalid_json"),
        ("[]", "invalid_json"),
        (b"\0\0", "invalid_event"),
        (json.dumps({"type": "transcribe"}), "unknown_event"),
        (append(b""), "invalid_audio"),
        (json.dumps({"type": "input_audio_buffer.append", "audio": "?"}), "invalid_audio"),
        (json.dumps({"type": "input_audio_buffer.append"}), "invalid_audio"),
        (commit(final="yes"), "invalid_event"),
    ],
)
def test_errors_are_plain_strings_with_a_code_and_the_session_goes_on(frame, code):
    protocol = client(UPDATE)
    [refusal] = protocol.received(frame)
    assert isinstance(refusal, Refuse)
    [error] = decoded(protocol.refused(refusal.code, refusal.message))
    assert error == {"type": "error", "error": refusal.message, "code": code}
    assert isinstance(protocol.received(append(bytes(2)))[0], OpenSession)


def test_a_model_is_needed_before_the_first_commit():
    [refusal] = client().received(END)
    assert refusal.code == "model_not_validated"


def test_the_end_of_a_session():
    protocol = client(UPDATE, append(bytes(SECOND)))
    outs = protocol.on_event(SessionError("engine_failed", "it broke"))
    assert decoded(outs) == [{"type": "error", "error": "it broke", "code": "engine_failed"}]
    assert outs[-1] == CloseSocket(1011)
    protocol = client(UPDATE, append(bytes(SECOND)))
    assert protocol.on_event(SessionError("shutting_down", "soon", fatal=False)) == []
    outs = protocol.on_event(SessionClosed(16_000))
    assert decoded(outs)[0]["type"] == "transcription.done"
    assert outs[-1] == CloseSocket(1012)


@given(conversations(), st.integers(0, 10 * SECOND))
def test_deltas_are_the_text_of_the_dones(events, received):
    protocol = client(UPDATE, append(bytes(received + 2)))
    marker = protocol.received(END)[0].marker
    deltas, texts, since = [], [], ""
    for event in events:
        event = Flushed(marker) if isinstance(event, Flushed) else event
        for message in decoded(protocol.on_event(event)):
            if message["type"] == "transcription.delta":
                deltas.append(message["delta"])
                since += message["delta"]
            else:
                assert message["text"] == since
                texts.append(message["text"])
                since = ""
    assert since == ""
    words = "".join(event.text for event in events if isinstance(event, Words))
    assert "".join("".join(deltas).split()) == "".join(words.split())


frames = st.one_of(
    st.integers(2, SECOND).map(lambda n: append(bytes(n))), st.sampled_from([BEGIN, END, UPDATE])
)


@pytest.mark.conforms(
    "vLLM",
    "`usage`",
    "`duration`: tokens are not counted",
)
@given(st.lists(frames, max_size=10), st.data())
def test_every_final_commit_is_answered_once_and_in_order(each, data):
    session = ScriptedSession(VllmProtocol({}, ENGLISH), data)
    session.client_sends(UPDATE)
    for frame in each:
        session.client_sends(frame)
        for _ in range(data.draw(st.integers(0, 3))):
            session.work()
    session.shut_down()
    dones = [m for m in decoded(session.outs) if m["type"] == "transcription.done"]
    assert len(dones) == each.count(END) + 1
    assert not any(m["type"] == "error" for m in decoded(session.outs))
    length = sum(len(base64.b64decode(json.loads(f).get("audio", ""))) for f in each)
    reported_s = sum(done["usage"]["seconds"] for done in dones)
    assert reported_s == pytest.approx(length / SECOND, abs=0.01)


@pytest.fixture
def url(server) -> str:
    return f"{server.ws}/v1/realtime"


def appends(audio: bytes, chunk: int = 3200) -> list[str]:
    return [append(audio[at : at + chunk]) for at in range(0, len(audio), chunk)]


async def transcribed(socket, *frames: str) -> str:
    """The text of a transcription, after checking that it is the deltas before it."""
    await send(socket, *frames)
    messages = await receive_until(socket, "transcription.done")
    deltas = [m["delta"] for m in messages if m["type"] == "transcription.delta"]
    assert "".join(deltas) == messages[-1]["text"]
    assert not [m for m in messages if m["type"] == "error"]
    return messages[-1]["text"]


async def test_a_commit_may_come_first_or_last_and_a_socket_has_many_transcriptions(
    ports_server,
):
    [done] = (await live(ports_server.ws, MESSAGE)).of("done")
    async with dial(f"{ports_server.ws}/v1/realtime") as socket:
        created = await receive(socket)
        assert created["type"] == "session.created"
        assert created["id"]
        assert created["created"]
        first = await transcribed(socket, UPDATE, BEGIN, *appends(MESSAGE), END)
        again = await transcribed(socket, *appends(MESSAGE), BEGIN, END)
        assert first.split() == again.split() == done["text"].split()
        assert {"message", "telephone", "tone."} <= set(first.split())


async def test_errors_are_plain_strings(url):
    async with dial(url) as socket:
        await receive(socket)
        await send(socket, UPDATE, "nonsense", {"type": "x"}, *appends(b"\0\0"), END)
        messages = await receive_until(socket, "transcription.done")
        errors = [m for m in messages if m["type"] == "error"]
        assert [error["code"] for error in errors] == ["invalid_json", "unknown_event"]
        assert all(isinstance(error["error"], str) for error in errors)


@pytest.mark.endurance
async def test_one_append_may_carry_fifteen_mebibytes(small):
    recording = bytes(15 * 2**20 - len(SPEECH)) + SPEECH
    async with dial(f"{small.ws}/v1/realtime") as socket:
        await receive(socket)
        text = await transcribed(socket, UPDATE, *appends(recording, len(recording)), END)
        assert "doctor" in text.split()
