import asyncio
import gc
import os
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from hypothesis import settings
from support.browser import chromium, shared_browsers
from support.examples import PART
from support.forked import children_are_forks
from support.mlx_whisper import write_mlx_whisper
from support.postgres import PostgresServer
from support.server import AT_PAUSES, Server, serving
from support.talk import PORTS
from support.weights import BASE, SPEAKERS, TINY_EN, TURNS, fetch, link

from voxlive.runners import batch
from voxlive.runners.process import ProcessOptions

# Where this is set, each of the hundred processes of the tests compiles all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Recognition is on one core for each pass; NumPy's own threads would only spin in between.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# How long an example takes says how busy the machine is, and nothing else. `make test` has the
# same examples every time, and some of them; `make endurance` looks for others.
settings.register_profile("voxlive", deadline=None, derandomize=True, max_examples=PART)
settings.register_profile("endurance", deadline=None)
settings.load_profile("voxlive")


@pytest.fixture(scope="session")
def _cache(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with Whisper tiny.en alone, whichever the tests of a file have."""
    cache = tmp_path_factory.mktemp("cache")
    link(cache, pytestconfig.cache.mkdir("starter"))
    return cache


@pytest.fixture(scope="session")
def server(_cache: Path) -> Iterator[Server]:
    """One server on Whisper tiny.en for all tests; start special ones with ``serving``.

    Its cache has nothing else: models that were fetched on this machine are none of its own. It
    commits at pauses alone, so that the same speech has the same text however fast it comes.
    """
    args = ("--max-sessions", "4", "--allow-host", "voxlive.example", *AT_PAUSES)
    with serving(*args, cache=_cache) as running:
        yield running


@pytest.fixture(scope="session")
def _small(_cache: Path) -> Iterator[Server]:
    with serving(*PORTS, *AT_PAUSES, "--max-sessions", "1", cache=_cache) as running:
        yield running


@pytest.fixture
def small(_small: Server) -> Iterator[Server]:
    """One with a single session, free before and after the test, and a port for each protocol."""
    yield _small
    asyncio.run(_small.until(in_use=0))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browsers() -> AsyncIterator[None]:
    """Browsers for all tests of a worker that are on the session's event loop."""
    async with shared_browsers():
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL of the system's, for all tests of a worker."""
    server = PostgresServer.make()
    if server is None:
        pytest.skip("PostgreSQL is not installed")
    server.start()
    yield server
    server.stop()


def pytest_configure(config: pytest.Config) -> None:
    """Whisper tiny.en is the model of all tests that name none, here and in what they start.

    The networks for the end of a turn and for voices are beside it.

    Servers that tests start without ``serving`` keep transcripts in a folder of the tests.

    Commands also end by SIGINT and SIGHUP, which a shell has ignored in what it starts in the
    background, and ``nohup`` in what it starts.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    data = tempfile.TemporaryDirectory()
    config.add_cleanup(data.cleanup)
    os.environ["XDG_DATA_HOME"] = data.name
    children_are_forks()
    os.environ["XDG_CACHE_HOME"] = str(
        fetch(config.cache.mkdir("starter"), TINY_EN, TURNS, SPEAKERS)
    )


LONG = ("test_session_ends.py", "test_simulated_days.py", "test_recogniser.py")
"""Files without servers that take long, and would be among the last by their names."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Five thousand tests and all that they import are no garbage, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Workers begin in different places, and find what the others have compiled by then.

    Compiling tests takes twice as long as importing them.
    """
    report = yield
    worker = getattr(collector.config, "workerinput", None)
    if worker and isinstance(collector, pytest.Directory):
        found = report.result
        first = len(found) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
        report.result = found[first:] + found[:first]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Files of pages come first, then those with servers: what is left for the end is short.

    Each of pages is followed by another one: four browsers at a time would wait for each other.
    """
    items.sort(key=lambda item: item.path)
    yield
    pages = [*dict.fromkeys(item.path for item in items if item.path.parent.name == "page")]
    slow = {item.path for item in items if item.path.name in LONG or has_a_server(item)}
    others = [*dict.fromkeys(item.path for item in items if item.path not in pages)]
    others.sort(key=lambda path: path not in slow)
    files = [path for pair in zip_longest(pages, others) for path in pair if path]
    place = {path: number for number, path in enumerate(files)}
    items.sort(key=lambda item: place[item.path])


def has_a_server(item: pytest.Item) -> bool:
    """Whether it has one of the servers above or is of a file that starts others."""
    module = item.getparent(pytest.Module)
    common = {"server", "small"}.intersection(getattr(item, "fixturenames", ()))
    return bool(common) or hasattr(module and module.obj, "serving")


@pytest.fixture
def same_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """``voxlive.transcribe`` has the priority of the tests beside it.

    What gives way to them, as it does for users, would hardly run at all.
    """
    options = batch.BatchOptions(process=ProcessOptions(niceness=0))
    monkeypatch.setattr(batch, "Batch", partial(batch.Batch, options))


@pytest.fixture(scope="session")
def _fetched(pytestconfig: pytest.Config) -> Path:
    return fetch(pytestconfig.cache.mkdir("weights"), TINY_EN, BASE)


@pytest.fixture(scope="session")
def mlx_whisper(_fetched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the real tiny.en in mlx-audio's layout."""
    source = _fetched / "voxlive/models/Systran--faster-whisper-tiny.en"
    return write_mlx_whisper(tmp_path_factory.mktemp("mlx") / "tiny.en", source)


@pytest.fixture(scope="module")
def real_weights(_fetched: Path) -> Iterator[None]:
    """Whisper base can be asked for by name too, and is the default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(_fetched))
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test of the browser is skipped before its fixtures start anything."""
    if item.get_closest_marker("browser"):
        chromium()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped, once for each reason: ``-rs`` has a line for each test."""
    skipped: defaultdict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", ()):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        skipped[reason].append(report.nodeid.partition("::")[0])
    for reason, files in sorted(skipped.items()):
        places = ", ".join(sorted(set(files)))
        terminalreporter.write_line(f"{len(files)} skipped: {reason} ({places})")


@pytest.fixture
def paused() -> Iterator[Callable[[int], None]]:
    """Stops a process until the test is over."""
    pids: list[int] = []

    def pause(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        pids.append(pid)

    yield pause
    for pid in pids:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGCONT)
