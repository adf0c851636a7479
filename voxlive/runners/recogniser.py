"""The runner over a recogniser: a file in stretches, each of them one pass over a whole window.

Each stretch is read on its own: text carried over from window to window is what makes Whisper
repeat itself for minutes. The language that the first one is found to be in holds for the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from voxlive.errors import RequestRefused
from voxlive.processes.process import cores
from voxlive.recognisers import load_recogniser
from voxlive.recognisers.contract import WARMING, LoadingOptions, PassOptions
from voxlive.runners.assembly import Recognised, stretches, transcribe
from voxlive.runners.stretches import CutOptions
from voxlive.vad.detector import Silero

if TYPE_CHECKING:
    from voxlive.recognisers.contract import Recogniser
    from voxlive.runners.contract import Job, RunnerSpec, Transcript, Update
    from voxlive.runners.stretches import Stretch

_MOST_THREADS = 4
_LARGE = 200_000_000  # bytes of weights from which several cores make a pass faster


def load(spec: RunnerSpec) -> RecogniserRunner:
    """Load ``spec.local`` by the library that ``spec.backend`` names. Blocks; RequestRefused."""
    large = spec.local.capabilities.weights_bytes >= _LARGE
    threads = min(_MOST_THREADS, cores()) if large else 1
    options = LoadingOptions(spec.device, threads)
    return RecogniserRunner(load_recogniser(spec.backend, spec.local, options))


class RecogniserRunner:
    """One model, one job at a time."""

    slots = 1

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self._silero = Silero()
        self._cut = CutOptions(longest_s=recogniser.info.window_s)
        self.stretch_s = recogniser.info.window_s

    def run(
        self, job: Job, on_update: Callable[[Update], None], cancelled: Callable[[], bool]
    ) -> Transcript:
        """Transcribe a file; see ``contract.Runner``."""
        passes = _JobPasses(self._recogniser, job)
        return transcribe(
            job,
            lambda job: stretches(job, self._silero, self._cut, cancelled),
            passes.recognise,
            on_update,
            cancelled,
        )

    def close(self) -> None:
        """Free the model's memory."""
        self._recogniser.close()


class _JobPasses:
    """The passes that one job makes, in order."""

    def __init__(self, recogniser: Recogniser, job: Job) -> None:
        info = recogniser.info
        if job.task == "translate" and info.no_translation:
            raise RequestRefused("unsupported_task", info.no_translation, "task")
        self._recogniser = recogniser
        self._job = job
        self._language = job.language
        self._left = job.max_tokens
        self._how = PassOptions(
            temperatures=(job.temperature,) if job.temperature else WARMING,
            prompt=job.prompt,
            words=job.words,
        )

    def recognise(self, stretch: Stretch) -> Recognised:
        """One stretch, with the job's prompt before each: its names may come anywhere."""
        if self._left == 0:
            return Recognised((), last=True)
        how = replace(self._how, max_tokens=self._left)
        found = self._recogniser.recognise(stretch.samples, self._language, self._job.task, how=how)
        self._language = self._language or found.language
        if self._left is not None:
            self._left = max(0, self._left - (found.tokens or 0))
        return Recognised(
            found.segments,
            found.language,
            found.prompt_tokens,
            found.tokens,
            last=found.cut_short,
        )
