"""The program whose forks are the servers of ``forked.py``; its argument is a socket's number.

Commands of ``commands.py`` are forks of one that has imported this.

A server has two forks of its own in store, for the first process of an engine and the first one of
a model for files that it starts: importing what these are made of takes most of their start too.
What replaces them, or stands beside them, has a start of Python.
"""

import ctypes
import gc
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

# Nothing that is imported here may start a thread, or keep what the environment says. Some of it is
# what the hub's client, which does, is made of.
import faster_whisper  # noqa: F401
import filelock  # noqa: F401
import httpx2  # noqa: F401
import typer._adapters  # noqa: F401
import uvicorn.lifespan.off
import uvicorn.loops.auto  # noqa: F401
import uvloop  # noqa: F401
import yaml  # noqa: F401

import voxlive.cli.main
import voxlive.engines.remote.child
import voxlive.engines.utterances
import voxlive.recognisers.faster_whisper
import voxlive.runners.child
import voxlive.store.database
import voxlive.web.server
from voxlive.processes import process

LARGEST = 1 << 17
"""Bytes of arguments and environment: what a socket of such packets takes by default."""
CHILDREN = ("voxlive.engines.remote.child", "voxlive.runners.child")

PDEATHSIG = 1  # prctl's number of it


class Spare:
    """A fork of a server that waits to be one of the processes that it starts."""

    def __init__(self, module: str, others: "list[Spare]") -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if not self.pid:
            self.close()
            for other in others:
                other.close()
            _become(module, theirs)
        theirs.close()

    def close(self) -> None:
        """It ends, if it is nothing else yet."""
        self._requests.close()

    def start(
        self, command: list[str], pass_fds: list[int], stdout: int | None, stderr: int | None, env
    ) -> subprocess.Popen[bytes]:
        """What ``Popen`` would give."""
        read, write = os.pipe()
        with Path(os.devnull).open("r+b") as null:
            out = null.fileno() if stdout == subprocess.DEVNULL else 1
            err = write if stderr == subprocess.PIPE else 2
            request = json.dumps([command, env]).encode()
            fds = [*pass_fds, null.fileno(), out, err]
            socket.send_fds(self._requests, [request], fds)
        self.close()
        os.close(write)
        started: subprocess.Popen[bytes] = subprocess.Popen.__new__(subprocess.Popen)
        started.args, started.pid, started.returncode = command, self.pid, None
        started.stdin = started.stdout = None
        started.stderr = os.fdopen(read, "rb")
        if stderr != subprocess.PIPE:
            started.stderr.close()
            started.stderr = None
        started._child_created, started._waitpid_lock = True, threading.Lock()
        return started


def _become(module: str, requests: socket.socket) -> None:
    """Wait for what the child is to be, and be it to the end."""
    ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
    try:
        request, fds, _, _ = socket.recv_fds(requests, LARGEST, 5)
        if not request:
            os._exit(0)
        requests.close()
        os.setsid()
        passed, streams = fds[:-3], fds[-3:]
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
            os.close(fd)
        command, environment = json.loads(request)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None  # read from the environment once more
        _, niceness, level, *_ = command[command.index("-m") + 2 :]
        sys.argv = [module, str(passed[0]), niceness, level, *map(str, passed[1:])]
        _show(command)
        process.run_child(import_module(module).serve)
    except BaseException:  # noqa: BLE001  # as Python does at the end
        traceback.print_exc()
    finally:
        os._exit(1)


def _show(command: list[str]) -> None:
    """Have this as the process's command line, by which tests find it."""
    stat = Path("/proc/self/stat").read_text()
    start, end = map(int, stat.rpartition(")")[2].split()[45:47])
    shown = b"".join(part.encode() + b"\0" for part in command)[: end - start]
    ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


def _next_arguments(requests: socket.socket) -> list[str]:
    """In a fork: what the server is started with; everything else of it is in place."""
    waiting = selectors.DefaultSelector()
    waiting.register(requests, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is not requests:
                pid, answers = key.data
                waiting.unregister(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(pid, 0)
                answers.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                answers.close()
                continue
            request, fds, _, _ = socket.recv_fds(requests, LARGEST, 3)
            if not request:
                sys.exit()
            answers = socket.socket(fileno=fds[0])
            if pid := os.fork():
                answers.sendall(b"%d\n" % pid)
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, answers))
                for fd in fds[1:]:
                    os.close(fd)
                continue
            for number, fd in enumerate(fds[1:], 1):
                os.dup2(fd, number)
                os.close(fd)
            answers.close()
            for key in list(waiting.get_map().values()):
                if key.fileobj is requests:
                    requests.close()
                else:
                    key.data[1].close()
                    os.close(key.fd)
            waiting.close()
            # When this parent goes.
            ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGTERM)
            arguments, environment, limits, folder = json.loads(request)
            os.chdir(folder)
            for name, limit in limits.items():
                resource.setrlimit(getattr(resource, name), limit)
            os.environ.clear()
            os.environ.update(environment)
            return arguments


def with_spares() -> None:
    """Have this process start its first children without a start of Python."""
    spares: dict[str, Spare] = {}
    for module in CHILDREN:
        spares[module] = Spare(module, list(spares.values()))

    def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        spare = spares.pop(command[command.index("-m") + 1], None)
        if spare is None:
            return subprocess.Popen(command, **options)
        known = ("pass_fds", "stdout", "stderr", "env")
        return spare.start(command, **{name: options[name] for name in known})

    process.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": start})


if __name__ == "__main__":
    requests = socket.socket(fileno=int(sys.argv[1]))
    requests.set_inheritable(False)
    gc.freeze()
    arguments = _next_arguments(requests)
    with_spares()
    sys.argv = ["voxlive", *arguments]
    voxlive.cli.main.app()
