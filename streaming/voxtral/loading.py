"""From a model's name to a warm engine, on the thread that will own it."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from ...checkpoints.checkpoint import Checkpoint, read_checkpoint
from ...checkpoints.errors import listed
from ...checkpoints.families.voxtral import LANGUAGES
from ...checkpoints.files import find_files
from ...checkpoints.resolve import ALIASES, resolve
from ..engine import EngineError, EngineInfo, UnsupportedOption
from .capacity import MOST_SESSIONS, free_bytes, settle_capacity
from .engine import Vocabulary, VoxtralEngine
from .model import Model
from .row_options import trail_margin
from .weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...checkpoints.tekken import Tekken
    from ..options import EngineOptions

log = logging.getLogger(__name__)


def load_engine(name: str, options: EngineOptions) -> VoxtralEngine:
    """See ``load`` in the package."""
    checkpoint = read_checkpoint(find_files(resolve(name, offline=options.offline)))
    delay_ms = _delay_ms(checkpoint, options.delay_ms)
    with ExitStack() as undo:
        thread = ThreadPoolExecutor(1, thread_name_prefix="voxtral")
        undo.callback(thread.shutdown)
        device = thread.submit(_use_device, options.device).result()
        model = thread.submit(_build, checkpoint, options).result()
        capacity = thread.submit(settle_capacity, model, options.max_sessions).result()
        info = EngineInfo(
            "voxtral",
            _known_as(name),
            device,
            capacity,
            LANGUAGES,
            delay_ms,
            warning=_surplus(checkpoint.plan.surplus),
            delays_ms=_delays_ms(model),
            trail_margin=trail_margin(model.front_end),
        )
        if info.warning:
            log.warning("%s: %s", name, info.warning)
        engine = VoxtralEngine(model, _vocabulary(checkpoint.tekken), info, thread, free_bytes)
        fault = engine.check(timeout=600)
        if fault:
            raise EngineError("engine_failed", fault)
        undo.pop_all()
    return engine


def _surplus(names: Sequence[str]) -> str | None:
    if not names:
        return None
    return f"the model has no place for these tensors of its files: {listed(names)}"


def _known_as(name: str) -> str:
    folder = Path(name).expanduser()
    return folder.resolve().name if folder.is_dir() else ALIASES.get(name, name)


def _delay_ms(checkpoint: Checkpoint, asked: int | None) -> int:
    config = checkpoint.config
    token_ms = round(1000 * config.token_seconds)
    if asked is not None and (asked % token_ms or asked <= 0):
        raise UnsupportedOption(f"the delay must be a multiple of {token_ms} ms, not {asked}")
    return asked or config.delay_tokens * token_ms


def _delays_ms(model: Model) -> range:
    token_ms = round(1000 * model.config.token_seconds)
    return range(token_ms, token_ms * model.decoder.max_delay_tokens + 1, token_ms)


def _use_device(asked: str | None) -> str:
    if asked == "gpu" and not mx.is_available(mx.gpu):
        raise UnsupportedOption(
            "MLX finds no GPU here: on a Mac it needs Apple silicon, elsewhere an NVIDIA GPU and "
            "the extra voxlive[cuda13]; or choose --device cpu"
        )
    if asked == "cpu":
        mx.set_default_device(mx.cpu)
    return str(mx.default_device().type).rpartition(".")[2]


def _build(checkpoint: Checkpoint, options: EngineOptions) -> Model:
    weights = load_weights(checkpoint.plan, quantize=options.quantize)
    tekken = checkpoint.tekken
    most = options.max_sessions or MOST_SESSIONS
    # One slot more than there can be sessions: the health check has its own.
    return Model(
        checkpoint.config, weights, slots=most + 1, bos=tekken.bos, pad=tekken.streaming_pad
    )


def _vocabulary(tekken: Tekken) -> Vocabulary:
    vocab, specials = tekken.vocab, tekken.num_special

    def pieces(token: int) -> bytes:
        return vocab[token - specials] if token >= specials else b""

    return Vocabulary(pieces, tekken.streaming_pad, tekken.streaming_word)
