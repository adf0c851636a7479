import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import command_line
from support.hub import hub_environment, serving_hub
from support.model_shapes import SHAPES, Saved, mlx_whisper, write_shape

from voxlive.checkpoints.resolve import ALIASES

WHISPER = "openai/whisper-large-v3"
BARE = "someone/whisper-bare"


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    whole = write_shape(folder / "whole", SHAPES[0])
    (whole / "README.md").write_text("read me")
    (whole / "pytorch_model.bin").write_bytes(b"x" * 100)
    bare = write_shape(folder / "bare", Saved("x", mlx_whisper(), "whisper", None))
    with serving_hub({WHISPER: files_of(whole), BARE: files_of(bare)}) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory, hub):
    """A cache with one whole model and one that lacks its tokenizer, fetched by the command."""
    home = tmp_path_factory.mktemp("home")
    done = models(home, "pull", WHISPER, hub=hub)
    assert (done.returncode, done.stderr.count("voxlive:")) == (0, 0), done.stderr
    assert hub.fetched == files_of_whisper(hub)
    done = models(home, "pull", BARE, hub=hub)
    assert done.returncode == 1
    assert f"voxlive: {BARE}: {BARE} has no tokenizer (tokenizer.json or" in done.stderr
    return home


def files_of_whisper(hub):
    return hub.repositories[WHISPER].keys() - {"README.md", "pytorch_model.bin"}


def models(home, *args, hub=None, **how):
    """The command as a fork; one with a terminal or a pipe in a process of its own."""
    env = os.environ | hub_environment(home, hub) | {"COLUMNS": "100"}
    if not how:
        with command_line() as voxlive:
            return voxlive("models", *args, env=env)
    command = [sys.executable, "-m", "voxlive.cli.main", "models", *map(str, args)]
    return subprocess.run(
        command,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **how,
    )


def one_line(done, code):
    assert (done.returncode, done.stdout) == (code, "")
    [line] = done.stderr.splitlines()
    return line


def test_list_in_a_pipe_is_lines_with_tabs(home):
    done = models(home, "list")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {len(row) for row in rows} == {6}
    shown = {row[0]: row[1:] for row in rows}
    assert shown[WHISPER][:2] == ["Whisper", "mlx_audio"]
    assert shown[WHISPER][3:] == ["transcribe, prompt, translate, words", "healthy"]
    assert "no tokenizer" in shown[BARE][4]
    assert shown[f"voxtral, {ALIASES['voxtral']}"][4] == "not fetched"
    assert models(home).stdout == done.stdout


def test_list_and_show_as_json(home):
    listed = {one["id"]: one for one in json.loads(models(home, "list", "--json").stdout)}
    assert listed[WHISPER]["healthy"] is True
    assert listed[WHISPER]["features"] == ["prompt", "translate", "words"]
    assert listed[ALIASES["voxtral"]] == {
        "id": ALIASES["voxtral"],
        "aliases": ["voxtral"],
        "healthy": None,
        "folder": None,
    }
    assert json.loads(models(home, "show", WHISPER, "--json").stdout) == listed[WHISPER]


def test_show_lists_the_signals_of_the_family(home, tmp_path):
    folder = write_shape(tmp_path / "canary-vs-whisper", SHAPES[0])
    said = dict(line.split("\t") for line in models(home, "show", folder).stdout.splitlines())
    assert said["family"] == "Whisper"
    assert said["told by"].startswith('model_type is "whisper"')
    assert said["folder"] == str(folder)
    assert said["state"] == "healthy"


def test_an_unknown_model_is_one_line(home, tmp_path):
    assert "voxlive models pull voxtral" in one_line(models(home, "show", "voxtral"), 1)
    file = tmp_path / "model.safetensors"
    file.touch()
    assert "is a file" in one_line(models(home, "show", file), 1)
    assert "neither owner/name nor" in one_line(models(home, "pull", WHISPER, "a/b/c"), 2)


def test_health_lists_problems_and_fails(home):
    done = models(home, "health")
    assert done.returncode == 1
    assert done.stdout == f"{WHISPER}: healthy\n"
    assert "copy it from the Whisper checkpoint" in done.stderr
    done = models(home, "health", WHISPER, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [one["healthy"] for one in json.loads(done.stdout)] == [True]


def test_pull_reports_a_failed_download_and_goes_on(home, hub):
    done = models(home, "pull", "no/such", WHISPER, hub=hub)
    assert done.returncode == 1
    assert "voxlive: the hub has no no/such, or it is private" in done.stderr
    assert done.stdout.startswith(f"{WHISPER}: ")


def test_rm_asks_and_removes_nothing_but_from_the_cache(home, tmp_path):
    """The last one here: what the others look at is gone after it."""
    cache = home / "hub" / "models--openai--whisper-large-v3"
    own = write_shape(tmp_path / "own", SHAPES[0])
    assert "a folder of yours" in one_line(models(home, "rm", own, "--yes"), 2)
    assert "needs --yes" in one_line(models(home, "rm", WHISPER), 2)
    done = on_a_terminal(home, b"n\n")
    assert done.returncode == 1
    assert f"Remove {WHISPER}" in done.stderr
    assert cache.is_dir()
    done = on_a_terminal(home, b"y\n")
    assert done.returncode == 0
    assert f"removed {WHISPER} (" in done.stdout
    assert not cache.exists()
    assert (home / "hub" / "models--someone--whisper-bare").is_dir()
    assert own.is_dir()
    assert "has no openai" in one_line(models(home, "rm", WHISPER, "--yes"), 1)


def on_a_terminal(home, answer):
    ours, theirs = os.openpty()
    os.write(ours, answer)
    try:
        return models(home, "rm", WHISPER, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def test_networks_beside_the_models_are_fetched_checked_and_removed(home, tmp_path):
    """Links in a cache of their own to what the tests have fetched."""
    place = tmp_path / "cache" / "voxlive" / "models" / "smart-turn"
    here = Path(os.environ["XDG_CACHE_HOME"]) / "voxlive" / "models" / "smart-turn"
    missing = models(tmp_path, "health", "smart-turn")
    assert (missing.returncode, "models fetch smart-turn" in missing.stderr) == (1, True)
    place.mkdir(parents=True)
    [file] = here.iterdir()
    (place / file.name).write_bytes(file.read_bytes())
    listed = {one["id"]: one for one in json.loads(models(tmp_path, "list", "--json").stdout)}
    assert listed["smart-turn"]["healthy"] is True
    assert listed["speaker-encoder"]["folder"] is None
    assert models(tmp_path, "fetch", "smart-turn").stdout == f"smart-turn: {place}\n"
    (place / file.name).write_bytes(b"another")
    damaged = models(tmp_path, "health")
    assert (damaged.returncode, "smart-turn: damaged" in damaged.stderr) == (1, True)
    assert "damaged" in models(tmp_path, "show", "smart-turn").stdout
    assert models(tmp_path, "rm", "smart-turn").returncode == 0
    assert not place.exists()
    assert models(tmp_path, "rm", "smart-turn").returncode == 1
