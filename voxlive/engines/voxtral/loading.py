"""From a checkpoint to a warm engine, on the thread that will own it.

``load_weights`` carries out the checkpoint's plan with MLX, tensor by tensor. ``settle_capacity``
says how many sessions the machine takes, by the bytes of their caches and the time of a step, and
compiles the shapes of their steps. ``load_engine`` does all of it.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import psutil

from voxlive.checkpoints.families.voxtral import VOXTRAL_LANGUAGES
from voxlive.checkpoints.local_model import Checkpoint, read_checkpoint
from voxlive.checkpoints.plan import LoadPlan, LoadStep, Quantisation
from voxlive.engines.contract import EngineInfo
from voxlive.engines.voxtral.engine import Vocabulary, VoxtralEngine
from voxlive.engines.voxtral.model import StreamCaches, VoxtralModel
from voxlive.engines.voxtral.nvidia import takes
from voxlive.errors import (
    DamagedFile,
    EngineError,
    IncompleteCheckpoint,
    UnsupportedConfig,
    UnsupportedOption,
    WeightsMismatch,
    listed,
)
from voxlive.layers.cuda import LEAST_ARCHITECTURE, CudaError, Gpu
from voxlive.layers.cuda_layers import HALVES
from voxlive.layers.transformer import SIZES, Weights, on_cuda
from voxlive.processes.process import user_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.checkpoints.tekken import Tekken
    from voxlive.engines.contract import EngineOptions

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.9
"""Of the memory that is free after loading, what the streams' caches may take together."""
TICK_SHARE = 0.6
"""Of the time that audio gives for a step, what a step with every session at once may take."""
MOST_SESSIONS = SIZES[-1]
KEPT_SHARE = 0.8
"""Of the sessions that last beside packed weights, how many must last beside unpacked ones."""
_DTYPES = {"F32": mx.float32, "BF16": mx.bfloat16, "F16": mx.float16}
_GROUP_SIZES = (64, 32)


def load_weights(
    plan: LoadPlan,
    *,
    dtype: mx.Dtype | None = None,
    quantize: int | None = None,
    unpack: bool = False,
) -> Weights:
    """Load all tensors on this thread, floating ones as ``dtype`` (None: as most are stored).

    ``quantize`` 4 or 8 quantises linear layers and the embedding that are not quantised already;
    ``unpack`` gives layers that are stored quantised as dense ones.
    One tensor is read and converted at a time, so that little stands in memory beside the result.
    Raises UnsupportedConfig when a matrix cannot be quantised.
    """
    to = dtype or _DTYPES[plan.dtype]
    new = _to_quantise(plan, quantize) if quantize else {}
    tensors: dict[str, mx.array] = {}
    with _no_buffer_cache():
        for step, stored in _stored(plan):
            module, _, kind = step.target.rpartition(".")
            if kind == "weight" and module in new:
                loaded = _quantise(module, _arranged(step, stored), new[module])
            else:
                loaded = {step.target: _arranged(step, stored)}
            del stored
            floats = {name: _cast(array, to) for name, array in loaded.items()}
            mx.eval(list(floats.values()))
            tensors |= floats
    quantised = {
        name: (how.group_size, how.bits) for name, how in {**plan.quantised, **new}.items()
    }
    return Weights(tensors, quantised, to, unpack=unpack)


def _stored(plan: LoadPlan) -> Iterator[tuple[LoadStep, mx.array]]:
    """Each step with its array, not read yet; nothing else holds on to the array."""
    files = defaultdict(list)
    for step in plan.steps:
        files[step.tensor.file].append(step)
    for file, steps in files.items():
        lazy = _open(file, steps)
        for step in steps:
            yield step, lazy.pop(step.tensor.name)


def _open(file: Path, steps: Sequence[LoadStep]) -> dict[str, mx.array]:
    """A file's arrays, not read yet; it may have changed since its header was read."""
    if not file.is_file():
        raise IncompleteCheckpoint(f"{file} is there no more: fetch the model again")
    try:
        lazy = mx.load(str(file))
    except RuntimeError as problem:
        raise DamagedFile(f"{file} cannot be opened any more: {problem}") from problem
    assert isinstance(lazy, dict)
    for step in steps:
        found = lazy.get(step.tensor.name)
        if found is None or tuple(found.shape) != step.tensor.shape:
            raise WeightsMismatch(f"{file} has changed: {step.tensor.name} is not what it was")
    return lazy


def _arranged(step: LoadStep, stored: mx.array) -> mx.array:
    """Kernels as [out, k, in], rows of queries and keys as rotary pairs [2i, 2i + 1]."""
    if step.transpose:
        return mx.contiguous(stored.swapaxes(1, 2))
    if step.rotary:
        halves = stored.reshape(-1, 2, step.rotary // 2, *stored.shape[1:])
        return halves.swapaxes(1, 2).reshape(stored.shape)
    return stored


def _cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """Packed words stay what they are."""
    return array if array.dtype == mx.uint32 else array.astype(dtype)


def _to_quantise(plan: LoadPlan, bits: int) -> dict[str, Quantisation]:
    new = {}
    for module, columns in plan.matrices.items():
        if module in plan.quantised:
            continue
        group = next((size for size in _GROUP_SIZES if columns % size == 0), None)
        if group is None:
            raise UnsupportedConfig(
                f"{module} has rows of {columns} values, which make no groups of "
                f"{' or '.join(map(str, _GROUP_SIZES))}: this model cannot be quantised"
            )
        new[module] = Quantisation(group, bits)
    return new


def _quantise(module: str, weight: mx.array, how: Quantisation) -> dict[str, mx.array]:
    packed, scales, zeros = mx.quantize(weight, how.group_size, how.bits)
    return {
        f"{module}.weight": packed,
        f"{module}.scales": scales,
        f"{module}.biases": zeros,
    }


@contextmanager
def _no_buffer_cache() -> Iterator[None]:
    """Buffers freed meanwhile go back to the system: none of them will fit again."""
    before = mx.set_cache_limit(0)
    try:
        yield
    finally:
        mx.set_cache_limit(before)


def unpacks(packed: int, unpacked: int, caches: StreamCaches, asked: int | None, free: int) -> bool:
    """Whether a GPU with ``free`` bytes has room to unpack quantised weights on loading.

    ``packed`` and ``unpacked`` are the weights' bytes, ``caches`` a stream's, ``asked`` the
    sessions that were asked for. It has if those last beside unpacked weights; or, where fewer
    would last even beside packed ones or none were asked for, if ``KEPT_SHARE`` of them are left.
    """
    before, after = (int(MEMORY_SHARE * (free - weights)) for weights in (packed, unpacked))
    lasting = caches.lasting(after)
    if asked is not None and asked <= lasting:
        return True
    kept = lasting >= max(1, KEPT_SHARE * caches.lasting(before))
    return kept and (asked is None or asked <= caches.most(after))


def settle_capacity(model: VoxtralModel, asked: int | None) -> int:
    """Bound the caches by what is free, make steps ready, and say how many sessions there may be.

    Unasked, as many as memory holds at full age and as the measured step time allows. EngineError
    ``no_memory`` where not even one fits, or not as many as were asked for.
    """
    budget = int(MEMORY_SHARE * free_bytes())
    caches = model.stream_caches
    fit = caches.lasting(budget)
    if fit < 1:
        raise EngineError(
            "no_memory",
            f"a session needs {sum(caches) >> 20} MiB at full age and only "
            f"{budget >> 20} MiB may be used beside the weights: try --quantize 4",
        )
    most = caches.most(budget)
    if asked is not None and asked > most:
        raise EngineError(
            "no_memory",
            f"--max-sessions {asked} is more than the memory beside the weights holds: "
            f"at most {most}, of which {fit} can last for long",
        )
    sessions = asked or min(fit, MOST_SESSIONS)
    model.bound(sessions, budget, reserve=_reserve())
    if asked is not None and _on_cpu():
        return asked
    tick = TICK_SHARE * model.config.token_seconds
    capacity = 1
    for rows in (*(size for size in SIZES if size < sessions), sessions):
        # On a GPU the first step of a shape compiles: better now than under the first clients.
        if not _on_cpu():
            model.compile_steps(rows)
            log.info("steps for %d of %d sessions are ready", rows, sessions)
        if asked is None and (seconds := _step_seconds(model, rows)) > tick:
            if rows == 1 and seconds > model.config.token_seconds:
                log.warning(
                    "%.0f ms of speech take this model %.0f ms here: its words will fall behind; "
                    "it needs a faster GPU or --quantize 4, or choose a Whisper",
                    1000 * model.config.token_seconds,
                    1000 * seconds,
                )
            break
        capacity = rows
    return asked or capacity


def free_bytes() -> int:
    """Memory that MLX may still take on its device."""
    if _on_cpu():
        return int(psutil.virtual_memory().available)
    info = mx.device_info()
    limit = int(info.get("max_recommended_working_set_size", mx.get_memory_limit()))
    free = limit - mx.get_active_memory()
    if "free_memory" in info:  # of a card that other programs may use too
        free = min(free, int(info["free_memory"]) + mx.get_cache_memory())
    return free


def _reserve() -> float:
    """How many streams' caches to reserve: on a GPU, pools that grow mean compiling steps again.

    A card of its own is for the server to fill; memory shared with the machine's other programs
    is kept for one session only.
    """
    if _on_cpu():
        return 0
    return float("inf") if on_cuda() else 1


def _on_cpu() -> bool:
    return bool(mx.default_device() == mx.Device(mx.cpu))


def _step_seconds(model: VoxtralModel, rows: int) -> float:
    """The middle of three steps of ``rows`` streams at full age; the first does not count."""
    slots = list(range(rows))
    model.age(slots)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        model.time_step(slots)
        times.append(time.perf_counter() - began)
    for slot in slots:
        model.leave(slot)
    return sorted(times[1:])[1]


def load_engine(local: LocalModel, options: EngineOptions) -> VoxtralEngine:
    """Load a checkpoint, settle the capacity and take a step. Blocks.

    Raises CheckpointError, UnsupportedOption for what there is not, EngineError
    ``no_memory`` as ``settle_capacity`` and ``engine_failed`` where the step fails.
    """
    options.require_no_rules(local.name)
    checkpoint = read_checkpoint(local.read())
    delay_ms = _delay_ms(checkpoint, options.delay_ms)
    with ExitStack() as undo:
        thread = ThreadPoolExecutor(1, thread_name_prefix="voxtral")
        undo.callback(thread.shutdown)
        device = thread.submit(_use_device, options.device).result()
        unpack = thread.submit(_unpacks, checkpoint.plan, options).result()
        weights = _weights(checkpoint.plan, options.quantize, unpack=unpack)
        began = time.perf_counter()
        try:
            model = thread.submit(_build, checkpoint, options, unpack=unpack).result()
            loaded = time.perf_counter()
            log.info("%s: %s, loaded in %.1f s", local.name, weights, loaded - began)
            capacity = thread.submit(settle_capacity, model, options.max_sessions).result()
        except CudaError as problem:
            raise EngineError("engine_failed", str(problem)) from problem
        info = EngineInfo(
            "voxtral",
            local.name,
            device,
            capacity,
            VOXTRAL_LANGUAGES,
            delay_ms,
            warning=_surplus(checkpoint.plan.surplus),
            delays_ms=_delays_ms(model),
            trail_margin=model.trail_margin,
            weights=weights,
            step=model.front_end.samples,
        )
        if info.warning:
            log.warning("%s: %s", local.name, info.warning)
        engine = VoxtralEngine(model, _vocabulary(checkpoint.tekken), info, thread, free_bytes)
        fault = engine.check(timeout=600)
        if fault:
            raise EngineError("engine_failed", fault)
        log.info("%s: steps ready after another %.1f s", local.name, time.perf_counter() - loaded)
        undo.pop_all()
    return engine


def _surplus(names: Sequence[str]) -> str | None:
    if not names:
        return None
    return f"the model has no place for these tensors of its files: {listed(names)}"


def _delay_ms(checkpoint: Checkpoint, asked: int | None) -> int:
    config = checkpoint.config
    token_ms = round(1000 * config.token_seconds)
    if asked is not None and (asked % token_ms or asked <= 0):
        message = f"the delay must be a multiple of {token_ms} ms, not {asked}"
        raise UnsupportedOption(message, "delay_ms")
    return asked or config.delay_tokens * token_ms


def _delays_ms(model: VoxtralModel) -> range:
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


def _unpacks(plan: LoadPlan, options: EngineOptions) -> bool:
    """Who asks for smaller weights on loading wants the memory; the rest is ``unpacks``."""
    if options.keep_quantized or options.quantize or not plan.quantised or not on_cuda():
        return False
    caches = StreamCaches.of(plan.config, plan.itemsize)
    unpacked = plan.unpacked_nbytes
    if takes(plan.config, _DTYPES[plan.dtype]):
        unpacked += plan.nbytes  # packed ones are the faster for few rows, and stay
    return unpacks(plan.nbytes, unpacked, caches, options.max_sessions, free_bytes())


def _weights(plan: LoadPlan, quantize: int | None, *, unpack: bool) -> str:
    """For people, such as ``4-bit weights, unpacked to bfloat16 on loading``."""
    dtype = str(_DTYPES[plan.dtype]).rpartition(".")[2]
    bits = {how.bits for how in plan.quantised.values()} | ({quantize} if quantize else set())
    if not bits:
        return f"{dtype} weights"
    packed = f"{' and '.join(map(str, sorted(bits)))}-bit weights"
    return f"{packed}, unpacked to {dtype} on loading" if unpack else packed


def _build(checkpoint: Checkpoint, options: EngineOptions, *, unpack: bool) -> VoxtralModel:
    tekken, dtype = checkpoint.tekken, _DTYPES[checkpoint.plan.dtype]
    most = options.max_sessions or MOST_SESSIONS
    gpu = None
    if on_cuda() and takes(checkpoint.config, dtype):
        gpu = Gpu(user_cache("kernels"), HALVES[dtype])
        if gpu.architecture < LEAST_ARCHITECTURE:
            gpu = None
    # What the GPU's own steps take need not pass through MLX's memory there.
    with mx.stream(mx.cpu if gpu else mx.default_device()):
        weights = load_weights(
            checkpoint.plan, quantize=options.quantize, unpack=unpack and not gpu
        )
        # One slot more than there can be sessions: the health check has its own.
        return VoxtralModel(
            checkpoint.config,
            weights,
            slots=most + 1,
            bos=tekken.bos,
            pad=tekken.streaming_pad,
            gpu=gpu,
            unpack=unpack,
        )


def _vocabulary(tekken: Tekken) -> Vocabulary:
    pieces = (*[b""] * tekken.num_special, *tekken.vocab)
    return Vocabulary(pieces.__getitem__, tekken.streaming_pad, tekken.streaming_word)
