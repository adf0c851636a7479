"""What the work under way is about, for every line that is logged in it.

A task takes along what it was started with: all that a session's task does is about the session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_ABOUT: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """What is done in here, and by tasks that are started in here, is about these too."""
    before = _ABOUT.set({**_ABOUT.get(), **fields})
    try:
        yield
    finally:
        _ABOUT.reset(before)


def current() -> Mapping[str, str]:
    """What this is about."""
    return _ABOUT.get()
