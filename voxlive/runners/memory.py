"""Whether a model fits into memory, from the machine's total and free memory.

``available`` reads these, the rest is pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from voxlive.errors import RequestRefused, mib

if TYPE_CHECKING:
    from voxlive.runners.contract import RunnerSpec

MOST_SHARE = 0.7
"""A model that needs more of a machine's memory than this is never loaded."""
_HEADROOM_SHARE = 0.1
_LEAST_HEADROOM, _MOST_HEADROOM = 256 << 20, 4 << 30
_UNLIMITED = 1 << 60  # cgroup 1 writes "no limit" as a number near 2^63
# Limit and use, of control groups of version 2 and 1.
_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: what the machine has, or this program's container, and what of it could be taken."""

    total: int
    free: int

    @property
    def headroom(self) -> int:
        """What stays free beside a model, for audio, live sessions and other programs."""
        share = int(self.total * _HEADROOM_SHARE)
        return min(max(share, _LEAST_HEADROOM), _MOST_HEADROOM)


def refuse_oversized(spec: RunnerSpec, memory: Memory) -> None:
    """Raises RequestRefused 507 for a model that this machine can never load."""
    most = int(memory.total * MOST_SHARE)
    if spec.needed_bytes > most:
        raise RequestRefused(
            "insufficient_memory",
            f"{spec.model} needs {mib(spec.needed_bytes)}, and a model may take {mib(most)}, "
            f"{MOST_SHARE:.0%} of this machine's {mib(memory.total)}: choose a smaller or a "
            "quantised model",
            "model",
        )


def refuse_unless_free(
    spec: RunnerSpec, memory: Memory, retry_after_s: float
) -> RequestRefused | None:
    """The refusal if the model does not fit now; None if it does."""
    needed = spec.needed_bytes + memory.headroom
    if needed <= memory.free:
        return None
    return RequestRefused(
        "insufficient_memory",
        f"{spec.model} needs {mib(spec.needed_bytes)} and {mib(memory.headroom)} beside it, and "
        f"{mib(memory.free)} are free: end other programs, or choose a smaller model",
        "model",
        retry_after_s,
    )


def available(root: Path = Path("/")) -> Memory:
    """The machine's memory, or that of the tightest container around this process (Linux)."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    for limit, used in _limits(root):
        total, free = min(total, limit), min(free, max(limit - used, 0))
    return Memory(total, free)


def _limits(root: Path) -> list[tuple[int, int]]:
    """(limit, used) of every control group that this process is in and that has a limit."""
    found = []
    for group in _groups(root):
        for limit_name, used_name in _FILES:
            limit, used = _number(group / limit_name), _number(group / used_name)
            if limit is not None and used is not None and limit < _UNLIMITED:
                found.append((limit, used - _cached(group)))
    return found


def _groups(root: Path) -> list[Path]:
    """This process's control groups up to the root, of version 2 and of 1's memory controller."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = mount / path.lstrip("/")
        groups += [group, *(p for p in group.parents if p.is_relative_to(mount))]
    return groups


def _cached(group: Path) -> int:
    """Bytes of file cache that count as used and would be given back at once."""
    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return 0
    return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
