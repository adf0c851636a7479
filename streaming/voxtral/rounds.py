"""Which rows encode how many tokens of audio in the next round. Pure."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class Ready(Protocol):
    """What a plan needs to know of a row."""

    @property
    def ready(self) -> int:
        """Tokens of audio that wait to be encoded."""
        ...


R = TypeVar("R", bound=Ready)


TOGETHER = 128
"""Tokens from which a step takes as much longer as it is larger: a backlog gains no more by it."""


def most_rows(tokens: int) -> int:
    """Rows that may encode so many tokens each in one step; those without a backlog all may."""
    return sys.maxsize if tokens == 1 else TOGETHER // tokens


def plan(rows: Iterable[R], chunk: int) -> Iterator[tuple[int, list[R]]]:
    """Numbers of tokens, at most ``chunk``, and rows that encode so many in one step.

    Numbers are powers of two: few shapes are compiled, and rows with a like backlog go together.
    """
    groups: dict[int, list[R]] = defaultdict(list)
    for row in rows:
        most = min(row.ready, chunk)
        if most:
            groups[1 << (most.bit_length() - 1)].append(row)
    for tokens, group in groups.items():
        for at in range(0, len(group), most_rows(tokens)):
            yield tokens, group[at : at + most_rows(tokens)]
