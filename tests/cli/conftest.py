"""Fixtures: ``voxlive`` runs a command, ``failed`` gives the one line of a command that fails."""

from collections.abc import Callable, Iterator

import pytest
from support.commands import Run, command_line


@pytest.fixture(scope="module")
def voxlive() -> Iterator[Run]:
    with command_line() as run:
        yield run


@pytest.fixture(scope="module")
def failed(voxlive: Run) -> Callable[..., str]:
    """The one line that a failing command says."""

    def line_of(*args: object) -> str:
        done = voxlive(*args)
        assert done.returncode in (1, 2)
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        assert line.startswith("voxlive: ")
        return line

    return line_of
