"""An utterance that ends with its audio has one of each event in every protocol, by every end.

Over real sockets, with the small model that knows words; all clips are in the tests of a session's
ends.
"""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import Awaitable, Callable, Iterator

import httpx
import numpy as np
import pytest
import soxr
from support.held_out import TINY_VOXTRAL, recording
from support.server import Server, serving
from support.talk import (
    BEGIN,
    CLOSE,
    DEEPGRAM,
    END,
    FINALIZE,
    FLUSH,
    FLUX,
    FORCE_END,
    MISTRAL,
    OPTIONS,
    OVER,
    PANEL,
    PORTS,
    STOP,
    WHISPER,
    WYOMING,
    Frame,
    append,
    connect,
    mistral_append,
    outcome,
    transcripts,
    utterance,
    wyoming,
)
from support.wire import START, asr, receive, s16le, send

from voxlive.web.protocols import PROTOCOLS

RECORDING = recording("slt-073.flac")
CUT = RECORDING.samples[: int(RECORDING.ends[-1] * 16_000)]
SPEECH = s16le(CUT)
SILENCE = s16le(np.zeros(24_000, np.float32))
FILES = "/v1/audio/transcriptions"
REALTIME = "/v1/realtime"

Way = Callable[[Server], Awaitable[list[str]]]
WAYS: dict[str, Way] = {}


def way(place: str, how: str) -> Callable[[Way], Way]:
    """What is final at this place when speech ends so."""

    def add(one: Way) -> Way:
        WAYS[f"{place} {how}"] = one
        return one

    return add


def ways(place: str, ends: dict[str, list[Frame]], finals: Callable[..., Awaitable]) -> None:
    """The same for several ends that are frames behind the speech."""
    for name, frames in ends.items():
        way(place, name)(lambda server, frames=frames: finals(server, *frames))


async def live(server: Server, *frames: Frame, **start: object) -> list[str]:
    heard = await outcome(server, "/v1/live", {**START, **start}, SPEECH, *frames, {"type": "stop"})
    [done] = heard.of("done")
    ends = [segment["end"] for segment in heard.of("segment")]
    assert max(ends, default=0) <= done["duration"]
    return [segment["text"] for segment in heard.of("segment")]


NOW = {"type": "flush", "id": "now"}
ways(
    "/v1/live",
    {
        "stop": [],
        "stop in the pause": [SILENCE[:9600]],
        "stop in the trail": [SILENCE[:19_200]],
        "stop behind the pause": [SILENCE],
        "flush": [NOW],
        "flush twice": [NOW, NOW],
        "flush and silence": [NOW, SILENCE],
    },
    live,
)


@way("/v1/live", "stop without voice detection")
async def live_without_vad(server: Server) -> list[str]:
    return await live(server, vad=False)


@way("/asr", "the empty frame")
async def asr_lines(server: Server) -> list[str]:
    heard = await asr(server.ws, SPEECH)
    return [line["text"] for line in heard.of(None)[-1]["lines"] if line["speaker"] != -2]


async def deepgram(server: Server, *frames: Frame) -> list[str]:
    heard = await outcome(server, DEEPGRAM, SPEECH, *frames)
    results = [m for m in heard.of("Results") if m["is_final"]]
    said = [m for m in results if m["channel"]["alternatives"][0]["transcript"]]
    assert said == [m for m in results if m["speech_final"]]
    return [m["channel"]["alternatives"][0]["transcript"] for m in said]


ways(
    "/v1/listen",
    {
        "CloseStream": [CLOSE],
        "the empty frame": [b""],
        "Finalize": [FINALIZE, CLOSE],
        "Finalize twice": [FINALIZE, FINALIZE, CLOSE],
        "Finalize and silence": [FINALIZE, SILENCE, CLOSE],
    },
    deepgram,
)


async def flux(server: Server, *frames: Frame) -> list[str]:
    heard = await outcome(server, FLUX, SPEECH, *frames)
    ends = [m for m in heard.of("TurnInfo") if m["event"] == "EndOfTurn"]
    return [turn["transcript"] for turn in ends]


ways("/v2/listen", {"CloseStream": [CLOSE], "ForceEndTurn": [FORCE_END, CLOSE]}, flux)


async def mistral(server: Server, *frames: Frame) -> list[str]:
    heard = await outcome(server, MISTRAL, mistral_append(SPEECH), *frames)
    dones = [done["text"] for done in heard.of("transcription.done")]
    segments = [segment["text"] for segment in heard.of("transcription.segment")]
    assert [text for text in dones if text] == segments
    return segments


ways(
    "/v1/audio/transcriptions/realtime",
    {
        "input_audio.end": [END],
        "input_audio.flush": [FLUSH, END],
        "flush and silence": [FLUSH, mistral_append(SILENCE), END],
    },
    mistral,
)

COMMIT = {"type": "input_audio_buffer.commit"}


@way(REALTIME, "vLLM's final commit")
async def vllm(server: Server) -> list[str]:
    final = {**COMMIT, "final": True}
    async with connect(server, REALTIME) as socket:
        model = {"type": "session.update", "model": "any"}
        await send(socket, model, append(SPEECH), final, append(SILENCE), final)
        dones: list[str] = []
        while len(dones) < 2:
            message = await receive(socket)
            dones += [message["text"]] if message["type"] == "transcription.done" else []
    return [text for text in dones if text]


def update(turns: dict | None) -> dict:
    heard = {"format": {"type": "audio/pcm", "rate": 24_000}, "turn_detection": turns}
    return {"type": "session.update", "session": {"audio": {"input": heard}}}


VAD = {"type": "server_vad"}
LONGER = {**VAD, "silence_duration_ms": 700}


def finer(audio: bytes) -> bytes:
    """At 24 kHz."""
    samples = np.frombuffer(audio, "<i2").astype(np.float32) / 32768
    return s16le(soxr.resample(samples, 16_000, 24_000))


async def openai(server: Server, turns: dict | None, *frames: Frame) -> list[str]:
    """The items, up to one that the client commits of silence, which has no words.

    It is committed twice: where the detector has made an item, the first commit is of that.
    """
    silence = [append(finer(SILENCE[:9600])), COMMIT]
    async with connect(server, REALTIME) as socket:
        await send(socket, update(turns), append(finer(SPEECH)), *frames, *silence, *silence)
        items: list[str] = []
        while "" not in items:
            message = await receive(socket)
            assert message["type"] != "error", message
            items += [message["transcript"]] if "transcript" in message else []
    return items[:-1]


for name, turns, frames in (
    ("commit", VAD, [COMMIT]),
    ("session.update in mid-speech", VAD, [update(LONGER)]),
    ("session.update to turns by hand", VAD, [update(None)]),
    ("session.update to another format", VAD, [{
        "type": "transcription_session.update",
        "session": {"input_audio_format": "g711_ulaw"},
    }, update(VAD)]),
    ("a commit by hand", None, [COMMIT]),
    ("session.update to the detector's turns", None, [update(VAD)]),
):  # fmt: skip
    way(REALTIME, f"OpenAI's {name}")(
        lambda server, turns=turns, frames=frames: openai(server, turns, *frames)
    )


@way(WHISPER, "END_OF_AUDIO")
async def whisper(server: Server) -> list[str]:
    heard = await outcome(server, WHISPER, OPTIONS, SPEECH, OVER)
    updates = [message["segments"] for message in heard.messages if "segments" in message]
    assert all(float(s["end"]) <= len(CUT) / 16_000 + 1e-3 for s in updates[-1])
    return [segment["text"] for segment in updates[-1] if segment["completed"]]


@way(PANEL, "stop")
async def panel(server: Server) -> list[str]:
    heard = await outcome(server, PANEL, BEGIN, SPEECH, STOP)
    assert all(final["t1"] <= len(CUT) / 16_000 for final in heard.of("asr_final"))
    return [final["text"] for final in heard.of("asr_final")]


@way(WYOMING, "audio-stop")
async def over_wyoming(server: Server) -> list[str]:
    return transcripts(await wyoming(server, *utterance(SPEECH)))


async def transcribed(server: Server, form: str) -> httpx.Response:
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, 16_000, 0, "NONE", ""))
        wav.writeframes(SPEECH)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        fields = {"model": "whisper-1", "response_format": form}
        answer = await client.post(FILES, files={"file": file.getvalue()}, data=fields)
    assert answer.status_code == 200
    return answer


@way(FILES, "the end of a file")
async def file(server: Server) -> list[str]:
    answer = (await transcribed(server, "verbose_json")).json()
    assert all(segment["end"] <= answer["duration"] for segment in answer["segments"])
    return [segment["text"] for segment in answer["segments"]]


def read_cues(text: str) -> list[str]:
    """The texts of SRT or WebVTT cues, none of which may outlast the audio."""
    found = []
    for block in text.strip().split("\n\n"):
        head, arrow, said = block.partition(" --> ")
        if arrow:
            end, *lines = said.split("\n")
            hours, minutes, seconds = map(float, end.replace(",", ".").split(":"))
            assert hours * 3600 + minutes * 60 + seconds <= len(CUT) / 16_000, head
            found.append(" ".join(lines))
    return found


@way(FILES, "a subtitle")
async def subtitle(server: Server) -> list[str]:
    return read_cues((await transcribed(server, "srt")).text)


@way("/captions", "stop")
async def live_cues(server: Server) -> list[str]:
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        connect(server, "/v1/live?captions=stage") as speaker,
    ):
        await send(speaker, START)
        await receive(speaker)
        async with client.stream("GET", "/captions/stage.vtt") as response:
            parts = response.aiter_text()
            head = await anext(parts)
            await send(speaker, SPEECH, {"type": "stop"})
            text = head + "".join([part async for part in parts])
    return read_cues(text)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*PORTS, "--model", str(TINY_VOXTRAL), "--device", "cpu") as running:
        yield running


@pytest.fixture(scope="module")
def expected(server: Server) -> str:
    [text] = asyncio.run(live(server, SILENCE))
    assert text.split()[-1] == "lamp"
    return text


def test_every_protocol_is_covered() -> None:
    assert {name.split(" ")[0] for name in WAYS} == {
        *(*PROTOCOLS, WHISPER, WYOMING),
        *(FILES, "/captions"),
    }


# `make test` has the first way of these places: others have the same text by a test of their own.
_PLACES = ("/v1/live", "/captions", FILES)
_FIRST = [next(name for name in WAYS if name.split(" ")[0] == place) for place in _PLACES]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in _FIRST else pytest.mark.endurance) for name in WAYS],
)
async def test_an_utterance_has_one_of_each_event(server: Server, expected: str, name: str) -> None:
    assert [text.strip() for text in await WAYS[name](server)] == [expected]
