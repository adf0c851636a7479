import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversations import ENGLISH, conversations

from voxlive.errors import ProtocolError
from voxlive.streaming.events import Draft, Lag, SegmentClosed, SessionClosed, SessionError, Words
from voxlive.values import SAMPLE_RATE, Word
from voxlive.web.protocols.asr import AsrProtocol
from voxlive.web.protocols.contract import AudioFrame, CloseSocket, OpenSession, Refuse, StopSession

PCM = bytes(320)


def connected(**params) -> AsrProtocol:
    protocol = AsrProtocol(params, ENGLISH)
    protocol.connected()
    return protocol


def opened(**params) -> AsrProtocol:
    protocol = connected(**params)
    [action, _] = protocol.received(PCM)
    protocol.opened("id", action.options)
    return protocol


def decoded(outs) -> list[dict]:
    return [json.loads(out) for out in outs if isinstance(out, str)]


def test_config_comes_first():
    for mode in ("full", "diff"):
        [config] = decoded(AsrProtocol({"mode": mode}, ENGLISH).connected())
        assert config == {"type": "config", "useAudioWorklet": True, "mode": mode}


@pytest.mark.parametrize("params", [{"mode": "delta"}, {"target_language": "fr"}])
def test_bad_parameters_are_refused(params):
    protocol = AsrProtocol(params, ENGLISH)
    with pytest.raises(ProtocolError) as raised:
        protocol.connected()
    outs = protocol.failed(raised.value.code, raised.value.message)
    assert [message["type"] for message in decoded(outs)] == ["error"]
    assert outs[-1] == CloseSocket(4400)


def test_the_session_is_pcm_in_the_requested_language():
    protocol = connected(language="de")
    [action, audio] = protocol.received(PCM)
    assert isinstance(action, OpenSession)
    assert (action.options.audio.encoding, action.options.audio.rate) == ("s16le", 16_000)
    assert action.options.stream.language == "de"
    assert audio == AudioFrame(PCM)
    assert protocol.received(b"\1") == [AudioFrame(b"\1")]
    for params in ({}, {"language": "auto"}, {"language": ""}):
        assert connected(**params).received(PCM)[0].options.stream.language is None


def test_a_container_is_detected_in_chunks_of_any_size():
    webm = b"\x1a\x45\xdf\xa3" + bytes(40)
    protocol = connected()
    assert protocol.received(webm[:3]) == []
    assert protocol.received(webm[3:11]) == []
    [action, audio] = protocol.received(webm[11:20])
    assert action.options.audio.encoding == "container"
    assert audio == AudioFrame(webm[:20])
    assert protocol.received(webm[20:]) == [AudioFrame(webm[20:])]


def test_an_empty_frame_ends_the_audio_and_later_frames_are_dropped():
    protocol = opened()
    assert protocol.received(b"") == [StopSession()]
    assert protocol.received(PCM) == []
    assert protocol.received(b"") == []


def test_an_end_before_any_audio_closes_in_good_order():
    [action, stop] = connected().received(b"")
    assert isinstance(action, OpenSession)
    assert stop == StopSession()
    protocol = connected()
    assert protocol.received(b"\1\2") == []
    assert protocol.received(b"")[1:] == [AudioFrame(b"\1\2"), StopSession()]


def test_a_text_frame_is_refused_and_the_session_goes_on():
    protocol = opened()
    [refusal] = protocol.received("hello")
    assert isinstance(refusal, Refuse)
    [error] = decoded(protocol.refused(refusal.code, refusal.message))
    assert (error["type"], error["code"]) == ("error", "bad_message")
    assert protocol.received(PCM) == [AudioFrame(PCM)]


def test_a_full_update_has_every_field():
    protocol = opened()
    protocol.on_event(Words(0, (Word("Hello", 16_000, 24_000), Word(" you", 24_000, 32_000))))
    protocol.on_event(Draft(0, " there"))
    protocol.on_event(Lag(0.4))
    [update] = decoded(protocol.tick())
    assert update == {
        "status": "active_transcription",
        "lines": [{"speaker": 1, "text": "Hello you", "start": "0:00:01.00", "end": "0:00:02.00"}],
        "buffer_transcription": " there",
        "buffer_diarization": "",
        "buffer_translation": "",
        "remaining_time_transcription": 0.4,
        "remaining_time_transcription_processing": 0.4,
        "remaining_time_diarization": 0,
    }
    assert protocol.tick() == []


def test_the_first_update_has_no_audio_detected():
    for mode, kind in [("full", None), ("diff", "snapshot")]:
        protocol = connected(mode=mode)
        [action, _] = protocol.received(PCM)
        [update] = decoded(protocol.opened("id", action.options))
        assert (update["status"], update["lines"]) == ("no_audio_detected", [])
        assert update.get("type") == kind


def test_long_pauses_are_lines_of_silence_and_short_ones_are_not():
    protocol = opened()
    at = [6 * SAMPLE_RATE, 9 * SAMPLE_RATE, 3720 * SAMPLE_RATE + 160]
    for n, start in enumerate(at):
        protocol.on_event(Words(n, (Word(f" w{n}", start, start + 8000),)))
        protocol.on_event(SegmentClosed(n, start, start + 8000, f" w{n}"))
    [update] = decoded(protocol.tick())
    assert [(line["speaker"], line["text"]) for line in update["lines"]] == [
        *((-2, ""), (1, "w0"), (1, "w1"), (-2, ""), (1, "w2")),
    ]
    silence = update["lines"][3]
    assert (silence["start"], silence["end"]) == ("0:00:09.50", "1:02:00.01")


def test_in_diff_mode_the_open_segment_stays_in_the_buffer_until_it_closes():
    protocol = opened(mode="diff")
    protocol.on_event(Words(0, (Word("one", 0, 8000),)))
    protocol.on_event(Draft(0, " tw"))
    [update] = decoded(protocol.tick())
    assert (update["type"], update["seq"], update["n_lines"]) == ("diff", 2, 0)
    assert "new_lines" not in update
    assert update["buffer_transcription"] == "one tw"
    protocol.on_event(Draft(0, ""))
    protocol.on_event(SegmentClosed(0, 0, 8000, "one"))
    [update] = decoded(protocol.tick())
    assert (update["seq"], update["n_lines"], len(update["new_lines"])) == (3, 1, 1)
    assert update["buffer_transcription"] == ""


def test_the_end_is_the_last_update_then_ready_to_stop_then_the_clients_close():
    protocol = opened()
    protocol.received(b"")
    protocol.on_event(Words(0, (Word("tail", 0, 8000),)))
    protocol.on_event(SegmentClosed(0, 0, 8000, "tail"))
    *messages, close = protocol.on_event(SessionClosed(8000))
    assert decoded(messages)[0]["lines"][0]["text"] == "tail"
    assert decoded(messages)[1] == {"type": "ready_to_stop"}
    assert close.code == 1000
    assert close.wait_s > 0


def test_a_failure_is_in_the_last_update_and_in_a_typed_error():
    outs = opened().on_event(SessionError("engine_failed", "it broke"))
    update, error = decoded(outs)
    assert (update["status"], update["error"]) == ("error", "it broke")
    assert error == {"type": "error", "error": "it broke", "code": "engine_failed"}
    assert outs[-1] == CloseSocket(1011)


def test_shutdown_is_reported_and_closes_with_1012():
    protocol = opened()
    [error] = decoded(protocol.on_event(SessionError("shutting_down", "soon", fatal=False)))
    assert error["code"] == "shutting_down"
    outs = protocol.on_event(SessionClosed(0))
    assert decoded(outs)[-1] == {"type": "ready_to_stop"}
    assert outs[-1] == CloseSocket(1012)


class FullClient:
    def __init__(self):
        self.state = {"lines": [], "buffer_transcription": ""}

    def take(self, update):
        self.state = update

    @property
    def lines(self):
        return self.state["lines"]


class DiffClient:
    """``keep``: how many lines stay before ``new_lines`` are appended."""

    def __init__(self, keep):
        self.keep = keep
        self.lines = []
        self.seq = 0

    def take(self, update):
        self.state = update
        self.seq += 1
        assert update["seq"] == self.seq
        if update["type"] == "snapshot":
            self.lines = update["lines"]
            return
        new = update.get("new_lines", [])
        pruned = self.lines[update.get("lines_pruned", 0) :]
        self.lines = pruned[: self.keep(update["n_lines"], new, pruned)] + new
        assert len(self.lines) == update["n_lines"]


def as_documented(_n_lines, _new, lines):
    return len(lines)


def by_count(n_lines, new, _lines):
    return n_lines - len(new)


def letters(client):
    text = "".join(line["text"] for line in client.lines) + client.state["buffer_transcription"]
    return "".join(text.split())


@given(conversations(), st.data())
def test_clients_of_both_modes_show_the_same(events, data):
    clients = [FullClient(), DiffClient(as_documented), DiffClient(by_count)]
    protocols = [connected(), connected(mode="diff"), connected(mode="diff")]

    def feed(client, outs):
        for message in decoded(outs):
            if message.get("type") != "ready_to_stop":
                client.take(message)

    for client, protocol in zip(clients, protocols, strict=True):
        [action, _] = protocol.received(PCM)
        feed(client, protocol.opened("id", action.options))
    for event in events:
        ticked = data.draw(st.booleans())
        for client, protocol in zip(clients, protocols, strict=True):
            feed(client, protocol.on_event(event))
            if ticked:
                feed(client, protocol.tick())
        if ticked:
            assert len({letters(client) for client in clients}) == 1
    full, *diffs = clients
    text = "".join(event.text for event in events if isinstance(event, Words))
    assert letters(full) == "".join(text.split())
    assert all(client.lines == full.lines for client in diffs)
    assert all(client.state["buffer_transcription"] == "" for client in clients)


@given(conversations())
def test_lines_never_change_once_a_diff_has_sent_them(events):
    protocol = opened(mode="diff")
    sent = []
    for event in events:
        for message in decoded([*protocol.on_event(event), *protocol.tick()]):
            sent += message.get("new_lines", message.get("lines", []))
            assert message.get("n_lines", len(sent)) == len(sent)
    assert not protocol._lines, "what was sent is not kept"
