"""What an engine and its worker processes say to each other.

Commands come one at a time, each when a reply has asked for it: at most one is in the pipe, which
takes it whole. Replies may come at any time, since a final pass goes on while nothing is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from voxlive.engines.contract import Message

MAX_AUDIO = 2048
"""Samples in one Audio command: 4 KB, less than what the smallest socket buffer takes at once."""


@dataclass(frozen=True, slots=True)
class SphinxOpen:
    """A new stream begins; its replies carry ``generation``. What was before is forgotten."""

    generation: int
    drafts: bool


@dataclass(frozen=True, slots=True)
class SphinxAudio:
    """Little-endian int16 mono samples at 16 kHz, the first of which stands at ``at``."""

    pcm: bytes
    at: int


@dataclass(frozen=True, slots=True)
class SphinxEnd:
    """The utterance is over; ``Reached(marker)`` will follow its words."""

    marker: int


@dataclass(frozen=True, slots=True)
class SphinxProbe:
    """Decode something built in, unless a stream's draft is under way."""


@dataclass(frozen=True, slots=True)
class SphinxReply:
    """A message for the stream of that generation; ``ready``: the next command may come.

    ``passing``: a final pass is under way beside the worker. ``passed_s``: one took this long.
    """

    generation: int
    message: Message | None = None
    ready: bool = False
    passing: bool = False
    passed_s: float | None = None


Command = SphinxOpen | SphinxAudio | SphinxEnd | SphinxProbe
