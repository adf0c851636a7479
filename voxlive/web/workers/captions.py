"""Captions of a worker's sessions, whose readers are the host's: either end.

``RelayedFeeds`` are the feeds of a worker, which tell the host all that they get; ``ServeFeeds``
has the host's feeds get the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from voxlive.speakers.labels import SpeakerNamed, SpeakersFound
from voxlive.streaming.events import Draft, Event, SegmentClosed, Words
from voxlive.web.captions.feed import CaptionFeed
from voxlive.web.captions.feeds import CaptionFeeds
from voxlive.web.workers import FeedAmended, FeedClosed, FeedEvent, FeedGoesOn, FeedOpened
from voxlive.web.workers.channel import WorkerChannel

if TYPE_CHECKING:
    from voxlive.store.contract import StoredTranscript


class RelayedFeed(CaptionFeed):
    """A feed whose readers are the host's: what it gets, theirs gets too."""

    tell: Callable[[object], object]

    def on_event(self, event: Event) -> None:
        """See ``CaptionFeed``."""
        if isinstance(event, Words | Draft | SegmentClosed | SpeakersFound | SpeakerNamed):
            self.tell(FeedEvent(self.session, event))
        super().on_event(event)

    def amend(self, segment: int, count: int, text: str) -> bool:
        """See ``CaptionFeed``."""
        amended = super().amend(segment, count, text)
        if amended:
            self.tell(FeedAmended(self.session, segment, count, text))
        return amended


def _told_already(_message: object) -> None:
    """The host's feed gets this otherwise."""


class RelayedFeeds(CaptionFeeds):
    """The feeds of a worker's sessions."""

    def __init__(self, tell: Callable[[object], object]) -> None:
        super().__init__()
        self._tell = tell

    def make(self, session: str, name: str | None, path: str, owner: str) -> CaptionFeed:
        """See ``CaptionFeeds``."""
        self._tell(FeedOpened(session, name, path, owner))
        feed = RelayedFeed(session, name or session, path, owner)
        feed.tell = self._tell
        return feed

    def go_on(self, transcript: StoredTranscript) -> CaptionFeed:
        """See ``CaptionFeeds``."""
        self._tell(FeedGoesOn(transcript))
        session = transcript.session
        feed = RelayedFeed(session.id, session.name or session.id, session.path, session.owner)
        feed.tell = _told_already
        feed.restore(transcript)
        feed.tell = self._tell
        self.add(feed)
        return feed

    def close(self, feed: CaptionFeed, *, over: bool = True) -> None:
        """See ``CaptionFeeds``."""
        if self.find(feed.session) is feed:
            self._tell(FeedClosed(feed.session, over))
        super().close(feed, over=over)


class ServeFeeds:
    """The sessions of one worker among the host's ``feeds``."""

    def __init__(self, feeds: CaptionFeeds, channel: WorkerChannel) -> None:
        self._feeds = feeds
        self._opened: dict[str, CaptionFeed] = {}
        channel.on(FeedOpened, self._open)
        channel.on(FeedGoesOn, self._go_on)
        channel.on(FeedEvent, self._on_event)
        channel.on(FeedAmended, self._amend)
        channel.on(FeedClosed, self._close)

    def close(self, *, over: bool) -> None:
        """The worker has gone; its sessions are over, or go on at others."""
        for session in tuple(self._opened):
            self._close(FeedClosed(session, over))

    def _open(self, opened: FeedOpened) -> None:
        self._opened[opened.session] = self._feeds.open(
            opened.session, opened.name, opened.path, opened.owner
        )

    def _go_on(self, goes_on: FeedGoesOn) -> None:
        feed = self._feeds.go_on(goes_on.transcript)
        self._opened[feed.session] = feed

    def _on_event(self, event: FeedEvent) -> None:
        if feed := self._opened.get(event.session):
            feed.on_event(event.event)

    def _amend(self, amended: FeedAmended) -> None:
        if feed := self._opened.get(amended.session):
            feed.amend(amended.segment, amended.words, amended.text)

    def _close(self, closed: FeedClosed) -> None:
        if feed := self._opened.pop(closed.session, None):
            self._feeds.close(feed, over=closed.over)
