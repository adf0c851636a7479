"""A server that is killed, ended and started again on the same port and store, and its sessions."""

from __future__ import annotations

import asyncio
import difflib
import os
import random
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from support.server import Server, serving

from voxlive.client import LiveClient

KILL_ENGINE, STOP_ENGINE = "kill -9 of the engine", "SIGSTOP of the engine"
KILL_SERVER, END_SERVER = "kill -9 of the server", "SIGTERM and restart"
KILL_WORKER, BREAK_LINE = "kill -9 of the session's worker", "the line breaks"
FAULTS = (KILL_ENGINE, STOP_ENGINE, KILL_SERVER, END_SERVER)

_BLOCK_S = 0.1
_HAPPENS_S = 120.0
_ENGINE = "voxlive.engines.remote.child"
_WORKER = "voxlive.web.workers.child"


class RestartedServer:
    """``server`` is the present one."""

    def __init__(self, stack: ExitStack, args: Sequence[str]) -> None:
        self._stack = stack
        self._args = args
        self.server = self._start()

    @property
    def url(self) -> str:
        return f"{self.server.ws}/v1/live"

    def _start(self, *args: str) -> Server:
        return self._stack.enter_context(serving(*self._args, *args))

    def restart(self, number: signal.Signals) -> None:
        """End it with a signal and start the next one. Blocks."""
        self.server.process.send_signal(number)
        self.server.process.wait(60)
        port = self.server.url.rsplit(":", 1)[1]
        self.server = self._start("--port", port)

    def _lines(self, process: psutil.Process) -> Iterator[Any]:
        """Its connections with the server's port at one end, while they last."""
        port = int(self.server.url.rsplit(":", 1)[1])
        for one in process.net_connections("tcp"):
            if one.status == "ESTABLISHED" and port in (one.laddr.port, one.raddr.port):
                yield one

    async def suffer(self, fault: str) -> None:
        if fault == BREAK_LINE:
            own = next(self._lines(psutil.Process()))
            with socket.socket(fileno=os.dup(own.fd)) as line:
                line.shutdown(socket.SHUT_RDWR)
        elif fault == KILL_WORKER:
            for child in psutil.Process(self.server.process.pid).children():
                if _WORKER in child.cmdline() and any(self._lines(child)):
                    child.kill()
        elif fault in (KILL_ENGINE, STOP_ENGINE):
            blow = signal.SIGKILL if fault == KILL_ENGINE else signal.SIGSTOP
            for child in psutil.Process(self.server.process.pid).children():
                if _ENGINE in child.cmdline():
                    child.send_signal(blow)
        else:
            number = signal.SIGKILL if fault == KILL_SERVER else signal.SIGTERM
            await asyncio.to_thread(self.restart, number)


@contextmanager
def restarted(*args: str) -> Iterator[RestartedServer]:
    """A server with these options, among which there is a store."""
    with ExitStack() as stack:
        yield RestartedServer(stack, args)


async def speak(
    running: RestartedServer,
    pcm: bytes,
    faults: Sequence[tuple[float, str]] = (),
    speed: float = 4.0,
    query: str = "",
    frame_bytes: int = 2,
    on_ready: Callable[[dict], object] = lambda _: None,
    **options: object,
) -> list[dict]:
    """A session's messages; at these seconds of its audio something happens to the server.

    Audio, of which a sample of all channels has ``frame_bytes``, is ``speed`` times as fast as it
    was spoken. What happens next waits until the session goes on. What has not come to its end two
    minutes after the session never will: TimeoutError.
    """
    goes_on = asyncio.Event()
    happening: list[asyncio.Task[None]] = []
    async with LiveClient(
        running.url + query, give_up_s=120, on_resumed=goes_on.set, **options
    ) as client:

        async def send() -> None:
            left = sorted(faults)
            second = 16_000 * frame_bytes
            size = int(second * _BLOCK_S)
            for at in range(0, len(pcm), size):
                while left and left[0][0] <= at / second:
                    fault = left.pop(0)[1]
                    goes_on.clear()
                    happening.append(asyncio.create_task(running.suffer(fault)))
                    if fault not in (KILL_ENGINE, STOP_ENGINE) and left:
                        await goes_on.wait()
                await client.send(pcm[at : at + size])
                await asyncio.sleep(_BLOCK_S / speed)
            await client.stop()

        sending = asyncio.create_task(send())
        messages = []
        async for message in client:
            messages.append(message)
            if message["type"] == "ready":
                on_ready(message)
        await sending
        async with asyncio.timeout(_HAPPENS_S):
            await asyncio.gather(*happening)
    return messages


def words_of(messages: list[dict]) -> list[dict]:
    return [word for m in messages if m["type"] == "words" for word in m["words"]]


def kept(messages: list[dict]) -> list[object]:
    """What nothing that happens to a server may change, each kind in its order."""
    kinds = ("segment", "speech_started", "speech_stopped", "done")
    return [
        words_of(messages),
        *(
            [{k: v for k, v in m.items() if k != "seq"} for m in messages if m["type"] == kind]
            for kind in kinds
        ),
    ]


def numbers(messages: list[dict]) -> list[int]:
    return [message["seq"] for message in messages if "seq" in message]


def in_words(messages: list[dict], count: int, rng: random.Random) -> list[float]:
    """Seconds in the middle of different words, in order."""
    words = sorted(rng.sample(words_of(messages), count), key=lambda word: word["start"])
    return [(word["start"] + word["end"]) / 2 for word in words]


@dataclass
class Differences:
    """Words that are not as in a session that nothing happened to; by their texts."""

    words: int = 0
    lost: int = 0
    added: int = 0
    changed: int = 0

    def count(self, messages: list[dict], whole: list[dict]) -> None:
        said, expected = (
            [word["text"].strip() for word in words_of(one)] for one in (messages, whole)
        )
        self.words += len(expected)
        compared = difflib.SequenceMatcher(None, expected, said, autojunk=False)
        for kind, a, b, c, d in compared.get_opcodes():
            if kind != "equal":
                both = min(b - a, d - c)
                self.changed += both
                self.lost += b - a - both
                self.added += d - c - both
