"""Files through the engines of the live path: an unpaced session for each, drafts left out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from voxlive.engines import load_engine
from voxlive.engines.contract import EngineOptions, StreamOptions
from voxlive.errors import CheckpointError, EngineError, RequestRefused, UnsupportedOption
from voxlive.runners.assembly import measure_job
from voxlive.runners.contract import Delta, JobProgress, Transcript
from voxlive.runners.refusals import cannot_use
from voxlive.streaming.events import SegmentClosed, SessionError, SessionWarning, Words
from voxlive.streaming.service import Service, file_session
from voxlive.vad.detector import Silero, VoiceDetector
from voxlive.vad.gate import GateOptions
from voxlive.values import CodedWarning, Segment, Word, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from voxlive.engines.contract import Engine, EngineInfo
    from voxlive.runners.contract import Job, RunnerSpec, Update
    from voxlive.streaming.session import Session

_EVERY_S = 0.2
BATCHED_FILES = 4
"""Files that are one batch: a step for four takes little longer than for one."""


def load(spec: RunnerSpec) -> LiveRunner:
    """Load the engine of ``spec.local``. Blocks; raises RequestRefused. See the contract."""
    options = EngineOptions(
        BATCHED_FILES, spec.device, spec.delay_ms, spec.quantize, keep_quantized=spec.keep_quantized
    )
    try:
        return LiveRunner(load_engine(spec.local, options))
    except UnsupportedOption as error:
        raise RequestRefused(error.code, error.message, "model") from error
    except (EngineError, CheckpointError) as error:
        # For want of memory it is 507.
        raise RequestRefused(
            "model_load_failed", error.message, "model", status=error.status
        ) from error


class LiveRunner:
    """See the contract: as many files at a time as the engine has slots.

    These engines take no prompt and do not sample, and one that knows several languages detects
    which is spoken. Each word counts as one of ``max_tokens``.
    """

    def __init__(self, engine: Engine, detector: VoiceDetector | None = None) -> None:
        self.slots = engine.info.capacity
        self.stretch_s = 1.0
        self._engine = engine
        self._service = Service(engine, detector or VoiceDetector(Silero()))

    def run(
        self, job: Job, on_update: Callable[[Update], None], cancelled: Callable[[], bool]
    ) -> Transcript:
        """See the contract."""
        model = self._engine.info.model
        if job.task != "transcribe":
            message = f"{model} cannot translate: choose a Whisper model"
            raise RequestRefused("unsupported_option", message, "task")
        total_s = measure_job(job).seconds
        return asyncio.run(self._transcribe(job, total_s, on_update, cancelled))

    def close(self) -> None:
        """See the contract."""
        asyncio.run(self._service.aclose(0))

    async def _transcribe(
        self,
        job: Job,
        total_s: float,
        on_update: Callable[[Update], None],
        cancelled: Callable[[], bool],
    ) -> Transcript:
        stream = StreamOptions(job.language, drafts=False)
        warnings = _ignored_options(job, self._engine.info)
        async with file_session(self._service, job.path, GateOptions(), stream, job.raw) as session:
            reporting = asyncio.create_task(
                _report_progress(session, total_s, on_update, cancelled)
            )
            try:
                segments, whole = await _collect(session, on_update, job.max_tokens, warnings)
            finally:
                reporting.cancel()
            if not whole:
                await session.close()
        return Transcript(
            text="".join(segment.text for segment in segments),
            segments=segments,
            duration=total_s,
            truncated=not whole,
            warnings=tuple(warnings),
        )


def _ignored_options(job: Job, info: EngineInfo) -> list[CodedWarning]:
    """Warnings for options of the job that these engines ignore."""
    warnings = [CodedWarning("surplus_tensors", info.warning)] if info.warning else []
    if job.prompt:
        warnings.append(cannot_use("prompt", f"{info.model} takes no prompt"))
    if job.temperature:
        warnings.append(cannot_use("temperature", f"{info.model} does not sample"))
    if job.language and len(info.languages) > 1:
        why = f"{info.model} finds out by itself which of its languages is spoken"
        warnings.append(cannot_use("language", why))
    return warnings


async def _report_progress(
    session: Session,
    total_s: float,
    on_update: Callable[[Update], None],
    cancelled: Callable[[], bool],
) -> None:
    """Report progress, and close the session when the job is cancelled."""
    done_s = 0.0
    while not cancelled():
        on_update(JobProgress(done_s, total_s))
        await asyncio.sleep(_EVERY_S)
        done_s = max(done_s, min(seconds(session.handled), total_s))
    await session.close()


async def _collect(
    session: Session,
    on_update: Callable[[Update], None],
    most_words: int | None,
    warnings: list[CodedWarning],
) -> tuple[tuple[Segment, ...], bool]:
    """The segments, and whether they are complete; words are reported as they come."""
    segments: list[Segment] = []
    words: list[Word] = []
    words_left = most_words
    async for event in session.events():
        match event:
            case Words():
                new = event.words if words_left is None else event.words[:words_left]
                words.extend(new)
                on_update(Delta("".join(word.text for word in new)))
                if words_left is not None:
                    words_left -= len(new)
                    if words_left == 0:
                        return (*segments, _segment(len(segments), words)), False
            case SegmentClosed(ident):
                segments.append(_segment(ident, words))
                words.clear()
            case SessionWarning(code, message):
                warnings.append(CodedWarning(code, message))
            case SessionError(code, message):
                raise EngineError(code, message)
    return tuple(segments), True


def _segment(ident: int, words: list[Word]) -> Segment:
    text = "".join(word.text for word in words)
    return Segment(ident, text, words[0].start, words[-1].end, tuple(words))
