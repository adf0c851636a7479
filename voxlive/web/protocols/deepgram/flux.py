"""Deepgram's Flux, ``WS /v2/listen``: a transcript of turns, for programs that answer people.

The session opens with the handshake, as in ``/v1/listen``. Every message about a turn has all of
its text so far: ``Update`` while it grows, ``EagerEndOfTurn`` where it has likely ended,
``TurnResumed`` if it has not, ``EndOfTurn`` once all of its words are out. Thresholds and key terms
may change in mid-stream, by ``Configure``.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from voxlive.engines.contract import EngineInfo
from voxlive.errors import close_code, status_of
from voxlive.streaming.events import (
    Draft,
    Event,
    LanguageDetected,
    SessionClosed,
    SessionError,
    TurnClosed,
    Words,
)
from voxlive.streaming.intake import SessionOptions
from voxlive.turns.tracker import (
    TurnEnded,
    TurnLikelyEnded,
    TurnOptionError,
    TurnOptions,
    TurnResumed,
    TurnStarted,
)
from voxlive.values import Word, seconds
from voxlive.web.protocols.contract import (
    ENDING_CODES,
    MAX_ERROR_CHARS,
    Action,
    AudioFrame,
    CloseSocket,
    Denial,
    FlushSession,
    HandshakeResponse,
    Out,
    Protocol,
    Refuse,
    Reply,
    SetTurns,
    StopSession,
    close_session,
)
from voxlive.web.protocols.deepgram import wire
from voxlive.web.protocols.fields import (
    Json,
    check_fields,
    encode_message,
    integer,
    is_json,
    number,
    parse_message,
    quoted,
)

_RECEIVE_TIMEOUT_S = 60.0
_UPDATE_S = 0.25
_MAX_REASON = 123
_THRESHOLDS = ("eot_threshold", "eager_eot_threshold", "eot_timeout_ms")
_TRIGGERS = {"confidence": "model", "timeout": "timeout", "client": "manual", "stalled": "timeout"}


@dataclass
class FluxTurn:
    """A turn whose words are not all out: number, first sample, its words and how it ended.

    ``held``: what is told of it once the turn before has its words, and up to where it was heard.
    """

    turn: int
    start: int
    words: list[Word] = field(default_factory=list)
    ended: TurnEnded | None = None
    held: list[tuple[str, int, float]] = field(default_factory=list)


class FluxProtocol(Protocol):
    """One client of Flux."""

    name = "deepgram_flux"
    tick_s: ClassVar[float | None] = _UPDATE_S

    def __init__(self, params: Mapping[str, str], info: EngineInfo) -> None:
        self._params = params
        self._info = info
        self._request_id = str(uuid.uuid4())
        self._sequence = 0
        self._ended = False
        self._ending: SessionError | None = None
        # Those that go on or whose words are to come; words are the first one's.
        self._turns: deque[FluxTurn] = deque()
        self._early: list[Word] = []
        self._draft = ""
        self._heard = 0  # the last sample that anything was said about
        self._changed = False
        self._languages: tuple[str, ...] = ()

    def handshake_response(self, offered: Sequence[str]) -> HandshakeResponse:
        """Browsers offer ``token`` or ``bearer`` and their key: the first is selected."""
        return HandshakeResponse(
            offered[0] if offered else None, {"dg-request-id": self._request_id}
        )

    def options_from_handshake(self) -> SessionOptions:
        """The session that the query asks for."""
        self._query = wire.read_flux_query(self._params)
        return self._query.options(self._info)

    def denied(self, code: str, message: str) -> Denial:
        """An HTTP error."""
        return wire.refusal(status_of(code), message, self._request_id)

    @property
    def receive_timeout_s(self) -> float | None:
        """A minute, until the client has ended its audio."""
        return None if self._ended else _RECEIVE_TIMEOUT_S

    def connected(self) -> list[Out]:
        """``Connected``."""
        return [self._encode("Connected", request_id=self._request_id)]

    def received(self, frame: str | bytes) -> list[Action]:
        """Audio and commands. An empty frame ends the audio; what is late is dropped."""
        if self._ended:
            return []
        if isinstance(frame, bytes) and not is_json(frame):
            return [AudioFrame(frame)] if frame else self._end_audio()
        try:
            return self._command(*parse_message(frame))
        except ValueError as error:
            return [Refuse("bad_message", str(error))]

    def _command(self, kind: str, message: Json) -> list[Action]:
        match kind:
            case "CloseStream":
                return self._end_audio()
            case "ForceEndTurn":
                return [FlushSession(kind, ends_turn=True)]
            case "Configure":
                return self._configure(message)
            case "KeepAlive":
                return []
            case _:
                known = "Configure, ForceEndTurn, CloseStream"
                raise ValueError(f"{quoted(kind)} is not a message type: use {known}")

    def _end_audio(self) -> list[Action]:
        self._ended = True
        return [StopSession()]

    def _configure(self, message: Json) -> list[Action]:
        """Take what it sets, all of it or nothing."""
        try:
            turns = _changed_turns(message.get("thresholds"), self._query.turns)
            terms = self._query.vocabulary
            if message.get("keyterms") is not None:
                terms = wire.key_terms(message["keyterms"])
            hints = message.get("language_hints")
            if hints:
                raise ValueError("the language of a stream is chosen when it begins")
        except ValueError as error:
            why = wire.TOO_EAGER if isinstance(error, TurnOptionError) else str(error)
            return [self._refuse_configuration("INVALID_CONFIGURATION", why)]
        changed = None if terms == self._query.vocabulary else terms
        if changed is not None and self._info.vocabulary is None:
            why = f"{self._info.model} takes no key terms"
            return [self._refuse_configuration("KEYTERMS_NOT_SUPPORTED", why)]
        self._query = replace(self._query, turns=turns, vocabulary=terms)
        success = {
            "request_id": self._request_id,
            "thresholds": {
                "eot_threshold": turns.threshold,
                "eager_eot_threshold": turns.eager_threshold,
                "eot_timeout_ms": turns.max_wait_ms,
            },
            "keyterms": list(terms),
        }
        return [SetTurns(turns, changed), self._reply("ConfigureSuccess", success)]

    def _refuse_configuration(self, code: str, why: str) -> Reply:
        failure = {"request_id": self._request_id, "code": code, "description": why}
        return self._reply("ConfigureFailure", failure)

    def on_event(self, event: Event) -> list[Out]:
        """What there is to say of turns."""
        match event:
            case TurnStarted(turn, at):
                self._turns.append(FluxTurn(turn, at, self._early))
                self._early, self._heard = [], max(self._heard, at)
                return self._tell("StartOfTurn", at)
            case Words(_, words):
                (self._turns[0].words if self._turns else self._early).extend(words)
                self._heard = max(self._heard, words[-1].end)
                self._changed = True
            case Draft(_, text):
                self._draft, self._changed = text, True
            case LanguageDetected(language):
                self._languages = (language,)
            case TurnLikelyEnded(_, _, upto, confidence):
                return self._tell("EagerEndOfTurn", upto, confidence)
            case TurnResumed(_, at):
                return self._tell("TurnResumed", at)
            case TurnEnded():
                self._turns[-1].ended = event
            case TurnClosed():
                return self._end_of_turn()
            case SessionError(code, _, fatal=False) if code in ENDING_CODES:
                self._ending = event  # reported after the last words
            case SessionError(code, message, fatal):
                return self.failed(code, message) if fatal else self.refused(code, message)
            case SessionClosed():
                ending = None if self._ended else self._ending
                return close_session(ending, self.failed)
        return []

    def _tell(self, event: str, upto: int, confidence: float = 0.0) -> list[Out]:
        """An event of the last turn. Clients know one at a time: the one before ends first."""
        turn = self._turns[-1]
        if turn is not self._turns[0]:
            turn.held.append((event, upto, confidence))
            return []
        return [self._info_of(turn, event, upto, confidence)]

    def _end_of_turn(self) -> list[Out]:
        """All words of the first turn are out."""
        turn = self._turns.popleft()
        ended = turn.ended
        assert ended
        self._draft, self._changed = "", False
        trigger = {"trigger": _TRIGGERS.get(ended.by, ended.by)}
        told: list[Out] = [self._info_of(turn, "EndOfTurn", ended.upto, ended.confidence, trigger)]
        if self._turns:
            told += [self._info_of(self._turns[0], *held) for held in self._turns[0].held]
        return told

    def tick(self) -> list[Out]:
        """The turn's text, if it has changed."""
        if not (self._changed and self._turns and self._turns[0].ended is None):
            return []
        self._changed = False
        return [self._info_of(self._turns[0], "Update", self._heard)]

    def _info_of(
        self,
        turn: FluxTurn,
        event: str,
        upto: int,
        confidence: float = 0.0,
        more: Mapping[str, object] | None = None,
    ) -> str:
        """A ``TurnInfo``. A draft follows the words of the first turn that is not closed."""
        draft = self._draft if self._turns and turn is self._turns[0] else ""
        text = "".join(word.text for word in turn.words) + draft
        self._heard = max(self._heard, upto)
        languages = {"languages": list(self._languages)} if self._languages else {}
        return self._encode(
            "TurnInfo",
            request_id=self._request_id,
            event=event,
            turn_index=turn.turn,
            audio_window_start=seconds(turn.start),
            audio_window_end=seconds(max(upto, turn.start)),
            transcript=text.strip(),
            words=[*map(_word, turn.words), *map(_draft_word, draft.split())],
            end_of_turn_confidence=confidence,
            **languages,
            **(more or {}),
        )

    def _reply(self, kind: str, fields: Mapping[str, object]) -> Reply:
        return Reply(lambda: self._encode(kind, **fields))

    def _encode(self, kind: str, **fields: object) -> str:
        self._sequence += 1
        return encode_message(kind, **fields, sequence_id=self._sequence - 1)

    def refused(self, code: str, message: str) -> list[Out]:
        """A ``Warning``; the session goes on. An ``Error`` is the end of it."""
        text = message[:MAX_ERROR_CHARS]
        return [
            self._encode(
                "Warning", request_id=self._request_id, code=code.upper(), description=text
            )
        ]

    def failed(self, code: str, message: str) -> list[Out]:
        """An ``Error``, and the close."""
        text = message[:MAX_ERROR_CHARS]
        reason = f"{code}: {message}".encode("ascii", "replace")[:_MAX_REASON].decode()
        error = self._encode("Error", code=code.upper(), description=text)
        return [error, CloseSocket(close_code(code), reason=reason)]


def _changed_turns(thresholds: object, before: TurnOptions) -> TurnOptions:
    if thresholds is None:
        return before
    if not isinstance(thresholds, dict):
        raise ValueError('"thresholds" must be an object')
    check_fields(thresholds, _THRESHOLDS, "thresholds")
    return before.changed(
        number(thresholds, "eot_threshold", 0.5, 0.9, None),
        number(thresholds, "eager_eot_threshold", 0.3, 0.9, None),
        integer(thresholds, "eot_timeout_ms", 500, 10_000, None),
    )


def _word(word: Word) -> dict[str, object]:
    return {
        "word": word.text.strip(),
        "confidence": round(word.probability, 4) if word.probability is not None else 0.0,
        "start": seconds(word.start),
        "end": seconds(word.end),
    }


def _draft_word(text: str) -> dict[str, object]:
    """One that may still change: its times are not known."""
    return {"word": text, "confidence": 0.0}
