"""What all protocols read alike: base64 with white space, and JSON that comes in binary frames."""

from __future__ import annotations

import base64
import json
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversations import ENGLISH
from support.encode import encode
from support.examples import examples
from support.talk import BEGIN, OPTIONS, append, mistral_append
from support.wire import START

from voxlive.web.protocols.contract import (
    AudioFrame,
    FlushSession,
    OpenSession,
    Refuse,
    Reply,
    StopSession,
)
from voxlive.web.protocols.deepgram import DeepgramProtocol
from voxlive.web.protocols.echopanel import EchoPanelProtocol
from voxlive.web.protocols.fields import MIN_HEAD, decode_base64, is_container, is_json
from voxlive.web.protocols.live import LiveProtocol
from voxlive.web.protocols.mistral import MistralProtocol
from voxlive.web.protocols.realtime import RealtimeProtocol
from voxlive.web.protocols.whisper_live import WhisperLiveProtocol

SOUND = bytes(range(256)) * 3


def broken(message: dict, name: str, by: str) -> dict:
    """The message with lines in its base64, as encoders for mail make them."""
    return {**message, name: by.join(textwrap.wrap(message[name], 76))}


@given(st.binary(max_size=200), st.sampled_from(["\n", "\r\n", " ", "\t", "\n\n "]))
def test_white_space_in_base64_is_no_part_of_it(data, by):
    text = base64.b64encode(data).decode()
    assert decode_base64({"audio": by.join(text)}, "audio") == data
    assert decode_base64({"audio": f"{by}{text}{by}"}, "audio") == data


@pytest.mark.parametrize("text", ["!", "AA", "AAA", "A===", "AA==AA", "Ä"])
def test_what_is_not_base64_is_still_refused(text):
    with pytest.raises(ValueError, match="base64"):
        decode_base64({"audio": text}, "audio")


@pytest.mark.parametrize(
    ("protocol", "before", "message", "name"),
    [
        (RealtimeProtocol, {"type": "session.update", "session": {}}, append(SOUND), "audio"),
        (RealtimeProtocol, {"type": "session.update", "model": "m"}, append(SOUND), "audio"),
        (MistralProtocol, None, mistral_append(SOUND), "audio"),
        (EchoPanelProtocol, BEGIN, {**append(SOUND), "type": "audio"}, "data"),
    ],
)
@pytest.mark.parametrize("by", ["\n", "\r\n"])
def test_every_protocol_with_base64_takes_lines_of_it(protocol, before, message, name, by):
    if name not in message:
        message = {"type": message["type"], name: message["audio"]}
    client = protocol({"model": "m"}, ENGLISH)
    client.connected()
    if before:
        client.received(json.dumps(before))
    actions = client.received(json.dumps(broken(message, name, by)))
    assert b"".join(a.data for a in actions if isinstance(a, AudioFrame)) == SOUND


def deepgram() -> DeepgramProtocol:
    client = DeepgramProtocol({"encoding": "linear16", "sample_rate": "16000"}, ENGLISH)
    client.options_from_handshake()
    return client


@pytest.mark.conforms(
    "Deepgram",
    "`KeepAlive`, `Finalize`, `CloseStream`, `Configure` in binary frames",
    "work, and are no audio",
)
def test_deepgrams_controls_may_be_binary():
    client = deepgram()
    assert client.received(b'{"type":"KeepAlive"}') == []
    assert client.received(b' {"type": "Finalize"}\n') == [FlushSession("Finalize")]
    [configured] = client.received(b'{"type":"Configure"}')
    assert isinstance(configured, Reply)
    [unknown] = client.received(b'{"type":"Odd"}')
    assert isinstance(unknown, Refuse)
    assert client.received(b"{}") == [Refuse("bad_message", unknown_type())]
    assert client.received(b'{"type":') == [AudioFrame(b'{"type":')]
    assert client.received(b'{"type":"CloseStream"}') == [StopSession()]


def unknown_type() -> str:
    return 'a message must have a "type", which is a string'


def test_the_digest_of_deepgrams_audio_is_that_of_the_audio_alone():
    with_controls, without = deepgram(), deepgram()
    for frame in (b"\1\2", b'{"type":"KeepAlive"}', b"\3\4"):
        with_controls.received(frame)
    without.received(b"\1\2\3\4")
    assert with_controls._digest.hexdigest() == without._digest.hexdigest()


def test_the_native_protocol_may_be_spoken_in_binary_frames_alone():
    client = LiveProtocol({}, ENGLISH)
    [opening] = client.received(json.dumps(START).encode())
    assert isinstance(opening, OpenSession)
    assert client.received(b"\0\1\2") == [AudioFrame(b"\0\1\2")]
    assert client.received(b'{"type": "flush", "id": "1"}') == [FlushSession("1")]
    assert client.received(b'{"type": "stop"}') == [StopSession()]


@pytest.mark.parametrize(
    ("protocol", "frames"),
    [
        (RealtimeProtocol, [{"type": "session.update", "session": {}}, append(SOUND)]),
        (RealtimeProtocol, [{"type": "session.update", "model": "m"}, append(SOUND)]),
        (MistralProtocol, [mistral_append(SOUND)]),
        (EchoPanelProtocol, [BEGIN, b"EP\1\0" + SOUND]),
        (WhisperLiveProtocol, [OPTIONS, SOUND]),
    ],
)
def test_so_may_the_others(protocol, frames):
    client = protocol({"model": "m"}, ENGLISH)
    client.connected()
    actions = []
    for frame in frames:
        frame = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
        actions += client.received(frame)
    assert sum(isinstance(action, OpenSession) for action in actions) == 1
    assert b"".join(a.data for a in actions if isinstance(a, AudioFrame)) == SOUND


@given(st.binary(max_size=100))
def test_audio_is_no_json_unless_it_is_an_object(frame):
    try:
        is_object = isinstance(json.loads(frame), dict)
    except (ValueError, RecursionError):
        is_object = False
    assert is_json(frame) == (is_object and frame.lstrip().startswith(b"{"))


def test_frames_of_audio_that_begin_like_json_are_audio_at_any_size():
    assert not is_json(b"{" * 100_000)
    assert not is_json(b"{" + bytes(10_000))
    assert is_json('{"any": "text"}')


TONE = (np.sin(np.arange(16_000) * 0.05) * 0.3).astype(np.float32)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("webm", "libopus"),
        ("ogg", "libopus"),
        ("mp4", "aac"),
        ("mp3", "libmp3lame"),
        ("flac", "flac"),
        ("wav", "pcm_s16le"),
    ],
)
def test_real_containers_are_known(container, codec):
    data = encode(TONE, container, codec)
    assert is_container(data[:MIN_HEAD]) is not False
    assert is_container(data[:4096]) is True


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_an_mp3_without_a_tag_is_known_by_its_second_frame(rate):
    data = encode(TONE, "mp3", "libmp3lame", rate, id3v2_version="0")
    assert not data.startswith(b"ID3")
    assert is_container(data[:MIN_HEAD]) is None
    assert is_container(data[:4096]) is True


def test_a_few_bytes_are_not_enough():
    assert is_container(b"") is None
    assert is_container(b"OggS") is None


def test_pcm_that_begins_like_an_mp3_frame_is_pcm():
    quiet = np.random.default_rng(1).integers(-300, 300, 4000).astype("<i2").tobytes()
    assert is_container(b"\xff\xfb\x90\x44" + quiet) is False


@examples(30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000))
def test_pcm_of_moderate_level_is_never_a_container(seed, peak):
    pcm = np.random.default_rng(seed).integers(-peak, peak, 3000).astype("<i2").tobytes()
    assert is_container(pcm) is False
