"""Loading a recogniser as a live engine: how many passes at a time, how many sessions.

How many sessions a machine serves in real time is measured when the model is loaded: a draft and a
last pass, over noise that makes the model write. A session that speaks all the time costs a
draft every ``SLOWEST_DRAFTS_S`` and a last pass for every ``UTTERANCE_S``; more are not let in.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from voxlive.checkpoints.families.speech import CTRANSLATE2
from voxlive.engines.contract import EngineInfo
from voxlive.engines.utterances.commitment import DEFAULT_RULE, RULES
from voxlive.engines.utterances.engine import DRAFT, LAST, UtteranceEngine
from voxlive.errors import EngineError, RequestRefused, UnsupportedOption
from voxlive.processes.process import cores
from voxlive.recognisers.contract import LoadingOptions
from voxlive.recognisers.registry import load_recogniser
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import EngineOptions
    from voxlive.recognisers.contract import PassOptions, Recogniser
    from voxlive.values import Samples

SLOWEST_DRAFTS_S = 3.0
"""Drafts may come this rarely when all slots are taken."""
UTTERANCE_S = 6.0
"""How long people speak between two pauses, for the measurement of capacity."""

_MARGIN = 0.8  # of the cores' time: sessions do not spread evenly over it
_MOST_SLOTS = 256
_TOKENS_PER_S = 4.0  # of quick speech, punctuation and times among them
_SEED = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PassCost:
    """Seconds of one thread for a draft of half an utterance, and for its last pass."""

    draft_s: float
    last_s: float

    def sessions(self, threads: int) -> int:
        """How many sessions can speak at the same time; at least one."""
        share = self.draft_s / SLOWEST_DRAFTS_S + self.last_s / UTTERANCE_S
        return max(1, min(_MOST_SLOTS, int(_MARGIN * threads / share)))


def load_engine(model: LocalModel, options: EngineOptions) -> UtteranceEngine:
    """See ``voxlive.engines.utterances.load``."""
    if options.delay_ms is not None:
        raise UnsupportedOption(f"{model.name} has no delay to set: leave out delay_ms", "delay_ms")
    if options.quantize is not None:
        raise UnsupportedOption(
            f"{model.name} has its weights in the type that is fastest here: leave out quantize",
            "quantize",
        )
    if model.capabilities.layout != CTRANSLATE2:
        raise EngineError(
            "not_live",
            f"{model.name} is not in CTranslate2's layout, which live sessions need of a Whisper: "
            "use whisper-tiny.en, whisper-base or another faster-whisper checkpoint",
        )
    threads = cores()
    device = options.device if options.device in ("cpu", "gpu") else None
    loading = LoadingOptions(device, threads=1, parallel=threads)  # type: ignore[arg-type]
    try:
        recogniser = load_recogniser("faster_whisper", model, loading)
    except RequestRefused as error:
        raise EngineError(error.code, error.message) from error
    if options.max_sessions:
        warm_up(recogniser)
    sessions = options.max_sessions or measure(recogniser).sessions(threads)
    found = recogniser.info
    commit = options.commit or DEFAULT_RULE
    return UtteranceEngine(
        recogniser,
        EngineInfo(
            engine="whisper",
            model=found.model,
            device=found.device,
            capacity=sessions,
            languages=found.languages,
            note=_note(found.languages),
            takes_language=True,
            vocabulary=options.vocabulary,
            commit_rules=tuple(RULES),
            default_commit=commit,
            no_translation=found.no_translation,
        ),
        RULES[commit],
        threads=threads,
    )


def measure(recogniser: Recogniser) -> PassCost:
    """Time passes over noise, once the model is warm."""
    warm_up(recogniser)
    audio = _noise(UTTERANCE_S)
    half = audio[: len(audio) // 2]
    cost = PassCost(_seconds(recogniser, half, DRAFT), _seconds(recogniser, audio, LAST))
    log.info("a draft takes %.2f s, a last pass %.2f s", cost.draft_s, cost.last_s)
    return cost


def warm_up(recogniser: Recogniser) -> None:
    """A draft over noise, which begins the model's lazy parts."""
    recogniser.recognise(_noise(1.0), recogniser.info.languages[0], how=DRAFT)


def _noise(length_s: float) -> Samples:
    noise = np.random.default_rng(_SEED).standard_normal(round(length_s * SAMPLE_RATE))
    return (0.05 * noise).astype(np.float32)


def _seconds(recogniser: Recogniser, audio: Samples, how: PassOptions) -> float:
    """What a pass over speech takes: that of its first token, and as many as speech has."""
    language = recogniser.info.languages[0]
    first_s, _ = _timed(recogniser, audio, language, replace(how, max_tokens=1))
    whole_s, tokens = _timed(recogniser, audio, language, how)
    per_token_s = max(whole_s - first_s, 0.0) / max(tokens - 1, 1)
    return first_s + per_token_s * len(audio) / SAMPLE_RATE * _TOKENS_PER_S


def _timed(
    recogniser: Recogniser, audio: Samples, language: str, how: PassOptions
) -> tuple[float, int]:
    # On a CPU what others do at the moment does not count.
    now = time.process_time if recogniser.info.device == "cpu" else time.perf_counter
    began = now()
    found = recogniser.recognise(audio, language, how=how)
    return now() - began, found.tokens


def _note(languages: tuple[str, ...]) -> str | None:
    if languages != ("en",):
        return None
    return "English only: voxlive serve --model whisper-base knows 99 languages"
