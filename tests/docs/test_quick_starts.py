"""Every command and program of the quick starts, run as it stands there.

Only addresses change: the server of the tests has free ports on this machine alone.
"""

import re
import shlex
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from support.clips import clip
from support.commands import command_line
from support.server import Server, serving

PAGES = Path(__file__).parents[2] / "docs" / "start"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
SPOKEN = "doctor"  # in speech.wav, and in each of talks/


class Block(NamedTuple):
    page: str
    number: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


def blocks(language: str) -> list[Block]:
    found = [
        Block(page.stem, number, *block.groups())
        for page in sorted(PAGES.glob("*.md"))
        for number, block in enumerate(BLOCK.finditer(page.read_text()))
    ]
    assert {block.language for block in found} <= {"sh", "python"}
    return [block for block in found if block.language == language]


def commands(*start: str) -> list[str]:
    """The commands that begin so, each once."""
    lines = [line for block in blocks("sh") for line in block.code.splitlines()]
    return sorted({line for line in lines if tuple(shlex.split(line)[: len(start)]) == start})


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--wyoming-port", "0", "--max-sessions", "2") as running:
        yield running


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with what the quick starts take for granted."""
    (tmp_path / "talks").mkdir()
    for name in ("speech.wav", "talks/monday.wav", "talks/tuesday.wav"):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(clip("doctor").pcm.astype("<i2").tobytes())
    return tmp_path


def aimed(code: str, server: Server) -> str:
    """The code with the server's addresses in it."""
    code = code.replace("http://127.0.0.1:8000", server.url.rstrip("/"))
    code = code.replace("ws://127.0.0.1:8000", server.ws.rstrip("/"))
    return code.replace("tcp://127.0.0.1:10300", server.others["Wyoming"])


def output(command: list[str], here: Path) -> str:
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_is_of_a_kind_that_is_run_here():
    lines = [line for block in blocks("sh") for line in block.code.splitlines()]
    ran = [*commands("voxlive", "serve"), *commands("voxlive", "transcribe"), *commands("curl")]
    assert set(lines) == set(ran)


# Programs of these libraries and commands like these are in make test elsewhere, or once here.
LIKE_OTHERS = (
    *("replace-openai-1", "replace-openai-3"),
    *("voxlive transcribe speech.wav", "voxlive serve --phone"),
)


def sampled(found: list) -> list:
    """All of them, of which ``make test`` leaves out those that are like others."""
    return [
        pytest.param(
            one, id=str(one), marks=pytest.mark.endurance if str(one) in LIKE_OTHERS else []
        )
        for one in found
    ]


@pytest.mark.parametrize("block", sampled(blocks("python")))
def test_the_program_prints_what_is_said(block, server, here):
    program = here / "program.py"
    program.write_text(aimed(block.code, server))
    printed = output([sys.executable, str(program)], here)
    if "print" in block.code:
        assert SPOKEN in printed.lower()


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("command", commands("curl"))
def test_the_request_is_answered(command, server, here):
    printed = output(["curl", "--fail", *shlex.split(aimed(command, server))[1:]], here)
    assert SPOKEN in printed.lower() or ("/captions" in command and '"sessions"' in printed)


@pytest.mark.long
@pytest.mark.parametrize("command", sampled(commands("voxlive", "transcribe")))
def test_the_files_are_transcribed(command, here, monkeypatch):
    arguments = shlex.split(command)[1:]
    monkeypatch.chdir(here)
    with command_line() as voxlive:
        done = voxlive(*arguments)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    if "-o" not in arguments:
        assert SPOKEN in printed.lower()
        return
    formats = [value for option, value in pairwise(arguments) if option == "-f"]
    written = {path.name: path.read_text() for path in (here / "out").iterdir()}
    assert set(written) == {f"{day}.{end}" for day in ("monday", "tuesday") for end in formats}
    assert all(SPOKEN in text.lower() for text in written.values())


@pytest.mark.parametrize("command", sampled(commands("voxlive", "serve")))
def test_the_server_starts(command, tmp_path):
    arguments = shlex.split(command)[2:]
    for option, value in {"--host": "127.0.0.1", "--wyoming-port": "0"}.items():
        if option in arguments:
            arguments[arguments.index(option) + 1] = value
    with serving("--max-sessions", "1", *arguments, cache=tmp_path) as running:
        assert running.url.startswith("https" if {"--https", "--phone"} & {*arguments} else "http:")
        assert ("Wyoming" in running.others) == ("--wyoming-port" in arguments)
