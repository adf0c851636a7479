"""How many examples there are of one thing: all in ``make endurance``, a part in ``make test``."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings

PART = 20
"""Of 100 examples, in ``make test``: the profile's ``max_examples``."""


def examples(count: int, **more: object) -> settings:
    """``count`` of them in full, with ``more`` settings: decorates what ``given`` decorates."""
    return settings(max_examples=-(-count * settings.default.max_examples // 100), **more)


def sampled(cases: Sequence[Any], count: int, seed: int = 1) -> list[Any]:
    """All the cases that go the same way, of which ``make test`` has so many."""
    chosen = random.Random(seed).sample(range(len(cases)), count)
    return [
        case if at in chosen else pytest.param(case, marks=pytest.mark.endurance)
        for at, case in enumerate(cases)
    ]
