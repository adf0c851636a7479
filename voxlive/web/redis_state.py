"""The ``SharedState`` of replicas in Redis or Valkey, and the messages between them.

All that a replica has there is a lease of ``LEASE_S``, which it renews: when it dies or hangs, its
sessions and names are free that much later. What it holds it knows itself, and writes again when
Redis has lost it. While none answers, what needs an answer is refused, sessions that have begun go
on, and releases are caught up.

A message is JSON to one replica or to all; there is no promise that one arrives.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from voxlive.errors import RequestRefused
from voxlive.web.access.shared_state import LocalState
from voxlive.web.config import ConfigError

log = logging.getLogger(__name__)

LEASE_S = 15.0
BEAT_S = LEASE_S / 3
_TIMEOUT_S = 2.0
_RETRY_S = 1.0
_AT_ONCE = 50  # rows of the directory in one command
_MAX_UNSENT = 10_000
_ALL = "*"

# Redis has the one clock. Braces: in a cluster all keys are on one node.
_NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
"""
# A field for each replica, by rules: how many it has, below a limit, or who has the name there.
_HOLD = f"""
{_NOW}
local rows, total = redis.call('HGETALL', KEYS[2]), tonumber(ARGV[3]) and tonumber(ARGV[2])
for i = 1, #rows, 2 do
  if rows[i] ~= ARGV[1] then
    if not redis.call('ZSCORE', KEYS[1], rows[i]) then
      redis.call('HDEL', KEYS[2], rows[i])
    elseif total then
      total = total + tonumber(rows[i + 1])
    elseif rows[i + 1] ~= ARGV[2] then
      return 0
    end
  end
end
if total and total > tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('ZADD', KEYS[1], now + ARGV[4], ARGV[1])
return 1
"""
_BEAT = f"""
{_NOW}
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
"""
# A bucket is the time at which it is full: tokens are intervals before that.
_BUCKET = """
local t = redis.call('TIME')
local now, wait = t[1] * 1000 + t[2] / 1000, 0
local full = {}
for i = 1, #KEYS do
  local interval = 60000 / ARGV[i]
  full[i] = math.max(now, tonumber(redis.call('GET', KEYS[i]) or now)) + interval
  wait = math.max(wait, full[i] - now - math.max(1, ARGV[i]) * interval)
end
if wait > 0.001 then return tostring(wait) end
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], string.format('%.3f', full[i]), 'PX', math.ceil(full[i] - now) + 1000)
end
return '0'
"""
# A session is where it was opened last: a replica that has lost it renews nothing, and is told so.
_RENEW = """
local lost = {}
for i = 1, #KEYS do
  local row, me = redis.call('GET', KEYS[i]), string.sub(ARGV[i + 1], 1, 16)
  if row and string.sub(row, 1, 16) ~= me then
    lost[#lost + 1] = i
  else
    redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1])
  end
end
return lost
"""
_REMOVE = """
local row = redis.call('GET', KEYS[1])
if row and string.sub(row, 1, 16) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


@dataclass(frozen=True, slots=True)
class SessionPlace:
    """A live session whose captions may be read, and the replica that has it.

    ``began``: when it came to this replica, in seconds since the epoch.
    """

    session: str
    name: str
    path: str
    owner: str
    began: float
    readers: int = 0
    replica: str = ""


def check_state(url: str) -> None:
    """Raises ConfigError for an address where no Redis answers. Blocks."""
    try:
        with BlockingRedis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as redis:
            redis.ping()
    except (RedisError, OSError, ValueError) as error:
        raise ConfigError(f"state: no Redis answers there: {error}", "state") from None


class RedisState(LocalState):
    """See the module and the contract. On one event loop, from ``start`` to ``aclose``.

    ``on_message`` gets what other replicas tell this one, ``on_lost`` the sessions that another one
    has taken over; ``places`` are what this one has in the directory.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.replica = secrets.token_hex(8)
        self.on_message: Callable[[dict[str, Any]], object] = lambda _: None
        self.on_lost: Callable[[str], object] = lambda _: None
        self.places: Callable[[], Iterable[SessionPlace]] = tuple
        options: Any = {
            "decode_responses": True,
            "socket_connect_timeout": _TIMEOUT_S,
            "retry": Retry(NoBackoff(), 1),  # a connection may have been closed meanwhile
        }
        # No socket_timeout, but _within: the library has it by asyncio.wait_for, which swallows a
        # cancellation at times before Python 3.12, and a task would not end.
        self._redis: Any = Redis.from_url(url, socket_timeout=None, **options)
        self._listening: Any = Redis.from_url(url, socket_timeout=None, **options)
        self._hold, self._beat, self._token, self._renew, self._remove = (
            self._redis.register_script(text) for text in (_HOLD, _BEAT, _BUCKET, _RENEW, _REMOVE)
        )
        self._lock = asyncio.Lock()
        """Held by what writes the fields of this replica."""
        self._stale: set[str] = set()  # keys that may have such a field, which is to be written
        # By session. What is written leaves them, unless it has changed meanwhile.
        self._announced: dict[str, SessionPlace] = {}
        self._withdrawn: dict[str, SessionPlace] = {}
        self._changed = asyncio.Event()
        self._unsent: asyncio.Queue[tuple[str, str]] = asyncio.Queue(_MAX_UNSENT)
        self._down_until = 0.0
        self._down = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *others: Coroutine[Any, Any, None]) -> None:
        """Renew leases and receive messages, on the running loop; ``others`` run as long."""
        loop = asyncio.get_running_loop()
        work = (self._keep(), self._send(), self._receive(), *others)
        self._tasks = [loop.create_task(one) for one in work]
        for task in self._tasks:
            task.add_done_callback(_report)

    async def aclose(self) -> None:
        """Give everything back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            held = [key for key, _ in self._fields()]
            self._sessions.clear()
            self._names.clear()
            self._stale.update(held)
            await self._write(whole=False)
            await _within(self._redis.zrem(_key("replicas"), self.replica))
        except (RedisError, OSError) as error:
            log.warning("what this server has in Redis ends by itself: %s", error)
        await self._redis.aclose()
        await self._listening.aclose()

    # See SharedState.

    async def take_session(self, key: str, limit: int) -> bool:
        """See ``SharedState``."""
        async with self._lock:
            count = self._sessions[key] + 1
            taken = await self._take(_key("sessions", key), str(count), str(limit))
            self._sessions[key] += taken
        return taken

    def give_session_back(self, key: str) -> None:
        """See ``SharedState``."""
        super().give_session_back(key)
        self._stale.add(_key("sessions", key))
        self._changed.set()

    async def take_token(self, rates: Mapping[str, float]) -> float:
        """See ``SharedState``."""
        keys = [_key("rate", name) for name in rates]
        return float(await self._ask(self._token, keys, [*rates.values()])) / 1000

    async def claim_name(self, name: str, owner: str) -> bool:
        """See ``SharedState``."""
        async with self._lock:
            if name not in self._names and not await self._take(_key("name", name), owner, ""):
                return False
            return await super().claim_name(name, owner)

    def free_name(self, name: str) -> None:
        """See ``SharedState``."""
        super().free_name(name)
        self._stale.add(_key("name", name))
        self._changed.set()

    async def _take(self, key: str, value: str, limit: str) -> bool:
        """Set this replica's field, if the others' allow it."""
        self._stale.add(key)  # whatever happens meanwhile
        arguments = [self.replica, value, limit, _milliseconds(LEASE_S)]
        return bool(await self._ask(self._hold, [_key("replicas"), key], arguments))

    async def _ask(self, script: Any, keys: list[str], arguments: list[Any]) -> Any:
        """A script's answer. Raises RequestRefused ``state_unavailable``, soon."""
        try:
            if time.monotonic() < self._down_until:
                raise RedisError("it did not answer before")
            return await _within(script(keys, arguments))
        except (RedisError, OSError) as error:
            self._on_down(error)
            message = "the server cannot count sessions now: try again in a moment"
            raise RequestRefused("state_unavailable", message, retry_after_s=_RETRY_S) from error

    # The directory of sessions.

    def announce(self, place: SessionPlace) -> None:
        """A session has begun here, or goes on here, whoever had it before."""
        self._announced[place.session] = place
        self._changed.set()

    def withdraw(self, place: SessionPlace) -> None:
        """It is over, or left to another replica."""
        self._announced.pop(place.session, None)
        self._withdrawn[place.session] = place
        self._changed.set()

    async def find_place(self, name: str, owner: str | None = None) -> SessionPlace | None:
        """Where a session of this id is, or else the newest of this name; of a key, if given.

        None too while no Redis answers.
        """
        try:
            ids = await _within(self._redis.zrevrange(_key("named", name), 0, -1))
            keys = [_key("session", one) for one in (name, *ids)]
            rows = await _within(self._redis.mget(keys))
        except (RedisError, OSError) as error:
            self._on_down(error)
            return None
        found = (_place(row) for row in rows if row)
        return next((one for one in found if owner in (None, one.owner)), None)

    async def all_places(self) -> list[SessionPlace]:
        """Those of all replicas, the oldest first; none while no Redis answers."""
        index = _key("all-sessions")
        try:
            ids = await _within(self._redis.smembers(index))
            keys = [_key("session", one) for one in ids]
            rows = await _within(self._redis.mget(keys)) if ids else []
            dead = [one for one, row in zip(ids, rows, strict=True) if not row]
            if dead:
                await _within(self._redis.srem(index, *dead))
        except (RedisError, OSError) as error:
            self._on_down(error)
            return []
        return sorted((_place(row) for row in rows if row), key=lambda one: one.began)

    def _row(self, place: SessionPlace) -> str:
        fields = asdict(place)
        del fields["replica"]
        return self.replica + json.dumps(fields)

    # Messages.

    def tell(self, replica: str, message: Mapping[str, Any]) -> None:
        """To one replica, with the ``from`` of this one. The oldest is dropped if too many wait."""
        if self._unsent.full():
            self._unsent.get_nowait()
        self._unsent.put_nowait((replica, json.dumps({**message, "from": self.replica})))

    def tell_all(self, message: Mapping[str, Any]) -> None:
        """To all other replicas."""
        self.tell(_ALL, message)

    async def _send(self) -> None:
        while True:
            batch = [await self._unsent.get()]
            while not self._unsent.empty() and len(batch) < _AT_ONCE:
                batch.append(self._unsent.get_nowait())
            pipe = self._redis.pipeline(transaction=False)
            for replica, text in batch:
                pipe.publish(_channel(replica), text)
            try:
                await _within(pipe.execute())
            except (RedisError, OSError) as error:
                self._on_down(error)
                await asyncio.sleep(_RETRY_S)

    async def _receive(self) -> None:
        while True:
            try:
                async with self._listening.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(_channel(self.replica), _channel(_ALL))
                    while True:
                        sent = await pubsub.get_message(timeout=BEAT_S)
                        if sent:
                            self._on_sent(sent["data"])
            except (RedisError, OSError) as error:
                self._on_down(error)
                await asyncio.sleep(_RETRY_S)

    def _on_sent(self, text: str) -> None:
        try:
            message = json.loads(text)
            if message["from"] != self.replica:
                self.on_message(message)
        except (LookupError, TypeError, ValueError) as error:  # from a replica of another version
            log.warning("a message of another server is not understood: %r", error)

    # Leases.

    async def _keep(self) -> None:
        beat_at = float("-inf")
        while True:
            try:
                async with asyncio.timeout(max(0.0, beat_at - time.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            now = time.monotonic()
            try:
                await self._write(whole=now >= beat_at)
                beat_at = now + BEAT_S if now >= beat_at else beat_at
            except (RedisError, OSError) as error:
                self._on_down(error)
                self._changed.set()
                await asyncio.sleep(_RETRY_S)
                beat_at = float("-inf")
            else:
                self._down_until = 0.0
                if self._down:
                    self._down = False
                    log.warning("Redis answers again")

    async def _write(self, *, whole: bool) -> None:
        """What this replica has; of the directory what has changed, if not the ``whole``."""
        lease = _milliseconds(LEASE_S)
        await _within(self._beat([_key("replicas")], [self.replica, lease]))
        async with self._lock:
            fields, pipe = dict(self._fields()), self._redis.pipeline(transaction=False)
            for key, value in fields.items():
                pipe.hset(key, self.replica, value)
                pipe.pexpire(key, lease)
            for key in self._stale - fields.keys():
                pipe.hdel(key, self.replica)
            stale, self._stale = self._stale, set()  # what is given back meanwhile comes next time
            try:
                await _within(pipe.execute())
            except BaseException:
                self._stale |= stale
                raise
        # In this order: a session may come back.
        for place in tuple(self._withdrawn.values()):
            await _within(self._remove([_key("session", place.session)], [self.replica]))
            await _within(self._redis.zrem(_key("named", place.name), place.session))
            _discard(self._withdrawn, place)
        for place in tuple(self._announced.values()):
            pipe = self._redis.pipeline(transaction=False)
            pipe.set(_key("session", place.session), self._row(place), px=lease)
            _index(pipe, place)
            await _within(pipe.execute())
            _discard(self._announced, place)
        places = tuple(self.places()) if whole else ()
        for at in range(0, len(places), _AT_ONCE):
            some = places[at : at + _AT_ONCE]
            keys = [_key("session", place.session) for place in some]
            lost = await _within(self._renew(keys, [lease, *map(self._row, some)]))
            pipe = self._redis.pipeline(transaction=False)
            for place in some:
                _index(pipe, place)
            await _within(pipe.execute())
            for number in lost:
                self.on_lost(some[number - 1].session)

    def _fields(self) -> Iterable[tuple[str, str | int]]:
        """This replica's field in each key."""
        yield from ((_key("sessions", key), n) for key, n in self._sessions.items() if n > 0)
        yield from ((_key("name", name), owner) for name, (owner, _) in self._names.items())

    def _on_down(self, error: Exception) -> None:
        self._down_until = time.monotonic() + _RETRY_S / 2
        if not self._down:
            self._down = True
            log.error("Redis does not answer: %s", error)


async def _within(command: Awaitable[Any]) -> Any:
    """What Redis answers. Raises TimeoutError, which is an OSError."""
    async with asyncio.timeout(_TIMEOUT_S):
        return await command


def _discard(places: dict[str, SessionPlace], place: SessionPlace) -> None:
    if places.get(place.session) is place:
        del places[place.session]


def _report(task: asyncio.Task[None]) -> None:
    """A task that never ends by itself has ended: log why."""
    if not task.cancelled() and (error := task.exception()):
        context = {"message": "a server's work with Redis has failed", "exception": error}
        task.get_loop().call_exception_handler({**context, "task": task})


def _index(pipe: Any, place: SessionPlace) -> None:
    """Have a session found by its name, and in the list."""
    lasting = 4 * _milliseconds(LEASE_S)
    pipe.zadd(_key("named", place.name), {place.session: place.began})
    pipe.pexpire(_key("named", place.name), lasting)
    pipe.sadd(_key("all-sessions"), place.session)
    pipe.pexpire(_key("all-sessions"), lasting)


def _key(*parts: str) -> str:
    return ":".join(("{voxlive}", *parts))


def _channel(replica: str) -> str:
    return _key("replica", replica)


def _milliseconds(seconds: float) -> int:
    return int(1000 * seconds)


def _place(row: str) -> SessionPlace:
    return SessionPlace(**json.loads(row[16:]), replica=row[:16])
