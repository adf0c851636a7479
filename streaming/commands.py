"""What a client asks of its session; audio is ``bytes`` in the declared format."""

from __future__ import annotations

from dataclasses import dataclass

from .hearing import Listen


@dataclass(frozen=True, slots=True)
class Flush:
    """Bring out all words so far, then say ``Flushed(marker)``."""

    marker: str


@dataclass(frozen=True, slots=True)
class Renew:
    """End the speech so far, say ``Flushed(marker)``, and hear what follows in another way."""

    listen: Listen
    marker: str


@dataclass(frozen=True, slots=True)
class Stop:
    """There is no more audio."""


Command = bytes | Flush | Renew | Stop
