"""EchoPanel's protocol: the translator alone, then over real sockets."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clips import clip
from support.conversations import ENGLISH, conversations
from support.talk import (
    BEGIN,
    PANEL,
    STOP,
    outcome,
    panel_finals,
)
from support.wire import live, s16le

from voxlive.errors import ProtocolError
from voxlive.streaming.events import Draft, Lag, SegmentClosed, SessionClosed, SessionError, Words
from voxlive.values import Word
from voxlive.web.protocols.contract import AudioFrame, CloseSocket, OpenSession, Refuse, StopSession
from voxlive.web.protocols.echopanel import EchoPanelProtocol, split_frame

SPEECH = s16le(clip("doctor").samples)
START = {"type": "start", "sample_rate": 16_000, "format": "pcm_s16le", "channels": 1}
STOP_TEXT = '{"type": "stop"}'


def started(**fields) -> EchoPanelProtocol:
    protocol = EchoPanelProtocol({}, ENGLISH)
    protocol.connected()
    [reply] = protocol.received(json.dumps({**START, **fields}))
    protocol.answer = json.loads(reply.frame)
    return protocol


def send_audio(protocol, *frames: bytes) -> None:
    for frame in frames:
        for action in protocol.received(frame):
            if isinstance(action, OpenSession):
                protocol.opened("id", action.options)


def decoded(outs) -> list[dict]:
    return [json.loads(out) for out in outs if isinstance(out, str)]


@pytest.mark.conforms(
    "EchoPanel",
    "frames with header version 1, raw frames (the system's sound), `audio` in JSON",
    "work, 16 kHz mono `pcm_s16le`",
)
@pytest.mark.conforms(
    "EchoPanel",
    "the mode byte",
    "header version 2: it is taken and has no effect, all audio is transcribed",
)
@pytest.mark.parametrize(
    ("frame", "source", "audio"),
    [
        (b"EP\1\0\5\6", "system", b"\5\6"),
        (b"EP\1\1\5\6\7\x08", "mic", b"\5\6\7\x08"),
        (b"EP\2\1\0\5\6", "mic", b"\5\6"),
        (b"EP\2\0\2\5\6", "system", b"\5\6"),
        (b"EP\1\1\5", "mic", b""),
        (b"EP\1\0", "system", b""),
        (b"\5\6\7\x08", "system", b"\5\6\7\x08"),
        (b"EP\1\2\5\6", "system", b"EP\1\2\5\6"),
        (b"EP\2\0\3\5", "system", b"EP\2\0\3\5"),
        (b"EP\3\0\5\6", "system", b"EP\3\0\5\6"),
        (b"EP\2\0", "system", b"EP\2\0"),
        (b"EP", "system", b"EP"),
        (b"\5\6\7", "system", b"\5\6"),
        (b"", "system", b""),
    ],
)
def test_frames(frame, source, audio):
    assert split_frame(frame) == (source, audio)


@given(st.binary(max_size=20))
def test_a_frame_is_whole_samples_of_a_known_source(frame):
    source, audio = split_frame(frame)
    assert source in ("system", "mic")
    assert len(audio) % 2 == 0
    assert audio in frame


def test_start_is_answered_with_the_clients_ids():
    assert decoded(EchoPanelProtocol({}, ENGLISH).connected()) == [
        {"type": "status", "state": "connected"}
    ]
    answer = started(
        session_id="s", attempt_id="a", connection_id="c", client_features={"x": 1}
    ).answer
    assert answer == {
        "type": "status",
        "state": "streaming",
        "connection_id": "c",
        "client_features": {"x": 1},
        "session_id": "s",
        "attempt_id": "a",
    }
    assert started().answer["connection_id"]


@pytest.mark.parametrize(
    "fields",
    [
        {"sample_rate": 44_100},
        {"format": "opus"},
        {"channels": 2},
        {"session_id": 5},
        {"attempt_id": "x" * 1000},
    ],
)
def test_a_wrong_format_is_an_error_and_the_close(fields):
    protocol = EchoPanelProtocol({}, ENGLISH)
    with pytest.raises(ProtocolError) as raised:
        protocol.received(json.dumps({**START, **fields}))
    error, close = protocol.failed(raised.value.code, raised.value.message)
    assert json.loads(error)["type"] == "error"
    assert close == CloseSocket(4400)


@pytest.mark.parametrize("code", ["invalid_api_key", "forbidden"])
def test_a_wrong_key_is_a_status_and_1008(code):
    status, close = EchoPanelProtocol({}, ENGLISH).failed(code, "no")
    assert (json.loads(status)["type"], json.loads(status)["state"]) == ("status", "error")
    assert close == CloseSocket(1008)


@pytest.mark.conforms(
    "EchoPanel",
    "two sources",
    "a session for each, opened by its first audio; a second one that finds no room is a "
    "`warning`, the first goes on. Not one session with two sources, from which leaks could be "
    "taken out: a frame is of one source and does not say when it was captured",
)
def test_each_source_is_a_session_and_begins_where_the_other_is():
    protocol = started()
    audio = bytes(32_000)
    [opening, first] = protocol.received(b"EP\1\0" + audio)
    assert (opening.source, first) == ("system", AudioFrame(audio, "system"))
    message = {"type": "audio", "source": "mic", "data": base64.b64encode(audio).decode()}
    [opening, second] = protocol.received(json.dumps(message))
    assert (opening.source, second) == ("mic", AudioFrame(audio, "mic"))
    assert protocol.received(b"EP\1\0" + audio) == [first]
    for _ in range(2):
        protocol.opened("id", opening.options)
    words = (Word("Hello", 1600, 8000, 0.8), Word(" you", 8000, 16_000, 0.6))
    for source, begin in (("system", 0.0), ("mic", 1.0)):
        protocol.on_source_event(source, Words(0, words))
        [final] = decoded(
            protocol.on_source_event(source, SegmentClosed(0, 1600, 16_000, "Hello you"))
        )
        assert final == {
            "type": "asr_final",
            "text": "Hello you",
            "t0": begin + 0.1,
            "t1": begin + 1.0,
            "confidence": 0.7,
            "source": source,
        }
    assert protocol.received(STOP_TEXT) == [StopSession()]
    assert protocol.on_source_event("mic", SessionClosed(16_000)) == []
    [summary], close = (
        decoded(outs := protocol.on_source_event("system", SessionClosed(32_000))),
        outs[-1],
    )
    assert [entry["source"] for entry in summary["json"]["transcript"]] == ["system", "mic"]
    assert "- 0:01 mic: Hello you" in summary["markdown"].splitlines()
    assert close == CloseSocket(1000)


@pytest.mark.conforms(
    "EchoPanel",
    "`metrics`, status `buffering`, `overloaded`, `streaming`",
    "every second for each source, in frames of 20 ms; nothing is ever dropped; "
    "`avg_infer_ms` and `realtime_factor` are null",
)
def test_partials_come_with_ticks_and_metrics_every_second():
    protocol = started()
    send_audio(protocol, bytes(32_000))
    protocol.on_source_event("system", Draft(0, "hel"))
    [partial] = decoded(protocol.tick())
    assert (partial["type"], partial["text"], partial["t1"]) == ("asr_partial", "hel", 1.0)
    assert partial["confidence"] is None
    [buffering] = decoded(protocol.on_source_event("system", Lag(6.0)))
    assert buffering["state"] == "buffering"
    assert protocol.on_source_event("system", Lag(6.5)) == []
    [metrics] = [m for _ in range(10) for m in decoded(protocol.tick())]
    assert metrics["type"] == "metrics"
    assert (metrics["source"], metrics["queue_depth"], metrics["queue_max"]) == (
        "system",
        325,
        1500,
    )
    assert metrics["queue_fill_ratio"] == pytest.approx(0.217)
    [streaming] = decoded(protocol.on_source_event("system", Lag(0.0)))
    assert streaming["state"] == "streaming"


@pytest.mark.conforms(
    "EchoPanel",
    "`cards_update`, `entities_update`, `voice_note_*`, `screen_*`",
    "not there: a `warning` for what is sent",
)
@pytest.mark.parametrize(
    "frame",
    [
        *("nonsense", "[]", "{}", '{"type": "audio"}', '{"type": "audio", "data": "?"}'),
        *('{"type": "audio", "source": "x", "data": ""}', '{"type": "voice_note_start"}'),
        json.dumps(START),
    ],
)
def test_an_invalid_message_is_refused_and_the_session_goes_on(frame):
    protocol = started()
    [refusal] = protocol.received(frame)
    assert isinstance(refusal, Refuse)
    [warning] = decoded(protocol.refused(refusal.code, refusal.message))
    assert warning["state"] == "warning"
    assert protocol.received(bytes(2))[-1] == AudioFrame(bytes(2), "system")


@pytest.mark.conforms(
    "EchoPanel",
    "`stop`",
    "works: `final_summary` with the transcript as Markdown and JSON, close 1000",
)
def test_audio_before_start_is_refused_and_a_summary_may_be_empty():
    protocol = EchoPanelProtocol({}, ENGLISH)
    assert isinstance(protocol.received(bytes(2))[0], Refuse)
    protocol = started()
    opening, stop = protocol.received(STOP_TEXT)
    assert stop == StopSession()
    protocol.opened("id", opening.options)
    [summary] = decoded(protocol.on_source_event("", SessionClosed(0)))
    assert summary["json"] == {"transcript": []}
    assert protocol.received(bytes(2)) == []


def test_shutdown_sends_a_summary_and_closes_with_1012():
    protocol = started()
    send_audio(protocol, bytes(2))
    [warning] = decoded(
        protocol.on_source_event("system", SessionError("shutting_down", "soon", fatal=False))
    )
    assert warning["state"] == "warning"
    outs = protocol.on_source_event("system", SessionClosed(1))
    assert decoded(outs)[0]["type"] == "final_summary"
    assert outs[-1] == CloseSocket(1012)


@pytest.mark.conforms(
    "EchoPanel",
    "`asr_partial`, `asr_final`",
    "finals are each word once: at a pause, at the end, or after ten seconds of speech; "
    "`confidence` is the mean of the words', null where the engine knows none",
)
@given(conversations(), st.data())
def test_finals_are_the_words_in_order_and_the_summary_has_the_finals(events, data):
    protocol = started()
    send_audio(protocol, b"EP\1\1" + bytes(2))
    outs = []
    for event in events:
        outs += protocol.on_source_event("mic", event)
        if not isinstance(event, SessionClosed) and data.draw(st.booleans()):
            outs += protocol.tick()
    assert outs[-1] == CloseSocket(1000)
    messages = decoded(outs)
    finals = [m for m in messages if m["type"] == "asr_final"]
    text = "".join(event.text for event in events if isinstance(event, Words))
    assert "".join(final["text"] for final in finals).replace(" ", "") == text.replace(" ", "")
    times = [final[edge] for final in finals for edge in ("t0", "t1")]
    assert times == sorted(times)
    summary = messages[-1]["json"]["transcript"]
    assert summary == [{k: v for k, v in final.items() if k != "type"} for final in finals]


async def test_two_sources_are_two_texts(ports_server):
    other = s16le(clip("yes").samples)
    expected = [(await live(ports_server.ws, one)).of("done")[0]["text"] for one in (SPEECH, other)]
    frames = []
    for at in range(0, max(len(SPEECH), len(other)), 3200):
        frames += [b"EP\1\0" + SPEECH[at : at + 3200], b"EP\1\1" + other[at : at + 3200]]
    result = await outcome(ports_server, PANEL, BEGIN, *frames, STOP)
    assert [panel_finals(result, "system"), panel_finals(result, "mic")] == expected
    assert {message["source"] for message in result.of("metrics")} <= {"system", "mic"}
    [summary] = result.of("final_summary")
    starts = [final["t0"] for final in summary["json"]["transcript"]]
    assert starts == sorted(starts)
    assert len(summary["markdown"].splitlines()) == 2 + len(starts)
    await ports_server.until(in_use=0)


@pytest.mark.parametrize(
    ("frames", "close"),
    [
        ([{**BEGIN, "sample_rate": 48_000}], 4400),
        ([BEGIN, bytes(10_000_000)], 1009),
        ([BEGIN, "x" * 12_000_000], 1009),
    ],
)
async def test_a_fatal_error_is_named_and_closes(server, frames, close):
    result = await outcome(server, PANEL, *frames)
    last = result.messages[-1]
    assert last["type"] == "error" or last["state"] == "error"
    assert result.code == close
    await server.until(in_use=0)


async def test_garbage_after_the_start_is_refused_and_the_session_goes_on(server):
    result = await outcome(
        server, PANEL, BEGIN, "nonsense", b"EP\1\0" + SPEECH, '{"type": "x"}', STOP
    )
    assert "doctor" in panel_finals(result)
    assert [m["state"] for m in result.of("status")].count("warning") == 2
