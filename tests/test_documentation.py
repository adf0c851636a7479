"""Every command that the documentation shows is one that works when it is copied."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from support.commands import command_line
from support.server import serving
from typer.core import TyperGroup

from voxlive.cli.main import app
from voxlive.web.tls import local_certificate, machine_names

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"^```(?:sh|bash|console|shell)\n(.*?)^```", re.M | re.S)
_INLINE = re.compile(r"`((?:voxlive|make) [^`]+)`")
_SETTING = re.compile(r"([A-Z_]+)=(.*)", re.S)


@dataclass(frozen=True)
class Shown:
    """A command line as it stands in a document, taken apart."""

    document: str
    line: str
    environment: tuple[tuple[str, str], ...]
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.line.split('#')[0].split())}"

    @property
    def ours(self) -> tuple[str, ...] | None:
        """The arguments of ``voxlive`` in it, also where make passes them on."""
        program, *rest = self.words
        if program == "voxlive":
            return tuple(rest)
        if self.words[:2] == ("make", "serve"):
            given = [found for word in rest if (found := _SETTING.fullmatch(word))]
            passed = [found[2] for found in given if found[1] == "ARGS"]
            return ("serve", *(word for text in passed for word in shlex.split(text)))
        return None


def piped(line: str) -> list[str]:
    """The commands of a pipe, each a line of its own."""
    reader = shlex.shlex(line, posix=True, punctuation_chars="|")
    reader.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in reader:
        if word == "|":
            commands.append([])
        else:
            commands[-1].append(word)
    return [shlex.join(command) for command in commands]


def shown() -> Iterator[Shown]:
    for path in DOCUMENTS:
        text = path.read_text()
        blocks = "\n".join(_BLOCK.findall(text)).replace("\\\n", " ").splitlines()
        for line in [part for one in [*blocks, *_INLINE.findall(text)] for part in piped(one)]:
            words = shlex.split(line, comments=True)
            settings = []
            while words and (found := _SETTING.fullmatch(words[0])):
                settings.append((found[1], found[2]))
                words.pop(0)
            if words and "COMMAND" not in words:
                yield Shown(path.name, line, tuple(settings), tuple(words))


COMMANDS = list(dict.fromkeys(shown()))
OURS = [one for one in COMMANDS if one.ours is not None]
# A model that is downloaded is not for a test: those are parsed. Each other server starts once.
_SERVERS = [one for one in OURS if one.ours[0] == "serve" and "--model" not in one.ours]
STARTED = list({one.ours: one for one in reversed(_SERVERS)}.values())[::-1]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where the files lie that the commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VOXLIVE_API_KEY", raising=False)
    (tmp_path / "talk.mp3").touch()
    (tmp_path / "talks").mkdir()
    local_certificate(machine_names("127.0.0.1"), tmp_path / "tls")
    shutil.copy(tmp_path / "tls" / "local.crt", "fullchain.pem")
    shutil.copy(tmp_path / "tls" / "local.pem", "privkey.pem")
    return tmp_path


def test_there_are_commands_in_the_documentation() -> None:
    assert {one.words[0] for one in COMMANDS} >= {"make", "voxlive"}
    assert len(STARTED) >= 6


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_it_is_a_command(command: Shown, folder: Path) -> None:
    if command.words[0] == "make":
        plan = ["make", "--dry-run", *command.words[1:]]
        subprocess.run(plan, cwd=ROOT, check=True, capture_output=True)
    if command.ours is not None:
        parse(list(command.ours))


def parse(words: list[str]) -> None:
    """What the command line makes of the words before it does anything. Raises UsageError."""
    command = typer.main.get_command(app)
    name = "voxlive"
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        name, *words = words
        found = command.commands.get(name)
        assert found is not None, f"there is no command {name}"
        command = found
    if words:  # the name alone is a mention of the command
        command.make_context(name, words)


@pytest.mark.parametrize("command", STARTED, ids=str)
def test_the_server_starts(command: Shown, folder: Path, monkeypatch, voxlive_key: str) -> None:
    for name, value in command.environment:
        monkeypatch.setenv(name, value)
    (folder / "keys.toml").write_text(voxlive_key)
    # On loopback and on a free port; all the rest is as it is shown.
    words = ["127.0.0.1" if word == "0.0.0.0" else word for word in command.ours[1:]]
    words += ["--port", "0", "--max-sessions", "1"]
    with serving(*words, cache=folder / "cache") as server:
        assert server.process.poll() is None


@pytest.fixture(scope="module")
def voxlive_key() -> str:
    """A keys file as ``voxlive key`` says to write it."""
    command = next(one for one in OURS if one.ours[0] == "key" and "NAME" not in one.ours)
    with command_line() as run:
        done = run(*command.ours)
    assert done.returncode == 0
    return done.stderr[done.stderr.index("[") :]
