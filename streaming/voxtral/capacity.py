"""How many sessions a machine takes: by the bytes of their caches and by the time of a step."""

from __future__ import annotations

import time

import mlx.core as mx
import psutil

from ...layers.batch import SIZES
from ...layers.cuda import on_cuda
from ..engine import EngineError
from .model import Model

MEMORY_SHARE = 0.9
"""Of the memory that is free after loading, what the streams' caches may take together."""
TICK_SHARE = 0.6
"""Of the time that audio gives for a step, what a step with every session at once may take."""
MOST_SESSIONS = SIZES[-1]


def settle_capacity(model: Model, asked: int | None) -> int:
    """Bound the caches by what is free, make steps ready, and say how many sessions there may be.

    Unasked, as many as memory holds at full age and as the measured step time allows. EngineError
    ``no_memory`` where not even one fits, or not as many as were asked for.
    """
    budget = int(MEMORY_SHARE * free_bytes())
    fit = budget // model.stream_nbytes
    if fit < 1:
        raise EngineError(
            "no_memory",
            f"a session needs {model.stream_nbytes >> 20} MiB at full age and only "
            f"{budget >> 20} MiB may be used beside the weights: try --quantize 4",
        )
    most = model.most_streams(budget)
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
            model.rehearse(rows)
        if asked is None and _step_seconds(model, rows) > tick:
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


def _step_seconds(model: Model, rows: int) -> float:
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
