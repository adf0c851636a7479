"""Wyoming's own Python client against this server, as Home Assistant uses it."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from support.clips import Clip, clip
from support.scoring import spelt
from support.server import AT_PAUSES, Server, serving
from support.wire import live, s16le
from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from zeroconf import ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf


@pytest.fixture(scope="module")
def wyoming() -> Iterator[Server]:
    with serving("--wyoming-port", "0", "--max-sessions", "2", *AT_PAUSES) as running:
        yield running


@pytest.fixture
async def client(wyoming) -> AsyncIterator[AsyncClient]:
    async with AsyncClient.from_uri(wyoming.others["Wyoming"], read_timeout=90) as connected:
        yield connected


async def send_clip(client: AsyncClient, recording: Clip, chunk: int = 1024) -> None:
    """The clip at its own rate and channels, as audio-start, chunks and audio-stop."""
    form = {"rate": recording.rate, "width": 2, "channels": recording.channels}
    audio = recording.pcm.astype("<i2").tobytes()
    await client.write_event(AudioStart(**form).event())
    for at in range(0, len(audio), chunk * 2 * recording.channels):
        piece = audio[at : at + chunk * 2 * recording.channels]
        await client.write_event(AudioChunk(audio=piece, **form).event())
    await client.write_event(AudioStop().event())


async def collect(client: AsyncClient) -> list[Event]:
    """Everything up to transcript-stop."""
    events = [await client.read_event()]
    while events[-1].type != "transcript-stop":
        events.append(await client.read_event())
    return events


def transcript(events: list[Event]) -> str:
    [text] = [Transcript.from_event(e).text for e in events if Transcript.is_type(e.type)]
    return text


async def test_describe_and_ping(client):
    await client.write_event(Describe().event())
    [program] = Info.from_event(await client.read_event()).asr
    assert program.supports_transcript_streaming
    assert program.models[0].languages == ["en"]
    await client.write_event(Ping("hello").event())
    assert Pong.from_event(await client.read_event()).text == "hello"


@pytest.mark.conforms(
    "Wyoming",
    "`describe`, `ping`, a plain line of JSON",
    "work",
)
async def test_a_header_line_alone_is_answered(wyoming):
    host, port = wyoming.others["Wyoming"].removeprefix("tcp://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b'{"type":"describe"}\n')
    assert b'"type": "info"' in await reader.readline()
    writer.close()


@pytest.mark.long
async def test_utterances_one_after_another_on_one_connection(wyoming, client):
    [done] = (await live(wyoming.ws, s16le(clip("market").samples))).of("done")
    for name, words in [
        ("market", {"bread", "milk", "total", "less"}),
        ("doctor", {"doctor", "afternoon", "results"}),
    ]:
        await client.write_event(Transcribe(language="en").event())
        await send_clip(client, clip(name))
        events = await collect(client)
        text = transcript(events)
        assert words <= set(spelt(text))
        assert text == done["text"] or name != "market"
        chunks = [TranscriptChunk.from_event(e).text for e in events if e.type.endswith("-chunk")]
        assert "".join(chunks) == text
        kinds = [event.type for event in events]
        assert kinds[0] == "transcript-start"
        assert kinds[-2:] == ["transcript", "transcript-stop"]
        assert kinds.count("voice-started") == kinds.count("voice-stopped") > 0
    assert wyoming.health()["in_use"] == 0


@pytest.mark.parametrize("name", ["phone", "stereo"])
async def test_other_rates_and_channels(wyoming, client, name):
    recording = clip(name)
    audio = recording.pcm.astype("<i2").tobytes()
    native = await live(wyoming.ws, audio, rate=recording.rate, channels=recording.channels)
    await send_clip(client, recording)
    text = transcript(await collect(client))
    assert len(text.split()) > 3
    assert text == native.of("done")[0]["text"]


async def test_an_unsupported_language_ends_the_connection_with_a_reason(client):
    await client.write_event(Transcribe(language="fr").event())
    await client.write_event(AudioStart(16_000, 2, 1).event())
    error = await client.read_event()
    assert (error.type, error.data["code"]) == ("error", "unsupported_option")
    assert await client.read_event() is None


async def test_the_port_is_announced_and_withdrawn():
    """On the loopback interface: what only this machine can reach is announced to it alone."""
    kind = "_wyoming._tcp.local."
    seen: asyncio.Queue[tuple[str, ServiceStateChange]] = asyncio.Queue()

    def note(zeroconf, service_type, name, state_change) -> None:
        seen.put_nowait((name, state_change))

    network = AsyncZeroconf(interfaces=["127.0.0.1"])
    browser = AsyncServiceBrowser(network.zeroconf, kind, handlers=[note])
    announced = serving("--wyoming-port", "0", "--zeroconf")
    server = await asyncio.to_thread(announced.__enter__)
    try:
        name, change = await seen.get()
        assert name.startswith("voxlive on ")
        assert change is ServiceStateChange.Added
        info = AsyncServiceInfo(kind, name)
        assert await info.async_request(network.zeroconf, 10_000)
        [address] = info.parsed_addresses()
        assert server.others["Wyoming"] == f"tcp://{address}:{info.port}"
    finally:
        await asyncio.to_thread(announced.__exit__, None, None, None)
    assert await seen.get() == (name, ServiceStateChange.Removed)
    await browser.async_cancel()
    await network.async_close()
