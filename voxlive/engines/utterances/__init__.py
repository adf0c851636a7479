"""Live recognition over any recogniser of whole utterances, such as Whisper: loading it.

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

from voxlive.engines.contract import EngineInfo
from voxlive.engines.utterances.commitment import DEFAULT_RULE, PATIENT_RULES, RULES, CommitRule
from voxlive.engines.utterances.engine import DRAFT, LAST, WIDE_DRAFT, UtteranceEngine
from voxlive.errors import EngineError, RequestRefused, UnsupportedOption
from voxlive.processes.process import command_name, cores
from voxlive.recognisers import library_of, load_recogniser
from voxlive.recognisers.contract import LoadingOptions
from voxlive.values import PAUSE_MS, SAMPLE_RATE

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.engines.contract import EngineOptions
    from voxlive.recognisers.contract import PassOptions, Recogniser, RecogniserInfo
    from voxlive.values import Samples


SLOWEST_DRAFTS_S = 1.2
"""Seconds between drafts, on average, when all slots are taken: words are committed when two of
them agree, and come late where drafts are rarer."""
UTTERANCE_S = 6.0
"""How long people speak between two pauses, for the measurement of capacity."""

_SMALL = 100_000_000
"""Bytes of weights below which a model (Whisper tiny) errs more where there are pauses in its
audio; larger ones err less, as what is said around a word tells them more (benchmarks/SPEED.md)."""
_LONG_PAUSE_MS = 900
"""What ends an utterance for larger ones."""

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

    def sessions(self, threads: float) -> int:
        """How many can speak at the same time on so many cores, or parts of one; at least one."""
        share = self.draft_s / SLOWEST_DRAFTS_S + self.last_s / UTTERANCE_S
        return max(1, min(_MOST_SLOTS, int(_MARGIN * threads / share)))


def load(model: LocalModel, options: EngineOptions) -> UtteranceEngine:
    """Load a checkpoint and measure how many sessions it serves here. Blocks.

    Raises UnsupportedOption for what such a model does not have, EngineError for files or a machine
    that it does not work with.
    """
    if options.delay_ms is not None:
        raise UnsupportedOption(f"{model.name} has no delay to set: leave it out", "delay_ms")
    if options.quantize is not None:
        raise UnsupportedOption(
            f"{model.name} has its weights in the type that is fastest here, not in fewer bits",
            "quantize",
        )
    library = library_of(model)
    family = model.family
    if library is None or family is None:
        message = f"{model.name} is no model that transcribes: `voxlive models health` has the why"
        raise EngineError("not_live", message)
    shared = options.cores or cores()
    device = options.device if options.device in ("cpu", "gpu") else None
    loading = LoadingOptions(device, threads=1, parallel=max(1, int(shared)))  # type: ignore[arg-type]
    try:
        recogniser = load_recogniser(library, model, loading)
    except RequestRefused as error:
        raise EngineError(error.code, error.message) from error
    found = recogniser.info
    if options.max_sessions:
        warm_up(recogniser)
    sessions = options.max_sessions or measure(recogniser).sessions(min(found.parallel, shared))
    commit = options.commit or DEFAULT_RULE
    rules, pause_ms = timing(model)
    return UtteranceEngine(
        recogniser,
        EngineInfo(
            engine=family.name,
            model=found.model,
            device=found.device,
            capacity=sessions,
            languages=found.languages,
            note=_note(found),
            warning=found.warning,
            takes_language=found.takes_language,
            vocabulary=options.vocabulary,
            commit_rules=tuple(rules),
            default_commit=commit,
            no_translation=found.no_translation,
            language_required=found.language_required,
            pause_ms=pause_ms,
        ),
        rules[commit],
        rules=rules,
        threads=found.parallel,
    )


def timing(model: LocalModel) -> tuple[dict[str, CommitRule], int]:
    """When such a model's words are committed, and the pause in ms that ends its utterances."""
    if model.capabilities.weights_bytes < _SMALL:
        return RULES, PAUSE_MS
    return PATIENT_RULES, _LONG_PAUSE_MS


def measure(recogniser: Recogniser) -> PassCost:
    """Time passes over noise, once the model is warm."""
    warm_up(recogniser)
    audio = _noise(UTTERANCE_S)
    half = audio[: len(audio) // 2]
    drafts = [_seconds(recogniser, half, how) for how in (DRAFT, WIDE_DRAFT)]
    cost = PassCost(sum(drafts) / 2, _seconds(recogniser, audio, LAST))
    log.info("a draft takes %.2f s, a last pass %.2f s", cost.draft_s, cost.last_s)
    return cost


def warm_up(recogniser: Recogniser) -> None:
    """The beginning of a draft over noise, which begins the model's lazy parts."""
    language = next(iter(recogniser.info.languages), None)
    recogniser.recognise(_noise(1.0), language, how=replace(DRAFT, max_tokens=2))


def _noise(length_s: float) -> Samples:
    noise = np.random.default_rng(_SEED).standard_normal(round(length_s * SAMPLE_RATE))
    return (0.05 * noise).astype(np.float32)


def _seconds(recogniser: Recogniser, audio: Samples, how: PassOptions) -> float:
    """What a pass over speech takes: that of its first token, and as many as speech has."""
    language = next(iter(recogniser.info.languages), None)
    first_s, _ = _timed(recogniser, audio, language, replace(how, max_tokens=1))
    whole_s, tokens = _timed(recogniser, audio, language, how)
    per_token_s = max(whole_s - first_s, 0.0) / max(tokens - 1, 1)
    return first_s + per_token_s * len(audio) / SAMPLE_RATE * _TOKENS_PER_S


def _timed(
    recogniser: Recogniser, audio: Samples, language: str | None, how: PassOptions
) -> tuple[float, int]:
    # On a CPU what others do at the moment does not count.
    now = time.process_time if recogniser.info.device == "cpu" else time.perf_counter
    began = now()
    found = recogniser.recognise(audio, language, how=how)
    return now() - began, found.tokens or 0


def _note(info: RecogniserInfo) -> str | None:
    notes = [] if info.timed_words else ["word times are estimates"]
    if info.languages == ("en",):
        command = f"{command_name()} serve --model whisper-base"
        notes.insert(0, f"English only: {command} knows 99 languages")
    return "; ".join(notes) or None
