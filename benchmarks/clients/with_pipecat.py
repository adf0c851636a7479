"""Pipecat's speech-to-text services against a running voxlive server, at real speed.

python with_pipecat.py [http://127.0.0.1:8000] [market or FILE]
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    ProposedUserStoppedSpeakingFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.deepgram.flux.stt import DeepgramFluxSTTService
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.services.mistral.stt import MistralSTTService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipecat.workers.runner import WorkerRunner
from speech import RATE, Speech, load, report

KEY = "any"


class TranscriptCollector(FrameProcessor):
    """Keeps the transcripts that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.finals: list[str] = []
        self.interims = self.turns = 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.finals.append(frame.text)
        self.interims += isinstance(frame, InterimTranscriptionFrame)
        self.turns += isinstance(frame, ProposedUserStoppedSpeakingFrame)
        await self.push_frame(frame, direction)


def services(url: str) -> dict[str, tuple[Callable[[], FrameProcessor], bool]]:
    """Every way to speak to this server, and whether its turns are found on the client's side."""
    ws = url.replace("http", "ws", 1)

    def realtime(**options: object) -> FrameProcessor:
        return OpenAIRealtimeSTTService(api_key=KEY, base_url=f"{ws}/v1/realtime", **options)

    return {
        "openai realtime, local turns": (lambda: realtime(turn_detection=False), True),
        "openai realtime, default turns": (lambda: realtime(turn_detection=None), False),
        "openai realtime, server_vad": (
            lambda: realtime(turn_detection={"type": "server_vad"}),
            False,
        ),
        "openai realtime, semantic_vad": (
            lambda: realtime(turn_detection={"type": "semantic_vad", "eagerness": "high"}),
            False,
        ),
        "deepgram flux": (
            lambda: DeepgramFluxSTTService(api_key=KEY, url=f"{ws}/v2/listen"),
            False,
        ),
        "openai REST": (lambda: OpenAISTTService(api_key=KEY, base_url=f"{url}/v1"), True),
        "deepgram": (lambda: DeepgramSTTService(api_key=KEY, base_url=ws), True),
        "mistral realtime": (lambda: MistralSTTService(api_key=KEY, base_url=url), True),
    }


async def hear(service: FrameProcessor, local_turns: bool, speech: Speech) -> TranscriptCollector:
    heard = TranscriptCollector()
    turns = [VADProcessor(vad_analyzer=SileroVADAnalyzer())] if local_turns else []
    worker = PipelineWorker(
        Pipeline([*turns, service, heard]),
        params=PipelineParams(audio_in_sample_rate=RATE),
        cancel_on_idle_timeout=False,
    )
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def _(_worker: PipelineWorker, _frame: Frame) -> None:
        started.set()

    async def send() -> None:
        await started.wait()
        await asyncio.sleep(1)
        for chunk in speech.chunks(20):
            await worker.queue_frame(InputAudioRawFrame(chunk, RATE, 1))
            await asyncio.sleep(0.02)
        await asyncio.sleep(3)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), send())
    return heard


async def main(url: str, name: str) -> None:
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    speech = load(name)
    good = True
    for title, (make, local_turns) in services(url).items():
        heard = await asyncio.wait_for(hear(make(), local_turns, speech), 90)
        good &= report(f"pipecat {title}", heard.finals, heard.interims, heard.turns, speech)
    sys.exit(not good)


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv))
    asyncio.run(main(arguments.get(1, "http://127.0.0.1:8000"), arguments.get(2, "market")))
