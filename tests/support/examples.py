"""How many examples Hypothesis makes: all in ``make endurance``, a part in ``make test``."""

from __future__ import annotations

from hypothesis import settings

PART = 30
"""Of 100 examples, in ``make test``: the profile's ``max_examples``."""


def examples(count: int, **more: object) -> settings:
    """``count`` of them in full, with ``more`` settings: decorates what ``given`` decorates."""
    return settings(max_examples=-(-count * settings.default.max_examples // 100), **more)
