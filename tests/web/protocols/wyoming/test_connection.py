import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock_engine import ClockEngine
from support.counting import LoudnessModel, pcm
from wyoming.event import Event, async_read_event, async_write_event

from voxlive.errors import ProtocolError
from voxlive.store.backends import open_store
from voxlive.store.contract import SessionFilter
from voxlive.streaming.service import Service
from voxlive.vad.detector import VoiceDetector
from voxlive.web.access.access import Access
from voxlive.web.live_models import LiveModels
from voxlive.web.metrics import SessionMetrics
from voxlive.web.protocols.wyoming.connection import MAX_LINE, WyomingConnection, read_event
from voxlive.web.recorder import Recorder


def reader(data: bytes) -> asyncio.StreamReader:
    stream = asyncio.StreamReader(limit=MAX_LINE)
    stream.feed_data(data)
    stream.feed_eof()
    return stream


class WriterSink:
    """The part of a StreamWriter that the library writes to."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def writelines(self, parts) -> None:
        self.data += b"".join(parts)

    async def drain(self) -> None:
        pass


@given(
    st.lists(
        st.builds(
            Event,
            st.text(min_size=1, max_size=8),
            st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=3),
            st.none() | st.binary(min_size=1, max_size=40),
        ),
        max_size=4,
    )
)
def test_events_written_by_the_library_are_read(events):
    async def round_trip() -> list[Event]:
        sink = WriterSink()
        for event in events:
            await async_write_event(event, sink)
        stream = reader(sink.data)
        return [await read_event(stream) for _ in events] + [await read_event(stream)]

    assert asyncio.run(round_trip()) == [*events, None]


async def test_a_header_alone_and_data_in_the_header():
    assert await read_event(reader(b'{"type": "describe"}\n')) == Event("describe")
    line = b'{"type": "x", "data": {"a": 1, "b": 1}, "data_length": 8}\n{"b": 2}'
    assert await read_event(reader(line)) == Event("x", {"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("nonsense", "bad_message"),
        ("", "bad_message"),
        ("[]", "bad_message"),
        ({"data": {}}, "bad_message"),
        ({"type": 5}, "bad_message"),
        ({"type": "x", "data": []}, "bad_message"),
        ({"type": "x", "data_length": -1}, "bad_message"),
        ({"type": "x", "data_length": "5"}, "bad_message"),
        ({"type": "x", "payload_length": 1.5}, "bad_message"),
        ({"type": "x", "payload_length": True}, "bad_message"),
        ({"type": "x", "data_length": 1 << 21}, "too_big"),
        ({"type": "x", "payload_length": 1 << 40}, "too_big"),
        ("[" * 60_000, "bad_message"),
        (" " * (MAX_LINE + 1), "too_big"),
    ],
)
async def test_a_bad_header_is_refused_before_its_data_is_read(header, code):
    line = header if isinstance(header, str) else json.dumps(header)
    stream = asyncio.StreamReader(limit=MAX_LINE)
    stream.feed_data(line.encode() + b"\n")
    with pytest.raises(ProtocolError) as raised:
        await read_event(stream)
    assert raised.value.code == code


async def test_bytes_that_are_not_utf_8():
    for line in (b"\xff\xfe\n", b'{"type": "x", "data_length": 2}\n\xff\xff'):
        with pytest.raises(ProtocolError):
            await read_event(reader(line))


async def test_a_peer_that_closes_in_the_middle_of_an_event():
    assert await read_event(reader(b'{"type": "x"')) is None
    with pytest.raises(asyncio.IncompleteReadError):
        await read_event(reader(b'{"type": "x", "payload_length": 9}\n123'))


AUDIO = {"rate": 16_000, "width": 2, "channels": 1}


@pytest.mark.parametrize(
    ("asked", "stored", "audio"),
    [
        ({}, True, True),
        ({"keep_audio": False}, True, False),
        ({"store": False}, False, False),
        ({"store": True, "keep_audio": True}, True, True),
    ],
)
async def test_an_utterance_is_kept_unless_its_client_asks_for_the_opposite(
    tmp_path: Path, asked: dict, stored: bool, audio: bool
):
    """The one before it, on the same connection, may be kept."""
    service = Service(ClockEngine(), VoiceDetector(LoudnessModel()))
    models, access = LiveModels(service), Access()
    recorder = Recorder(open_store(tmp_path / "store"), audio="all")
    metrics = SessionMetrics(access.count_error)
    metrics.register("wyoming")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await WyomingConnection(reader, writer, models, access, metrics, recorder).run()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        host, port = listening.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        for data in ({}, asked):
            speech = pcm(np.full(24_000, 0.5, np.float32))
            for event in (
                Event("transcribe", data),
                Event("audio-start", AUDIO),
                Event("audio-chunk", AUDIO, speech),
                Event("audio-stop", {}),
            ):
                await async_write_event(event, writer)
            while (event := await async_read_event(reader)).type != "transcript":
                pass
            assert event.data["text"] == "0 1 2"
        writer.close()
    await service.aclose()
    store = recorder.store
    await asyncio.to_thread(recorder.writer.close)
    found = store.sessions(SessionFilter(None)).sessions
    await asyncio.to_thread(recorder.close)
    assert [one.words for one in found] == [3] * (1 + stored)
    assert len(list((tmp_path / "store" / "audio").iterdir())) == 1 + audio
