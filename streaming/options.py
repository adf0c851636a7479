"""What a session asks for, and what a server is started with: parsed once, at the edge."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..vad.gate import GateOptions
from .engine import StreamOptions
from .ingest import AudioFormat
from .supervisor import DEADLINE_S


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """One session: how its audio arrives, where speech begins and ends, what the engine does.

    ``gate`` None means that everything is speech. ``stall_s``: when no audio arrives for this long
    in the middle of speech, what was heard is brought out as if the speaker had paused.
    """

    audio: AudioFormat
    gate: GateOptions | None = field(default_factory=GateOptions)
    stream: StreamOptions = field(default_factory=StreamOptions)
    stall_s: float = 2.0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is loaded. None leaves a choice to the engine.

    ``device`` is gpu or cpu, ``quantize`` 4 or 8 bits on loading, ``offline`` forbids downloads.
    ``deadline_s``: a process of the engine that has work and does not get on with it for so long is
    ended and replaced.
    """

    max_sessions: int | None = None
    device: str | None = None
    delay_ms: int | None = None
    quantize: int | None = None
    offline: bool = False
    deadline_s: float = DEADLINE_S
