"""Numbered messages of ``WS /v1/live``: kept for clients that miss them, given back by clients.

``SentMessages`` keeps a session's. A server whose store was late does not know the last ones of a
session that it goes on with; its client has them, and gives them back with ``resume``:
``received_messages`` reads those. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import get_args

from voxlive.speakers.labels import SpeakerNamed, SpeakerRange, SpeakersFound
from voxlive.streaming.events import (
    Event,
    LanguageDetected,
    SegmentClosed,
    TurnClosed,
    Words,
)
from voxlive.turns.tracker import (
    EndedBy,
    TurnEnded,
    TurnEvent,
    TurnLikelyEnded,
    TurnResumed,
    TurnStarted,
)
from voxlive.values import Word, samples
from voxlive.web.protocols.contract import ReceivedMessage
from voxlive.web.protocols.fields import Json, encode_json, integer, language, number, quoted

MAX_SENT = 4 << 20
"""Characters of messages that a resumable session keeps: those of some 15 hours of speech."""
_MOST_S = 1e9
_MAX_SEGMENTS = 1 << 20
_MAX_SPEAKERS = 1000


class SentMessages:
    """The numbered messages of a session, for a client that resumes it.

    At most ``MAX_SENT`` characters are kept; the oldest are dropped.
    """

    def __init__(self, first: int = 0, messages: Iterable[str] = ()) -> None:
        self.first = first
        """The number of the first that is kept."""
        self._chars = 0
        self._messages: deque[str] = deque()
        for text in messages:
            self.append(text)

    def append(self, text: str) -> None:
        """Keep the next message."""
        self._messages.append(text)
        self._chars += len(text)
        while self._chars > MAX_SENT:
            self._chars -= len(self._messages.popleft())
            self.first += 1

    def after(self, number: int) -> list[str] | None:
        """All after the message with this number; None where some are gone or it was never sent."""
        if not self.first - 1 <= number < self.first + len(self._messages):
            return None
        return list(islice(self._messages, number + 1 - self.first, None))


def received_messages(given: object, have: int) -> tuple[ReceivedMessage, ...]:
    """Those that a client gives back, up to the one with the number ``have``. Raises ValueError."""
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise ValueError('"received" must be a list of messages')
    first = have + 1 - len(given)
    if first < 0 or [one.get("seq") for one in given] != list(range(first, have + 1)):
        raise ValueError('"received" must be the last messages up to "have", and all of them')
    return tuple(_received(count, one) for count, one in enumerate(given, first))


def _received(count: int, message: Json) -> ReceivedMessage:
    text = encode_json(message)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError('a message of "received" has half a character') from error
    return ReceivedMessage(count, text, _event_of(message))


def turn_event(message: Json) -> TurnEvent | TurnClosed | None:
    """What a message says of turns; None for others. Raises ValueError."""
    kind = message.get("type")
    if kind not in ("turn_started", "turn_likely_ended", "turn_resumed", "turn_ended", "turn"):
        return None
    source, turn = _text(message, "source", ""), _segment(message, "turn")
    if kind == "turn":
        return TurnClosed(turn, *_range(message), _text(message, "text"), source)
    at = _time(message, "t")
    if kind == "turn_started":
        return TurnStarted(turn, at, source)
    if kind == "turn_resumed":
        return TurnResumed(turn, at, source)
    upto, confidence = _time(message, "upto"), number(message, "p", 0.0, 1.0, 0.0)
    if kind == "turn_likely_ended":
        return TurnLikelyEnded(turn, at, upto, confidence, source)
    by: EndedBy = next((one for one in get_args(EndedBy) if one == message.get("by")), "stalled")
    return TurnEnded(turn, at, upto, confidence, by, source)


def _speakers(message: Json, source: str) -> SpeakersFound:
    ranges = message.get("ranges")
    if not isinstance(ranges, list) or not all(isinstance(one, dict) for one in ranges):
        raise ValueError('"ranges" must be a list of ranges of words')
    count = integer(message, "speakers", 0, _MAX_SPEAKERS, 0)
    upto = _time(message, "upto")
    return SpeakersFound(tuple(map(_speaker_range, ranges)), count, source, upto)


def _speaker_range(given: Json) -> SpeakerRange:
    match given.get("words"):
        case [int(first), int(last)] if 0 <= first <= last < _MAX_SEGMENTS:
            speaker = integer(given, "speaker", 0, _MAX_SPEAKERS, 0)
            return SpeakerRange(_segment(given, "segment"), first, last, speaker)
    raise ValueError('a range of "speakers" has the first and the last of its "words"')


def _event_of(message: Json) -> Event | None:
    """What the message was sent for, as far as a store has to know it."""
    if event := turn_event(message):
        return event
    source = _text(message, "source", "")
    match message.get("type"):
        case "words":
            words = message.get("words")
            if not isinstance(words, list) or not all(isinstance(one, dict) for one in words):
                raise ValueError('"words" must be a list of words')
            return Words(_segment(message, "segment"), tuple(map(_word, words)), source)
        case "segment":
            start, end = _range(message)
            return SegmentClosed(
                _segment(message, "id"), start, end, _text(message, "text"), source=source
            )
        case "language":
            found = language(message)
            return LanguageDetected(found, source=source) if found else None
        case "speakers":
            return _speakers(message, source)
        case "speaker_named":
            speaker = integer(message, "speaker", 0, _MAX_SPEAKERS, 0)
            return SpeakerNamed(speaker, _text(message, "name"), source, by_voice=True)
        case "done":
            raise ValueError('the session is over: its client has "done"')
        case str():
            return None
    raise ValueError('a message of "received" has no type')


def _word(word: Json) -> Word:
    start, end = _range(word)
    original = None if word.get("original") is None else _text(word, "original")
    return Word(_text(word, "text"), start, end, number(word, "p", 0.0, 1.0, None), original)


def _range(message: Json) -> tuple[int, int]:
    start, end = _time(message, "start"), _time(message, "end")
    if end < start:
        raise ValueError('a word or a segment has a "start", and an "end" behind it')
    return start, end


def _time(message: Json, name: str) -> int:
    at = number(message, name, 0.0, _MOST_S, None)
    if at is None:
        raise ValueError(f'"{name}" must be a time in seconds')
    return samples(at)


def _segment(message: Json, name: str) -> int:
    segment = integer(message, name, 0, _MAX_SEGMENTS, None)
    if segment is None:
        raise ValueError(f'"{name}" must be the number of a segment')
    return segment


def _text(message: Json, name: str, default: str | None = None) -> str:
    text = message.get(name, default)
    if not isinstance(text, str):
        raise ValueError(f'"{name}" must be a string, not {quoted(text)}')
    return text
