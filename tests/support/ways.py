"""Every way from speech to text: the protocols of live sessions, files, captions.

A way has the text that the server calls final, and what it sends bit by bit, joined.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
import numpy as np
import soxr
from support.clips import clip
from support.encode import encode
from support.server import Server
from support.talk import (
    BEGIN,
    CLOSE,
    DEEPGRAM,
    END,
    FLUX,
    MISTRAL,
    OPTIONS,
    OVER,
    PANEL,
    STOP,
    WHISPER,
    WYOMING,
    append,
    completed,
    connect,
    deepgram_finals,
    mistral_append,
    outcome,
    panel_finals,
    transcripts,
    utterance,
    wyoming,
)
from support.wire import START, asr, listen, live, receive, s16le, send, text_of_lines

SENTENCES = 2
SECOND = clip("train").sentences[1].start
CUT = int((SECOND - 0.2) * 16_000)
SAMPLES = np.concatenate(
    [clip("train").samples[:CUT], np.zeros(8000, np.float32), clip("train").samples[CUT:]]
)
SPEECH = s16le(SAMPLES)
THIRD = -(-len(SPEECH) // 6) * 2
FLOATS = SAMPLES.astype("<f4").tobytes()
FILE = encode(SAMPLES, "flac", "flac", 16_000)
REALTIME = "/v1/realtime"
FILES = "/v1/audio/transcriptions"
CAPTIONS = "/captions/{session}"


@dataclass(frozen=True)
class ReceivedText:
    """``text`` is what the server calls final; ``deltas`` what it said bit by bit, joined."""

    text: str
    deltas: str | None = None


Way = Callable[[Server], Awaitable[ReceivedText]]
WAYS: dict[str, Way] = {}


def way(place: str, how: str = "") -> Callable[[Way], Way]:
    """A way from speech to text: where, and how if there are several."""

    def add(one: Way) -> Way:
        WAYS[f"{place} {how}".strip()] = one
        return one

    return add


def joined(messages: list[dict], name: str) -> str:
    return "".join(message[name] for message in messages)


@way("/v1/live")
async def native(server: Server) -> ReceivedText:
    heard = await live(server.ws, SPEECH)
    [done] = heard.of("done")
    assert joined(heard.of("segment"), "text") == done["text"]
    return ReceivedText(
        done["text"], joined([w for m in heard.of("words") for w in m["words"]], "text")
    )


@way("/asr", "full")
async def asr_full(server: Server) -> ReceivedText:
    heard = await asr(server.ws, SPEECH)
    return ReceivedText(text_of_lines(heard.of(None)[-1]["lines"]))


@way("/asr", "diff")
async def asr_diff(server: Server) -> ReceivedText:
    heard = await asr(server.ws, SPEECH, query="?mode=diff")
    lines = [line for update in heard.of("diff") for line in update.get("new_lines", [])]
    assert heard.of("diff")[-1]["n_lines"] == len(lines)
    return ReceivedText(text_of_lines(lines))


async def openai(server: Server, update: dict, audio: bytes) -> ReceivedText:
    async with connect(server, REALTIME) as socket:
        await send(socket, update, append(audio))
        deltas: dict[str, str] = {}
        transcripts: dict[str, str] = {}
        while len(transcripts) < SENTENCES:
            message = await receive(socket)
            kind = message["type"].removeprefix("conversation.item.")
            assert kind != "error"
            if kind == "input_audio_transcription.delta":
                item = message["item_id"]
                deltas[item] = deltas.get(item, "") + message["delta"]
            elif kind == "input_audio_transcription.completed":
                transcripts[message["item_id"]] = message["transcript"]
    assert deltas == transcripts
    return ReceivedText(" ".join(transcripts.values()), " ".join(deltas.values()))


@way(REALTIME, "today's OpenAI")
async def openai_today(server: Server) -> ReceivedText:
    heard = {"format": {"type": "audio/pcm", "rate": 16_000}}
    update = {"type": "session.update", "session": {"audio": {"input": heard}}}
    return await openai(server, update, SPEECH)


@way(REALTIME, "the beta's")
async def openai_beta(server: Server) -> ReceivedText:
    """Its format has no other rate than 24 kHz."""
    update = {"type": "transcription_session.update", "session": {"input_audio_format": "pcm16"}}
    finer = soxr.resample(SAMPLES, 16_000, 24_000).clip(-1, 1 - 2**-15)
    return await openai(server, update, s16le(finer))


@way(REALTIME, "vLLM's")
async def vllm(server: Server) -> ReceivedText:
    commit = {"type": "input_audio_buffer.commit"}
    begin, end = {**commit, "final": False}, {**commit, "final": True}
    async with connect(server, REALTIME) as socket:
        model = {"type": "session.update", "model": "any"}
        await send(socket, model, begin, append(SPEECH), end)
        messages = [await receive(socket)]
        while messages[-1]["type"] != "transcription.done":
            messages.append(await receive(socket))
    deltas = [message for message in messages if message["type"] == "transcription.delta"]
    return ReceivedText(messages[-1]["text"], joined(deltas, "delta"))


@way("/v1/audio/transcriptions/realtime")
async def mistral(server: Server) -> ReceivedText:
    heard = await outcome(server, MISTRAL, mistral_append(SPEECH), END)
    [done] = heard.of("transcription.done")
    assert joined(heard.of("transcription.segment"), "text") == done["text"]
    return ReceivedText(done["text"], joined(heard.of("transcription.text.delta"), "text"))


@way("/v1/listen", "live")
async def deepgram(server: Server) -> ReceivedText:
    return ReceivedText(deepgram_finals(await outcome(server, DEEPGRAM, SPEECH, CLOSE)))


@way("/v2/listen")
async def flux(server: Server) -> ReceivedText:
    heard = await outcome(server, FLUX, SPEECH, CLOSE)
    ends = [turn for turn in heard.of("TurnInfo") if turn["event"] == "EndOfTurn"]
    return ReceivedText(" ".join(turn["transcript"] for turn in ends))


@way("/v1/listen", "with a file")
async def deepgram_file(server: Server) -> ReceivedText:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        answer = await client.post("/v1/listen", content=FILE)
    [channel] = answer.json()["results"]["channels"]
    return ReceivedText(channel["alternatives"][0]["transcript"])


@way(WHISPER)
async def whisper(server: Server) -> ReceivedText:
    options = {**OPTIONS, "audio_format": "float32"}
    return ReceivedText(completed(await outcome(server, WHISPER, options, FLOATS, OVER)))


@way(PANEL)
async def panel(server: Server) -> ReceivedText:
    """Frames without a header, and with either version of it."""
    frames = []
    for at, header in enumerate((b"", b"EP\1\0", b"EP\2\0\2")):
        frames.append(header + SPEECH[at * THIRD : (at + 1) * THIRD])
    heard = await outcome(server, PANEL, BEGIN, *frames, STOP)
    [summary] = heard.of("final_summary")
    summed = " ".join(said["text"] for said in summary["json"]["transcript"])
    return ReceivedText(summed, panel_finals(heard))


@way(WYOMING)
async def over_wyoming(server: Server) -> ReceivedText:
    events = await wyoming(server, *utterance(SPEECH))
    [text] = transcripts(events)
    chunks = [event.data["text"] for event in events if event.type == "transcript-chunk"]
    return ReceivedText(text, "".join(chunks))


@way(FILES, "json")
async def file(server: Server) -> ReceivedText:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        answer = await client.post(FILES, files={"file": FILE}, data={"model": "whisper-1"})
    return ReceivedText(answer.json()["text"])


@way(FILES, "stream")
async def file_stream(server: Server) -> ReceivedText:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        fields = {"model": "whisper-1", "stream": "true"}
        answer = await client.post(FILES, files={"file": FILE}, data=fields)
    lines = [line for line in answer.text.splitlines() if line.startswith("data: {")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    deltas = [event for event in events if event["type"] == "transcript.text.delta"]
    [done] = [event for event in events if event["type"] == "transcript.text.done"]
    return ReceivedText(done["text"], joined(deltas, "delta"))


@way(CAPTIONS)
async def captions(server: Server) -> ReceivedText:
    """Words and segments as a reader is told them who came before the first."""
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        connect(server, "/v1/live?captions=stage") as speaker,
    ):
        await send(speaker, START)
        await receive(speaker)
        async with client.stream("GET", "/captions/stage") as response:
            lines = response.aiter_lines()
            await anext(lines)
            await send(speaker, SPEECH, {"type": "stop"})
            await listen(speaker)
            data = [json.loads(line[6:]) async for line in lines if line.startswith("data: ")]
    segments = [told for told in data if "id" in told]
    words = [told for told in data if "words" in told and "text" in told]
    return ReceivedText(joined(segments, "text"), joined(words, "text"))
