"""How many replicas a service needs for so many live sessions, by simulation of its day.

    python benchmarks/replicas.py --concurrent 1000 --sessions 200                 # how many hold
    python benchmarks/replicas.py --concurrent 1000 --sessions 200 --target 0.8  # and autoscaled
    python benchmarks/replicas.py --measure 120 --concurrent 4 --sessions 5  # against a real server

Sessions arrive as a Poisson process whose rate follows a curve by the hour; ``--concurrent`` is how
many there are on average in its busiest hour, with nobody refused. Each lasts a random time and
holds a slot of the replica that had the least in use. A client who finds every slot in use is
refused and does not come back.

With ``--target`` replicas are added when more than this share of the slots is in use, and serve
after ``--start`` seconds; with less to do for ``--down-after`` seconds one is taken out: it takes
no more sessions, and those that are left after ``--drain`` seconds go on at others.

``--measure`` starts a real server with ``--sessions`` slots and brings it arrivals at a constant
rate for so many seconds; what it refuses is set beside what the simulation refuses of the same.
docs/scale.md has how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

HOUR = 3600.0
OFFICE = (2, 1, 1, 1, 1, 2, 8, 30, 70, 95, 100, 90, 65, 80, 95, 90, 75, 50, 30, 20, 14, 10, 6, 4)
"""Arrivals by the hour of a service that people use at work, in parts of the busiest hour's."""
TINY = Path(__file__).parent.parent / "tests" / "models" / "tiny-voxtral"
READY = re.compile(r"ready at (http://\S+)")
_FULL = 1013  # how a WebSocket is closed whose client finds no slot
SILENCE = bytes(8000)  # 250 ms of 16-bit PCM at 16 kHz


@dataclass(frozen=True, slots=True)
class Arrival:
    """A client that comes at a time, in seconds, and wants to stay for so long."""

    at: float
    length: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas with so many ``slots`` each, and how their number changes.

    ``target`` None: it does not, and is ``least``. Times are in seconds.
    """

    slots: int
    least: int = 1
    most: int = 10_000
    target: float | None = None
    start_s: float = 60.0
    drain_s: float = 60.0
    down_after_s: float = 300.0
    look_s: float = 15.0


@dataclass(slots=True, eq=False)
class Replica:
    """One server: when it serves from, and its sessions."""

    began: float
    ready: float
    sessions: set[Stay] = field(default_factory=set)
    leaving: bool = False
    ended: float | None = None


@dataclass(slots=True, eq=False)
class Stay:
    """A session at a replica."""

    replica: Replica


@dataclass(slots=True)
class Outcome:
    """What became of a day: counts of sessions, replicas, and hours of both."""

    arrived: int = 0
    refused: int = 0
    moved: int = 0
    cut: int = 0
    busiest: int = 0
    replicas: int = 0
    replica_hours: float = 0.0
    session_hours: float = 0.0

    @property
    def share(self) -> float:
        """Refused of those who came."""
        return self.refused / max(1, self.arrived)


def arrivals(
    curve: Sequence[float], concurrent: float, length: Callable[[], float], mean_s: float, seed: int
) -> Iterator[Arrival]:
    """A day of clients: a Poisson process, thinned to the curve, joined by lines."""
    source = random.Random(seed)
    most, at = concurrent / mean_s, 0.0
    peak = max(curve)
    while True:
        at += source.expovariate(most)
        hour, part = divmod(at / HOUR, 1)
        if hour >= len(curve):
            return
        here, then = curve[int(hour)], curve[(int(hour) + 1) % len(curve)]
        if source.random() * peak < here + (then - here) * part:
            yield Arrival(at, length())


def lengths(mean_s: float, spread: float, seed: int) -> Callable[[], float]:
    """Lengths of sessions: log-normal, by the deviation of their logarithm; 0: all the same."""
    source = random.Random(seed + 1)
    middle = math.log(mean_s) - spread**2 / 2
    return lambda: source.lognormvariate(middle, spread) if spread else mean_s


class Simulation:
    """Clients and replicas, from event to event."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._replicas = [Replica(0.0, 0.0) for _ in range(fleet.least)]
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._idle_since: float | None = None
        self._clients_left = True
        self.outcome = Outcome(replicas=fleet.least)

    def run(self, clients: Iterator[Arrival]) -> Outcome:
        """Until the last client is gone."""
        self._next(clients)
        if self._fleet.target is not None:
            self._at(0.0, self._look)
        now = 0.0
        while self._events:
            now, _, event = heapq.heappop(self._events)
            event(now)
        for replica in self._replicas:
            self.outcome.replica_hours += (now - replica.began) / HOUR
        return self.outcome

    def _at(self, time: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), event))

    def _next(self, clients: Iterator[Arrival]) -> None:
        client = next(clients, None)
        if client is None:
            self._clients_left = False
            return

        def arrive(now: float) -> None:
            self._admit(now, client.length)
            self._next(clients)

        self._at(client.at, arrive)

    @property
    def _in_use(self) -> int:
        return sum(len(one.sessions) for one in self._replicas)

    def _room(self, now: float) -> Replica | None:
        """The replica with the least in use that takes another session."""
        taking = (one for one in self._replicas if one.ready <= now and not one.leaving)
        least = min(taking, key=lambda one: len(one.sessions), default=None)
        return least if least and len(least.sessions) < self._fleet.slots else None

    def _admit(self, now: float, length: float) -> None:
        self.outcome.arrived += 1
        replica = self._room(now)
        if replica is None:
            self.outcome.refused += 1
            return
        stay = Stay(replica)
        replica.sessions.add(stay)
        self.outcome.busiest = max(self.outcome.busiest, self._in_use)
        self.outcome.session_hours += length / HOUR
        self._at(now + length, lambda now: self._leave(now, stay))

    def _leave(self, now: float, stay: Stay) -> None:
        stay.replica.sessions.discard(stay)
        if stay.replica.leaving and not stay.replica.sessions:
            self._end(now, stay.replica)

    def _end(self, now: float, replica: Replica) -> None:
        if replica.ended is None:
            replica.ended = now
            self._replicas.remove(replica)
            self.outcome.replica_hours += (now - replica.began) / HOUR

    # How the number of replicas changes.

    def _look(self, now: float) -> None:
        fleet = self._fleet
        assert fleet.target is not None
        staying = [one for one in self._replicas if not one.leaving]
        wanted = math.ceil(self._in_use / (fleet.slots * fleet.target))
        wanted = min(max(wanted, fleet.least), fleet.most)
        for _ in range(wanted - len(staying)):
            self._replicas.append(Replica(now, now + fleet.start_s))
        self.outcome.replicas = max(self.outcome.replicas, len(self._replicas))
        if wanted >= len(staying):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= fleet.down_after_s:
            self._take_out(now, min(staying, key=lambda one: len(one.sessions)))
        if self._clients_left or self._in_use:
            self._at(now + fleet.look_s, self._look)

    def _take_out(self, now: float, replica: Replica) -> None:
        replica.leaving = True
        if replica.sessions:
            self._at(now + self._fleet.drain_s, lambda now: self._move(now, replica))
        else:
            self._end(now, replica)

    def _move(self, now: float, replica: Replica) -> None:
        """Sessions that have not ended go on at others; one without a place is cut."""
        for stay in [*replica.sessions]:
            replica.sessions.discard(stay)
            there = self._room(now)
            if there is None:
                self.outcome.cut += 1
            else:
                stay.replica = there
                there.sessions.add(stay)
                self.outcome.moved += 1
        self._end(now, replica)


def blocked(load: float, slots: int) -> float:
    """Erlang's B: the share that ``slots`` refuse of Poisson arrivals which offer this load."""
    share = 1.0
    for count in range(1, slots + 1):
        share = load * share / (count + load * share)
    return share


def fewest(fleet: Fleet, day: Callable[[], Iterator[Arrival]], refused: float) -> Fleet:
    """The fewest replicas, always there, that refuse no more than this share."""
    low, high = 1, 1
    while Simulation(_with(fleet, high)).run(day()).share > refused:
        low, high = high + 1, high * 2
    while low < high:
        middle = (low + high) // 2
        if Simulation(_with(fleet, middle)).run(day()).share > refused:
            low = middle + 1
        else:
            high = middle
    return _with(fleet, low)


def _with(fleet: Fleet, replicas: int) -> Fleet:
    return Fleet(fleet.slots, least=replicas)


def table(rows: Sequence[tuple[str, Outcome]], price: float | None) -> None:
    print("| replicas | most | busiest | refused | share | moved | cut | replica hours |")
    print("|---|---|---|---|---|---|---|---|")
    for name, one in rows:
        print(
            f"| {name} | {one.replicas} | {one.busiest} | {one.refused} of {one.arrived}"
            f" | {one.share:.3%} | {one.moved} | {one.cut} | {one.replica_hours:.0f} |"
        )
    if price is not None:
        for name, one in rows:
            day = price * one.replica_hours
            each = day / max(one.session_hours, 1e-9)
            print(f"{name}: {day:.2f} a day, {each:.4f} for an hour of a session")


# A real server, for comparison.


@dataclass(frozen=True, slots=True)
class Visit:
    """What became of a client: when it was answered, and how long it had a slot; None: refused."""

    at: float
    held: float | None


async def visit(url: str, client: Arrival, began: float) -> Visit:
    """Come, send silence for so long, and go."""
    loop, ready = asyncio.get_running_loop(), False
    answered = 0.0
    await asyncio.sleep(began + client.at - loop.time())
    try:
        async with connect(f"{url}/v1/live", compression=None) as socket:
            await socket.send(json.dumps({"type": "start", "format": "s16le"}))
            first = json.loads(await socket.recv())
            answered = loop.time() - began
            if first["type"] == "error":
                return _refused(answered, first["code"])
            ready = True
            end = began + answered + client.length
            while loop.time() < end:
                await socket.send(SILENCE)
                await asyncio.sleep(min(0.25, max(0.0, end - loop.time())))
            await socket.send('{"type": "stop"}')
            async for _ in socket:
                pass
    except InvalidStatus as error:
        return _refused(loop.time() - began, json.loads(error.response.body)["error"]["code"])
    except ConnectionClosed as error:
        if ready or error.rcvd is None or error.rcvd.code != _FULL:
            raise RuntimeError("the server has cut a session") from error
        return Visit(loop.time() - began, None)
    return Visit(answered, loop.time() - began - answered)


def _refused(at: float, code: str) -> Visit:
    if code != "server_full":
        raise RuntimeError(f"the server answers with {code}")
    return Visit(at, None)


async def come(url: str, clients: Sequence[Arrival]) -> list[Visit]:
    """Bring these to a server, each at its time."""
    began = asyncio.get_running_loop().time() + 0.5
    return await asyncio.gather(*(visit(url, one, began) for one in clients))


def as_they_came(
    clients: Sequence[Arrival], visits: Sequence[Visit]
) -> tuple[list[Arrival], float]:
    """The clients as the server had them, and how much longer than it spoke each held a slot.

    Those that were refused would have done so as long as the others on average.
    """
    pairs = list(zip(clients, visits, strict=True))
    more = [seen.held - client.length for client, seen in pairs if seen.held is not None]
    longer = sum(more) / max(1, len(more))
    came = [
        Arrival(seen.at, client.length + longer if seen.held is None else seen.held)
        for client, seen in pairs
    ]
    return sorted(came, key=lambda one: one.at), longer


def measure(slots: int, load: float, mean_s: float, spread: float, for_s: float, seed: int) -> None:
    """Print what a real server with these slots refuses, and what is predicted of the same."""

    def clients(seed: int) -> list[Arrival]:
        hours = [1.0] * math.ceil(for_s / HOUR)
        every = arrivals(hours, load, lengths(mean_s, spread, seed), mean_s, seed)
        return list(itertools.takewhile(lambda one: one.at < for_s, every))

    def predicted(seed: int) -> Outcome:
        return Simulation(Fleet(slots)).run(iter(clients(seed)))

    command = [sys.executable, "-m", "voxlive", "serve", "--port", "0", "--no-store"]
    command += ["--model", str(TINY), "--max-sessions", str(slots)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        url = next(found[1] for line in server.stdout if (found := READY.search(line)))
        try:
            visits = asyncio.run(come(url.replace("http", "ws", 1), clients(seed)))
        finally:
            server.terminate()
    same, seen = predicted(seed), sum(one.held is None for one in visits)
    came, longer = as_they_came(clients(seed), visits)
    again = Simulation(Fleet(slots)).run(iter(came))
    others = sorted(predicted(seed + 1000 + one).share for one in range(200))
    print(f"{same.arrived} clients in {for_s:g} s, {slots} slots, {load:g} at a time on average")
    print(f"refused by the server: {seen} ({seen / same.arrived:.1%})")
    print(f"by the simulation of the same clients: {same.refused} ({same.share:.1%})")
    print(f"a session held its slot {longer:.2f} s longer than its client spoke, on average;")
    print(f"by the simulation of how long they did: {again.refused} ({again.share:.1%})")
    print(f"of 200 other such times: {others[5]:.1%} to {others[-6]:.1%} in 95 % of them")
    print(f"in the long run, by Erlang's formula: {blocked(load, slots):.1%}")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--concurrent", type=float, default=1000, help="in the busiest hour")
    parser.add_argument("--sessions", type=int, default=100, help="slots of a replica")
    parser.add_argument("--mean-minutes", type=float, default=20.0, help="of a session")
    parser.add_argument("--spread", type=float, default=1.0, help="of its logarithm; 0: none")
    parser.add_argument("--curve", help="arrivals by the hour, with commas; any scale")
    parser.add_argument("--refused", type=float, default=0.001, help="share that may be refused")
    parser.add_argument("--target", type=float, help="autoscale to this share of slots in use")
    parser.add_argument("--least", type=int, default=2, help="replicas that are always there")
    parser.add_argument("--start", type=float, default=60.0, help="seconds until one serves")
    parser.add_argument("--drain", type=float, default=60.0, help="seconds until sessions move")
    parser.add_argument("--down-after", type=float, default=300.0, help="seconds with less to do")
    parser.add_argument("--price", type=float, help="of a replica, an hour")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--measure", type=float, metavar="SECONDS", help="against a real server")
    args = parser.parse_args()
    mean_s = args.mean_minutes * 60
    if args.measure:
        mean_s = 8.0
        measure(args.sessions, args.concurrent, mean_s, args.spread, args.measure, args.seed)
        return
    curve = [float(one) for one in args.curve.split(",")] if args.curve else OFFICE

    def day() -> Iterator[Arrival]:
        length = lengths(mean_s, args.spread, args.seed)
        return arrivals(curve, args.concurrent, length, mean_s, args.seed)

    fixed = fewest(Fleet(args.sessions), day, args.refused)
    rows = [(f"{fixed.least}, always", Simulation(fixed).run(day()))]
    if args.target:
        scaled = Fleet(
            args.sessions,
            args.least,
            target=args.target,
            start_s=args.start,
            drain_s=args.drain,
            down_after_s=args.down_after,
        )
        rows.append((f"{args.least} and more, {args.target:.0%}", Simulation(scaled).run(day())))
    table(rows, args.price)


if __name__ == "__main__":
    main()
