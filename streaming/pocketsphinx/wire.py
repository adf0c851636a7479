"""What an engine and its worker processes say to each other.

Strictly in turn: a command is answered by one or more replies, the last of which asks for the next
command. So at most one command is in the pipe, and a write finds a reader that waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..engine import Message

MAX_AUDIO = 2048
"""Samples in one Audio command: 4 KB, less than what the smallest socket buffer takes at once."""


@dataclass(frozen=True, slots=True)
class Open:
    """A new stream begins; its replies carry ``generation``. What was before is forgotten."""

    generation: int
    drafts: bool


@dataclass(frozen=True, slots=True)
class Audio:
    """Little-endian int16 mono samples at 16 kHz, the first of which stands at ``at``."""

    pcm: bytes
    at: int


@dataclass(frozen=True, slots=True)
class End:
    """The utterance is over; ``Reached(marker)`` follows its words."""

    marker: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Decode something built in, unless a stream's audio is being decoded as it is."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A message for the stream of that generation; ``ready``: the next command may come."""

    generation: int
    message: Message | None
    ready: bool


Command = Open | Audio | End | Probe
