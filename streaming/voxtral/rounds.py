"""Which rows encode how many tokens of audio in the next round. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar


class Ready(Protocol):
    """What a plan needs to know of a row."""

    @property
    def ready(self) -> int:
        """Tokens of audio that wait to be encoded."""
        ...


R = TypeVar("R", bound=Ready)


def plan(rows: Iterable[R], chunk: int) -> Mapping[int, list[R]]:
    """Rows by the number of tokens that they take, at most ``chunk`` each.

    Numbers are powers of two: few shapes are compiled, and rows with a like backlog go together.
    """
    groups: dict[int, list[R]] = defaultdict(list)
    for row in rows:
        most = min(row.ready, chunk)
        if most:
            groups[1 << (most.bit_length() - 1)].append(row)
    return groups
