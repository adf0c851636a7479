"""What a client was told of turns, as another server finds it in the store."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from support.counting import PCM
from support.storing import session

from voxlive.store.contract import ClaimedSession, StoredResumable, StoredTranscript
from voxlive.streaming.events import SessionCheckpoint, SourceCheckpoint
from voxlive.streaming.intake import SessionOptions
from voxlive.turns.told import ToldEnd, TurnsTold
from voxlive.turns.tracker import EAGERNESS, TurnPhase, TurnStarted, TurnState
from voxlive.vad.gate import WINDOW, GateState
from voxlive.web.recording import StoredCheckpoint
from voxlive.web.resume import FoundSession


def test_it_is_that_of_the_checkpoint_and_of_the_messages_since_however_often_it_is_asked_for():
    at = 40 * WINDOW
    speaking = TurnState(0, at, TurnPhase.SPEECH, WINDOW, None, at)
    checkpoint = SessionCheckpoint((SourceCheckpoint(GateState(at, at), turns=speaking),))
    told = {"": TurnsTold(TurnStarted(0, WINDOW), WINDOW)}
    kept = StoredCheckpoint(checkpoint, 3, turns=told).dump()
    stored = StoredResumable(session("s"), 1, "", kept, False, datetime.now(UTC), 1, 4)
    ended = {"type": "turn_ended", "turn": 0, "t": 1.536, "upto": 1.664, "p": 0.9}
    sent = ("{}", "{}", json.dumps(ended | {"by": "confidence"}))
    claimed = ClaimedSession(stored, StoredTranscript(stored.session, (), ()), sent)
    found = FoundSession(stored, SessionOptions(PCM, turns=EAGERNESS["auto"]))
    first, again = found.turns(claimed)[""], found.turns(claimed)[""]
    assert first == again
    assert first.ended == (ToldEnd(0, WINDOW, 48 * WINDOW, 52 * WINDOW, "confidence"),)
    # The next server goes on behind what was told, and ends the turn there once more.
    behind = first.state(speaking)
    assert (behind.turn, behind.end, behind.phase) == (1, 52 * WINDOW, TurnPhase.NONE)
    first.close(0)
    first.forget(52 * WINDOW)
    assert first.ended == ()
    assert TurnState.load(json.loads(json.dumps(behind.dump()))) == behind
