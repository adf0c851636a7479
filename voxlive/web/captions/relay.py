"""Captions of sessions that another replica of the server has: readers may come to any of them.

A replica that has readers for such a session **follows** it: it tells the other one the number of
the caption that it wants next, and gets the state of the feed if that is not what comes next there,
and then what comes, as long as it goes on asking. So a session that has no readers elsewhere costs
nothing there, and one that has costs a message for each replica. Any message may be lost: what is
not there soon is asked for again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple, replace
from functools import partial
from typing import Any

from voxlive.speakers.labels import SpeakerNamed, SpeakerRange, SpeakersFound
from voxlive.streaming.events import Draft, SegmentClosed, Words
from voxlive.values import Word
from voxlive.web.captions.events import (
    Caption,
    CaptionSnapshot,
    ClosedCaption,
    CorrectedCaption,
    SpokenCaption,
)
from voxlive.web.captions.feed import CaptionFeed
from voxlive.web.captions.feeds import CaptionFeeds
from voxlive.web.redis_state import BEAT_S, RedisState, SessionPlace

_FOLLOWED_S = 3 * BEAT_S
_LOADED_S = 5.0
_ASKED_S = 0.5
_NONE = -1  # the number that stands for no state
_UNREAD_BEATS, _LOST_BEATS = 2, 2


class FollowedFeed(CaptionFeed):
    """The feed of another replica's session, as it is here."""

    def __init__(self, place: SessionPlace) -> None:
        super().__init__(place.session, place.name, place.path, place.owner)
        self.replica = place.replica
        self.loaded = asyncio.Event()
        self.changed = asyncio.Event()
        """Whether it may be loaded, or may be looked for elsewhere."""
        self.next = _NONE
        """The number of what comes next."""
        self.asked_at = float("-inf")
        self.unread = self.lost = 0
        """For so many beats it had no reader, or no replica had it."""

    def load(self, number: int, state: Mapping[str, Any]) -> None:
        """The state that it had before the caption of this number; readers get all of it."""
        if number <= self.next:
            return  # what was missing was on its way
        self.next = number
        self.restore_state(state)
        self.loaded.set()
        self.changed.set()

    def close(self, *, over: bool = True) -> None:
        """See ``CaptionFeed``."""
        super().close(over=over)
        self.changed.set()

    def take(self, number: int, caption: list[Any]) -> bool:
        """A caption; False if one before it is missing."""
        if number < self.next:
            return True  # it is in the state
        if number > self.next:
            return False
        self.next += 1
        match caption:
            case ["words", segment, words, source]:
                said = tuple(Word(*one) for one in words)
                self.on_event(Words(segment, said, source))
            case ["draft", segment, text, source]:
                self.on_event(Draft(segment, text, source))
            case ["closed", *fields]:
                self.on_event(SegmentClosed(*fields))
            case ["speakers", segment, speakers, source]:
                known = enumerate(speakers)
                ranges = tuple(SpeakerRange(segment, n, n, one) for n, one in known)
                self.on_event(SpeakersFound(ranges, 0, source))
            case ["named", speaker, name, source]:
                self.on_event(SpeakerNamed(speaker, name, source))
            case ["corrected", corrections, segment, text, covered]:
                self.correct({**self._corrected, segment: (text, covered)}, corrections)
        return True


class CaptionRelay:
    """See the module. On one event loop, from ``start`` to ``aclose``."""

    def __init__(self, feeds: CaptionFeeds, state: RedisState) -> None:
        self._feeds = feeds
        self._state = state
        self._places: dict[str, SessionPlace] = {}  # of the sessions here
        # Of each session here that is followed: the number of its next caption, and by whom, until.
        self._numbers: dict[str, int] = {}
        self._followers: dict[str, dict[str, float]] = {}
        self._followed: dict[str, FollowedFeed] = {}
        feeds.relay = self
        state.places = self._present
        state.on_message = self._receive
        state.on_lost = self._lose

    def start(self) -> None:
        """Begin, on the running loop."""
        self._state.start(self._look_after())

    async def aclose(self) -> None:
        """End, after all sessions."""
        for feed in self._followed.values():
            feed.close(over=False)
        await self._state.aclose()

    # For the sessions here.

    def on_opened(self, feed: CaptionFeed) -> None:
        """A session has begun here, or goes on here."""
        place = SessionPlace(feed.session, feed.name, feed.path, feed.owner, time.time())
        self._places[feed.session] = place
        self._numbers.setdefault(feed.session, 0)
        feed.on_caption = partial(self._pass_on, feed)
        if followed := self._followed.pop(feed.session, None):
            followed.close(over=False)
        self._state.announce(place)
        self._state.tell_all({"kind": "opened", "session": feed.session})

    def on_closed(self, feed: CaptionFeed, *, over: bool) -> None:
        """A session is over, or left to another replica."""
        place = self._places.pop(feed.session, None)
        if place is None:
            return
        self._state.withdraw(place)
        for replica in self._current_followers(feed.session):
            message = {"kind": "closed", "session": feed.session, "over": over}
            self._state.tell(replica, message)
        self._followers.pop(feed.session, None)
        self._numbers.pop(feed.session, None)
        if over:
            about = [feed.session, feed.name, feed.path, feed.owner]
            self._state.tell_all({"kind": "over", "feed": about})

    def _pass_on(self, feed: CaptionFeed, caption: Caption) -> None:
        if not (replicas := self._current_followers(feed.session)):
            return
        number = self._numbers[feed.session]
        self._numbers[feed.session] = number + 1
        passed = _plain(feed, caption)
        message = {"kind": "caption", "session": feed.session, "number": number, "caption": passed}
        for replica in replicas:
            self._state.tell(replica, message)

    def _current_followers(self, session: str) -> tuple[str, ...]:
        followers = self._followers.get(session)
        if not followers:
            return ()
        now = time.monotonic()
        for replica in [one for one, until in followers.items() if until < now]:
            del followers[replica]
        return tuple(followers)

    def _present(self) -> list[SessionPlace]:
        feeds = ((place, self._feeds.find(place.session)) for place in self._places.values())
        return [replace(place, readers=feed.readers) for place, feed in feeds if feed]

    def _lose(self, session: str) -> None:
        """Another replica has it, which this one has not noticed yet."""
        if session in self._places and (feed := self._feeds.find(session)):
            del self._places[session]
            self._followers.pop(session, None)
            self._numbers.pop(session, None)
            self._feeds.close(feed, over=False)

    # For readers here.

    async def find(self, name: str, owner: str | None = None) -> CaptionFeed | None:
        """The feed of a session that another replica has: see ``RedisState.find_place``.

        None too once it is here: a replica that is gone does not answer, and its client goes on at
        any other one meanwhile.
        """
        until = time.monotonic() + _LOADED_S
        while True:
            place = await self._state.find_place(name, owner)
            if place is None or self._state.replica == place.replica:
                return None
            if place.session in self._places:  # which Redis does not know yet
                return None
            feed = self._followed.get(place.session)
            if feed is None:
                feed = self._followed[place.session] = FollowedFeed(place)
            feed.unread = 0
            self._move(feed, place.replica)
            if feed.loaded.is_set():
                return feed
            if time.monotonic() >= until:
                return None
            self._ask(feed)
            with suppress(TimeoutError):
                async with asyncio.timeout(_ASKED_S):
                    await feed.changed.wait()
            feed.changed.clear()

    async def listed(self) -> list[SessionPlace]:
        """The sessions of other replicas, with the readers that they have there and here."""
        found = await self._state.all_places()
        return [one for one in found if one.replica != self._state.replica]

    def correct(
        self, session: str, corrected: Mapping[int, tuple[str, int]], corrections: int
    ) -> None:
        """People have corrected a stored session, which another replica may have."""
        segments = [[segment, *one] for segment, one in corrected.items()]
        message = {"kind": "corrected", "session": session, "segments": segments}
        self._state.tell_all({**message, "corrections": corrections})

    def name(self, session: str, named: SpeakerNamed) -> None:
        """People have named a speaker of a session, which another replica may have."""
        message = {"kind": "named", "session": session, "named": astuple(named)}
        self._state.tell_all(message)

    def _move(self, feed: FollowedFeed, replica: str) -> None:
        """Another replica has its session, which counts anew, and is asked at once."""
        if feed.replica != replica:
            feed.replica, feed.next, feed.asked_at = replica, _NONE, float("-inf")
            feed.changed.set()

    def _ask(self, feed: FollowedFeed) -> None:
        """For what is missing; not for each caption that comes behind it."""
        if time.monotonic() >= feed.asked_at + _ASKED_S:
            self._follow(feed)

    def _follow(self, feed: FollowedFeed) -> None:
        feed.asked_at = time.monotonic()
        message = {"kind": "follow", "session": feed.session, "next": feed.next}
        self._state.tell(feed.replica, message)

    async def _look_after(self) -> None:
        """What is followed: as long as somebody reads it, and wherever it is."""
        while True:
            await asyncio.sleep(BEAT_S)
            for feed in tuple(self._followed.values()):
                place = await self._state.find_place(feed.session)
                feed.unread = 0 if feed.readers else feed.unread + 1
                feed.lost = 0 if place else feed.lost + 1
                here = place is not None and place.replica == self._state.replica
                if here or feed.unread >= _UNREAD_BEATS or feed.lost >= _LOST_BEATS:
                    self._drop(feed, over=False)
                else:
                    if place:
                        self._move(feed, place.replica)
                    self._follow(feed)
            for waiting in [one for one in self._feeds if one.waits]:
                if await self._state.find_place(waiting.session):
                    self._feeds.close(waiting, over=False)

    def _drop(self, feed: FollowedFeed, *, over: bool) -> None:
        if self._followed.get(feed.session) is feed:
            del self._followed[feed.session]
        feed.close(over=over)

    # Messages.

    def _receive(self, message: Mapping[str, Any]) -> None:
        session = message.get("session", "")
        match message["kind"]:
            case "opened":
                self._feeds.wake_waiting()
                if (moved := self._followed.get(session)) and moved.replica != message["from"]:
                    self._move(moved, message["from"])
                    self._ask(moved)
            case "over":
                self._feeds.on_over(CaptionFeed(*message["feed"]))
            case "follow":
                self._on_follow(session, message["from"], message["next"])
            case "corrected":
                corrected = {one[0]: (one[1], one[2]) for one in message["segments"]}
                if session in self._places and (feed := self._feeds.find(session)):
                    feed.correct(corrected, message["corrections"])
            case "named":
                if session in self._places and (feed := self._feeds.find(session)):
                    feed.on_event(SpeakerNamed(*message["named"]))
            case kind:
                followed = self._followed.get(session)
                if followed and followed.replica == message["from"]:
                    self._on_followed(followed, kind, message)

    def _on_follow(self, session: str, by: str, wanted: int) -> None:
        feed = self._feeds.find(session) if session in self._places else None
        if feed is None:
            return
        self._followers.setdefault(session, {})[by] = time.monotonic() + _FOLLOWED_S
        if (number := self._numbers[session]) != wanted:
            state = {"kind": "state", "session": session, "number": number, "state": feed.state}
            self._state.tell(by, state)

    def _on_followed(self, feed: FollowedFeed, kind: str, message: Mapping[str, Any]) -> None:
        match kind:
            case "state":
                feed.load(message["number"], message["state"])
            case "closed":
                self._drop(feed, over=message["over"])
            case "caption" if feed.loaded.is_set():
                if not feed.take(message["number"], message["caption"]):
                    self._ask(feed)


def _plain(feed: CaptionFeed, caption: Caption) -> list[Any]:
    match caption:
        case Words(segment, words, source):
            rows = [[w.text, w.start, w.end, w.probability, w.original] for w in words]
            return ["words", segment, rows, source]
        case Draft(segment, text, source):
            return ["draft", segment, text, source]
        case ClosedCaption(ident, start, end, text, _, received, source):
            return ["closed", ident, start, end, text, received, source]
        case SpokenCaption(segment, speakers, _, source):
            return ["speakers", segment, speakers, source]
        case SpeakerNamed(speaker, name, source):
            return ["named", speaker, name, source]
        case CorrectedCaption(segment):
            return ["corrected", *feed.correction_of(segment)]
        case CaptionSnapshot():  # that of a feed that is no other's
            raise AssertionError
