"""A real server in a process of its own: ``with serving("--max-sessions", "2") as server``."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import httpx
import psutil
from support.forked import AVAILABLE as FORKS
from support.forked import ForkedProcess
from support.weights import link

_READY = re.compile(r"ready at (https?://\S+)")
_SLOTS = re.compile(r'^voxlive_slots_in_use\{model="(.*)"\} (\S+)$', re.M)
_RUNNING = re.compile(r'^voxlive_files_in_hand\{.*state="(running)"\} (\S+)$', re.M)
_ALSO = re.compile(r"voxlive: (\w+)'s clients at (\S+)")

WORKERS = os.environ.get("VOXLIVE_TEST_WORKERS", "1")
"""How many processes a server has that does not say so: the same tests hold for several."""
KILLED = os.environ.get("VOXLIVE_TEST_KILLED") == "1"
"""Whether one of several is killed once the server is ready."""
_ONE_PROCESS = {"--workers"}
REPLICAS = int(os.environ.get("VOXLIVE_TEST_REPLICAS", "1"))
"""How many servers behind HAProxy stand for one: the same tests hold for them."""
_ONE_SERVER = {"--store", "--port", "--https", "--phone", "--root-path", "--state"}
AT_PAUSES = ("--commit", "pause")
"""What starts a server that writes the same text for the same speech, however fast it comes."""


LATE = frozenset({"TMPDIR", "VOXLIVE_CONFIG"})
"""What a server reads from its environment only when it has imported what it is made of."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@dataclass(frozen=True)
class Server:
    """``url`` is http, ``ws`` the same for WebSockets; ``process`` may be signalled.

    ``others`` are the addresses of protocols with their own port, by the protocol's name;
    ``certificate`` is what to trust a server by that was started with --https; ``key`` what its
    own requests are let in with; ``replicas`` are the servers that this one stands for.
    """

    url: str
    process: subprocess.Popen[str] | ForkedProcess | Processes
    others: dict[str, str]
    certificate: Path | None = None
    key: str | None = None
    log: Path | None = None
    replicas: tuple[Server, ...] = ()

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws", 1)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What a client of a server with https needs."""
        return ssl.create_default_context(cafile=self.certificate) if self.certificate else None

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def health(self) -> dict:
        tls = self.tls or True
        return httpx.get(f"{self.url}/health", timeout=60, verify=tls, headers=self.headers).json()

    def in_use(self) -> dict[str, int]:
        """The slots that are taken, by the live model: without health, for which all decode."""
        tls = self.tls or True
        answer = httpx.get(f"{self.url}/metrics", timeout=60, verify=tls, headers=self.headers)
        return {model: int(float(used)) for model, used in _SLOTS.findall(answer.text)}

    def logged(self) -> str:
        """Everything that it has logged so far."""
        return self.log.read_text()

    async def until(
        self, *, in_use: int | None = None, at_most: int | None = None, files: int | None = None
    ) -> None:
        """Wait until so many slots are in use, exactly or at most, or so many files are read."""
        tls = self.tls or True
        # Health would have every engine decode, once a second: the small Voxtral for most of that.
        places = [f"{one.url}/metrics" for one in self.replicas or (self,)]
        async with httpx.AsyncClient(timeout=60, verify=tls, headers=self.headers) as client:
            # The other side is another process: there is nothing to wait on but its answers.
            while True:
                answers = [(await client.get(place)).raise_for_status().text for place in places]
                used, running = (
                    sum(float(figure) for text in answers for _, figure in one.findall(text))
                    for one in (_SLOTS, _RUNNING)
                )
                few = at_most is None or used <= at_most
                if few and in_use in (None, used) and files in (None, running):
                    return
                await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Processes:
    """Those of several servers, as one: what the tests use of a ``Popen``."""

    those: tuple[subprocess.Popen[str] | ForkedProcess, ...]

    @property
    def pid(self) -> int:
        return self.those[0].pid

    def send_signal(self, number: int) -> None:
        for one in self.those:
            one.send_signal(number)

    def wait(self, timeout: float | None = None) -> int:
        return max(one.wait(timeout) for one in self.those)


@contextmanager
def serving(*args: str, **more: Any) -> Iterator[Server]:
    """As ``one_serving``; with ``REPLICAS`` as many of it, where what it shares allows that.

    One with a single session stays one behind HAProxy: another one would have room.
    """
    own = (
        _ONE_SERVER & {*args} or more.get("under") or any(one.startswith("replay:") for one in args)
    )
    if REPLICAS == 1 or own:
        with one_serving(*args, **more) as server:
            yield server
        return
    from support.replicas import replicas_serving

    single = "--max-sessions" in args and args[args.index("--max-sessions") + 1] == "1"
    with replicas_serving(1 if single else REPLICAS, *args, **more) as server:
        yield server


@contextmanager
def one_serving(
    *args: str,
    cache: Path | None = None,
    key: str | None = None,
    env: Mapping[str, str] | None = None,
    under: Sequence[str] = (),
    stderr: IO[str] | int | None = None,
) -> Iterator[Server]:
    """Start ``voxlive serve`` on a free port and end it with SIGTERM.

    It has two sessions unless ``args`` say how many: measuring what the machine can do takes time.
    ``cache``: its cache folder, which --https keeps a certificate in. ``key``: one that clients
    need, which ``args`` need not say. ``env``: more of its environment. ``under``: a command that
    becomes the server. ``stderr``: where its log goes instead of a file.

    One with ``under`` or with ``env`` beyond ``LATE`` starts as a user's does, others are forks.
    """
    sessions = () if "--max-sessions" in args else ("--max-sessions", "2")
    # Beside the tests themselves, what gives way would hardly run at all.
    nice = () if "--file-niceness" in args else ("--file-niceness", "0")
    # What tests say is kept nowhere, unless they ask for it.
    store = () if "--store" in args else ("--no-store",)
    alone = _ONE_PROCESS & {*args} or any(one.startswith("replay:") for one in args)
    workers = () if alone else ("--workers", WORKERS)
    command = ["serve", "--port", "0", *sessions, *nice, *store, *workers, *args]
    forked = FORKS and not under and LATE.issuperset(env or ())
    env = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {}), **(env or {})}
    env |= {"VOXLIVE_API_KEY": key} if key and not args.count("--keys") else {}
    secure = "--https" in args or "--phone" in args
    certificate = cache / "voxlive" / "tls" / "local.crt" if secure else None
    if cache:
        link(cache)
    with NamedTemporaryFile("w+") as log:
        out = log if stderr is None else stderr
        if forked:
            process = ForkedProcess(command, env, out)
        else:
            program = [*under, sys.executable, "-m", "voxlive.cli.main", *command]
            process = subprocess.Popen(
                program, stdout=subprocess.PIPE, stderr=out, text=True, env=env
            )
        try:
            others: dict[str, str] = {}
            url = _wait(process, log, others)
            if KILLED:
                workers = workers_of(process.pid)
                if workers:
                    workers[0].kill()
            yield Server(url, process, others, certificate, key, Path(log.name))
        finally:
            process.terminate()
            process.wait(60)
            process.stdout.close()


def workers_of(pid: int) -> list[psutil.Process]:
    """The processes of a server that have its connections; none where it has them itself."""
    children = psutil.Process(pid).children()
    return [one for one in children if "voxlive.web.workers.child" in one.cmdline()]


def _wait(process: subprocess.Popen[str] | ForkedProcess, log, others: dict[str, str]) -> str:
    for line in process.stdout:
        if also := _ALSO.search(line):
            others[also[1]] = also[2]
        if found := _READY.search(line):
            return found[1]
    log.seek(0)
    raise AssertionError(f"the server ended with {process.wait()}:\n{log.read()}")
