"""The program whose forks are the servers of ``forked.py``; its arguments are sockets' numbers.

Commands of ``commands.py`` are forks of one that has imported this.

The processes that a server starts are forks too, of one of its own from before it had any threads:
importing what they are made of takes most of their start.
"""

import ctypes
import gc
import json
import os
import resource
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

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
import voxlive.web.workers.child
from voxlive.processes import process

sys.path.append(str(Path(__file__).parent))
from quick_children import CLONE, LARGEST, starting_children_by

PDEATHSIG = 1  # prctl's number of it


CLONE_PARENT = 0x8000


def fork_beside() -> int:
    """``os.fork``, but the new process is a child of this one's parent. This has one thread."""
    python = ctypes.PyDLL(None)  # it keeps the interpreter
    python.syscall.restype = ctypes.c_long
    python.PyOS_BeforeFork()
    pid = python.syscall(CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    python.PyOS_AfterFork_Parent() if pid else python.PyOS_AfterFork_Child()
    if pid < 0:
        raise OSError("no process can be started")
    return pid


def answer_request(requests: socket.socket, others: Sequence[socket.socket] = ()) -> None:
    """Start one process for this one's parent; end when nobody can ask for one any more.

    What is started has none of the ``others``.
    """
    request, fds, _, _ = socket.recv_fds(requests, LARGEST, 5)
    if not request:
        os._exit(0)
    if pid := fork_beside():
        for fd in fds:
            os.close(fd)
        requests.send(b"%d" % pid)
        return
    for one in (requests, *others):
        one.close()
    _become(request, fds)


def _become(request: bytes, fds: list[int]) -> None:
    """Be the child that is asked for, to the end."""
    try:
        ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
        os.setsid()
        passed, streams = fds[:-3], fds[-3:]
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
            os.close(fd)
        command, environment, folder = json.loads(request)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None  # read from the environment once more
        module, _, niceness, level, *_ = command[command.index("-m") + 1 :]
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


def _next_arguments(requests: socket.socket, children: socket.socket) -> list[str]:
    """In a fork: what the server is started with; everything else of it is in place.

    What ``children`` asks for are processes of the tests' own, as a server starts them.
    """
    waiting = selectors.DefaultSelector()
    waiting.register(requests, selectors.EVENT_READ)
    waiting.register(children, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is children:
                servers = (one.data for one in waiting.get_map().values() if one.data)
                answer_request(children, [requests, *(answers for _, answers in servers)])
                continue
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
                if key.fileobj in (requests, children):
                    key.fileobj.close()
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


def with_quick_children() -> None:
    """Have this process start its children without a start of Python for each.

    A fork of it, from before it has any threads, forks them.
    """
    if CLONE is None:
        return
    requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        requests.close()
        ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
        while True:
            answer_request(theirs)
    theirs.close()
    starting_children_by(lambda: requests)


if __name__ == "__main__":
    requests, children = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
    requests.set_inheritable(False)
    children.set_inheritable(False)
    gc.freeze()
    arguments = _next_arguments(requests, children)
    with_quick_children()
    sys.argv = ["voxlive", *arguments]
    voxlive.cli.main.app()
