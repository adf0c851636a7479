"""Conversation items: how a client's audio is split, and the messages about each item.

Where the voice detector takes the turns, an item is a span of speech. Its words come later, when
the next item may have begun already, so a word goes to the item that its time lies in. Where the
client commits, an item is what lies between two commits, and flushes separate their words. Deltas
are committed words: joined, they are the item's transcript. Times are samples.
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
    """One part of the audio. ``stop`` None: it has not ended. ``dropped``: by the client.

    ``committed``: the client has the message for it, in which it follows ``previous``.
    """

    start: int
    stop: int | None = None
    text: str = ""
    dropped: bool = False
    committed: bool = False
    previous: str | None = None
    id: str = field(default_factory=lambda: f"item_{secrets.token_hex(8)}")


class Conversation:
    """The messages about items, in the order in which they are committed; none of dropped ones.

    ``beta``: the client uses the older dialect, where another message reports an item.
    ``language``: what the model has found out is spoken.
    """

    def __init__(self) -> None:
        self.beta = False
        self.language: str | None = None
        self._last: str | None = None

    def commit(self, item: Item) -> Iterator[Message]:
        """The item is complete as audio; its transcript follows."""
        item.previous, self._last, item.committed = self._last, item.id, True
        order = {"item_id": item.id, "previous_item_id": item.previous}
        yield "input_audio_buffer.committed", order
        yield f"conversation.item.{'created' if self.beta else 'added'}", _item_fields(item, None)

    def add_words(self, item: Item, words: Iterable[Word]) -> Iterator[Message]:
        """Words of the item, the first without its leading space."""
        text = "".join(word.text for word in words)
        text = text if item.text else text.lstrip()
        if text and not item.dropped:
            item.text += text
            yield _transcription(item, "delta", delta=text)

    def complete(self, item: Item) -> Iterator[Message]:
        """All words of the item have been sent."""
        if not item.dropped:
            length = seconds((item.stop or item.start) - item.start)
            usage = {"type": "duration", "seconds": length}
            languages = {"languages": [{"code": self.language}]} if self.language else {}
            yield _transcription(item, "completed", transcript=item.text, usage=usage, **languages)
            if not self.beta:
                yield "conversation.item.done", _item_fields(item, item.text)

    def fail(self, item: Item, code: str, message: str) -> Iterator[Message]:
        """The item's words will not come."""
        if not item.dropped:
            error = {"type": "server_error", "code": code, "message": message, "param": None}
            yield _transcription(item, "failed", error=error)


def _transcription(item: Item, kind: str, **fields: object) -> Message:
    name = f"conversation.item.input_audio_transcription.{kind}"
    return name, {"item_id": item.id, "content_index": 0, **fields}


def _item_fields(item: Item, transcript: str | None) -> dict[str, object]:
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


class VadTurns:
    """The voice detector takes the turns. Items wait for their words in order.

    ``semantic``: the turn detector does, so that an item goes on through pauses.
    """

    def __init__(
        self, conversation: Conversation, gate: GateOptions, *, semantic: bool = False
    ) -> None:
        self.semantic = semantic
        self._conversation = conversation
        self._padding = gate.pre_roll_ms * _PER_MS
        self._silence = gate.pause_ms * _PER_MS
        self._items: deque[Item] = deque()
        self._end = 0  # of the last item, with the silence that ended it
        self._committed = 0  # items since the client's last commit
        self._splits: deque[bool] = (
            deque()
        )  # for each split on its way: is what came before it dropped?

    def on_speech_started(self, at: int) -> Iterator[Message]:
        """Speech begins."""
        yield from self.on_speech_stopped(at, at)
        item = Item(
            max(at - self._padding, self._end), dropped=bool(self._splits) and self._splits[0]
        )
        self._items.append(item)
        if not item.dropped:
            start = {"audio_start_ms": item.start // _PER_MS, "item_id": item.id}
            yield "input_audio_buffer.speech_started", start

    def on_speech_stopped(self, at: int, audio_end: int) -> Iterator[Message]:
        """Speech has ended; ``audio_end`` is how much audio has come so far."""
        if not self._items or self._items[-1].stop is not None:
            return
        item = self._items[-1]
        item.stop = max(at, item.start)
        self._end = max(item.stop, min(at + self._silence, audio_end))
        if not item.dropped:
            self._committed += 1
            end = {"audio_end_ms": self._end // _PER_MS, "item_id": item.id}
            yield "input_audio_buffer.speech_stopped", end
            yield from self._conversation.commit(item)

    def on_words(self, words: Iterable[Word]) -> Iterator[Message]:
        """Words, which come in order: one of a later item completes those before it."""
        words = tuple(words)
        if words and not self._items:
            yield from self.on_speech_started(words[0].start)
        for item, item_words in groupby(words, self._item_at):
            while self._items[0] is not item:
                yield from self._conversation.complete(self._items.popleft())
            yield from self._conversation.add_words(item, item_words)

    def _item_at(self, word: Word) -> Item:
        middle = (word.start + word.end) // 2
        begun = (item for item in reversed(self._items) if item.start <= middle)
        return next(begun, self._items[0])

    def on_utterance_ended(self, upto: int) -> Iterator[Message]:
        """All words before sample ``upto`` are out."""
        while self._items and self._items[0].stop is not None and self._items[0].stop <= upto:
            yield from self._conversation.complete(self._items.popleft())

    def close(self, audio_end: int) -> Iterator[Message]:
        """All words are out; what follows is a new turn."""
        yield from self.on_speech_stopped(audio_end, audio_end)
        while self._items:
            yield from self._conversation.complete(self._items.popleft())

    def fail(self, code: str, message: str) -> Iterator[Message]:
        """No more words will come."""
        for item in self._items:
            yield from self._conversation.fail(item, code, message)

    def split(self, *, drop: bool = False) -> None:
        """The client ends the audio so far; ``on_split`` follows when all its events are out.

        ``drop``: what is not reported as committed by then is dropped.
        """
        self._splits.append(drop)
        if drop and len(self._splits) == 1 and self._items and self._items[-1].stop is None:
            self._items[-1].dropped = True

    def on_split(self, audio_end: int) -> Iterator[Message]:
        """All events of the audio before the split are out."""
        yield from self.close(audio_end)
        self._splits.popleft()

    def on_commit(self, start: int, audio_end: int) -> Iterator[Message]:
        """The same, where the client has committed what came since ``start``.

        If the detector has found nothing to commit in it, it is an item without words.
        """
        yield from self.on_split(audio_end)
        if not self._committed:
            silent = Item(start, audio_end)
            yield from self._conversation.commit(silent)
            yield from self._conversation.complete(silent)
        self._committed = 0


class CommittedTurns:
    """The client takes the turns: words are the oldest item's, until its flush has come through."""

    semantic = False

    def __init__(self, conversation: Conversation, start: int) -> None:
        self._conversation = conversation
        self._flushing: deque[Item] = deque()
        self._open = Item(start)

    def on_speech_started(self, _at: int) -> Iterator[Message]:
        """The detector's turns are not reported."""
        yield from ()

    def on_speech_stopped(self, _at: int, _audio_end: int) -> Iterator[Message]:
        """The detector's turns are not reported."""
        yield from ()

    def on_utterance_ended(self, _upto: int) -> Iterator[Message]:
        """The detector's turns are not reported."""
        yield from ()

    def on_words(self, words: Iterable[Word]) -> Iterator[Message]:
        """Words, before a commit or after it."""
        item = self._flushing[0] if self._flushing else self._open
        yield from self._conversation.add_words(item, words)

    def commit(self, audio_end: int) -> None:
        """The client has committed all audio so far."""
        self._close_item(audio_end)

    def clear(self, audio_end: int) -> None:
        """The client drops what it has not committed."""
        self._close_item(audio_end).dropped = True

    def _close_item(self, audio_end: int) -> Item:
        item, self._open = self._open, Item(audio_end)
        item.stop = audio_end
        self._flushing.append(item)
        return item

    def report_commits(self) -> Iterator[Message]:
        """The items that there are now, if they have not been reported."""
        for item in self._flushing:
            if not item.committed and not item.dropped:
                yield from self._conversation.commit(item)

    def on_flushed(self) -> Iterator[Message]:
        """All words of the oldest commit or clear that was not completed are out."""
        yield from self.report_commits()
        yield from self._conversation.complete(self._flushing.popleft())

    def close(self, audio_end: int) -> Iterator[Message]:
        """All words are out, and the client commits no more: those that are left are committed."""
        if self._open.text:
            self.commit(audio_end)
            yield from self.on_flushed()

    def fail(self, code: str, message: str) -> Iterator[Message]:
        """No more words will come."""
        for item in self._flushing:
            yield from self._conversation.fail(item, code, message)
