"""What a client was told of the turns of a stream, from which another server goes on.

A tracker may decide otherwise in the same audio at another time, since the text that it has then
depends on how fast it is recognised. So what a client was told is not decided again: turns end once
more where it was told that they do, and the tracker goes on behind the last of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Self

from voxlive.turns.tracker import (
    EndedBy,
    TurnEnded,
    TurnEvent,
    TurnLikelyEnded,
    TurnPhase,
    TurnResumed,
    TurnStarted,
    TurnState,
)

_KINDS = {one.__name__: one for one in (TurnStarted, TurnLikelyEnded, TurnResumed, TurnEnded)}


@dataclass(frozen=True, slots=True)
class ToldEnd:
    """A client knows that turn ``turn`` ended; see TurnEnded. ``closed``: it has its words too."""

    turn: int
    began: int
    at: int
    upto: int
    by: EndedBy
    closed: bool = False


@dataclass(slots=True)
class TurnsTold:
    """The last event of a stream's turns, where its turn ``began``, and which turns have ended.

    Of those that have there are the ones that another server has to end once more.
    """

    last: TurnEvent | None = None
    began: int = 0
    ended: tuple[ToldEnd, ...] = field(default_factory=tuple)

    def tell(self, event: TurnEvent) -> None:
        """The client gets this event."""
        self.last = event
        if isinstance(event, TurnStarted):
            self.began = event.at
        elif isinstance(event, TurnEnded):
            end = ToldEnd(event.turn, self.began, event.at, event.upto, event.by)
            self.ended = (*self.ended, end)

    def close(self, turn: int) -> None:
        """The client gets the words of a turn that has ended."""
        self.ended = tuple(
            replace(one, closed=True) if one.turn == turn else one for one in self.ended
        )

    def forget(self, upto: int) -> None:
        """Another server would go on from sample ``upto``."""
        self.ended = tuple(one for one in self.ended if one.upto > upto or not one.closed)

    def state(self, checkpoint: TurnState) -> TurnState:
        """What a tracker goes on from: the checkpoint, or what was told behind it."""
        if self.last is None or not _follows(self.last, checkpoint):
            return checkpoint
        return checkpoint.after(self.last, self.began)

    def dump(self) -> list[object]:
        """As JSON."""
        last = [type(self.last).__name__, *astuple(self.last)] if self.last else None
        return [last, self.began, [astuple(one) for one in self.ended]]

    @classmethod
    def load(cls, dumped: Iterable[Any]) -> Self:
        """From JSON."""
        last, began, ended = dumped
        event = _KINDS[last[0]](*last[1:]) if last else None
        return cls(event, began, tuple(ToldEnd(*one) for one in ended))


def _follows(event: TurnEvent, state: TurnState) -> bool:
    """Whether an event came when a tracker had gone on from this state."""
    if event.turn != state.turn:
        return event.turn > state.turn
    match event:
        case TurnStarted():
            return state.phase is TurnPhase.NONE
        case TurnLikelyEnded(upto=upto):
            return upto > state.end
        case TurnResumed(at=at):
            return state.likely or at >= state.end
        case TurnEnded():
            return True
