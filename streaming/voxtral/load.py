"""From a model's name to a warm engine, on the thread that will own it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import psutil

from ...checkpoints.checkpoint import Checkpoint, read_checkpoint
from ...checkpoints.families.voxtral import LANGUAGES
from ...checkpoints.files import find_files
from ...checkpoints.resolve import ALIASES, resolve
from ..engine import EngineError, EngineInfo, UnsupportedOption
from .engine import Vocabulary, VoxtralEngine
from .model import Model
from .weights import load_weights

if TYPE_CHECKING:
    from ...checkpoints.tekken import Tekken
    from ..options import EngineOptions

MEMORY_SHARE = 0.9
"""Of the memory that is free after loading, what the streams' caches may take together."""
TICK_SHARE = 0.6
"""Of the time that audio gives for a step, what a step with every session at once may take."""
MOST_SESSIONS = 512
_BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def load_engine(name: str, options: EngineOptions) -> VoxtralEngine:
    """See ``load`` in the package."""
    checkpoint = read_checkpoint(find_files(resolve(name, offline=options.offline)))
    delay_ms = _delay_ms(checkpoint, options.delay_ms)
    with ExitStack() as undo:
        thread = ThreadPoolExecutor(1, thread_name_prefix="voxtral")
        undo.callback(thread.shutdown)
        device = thread.submit(_use_device, options.device).result()
        model = thread.submit(_build, checkpoint, options).result()
        capacity = thread.submit(_capacity, model, options.max_sessions).result()
        info = EngineInfo(
            "voxtral",
            _known_as(name),
            device,
            capacity,
            LANGUAGES,
            delay_ms,
            delays_ms=_delays_ms(model),
        )
        engine = VoxtralEngine(model, _vocabulary(checkpoint.tekken), info, thread, _free_bytes)
        fault = engine.check(timeout=600)
        if fault:
            raise EngineError("engine_failed", fault)
        undo.pop_all()
    return engine


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


def _capacity(model: Model, asked: int | None) -> int:
    """As many sessions as memory holds at full age and as the measured step time allows."""
    fit = int(MEMORY_SHARE * _free_bytes() / model.stream_nbytes)
    if fit < 1:
        raise EngineError(
            "no_memory",
            f"a session needs {model.stream_nbytes >> 20} MiB at full age and only "
            f"{_free_bytes() >> 20} MiB are free beside the weights: try --quantize 4",
        )
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    if asked is not None and on_cpu:
        return asked
    # On a GPU the first step of a batch size compiles: better now than under the first clients.
    tick = TICK_SHARE * model.config.token_seconds
    capacity = 1
    for rows in _BATCHES:
        if rows > min(fit, asked or MOST_SESSIONS):
            break
        if _step_seconds(model, rows) > tick and asked is None:
            break
        capacity = rows
    return asked or capacity


def _step_seconds(model: Model, rows: int) -> float:
    """The middle of three steps of ``rows`` streams; the first, which compiles, does not count."""
    slots = list(range(rows))
    for slot in slots:
        model.join(slot, model.config.delay_tokens)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        model.time_step(slots)
        times.append(time.perf_counter() - began)
    for slot in slots:
        model.leave(slot)
    return sorted(times[1:])[1]


def _free_bytes() -> int:
    """Memory that MLX may still take on its device."""
    if mx.default_device() == mx.Device(mx.cpu):
        return int(psutil.virtual_memory().available)
    info = mx.device_info()
    limit = int(info.get("max_recommended_working_set_size", mx.get_memory_limit()))
    return limit - mx.get_active_memory()


def _vocabulary(tekken: Tekken) -> Vocabulary:
    vocab, specials = tekken.vocab, tekken.num_special

    def pieces(token: int) -> bytes:
        return vocab[token - specials] if token >= specials else b""

    return Vocabulary(pieces, tekken.streaming_pad, tekken.streaming_word)
