"""A store of many sessions: how long lists, searches and opening take, and writing beside them.

    python benchmarks/store_load.py                                    # 2000 sessions of 500 words
    python benchmarks/store_load.py --sessions 2000 --copies 50        # 50 million words, some GB
    python benchmarks/store_load.py --store postgresql://me@/bench

The store is filled, unless it has as many sessions already, and its rows are copied by the database
to so many ``--copies`` of all sessions, each later than the one before. Then reads are timed in a
random order, and again while so many live sessions write words at the rate of speech, each of which
waits for the store as a client's words do. Every tenth session is in Chinese, every twentieth is
refined.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from voxlive.processes.process import tune_interpreter
from voxlive.store import schema
from voxlive.store.backends import open_store
from voxlive.store.contract import (
    AddSession,
    AddWords,
    CloseSegment,
    Operation,
    Refinement,
    SessionFilter,
    SessionStore,
    SetState,
    StoredSegment,
    StoredSession,
    StoredWord,
)
from voxlive.store.database import DatabaseStore
from voxlive.store.writer import MAX_WAIT_S, StoreWriter
from voxlive.streaming.events import SegmentClosed, Words
from voxlive.values import Word
from voxlive.web.recording import SessionRecording

START = datetime(2026, 1, 1, tzinfo=UTC)
SEGMENT_WORDS = 10
RARE = "xylophone"
CHINESE = "我们明天在会议室讨论今年的预算和计划请大家准时参加谢谢"
VOCABULARY = ["the", "of", "and", "to", "in"] + [f"word{n}" for n in range(20_000)]
# As in speech: the n-th word of the vocabulary is said 1/n as often as the first.
WEIGHTS = [1 / n for n in range(1, len(VOCABULARY) + 1)]
OWNERS = ("ann", "bob", "cid", "dan")


def session_of(number: int) -> StoredSession:
    begun = START + timedelta(minutes=number)
    owner = OWNERS[number % len(OWNERS)]
    language = "zh" if number % 10 == 0 else "en"
    return StoredSession(f"{number:016x}", owner, begun, "live", "/v1/live", "bench", (language,))


def texts_of(number: int, count: int, chance: random.Random) -> list[str]:
    if number % 10 == 0:
        return chance.choices(CHINESE, k=count)
    said = [f" {word}" for word in chance.choices(VOCABULARY, WEIGHTS, k=count)]
    if number % 1000 == 1:
        said[0] = f" {RARE}"
    return said


def written(number: int, count: int, chance: random.Random) -> Iterator[Operation]:
    session = session_of(number)
    yield AddSession(session)
    texts = texts_of(number, count, chance)
    for ident, first in enumerate(range(0, count, SEGMENT_WORDS)):
        stop = min(first + SEGMENT_WORDS, count)
        words = tuple(
            StoredWord(n, ident, texts[n], 6400 * n, 6400 * n + 6000, 0.9)
            for n in range(first, stop)
        )
        yield AddWords(session.id, words)
        closed = StoredSegment(ident, 6400 * first, 6400 * stop, first, stop)
        yield CloseSegment(session.id, closed, 6400 * stop)
    yield SetState(session.id, "ended", 6400 * count, session.started_at + timedelta(minutes=1))


def fill(store: SessionStore, sessions: int, words: int) -> None:
    there, chance, began = store.stats().sessions, random.Random(1), time.monotonic()
    batch: list[Operation] = []
    for number in range(there, sessions):
        batch += written(number, words, chance)
        if number % 20 == 19 or number == sessions - 1:
            store.apply(batch)
            batch.clear()
            refine(store, number, words, chance)
    took, added = time.monotonic() - began, max(0, sessions - there)
    print(
        f"filled {added} sessions in {took:.1f} s: {added * words / max(took, 1e-9):,.0f} words/s"
    )
    print_size(store)


def print_size(store: SessionStore) -> None:
    """Words, and bytes for an hour of talk."""
    stats = store.stats()
    hours = stats.words / 9000  # as people talk
    print(f"{stats.words:,} words, {stats.size / 1e6:,.1f} MB: {stats.size / hours / 1e3:.0f} kB/h")


def copy(store: DatabaseStore, sessions: int, copies: int) -> None:
    """Have every session so many times: rows as ``fill`` writes them, with other keys."""
    began, there = time.monotonic(), store.stats().sessions
    with store._writer.connect() as connection:
        dialect = connection.dialect.name
        for statement in _BEFORE[dialect]:
            connection.exec_driver_sql(statement)
        connection.commit()
        for copied in range(there // sessions, copies):
            with connection.begin():
                for statement in copying(dialect, sessions, sessions * copied):
                    connection.exec_driver_sql(statement)
        if dialect == "postgresql":
            connection.exec_driver_sql(
                "SELECT setval(pg_get_serial_sequence('sessions', 'key'), max(key)) FROM sessions"
            )
            connection.exec_driver_sql(_TERMS)
            connection.exec_driver_sql("ANALYZE")
            connection.commit()
    print(f"copied to {copies * sessions} sessions in {time.monotonic() - began:.1f} s")
    print_size(store)


def copying(dialect: str, sessions: int, offset: int) -> Iterator[str]:
    """Statements that copy the rows of the first ``sessions``, whose keys count from 1."""
    bits = schema.SEGMENT_BITS
    searched = "rowid" if dialect == "sqlite" else "number"
    tables = {
        "sessions": {
            "key": f"key + {offset}",
            "id": _ID[dialect].format(offset=offset),
            "started_at": f"started_at + CAST({offset} AS BIGINT) * 60000000",
        },
        **{name: {"session": f"session + {offset}"} for name in _OF_A_SESSION},
        "search": {searched: f"{searched} + (CAST({offset} AS BIGINT) << {bits})"},
    }
    for table, changed in tables.items():
        if table == "search":
            names = ["rowid", "terms"] if dialect == "sqlite" else ["number", "session", "terms"]
            if dialect != "sqlite":
                changed["session"] = f"session + {offset}"
            those = f"{searched} < CAST({sessions + 1} AS BIGINT) << {bits}"
        else:
            names = [column.name for column in schema.metadata.tables[table].columns]
            those = f"{'key' if table == 'sessions' else 'session'} <= {sessions}"
        values = ", ".join(changed.get(name, f'"{name}"') for name in names)
        into = ", ".join(f'"{name}"' for name in names)
        yield f"INSERT INTO {table} ({into}) SELECT {values} FROM {table} WHERE {those}"  # noqa: S608


_TERMS = "CREATE INDEX IF NOT EXISTS search_by_term ON search USING gin (terms)"
_BEFORE = {
    "sqlite": (),
    # Minutes a statement, no look at the session of every row, and the index once all are there.
    "postgresql": (
        "SET statement_timeout = 0",
        "SET session_replication_role = replica",
        "SET maintenance_work_mem = '1GB'",
        "DROP INDEX IF EXISTS search_by_term",
    ),
}
_OF_A_SESSION = ("words", "segments", "refinements", "refined")
_ID = {
    "sqlite": "printf('%016x', key - 1 + {offset})",
    "postgresql": "lpad(to_hex(key - 1 + {offset}), 16, '0')",
}
"""As ``session_of`` names them."""


def refine(store: SessionStore, number: int, count: int, chance: random.Random) -> None:
    """Give a session, which is there, refined words in its segments."""
    ident = f"{number:016x}"
    store.refine(ident, None, Refinement("bench", "ann", START))
    store.claim_refinement(automatic=False, only=ident)
    texts = texts_of(number, count, chance)
    again = [
        StoredWord(n, n // SEGMENT_WORDS, text, 6400 * n, 6400 * n + 6000, 0.9)
        for n, text in enumerate(texts)
    ]
    store.end_refinement(ident, again)


def reads(store: SessionStore, sessions: int) -> dict[str, Callable[[], object]]:
    every, one = SessionFilter(None), SessionFilter(frozenset({"ann"}))
    chance = random.Random(2)
    return {
        "list": lambda: store.sessions(every),
        "list of a key": lambda: store.sessions(one),
        "open": lambda: store.transcript(f"{chance.randrange(sessions):016x}", None),
        "open a refined one": lambda: store.transcript(
            f"{chance.randrange(max(sessions // 20, 1)) * 20 + 19:016x}", None
        ).shown(),
        "search a rare word": lambda: store.search(RARE, every),
        "search the": lambda: store.search("the", every),
        "search the, of a key": lambda: store.search("the", one),
        "search Chinese": lambda: store.search("会议", every),
        "search a phrase": lambda: store.search('"of the"', every),
    }


def measure(store: SessionStore, sessions: int, times: int) -> None:
    kinds = reads(store, sessions)
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    order = [kind for kind in kinds for _ in range(times)]
    random.Random(3).shuffle(order)
    for kind in order:
        began = time.perf_counter()
        kinds[kind]()
        took[kind].append(time.perf_counter() - began)
    for kind, times_s in took.items():
        print(f"  {kind:22} p50 {_ms(times_s, 50)}  p95 {_ms(times_s, 95)}")
    worst = max(took, key=lambda kind: statistics.quantiles(took[kind], n=100)[94])
    print(f"  the slowest is {worst!r}: p95 {_ms(took[worst], 95).strip()}")


def _ms(times_s: list[float], percent: int) -> str:
    return f"{1000 * statistics.quantiles(times_s, n=100)[percent - 1]:7.2f} ms"


async def speak(writer: StoreWriter, ident: str, seconds: float, waits: list[float]) -> None:
    """Words as people say them: 2.5 a second, one or two at a time."""
    chance = random.Random(ident)
    begun = StoredSession(ident, "live", datetime.now(UTC), "live", "/v1/live", "bench")
    recording = SessionRecording(writer, begun)
    end, segment, at = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        await asyncio.sleep(chance.uniform(0.2, 1.0))
        said = chance.choices(VOCABULARY, WEIGHTS, k=chance.choice([1, 2]))
        words = tuple(Word(f" {text}", at, at + 6000) for text in said)
        events = [Words(segment, words)]
        if chance.random() < 0.15:
            events.append(SegmentClosed(segment, at, at + 6000, "", at + 6000))
            segment += 1
        at += 6400 * len(words)
        for event in events:
            began = time.perf_counter()
            await recording.record(event)
            waits.append(time.perf_counter() - began)
    recording.on_state("ended", at)


async def write_beside(
    store: SessionStore, sessions: int, writers: int, seconds: float, times: int
) -> None:
    writer, waits = StoreWriter(store), list[float]()
    speaking = [speak(writer, f"w{time.time_ns()}x{n}", seconds, waits) for n in range(writers)]
    alone = asyncio.gather(*speaking)
    await asyncio.sleep(seconds / 2)
    quiet = len(waits)
    await asyncio.to_thread(measure, store, sessions, times)
    await alone
    for title, part in (("without reads", waits[:quiet]), ("all", waits)):
        shown = f"p50 {_ms(part, 50)}  p99 {_ms(part, 99)}  max {1000 * max(part):.1f} ms"
        print(f"  a word waits, {title:14} {shown}")
    limit = f"{1000 * MAX_WAIT_S:g} ms"
    print(f"  {writer.written} written, {writer.late} later than {limit}, {writer.dropped} dropped")
    await asyncio.to_thread(writer.close)


def main() -> None:
    tune_interpreter()  # as a server does
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", help="a folder or a URL; a temporary folder if left out")
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--copies", type=int, default=1, help="of all sessions")
    parser.add_argument("--words", type=int, default=500, help="of each session")
    parser.add_argument("--writers", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--times", type=int, default=40, help="of each kind of read")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(options.store or f"{folder}/store")
        fill(store, options.sessions, options.words)
        if options.copies > 1:
            copy(store, options.sessions, options.copies)
        print("reads:")
        sessions = options.sessions * options.copies
        measure(store, sessions, options.times)
        print(f"beside {options.writers} sessions that speak:")
        beside = write_beside(store, sessions, options.writers, options.seconds, options.times)
        asyncio.run(beside)
        store.close()


if __name__ == "__main__":
    main()
