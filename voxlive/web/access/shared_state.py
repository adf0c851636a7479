"""What is counted once for all replicas of a server, behind one interface.

Those are the sessions in use of each key, its requests a minute, and the names of captions. A
``LocalState`` counts them for a server that is alone; servers behind one load balancer share a
``redis_state.RedisState``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from voxlive.web.access.keys import TokenBucket


class SharedState(Protocol):
    """On one event loop. What asks raises RequestRefused ``state_unavailable`` if none answers."""

    async def take_session(self, key: str, limit: int) -> bool:
        """Count a session of the key of this name; False if it has so many."""
        ...

    def give_session_back(self, key: str) -> None:
        """One of them is over."""
        ...

    async def take_token(self, rates: Mapping[str, float]) -> float:
        """Take a token of each of these buckets, which get so many a minute, and hold as many.

        How many seconds there is none for; then nothing is taken.
        """
        ...

    async def claim_name(self, name: str, owner: str) -> bool:
        """Reserve a name of captions for a key; False if another one has it."""
        ...

    def free_name(self, name: str) -> None:
        """One of those who have claimed it has no use for it any more."""
        ...


class LocalState(SharedState):
    """See the contract: of this process alone. ``clock`` is in seconds, and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: Counter[str] = Counter()
        self._buckets: dict[str, TokenBucket] = {}
        self._names: dict[str, tuple[str, int]] = {}  # the owner, and how often it is claimed

    async def take_session(self, key: str, limit: int) -> bool:
        """See ``SharedState``."""
        if self._sessions[key] >= limit:
            return False
        self._sessions[key] += 1
        return True

    def give_session_back(self, key: str) -> None:
        """See ``SharedState``."""
        self._sessions[key] -= 1

    async def take_token(self, rates: Mapping[str, float]) -> float:
        """See ``SharedState``."""
        now = self._clock()
        buckets = [self._buckets.setdefault(n, TokenBucket(rate)) for n, rate in rates.items()]
        wait_s = max(bucket.wait_s(now) for bucket in buckets)
        if wait_s <= 0:
            for bucket in buckets:
                bucket.take(now)
        return wait_s

    async def claim_name(self, name: str, owner: str) -> bool:
        """See ``SharedState``."""
        holder, uses = self._names.get(name, (owner, 0))
        if holder == owner:
            self._names[name] = owner, uses + 1
        return holder == owner

    def free_name(self, name: str) -> None:
        """See ``SharedState``."""
        owner, uses = self._names.pop(name)
        if uses > 1:
            self._names[name] = owner, uses - 1
