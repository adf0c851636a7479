"""The command line without a start of Python for each command: forks of a process that has it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

def become(args, out, err):
    for fd, path in ((0, os.devnull), (1, out), (2, err)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), fd)
    if args[:1] == ["transcribe"] and hasattr(os, "pidfd_open"):
        forking.with_spares()
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
    args, out, err = json.loads(line)
    if not (pid := os.fork()):
        become(args, out, err)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
)


@contextmanager
def command_line() -> Iterator[Run]:
    """Runs ``voxlive`` with the arguments it is given, one command after another."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen([sys.executable, "-c", _PARENT, _FOLDER], **pipes) as parent,
    ):
        said = [Path(folder) / name for name in ("out", "err")]

        def run(*args: object) -> subprocess.CompletedProcess[str]:
            command = [str(arg) for arg in args]
            for path in said:
                path.write_text("")
            print(json.dumps([command, *map(str, said)]), file=parent.stdin, flush=True)
            code = int(parent.stdout.readline())
            out, err = (path.read_text() for path in said)
            return subprocess.CompletedProcess(command, code, out, err)

        yield run
