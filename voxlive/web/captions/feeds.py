"""The captions of all live sessions, by session id and by name: a ``CaptionFeed`` each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from voxlive.speakers.labels import SpeakerNamed
from voxlive.store.contract import StoredTranscript
from voxlive.web.access.access import ANYONE
from voxlive.web.captions.feed import CaptionFeed, CaptionReader, wake_in_turns

if TYPE_CHECKING:
    from voxlive.web.captions.relay import CaptionRelay

MAX_NAME_LENGTH = 64

_MAX_OVER = 1000


class CaptionFeeds:
    """The feeds of all live sessions, by session id and by name.

    A name is reserved for one key while a connection of that key uses it (``SharedState``); it
    stands for the newest session that has it.
    """

    def __init__(self) -> None:
        self.waiting: set[CaptionReader] = set()
        """Readers that want to know of every session that begins."""
        self.on_over: Callable[[CaptionFeed], object] = lambda _: None
        """Called with the feed of every session that is over."""
        self.relay: CaptionRelay | None = None
        """Knows the sessions of the server's other replicas, where there are any."""
        self._feeds: dict[str, CaptionFeed] = {}
        self._over: deque[str] = deque(maxlen=_MAX_OVER)  # sessions; the store may not know it yet

    def open(self, session: str, name: str | None, path: str, owner: str = ANYONE) -> CaptionFeed:
        """Make a feed for a session that begins."""
        feed = self.make(session, name, path, owner)
        self.add(feed)
        return feed

    def add(self, feed: CaptionFeed) -> None:
        """Have it among these, in place of another one of its session."""
        feed.on_closed = self.close
        self._feeds[feed.session] = feed
        if self.relay and not feed.waits:
            self.relay.on_opened(feed)
        self.wake_waiting()

    def wake_waiting(self) -> None:
        """A session has begun, here or elsewhere."""
        wake_in_turns([*self.waiting])

    def make(self, session: str, name: str | None, path: str, owner: str) -> CaptionFeed:
        """A feed that is not among these yet."""
        return CaptionFeed(session, name or session, path, owner)

    def wait(self, transcript: StoredTranscript, wait_s: float) -> CaptionFeed | None:
        """A feed for a session that another server has left, until it comes or is given up.

        None for one that was over here.
        """
        session = transcript.session
        if self.is_over(session.id):
            return None
        feed = self.make(session.id, session.name, session.path, session.owner)
        feed.waits = True
        self.add(feed)
        feed.restore(transcript)
        asyncio.get_running_loop().call_later(wait_s, self._give_up, feed)
        return feed

    def _give_up(self, feed: CaptionFeed) -> None:
        if feed.waits:
            self.close(feed)

    def go_on(self, transcript: StoredTranscript) -> CaptionFeed:
        """The feed of a session that comes from another server; its readers may wait for it."""
        session = transcript.session
        feed = self._feeds.get(session.id)
        if feed is None or not feed.waits:
            feed = self.open(session.id, session.name, session.path, session.owner)
        elif self.relay:
            self.relay.on_opened(feed)
        feed.restore(transcript)
        feed.waits = False
        return feed

    def close(self, feed: CaptionFeed, *, over: bool = True) -> None:
        """Remove and close the feed of a session that is over, or left to another server.

        May be called twice.
        """
        if self._feeds.get(feed.session) is not feed:
            return
        del self._feeds[feed.session]
        feed.close(over=over)
        if self.relay:
            self.relay.on_closed(feed, over=over)
        if over:
            self._over.append(feed.session)
            self.on_over(feed)

    def is_over(self, session: str) -> bool:
        """Whether a session was over here, not long ago."""
        return session in self._over

    def find(self, name: str) -> CaptionFeed | None:
        """The feed of a session's id, or of the newest session with this name."""
        by_name = (feed for feed in reversed(self._feeds.values()) if feed.name == name)
        return self._feeds.get(name) or next(by_name, None)

    def find_owned(self, name: str, owner: str) -> CaptionFeed | None:
        """As ``find``, among the sessions of one key."""
        mine = (feed for feed in reversed(self._feeds.values()) if feed.owner == owner)
        return next((feed for feed in mine if name in (feed.session, feed.name)), None)

    async def locate(self, name: str, owner: str | None = None) -> CaptionFeed | None:
        """As ``find``, or ``find_owned`` for one key, among the sessions of all replicas."""
        found = self._find(name, owner)
        if self.relay and (found is None or found.waits):
            return await self.relay.find(name, owner) or self._find(name, owner)
        return found

    def _find(self, name: str, owner: str | None) -> CaptionFeed | None:
        return self.find(name) if owner is None else self.find_owned(name, owner)

    def correct(
        self, session: str, owner: str, corrected: Mapping[int, tuple[str, int]], corrections: int
    ) -> None:
        """People have corrected a stored session, which may be live here or elsewhere."""
        if feed := self.find_owned(session, owner):
            feed.correct(corrected, corrections)
        elif self.relay:
            self.relay.correct(session, corrected, corrections)

    def name(self, session: str, owner: str, named: Iterable[SpeakerNamed]) -> None:
        """People have named speakers of a session, which may be live here or elsewhere."""
        for one in named:
            if feed := self.find_owned(session, owner):
                feed.on_event(one)
            elif self.relay:
                self.relay.name(session, one)

    def __iter__(self) -> Iterator[CaptionFeed]:
        return iter(tuple(self._feeds.values()))


def is_valid_name(text: str) -> bool:
    """Whether a session may have this name: 1 to 64 printable characters without a slash."""
    return 0 < len(text) <= MAX_NAME_LENGTH and text.isprintable() and "/" not in text
