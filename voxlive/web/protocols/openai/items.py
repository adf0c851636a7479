"""Conversation items: how a client's audio is parted, and what is said of each part.

Where the voice detector takes the turns, an item is a span of speech. Its words come after it was
heard, while the next one may be sounding already, so a word goes to the span that its time lies in.
Where the client commits, an item is what lies between two commits, and flushes part the words.
Deltas are committed words: joined, they are the item's transcript. Times are samples.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from voxlive.vad.gate import GateOptions
from voxlive.values import SAMPLE_RATE, Word, seconds

Message = tuple[str, Mapping[str, object]]
"""A message's type and its other fields."""

_PER_MS = SAMPLE_RATE // 1000


@dataclass(slots=True)
class Item:
    """One part of the audio. ``stop`` None: it is still sounding. ``dropped``: by the client.

    ``committed``: the client was told so, and that it follows ``previous``.
    """

    start: int
    stop: int | None = None
    text: str = ""
    dropped: bool = False
    committed: bool = False
    previous: str | None = None
    id: str = field(default_factory=lambda: f"item_{secrets.token_hex(8)}")


class Conversation:
    """What is said of items, in the order in which they are committed; nothing of dropped ones.

    ``beta``: the client speaks the older dialect, where one message says that an item is there.
    """

    def __init__(self) -> None:
        self.beta = False
        self._last: str | None = None

    def commit(self, item: Item) -> Iterator[Message]:
        """The item is complete as audio; its transcript follows."""
        item.previous, self._last, item.committed = self._last, item.id, True
        order = {"item_id": item.id, "previous_item_id": item.previous}
        yield "input_audio_buffer.committed", order
        yield f"conversation.item.{'created' if self.beta else 'added'}", _whole(item, None)

    def say(self, item: Item, words: Iterable[Word]) -> Iterator[Message]:
        """Words of the item, the first without its leading space."""
        said = "".join(word.text for word in words)
        said = said if item.text else said.lstrip()
        if said and not item.dropped:
            item.text += said
            yield _transcription(item, "delta", delta=said)

    def complete(self, item: Item) -> Iterator[Message]:
        """All words of the item have been said."""
        if not item.dropped:
            length = seconds((item.stop or item.start) - item.start)
            usage = {"type": "duration", "seconds": length}
            yield _transcription(item, "completed", transcript=item.text, usage=usage)
            if not self.beta:
                yield "conversation.item.done", _whole(item, item.text)

    def fail(self, item: Item, code: str, message: str) -> Iterator[Message]:
        """The item's words will not come."""
        if not item.dropped:
            error = {"type": "server_error", "code": code, "message": message, "param": None}
            yield _transcription(item, "failed", error=error)


def _transcription(item: Item, kind: str, **fields: object) -> Message:
    name = f"conversation.item.input_audio_transcription.{kind}"
    return name, {"item_id": item.id, "content_index": 0, **fields}


def _whole(item: Item, transcript: str | None) -> dict[str, object]:
    return {
        "previous_item_id": item.previous,
        "item": {
            "id": item.id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": transcript}],
        },
    }


class SpokenTurns:
    """The voice detector takes the turns. Items wait for their words in order."""

    def __init__(self, conversation: Conversation, gate: GateOptions) -> None:
        self._conversation = conversation
        self._padding = gate.pre_roll_ms * _PER_MS
        self._silence = gate.min_silence_ms * _PER_MS
        self._items: deque[Item] = deque()
        self._end = 0  # of the last item, with the silence that ended it
        self._committed = 0  # items since the client's last commit
        self._parts: deque[bool] = deque()  # of what is not parted yet: is it dropped?

    def started(self, at: int) -> Iterator[Message]:
        """Speech begins."""
        yield from self.stopped(at, at)
        item = Item(
            max(at - self._padding, self._end), dropped=bool(self._parts) and self._parts[0]
        )
        self._items.append(item)
        if not item.dropped:
            start = {"audio_start_ms": item.start // _PER_MS, "item_id": item.id}
            yield "input_audio_buffer.speech_started", start

    def stopped(self, at: int, heard: int) -> Iterator[Message]:
        """Speech has ended; ``heard`` is how much audio has come so far."""
        if not self._items or self._items[-1].stop is not None:
            return
        item = self._items[-1]
        item.stop = max(at, item.start)
        self._end = max(item.stop, min(at + self._silence, heard))
        if not item.dropped:
            self._committed += 1
            end = {"audio_end_ms": self._end // _PER_MS, "item_id": item.id}
            yield "input_audio_buffer.speech_stopped", end
            yield from self._conversation.commit(item)

    def said(self, words: Iterable[Word]) -> Iterator[Message]:
        """Words, which come in order: one of a later item completes those before it."""
        words = tuple(words)
        if words and not self._items:
            yield from self.started(words[0].start)
        for item, of_item in groupby(words, self._of):
            while self._items[0] is not item:
                yield from self._conversation.complete(self._items.popleft())
            yield from self._conversation.say(item, of_item)

    def _of(self, word: Word) -> Item:
        middle = (word.start + word.end) // 2
        begun = (item for item in reversed(self._items) if item.start <= middle)
        return next(begun, self._items[0])

    def ended(self, upto: int) -> Iterator[Message]:
        """All words before sample ``upto`` have been said."""
        while self._items and self._items[0].stop is not None and self._items[0].stop <= upto:
            yield from self._conversation.complete(self._items.popleft())

    def close(self, heard: int) -> Iterator[Message]:
        """All words have been said; what follows is heard anew."""
        yield from self.stopped(heard, heard)
        while self._items:
            yield from self._conversation.complete(self._items.popleft())

    def fail(self, code: str, message: str) -> Iterator[Message]:
        """No more words will come."""
        for item in self._items:
            yield from self._conversation.fail(item, code, message)

    def part(self, *, drop: bool = False) -> None:
        """The client ends what was heard so far; ``parted`` follows when all of it has been told.

        ``drop``: what it has not been told to be committed by then is dropped.
        """
        self._parts.append(drop)
        if drop and len(self._parts) == 1 and self._items and self._items[-1].stop is None:
            self._items[-1].dropped = True

    def parted(self, heard: int) -> Iterator[Message]:
        """All that was heard before has been told."""
        yield from self.close(heard)
        self._parts.popleft()

    def committed(self, start: int, heard: int) -> Iterator[Message]:
        """The same, where the client has committed what came since ``start``.

        If the detector has found nothing to commit in it, it is an item without words.
        """
        yield from self.parted(heard)
        if not self._committed:
            silent = Item(start, heard)
            yield from self._conversation.commit(silent)
            yield from self._conversation.complete(silent)
        self._committed = 0


class CommittedTurns:
    """The client takes the turns: words are the oldest item's, until its flush has come through."""

    def __init__(self, conversation: Conversation, start: int) -> None:
        self._conversation = conversation
        self._flushing: deque[Item] = deque()
        self._open = Item(start)

    def started(self, _at: int) -> Iterator[Message]:
        """The detector's turns are not told."""
        yield from ()

    def stopped(self, _at: int, _heard: int) -> Iterator[Message]:
        """The detector's turns are not told."""
        yield from ()

    def ended(self, _upto: int) -> Iterator[Message]:
        """The detector's turns are not told."""
        yield from ()

    def said(self, words: Iterable[Word]) -> Iterator[Message]:
        """Words, before a commit or after it."""
        item = self._flushing[0] if self._flushing else self._open
        yield from self._conversation.say(item, words)

    def commit(self, heard: int) -> None:
        """The client has committed all audio so far."""
        self._part(heard)

    def clear(self, heard: int) -> None:
        """The client drops what it has not committed."""
        self._part(heard).dropped = True

    def _part(self, heard: int) -> Item:
        item, self._open = self._open, Item(heard)
        item.stop = heard
        self._flushing.append(item)
        return item

    def announce(self) -> Iterator[Message]:
        """Say which items there are now, if that has not been said."""
        for item in self._flushing:
            if not item.committed and not item.dropped:
                yield from self._conversation.commit(item)

    def flushed(self) -> Iterator[Message]:
        """All words of what was last committed or cleared have been said."""
        yield from self.announce()
        yield from self._conversation.complete(self._flushing.popleft())

    def close(self, heard: int) -> Iterator[Message]:
        """All words have been said, and the client commits no more: those that are left are."""
        if self._open.text:
            self.commit(heard)
            yield from self.flushed()

    def fail(self, code: str, message: str) -> Iterator[Message]:
        """No more words will come."""
        for item in self._flushing:
            yield from self._conversation.fail(item, code, message)
