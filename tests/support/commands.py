"""The command line without a start of Python for each command: forks of a process that has it."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

_FOLDER = str(Path(__file__).parent)
Run = Callable[..., subprocess.CompletedProcess[str]]

# Beside the tests themselves, what gives way would hardly run at all.
SAME_PRIORITY = """
import functools
import voxlive.cli.main, voxlive.cli.jobs
from voxlive.runners.batch import Batch, BatchOptions
from voxlive.runners.process import ProcessOptions

options = BatchOptions(process=ProcessOptions(niceness=0))
voxlive.cli.jobs.Batch = functools.partial(Batch, options)
"""
"""What a program begins with whose commands transcribe with the priority of the tests."""

# Nothing that it imports may start a thread: each fork is a command of its own.
_PARENT = (
    SAME_PRIORITY
    + """
import atexit, json, os, sys, traceback
sys.path.append(sys.argv[1])
import forking

def become(args, folder, environment, out, err):
    for fd, path in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), fd)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if args[:1] == ["transcribe"] and hasattr(os, "pidfd_open"):
        forking.with_quick_children()
    sys.argv = ["voxlive", *args]
    code = 1
    try:
        voxlive.cli.main.app()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    request = json.loads(line)
    if not (pid := os.fork()):
        become(*request)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
)


@contextmanager
def command_line() -> Iterator[Run]:
    """Runs ``voxlive`` with the arguments it is given, one command after another.

    Each has the folder of its moment, and its environment unless ``env`` is another.
    """
    with TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("out", "err")]

        def run(
            *args: object, env: Mapping[str, str] | None = None
        ) -> subprocess.CompletedProcess[str]:
            command = [str(arg) for arg in args]
            for path in said:
                path.write_text("")
            request = [command, str(Path.cwd()), dict(env or os.environ), *map(str, said)]
            parent = _parent()
            print(json.dumps(request), file=parent.stdin, flush=True)
            code = int(parent.stdout.readline())
            out, err = (path.read_text() for path in said)
            return subprocess.CompletedProcess(command, code, out, err)

        yield run


@cache
def _parent() -> subprocess.Popen[str]:
    """What commands are forks of; it ends with this process."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, _FOLDER], **pipes)

    def end() -> None:
        parent.stdin.close()
        parent.wait()

    atexit.register(end)
    return parent
