"""livekit-agents' speech-to-text plugins against a running voxlive server, at real speed.

python with_livekit.py [http://127.0.0.1:8000] [market or FILE]
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import aiohttp
from livekit import rtc
from livekit.agents import stt
from livekit.agents.utils import http_context
from livekit.plugins import deepgram, mistralai, openai
from mistralai.client import Mistral
from speech import RATE, Speech, load, report

KEY = "any"
FINAL = stt.SpeechEventType.FINAL_TRANSCRIPT
_TAIL_S = 4.0


def services(url: str, session: aiohttp.ClientSession) -> dict[str, Callable[[], stt.STT]]:
    """Every way to speak to this server, as its users write it."""
    mistral = Mistral(api_key=KEY, server_url=url)
    return {
        "openai realtime": lambda: openai.STT(
            base_url=f"{url}/v1", api_key=KEY, use_realtime=True, model="gpt-4o-transcribe"
        ),
        "openai REST": lambda: openai.STT(
            base_url=f"{url}/v1", api_key=KEY, use_realtime=False, model="whisper-1"
        ),
        "deepgram": lambda: deepgram.STT(
            base_url=f"{url}/v1/listen", api_key=KEY, http_session=session
        ),
        "openai semantic_vad": lambda: openai.STT(
            base_url=f"{url}/v1",
            api_key=KEY,
            use_realtime=True,
            model="gpt-4o-transcribe",
            turn_detection={"type": "semantic_vad", "eagerness": "high"},
        ),
        "deepgram flux": lambda: deepgram.STTv2(
            base_url=f"{url.replace('http', 'ws', 1)}/v2/listen",
            api_key=KEY,
            eager_eot_threshold=0.5,
            http_session=session,
        ),
        "mistral realtime": lambda: mistralai.STT(
            client=mistral, model="voxtral-mini-transcribe-realtime-2602"
        ),
        "mistral REST": lambda: mistralai.STT(client=mistral, model="voxtral-mini-latest"),
    }


def frame(pcm: bytes) -> rtc.AudioFrame:
    return rtc.AudioFrame(pcm, RATE, 1, len(pcm) // 2)


async def hear(service: stt.STT, speech: Speech) -> tuple[list[str], int, int]:
    """The final transcripts, how many interim ones came before them, and how many turns ended."""
    if not service.capabilities.streaming:
        event = await service.recognize(frame(speech.pcm))
        return [event.alternatives[0].text], 0, 0
    events: list[stt.SpeechEvent] = []
    async with service.stream() as stream:
        hearing = asyncio.create_task(_collect(stream, events))
        await _send(stream, speech)
        # Some plugins end with their input, others when they are closed.
        await asyncio.wait([hearing], timeout=_TAIL_S)
    hearing.cancel()
    kinds = [event.type for event in events]
    finals = [e.alternatives[0].text for e in events if e.type == FINAL]
    turns = kinds.count(stt.SpeechEventType.END_OF_SPEECH)
    return finals, kinds.count(stt.SpeechEventType.INTERIM_TRANSCRIPT), turns


async def _collect(stream: stt.RecognizeStream, events: list[stt.SpeechEvent]) -> None:
    async for event in stream:
        events.append(event)  # noqa: PERF401  what came before the end is kept


async def _send(stream: stt.RecognizeStream, speech: Speech) -> None:
    for chunk in speech.chunks(20):
        stream.push_frame(frame(chunk))
        await asyncio.sleep(0.02)
    stream.flush()
    await asyncio.sleep(_TAIL_S)
    stream.end_input()


async def main(url: str, name: str) -> None:
    speech = load(name)
    good = True
    async with http_context.open(), aiohttp.ClientSession() as session:
        for title, make in services(url, session).items():
            service = make()
            heard = await asyncio.wait_for(hear(service, speech), 90)
            good &= report(f"livekit {title}", *heard, speech)
            await service.aclose()
    sys.exit(not good)


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv))
    asyncio.run(main(arguments.get(1, "http://127.0.0.1:8000"), arguments.get(2, "market")))
