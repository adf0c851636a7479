"""``voxlive`` as a whole: what it imports, its help, its config file."""

import os
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

HEAVY = ("numpy", "av", "onnxruntime", "starlette", "uvicorn", "ctranslate2", "rich.console")


def alone(*args: object) -> subprocess.CompletedProcess[str]:
    """The command as users start it."""
    command = [sys.executable, "-m", "voxlive.cli.main", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def config(folder: Path, text: str) -> Path:
    path = folder / "voxlive.toml"
    path.write_text(text)
    return path


def test_version():
    assert alone("--version").stdout == f"voxlive {version('voxlive')}\n"


def test_the_command_line_imports_only_what_it_needs():
    probe = (
        f"import sys, voxlive.cli.main\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_names_every_command(voxlive):
    said = voxlive("--help").stdout
    assert all(command in said for command in ("serve", "transcribe", "models", "doctor"))


def test_models_lists_the_one_that_is_here(voxlive):
    assert "whisper-tiny.en" in voxlive("models").stdout


def test_options_come_from_the_config_file_and_the_command_line_wins(failed, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = config(tmp_path, f'[serve]\nport = {port}\nhost = "192.0.2.1"\n')
        said = failed("--config", path, "serve", "--host", "127.0.0.1")
        assert f"port {port} is in use" in said


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[serve]\nprot = 1\n", "prot"),
        ("[sevre]\nport = 1\n", "sevre"),
        ("port = 1\n", "port"),
        ("[serve\n", "cannot read"),
    ],
)
def test_a_mistake_in_the_config_file_is_one_line(failed, tmp_path, text, hint):
    assert hint in failed("--config", config(tmp_path, text), "models")


def test_a_config_file_that_was_asked_for_must_be_there(failed, tmp_path):
    assert "cannot read" in failed("--config", tmp_path / "none.toml", "models")


def test_a_closed_pipe_ends_a_list_without_a_traceback():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "voxlive.cli.main", "models"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""
