"""What an NVIDIA GPU did while a function ran, and what the host spent in CUDA's calls for it.

MLX counts nothing itself. CUPTI counts for the whole process, and PyTorch's profiler is the way to
it that a machine is likeliest to have; where there is no PyTorch with CUDA, nothing is measured.
Being traced makes a step slower, so times of steps are taken without it.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
_CALLS = ("cuda_runtime", "cuda_driver")


@dataclass(frozen=True)
class Activity:
    """Of one run: ``kernels`` counts copies too; ``busy_ms`` has at least one of them running.

    ``span_ms`` is from the first one's start to the last one's end. ``kinds`` and ``calls`` give
    the number and the milliseconds of each kernel's and each CUDA call's name.
    """

    kernels: float
    busy_ms: float
    span_ms: float
    kinds: dict[str, tuple[float, float]]
    calls: dict[str, tuple[float, float]]


def traced(run: Callable[[], object], times: int) -> Activity | None:
    """The mean of ``times`` runs, each of which waits for its own end; None without CUPTI."""
    try:
        import torch
        from torch.profiler import ProfilerActivity, profile
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    torch.cuda.init()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(times):
            run()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    return summarised(events, times)


def summarised(events: Iterable[dict[str, Any]], times: int) -> Activity:
    """The mean of ``times`` runs from a Chrome trace, whose times are in microseconds."""
    found = [event for event in events if event.get("ph") == "X"]
    work = sorted((e["ts"], e["ts"] + e["dur"]) for e in found if e.get("cat") in _ON_GPU)
    busy, end = 0.0, float("-inf")
    for began, ended in work:
        busy += max(0.0, ended - max(began, end))
        end = max(end, ended)
    span = end - work[0][0] if work else 0.0
    return Activity(
        len(work) / times,
        busy / 1000 / times,
        span / 1000 / times,
        _by_name((e for e in found if e.get("cat") in _ON_GPU), times),
        _by_name((e for e in found if e.get("cat") in _CALLS), times),
    )


def _by_name(events: Iterable[dict[str, Any]], times: int) -> dict[str, tuple[float, float]]:
    """What took longest first."""
    count: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for event in events:
        count[event["name"]] += 1
        total[event["name"]] += event["dur"]
    return {
        name: (count[name] / times, us / 1000 / times)
        for name, us in sorted(total.items(), key=lambda pair: -pair[1])
    }
