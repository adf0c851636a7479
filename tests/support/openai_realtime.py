"""What a client of OpenAI's realtime protocol sends, and its messages read."""

import base64
import json

from support.conversations import ENGLISH

from voxlive.streaming.events import Words
from voxlive.values import SAMPLE_RATE, Word
from voxlive.web.protocols.contract import OpenSession, Reply
from voxlive.web.protocols.openai import OpenAIRealtimeProtocol

SECOND = 48_000  # bytes
TRANSCRIPTION = "conversation.item.input_audio_transcription"
MANUAL = {"audio": {"input": {"turn_detection": None}}}


def frame(kind: str, **fields) -> str:
    return json.dumps({"type": kind, **fields})


def append(audio: bytes) -> str:
    return frame("input_audio_buffer.append", audio=base64.b64encode(audio).decode())


def update(session: dict, **fields) -> str:
    return frame("session.update", session=session, **fields)


COMMIT = frame("input_audio_buffer.commit")
CLEAR = frame("input_audio_buffer.clear")


def decoded(outs) -> list[dict]:
    """The messages among actions or outs."""
    frames = [out.frame if isinstance(out, Reply) else out for out in outs]
    return [json.loads(out) for out in frames if isinstance(out, str)]


def kinds(outs) -> list[str]:
    """The types of messages, short."""
    return [m["type"].removeprefix("input_audio_buffer.").split(".")[-1] for m in decoded(outs)]


def one(outs) -> dict:
    [message] = decoded(outs)
    return message


def client(*frames: str, info=ENGLISH) -> OpenAIRealtimeProtocol:
    protocol = OpenAIRealtimeProtocol({}, info)
    protocol.connected()
    for client_frames in frames:
        protocol.received(client_frames)
    return protocol


def in_force(protocol: OpenAIRealtimeProtocol, **settings) -> dict:
    """``session.audio.input`` after an update."""
    message = one(protocol.received(update({"audio": {"input": settings}}))[:1])
    assert message["type"] == "session.updated", message
    return message["session"]["audio"]["input"]


def opened_with(protocol: OpenAIRealtimeProtocol):
    action = protocol.received(append(bytes(2)))[0]
    assert isinstance(action, OpenSession)
    return action.options


def word(text: str, at_s: float) -> Words:
    at = int(at_s * SAMPLE_RATE)
    return Words(0, (Word(text, at, at + 1600),))


def samples(at_s: float) -> int:
    return int(at_s * SAMPLE_RATE)
