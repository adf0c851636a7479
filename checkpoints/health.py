"""Whether a checkpoint's files are all there and whole; told without reading any weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import CheckpointError, DamagedFile
from .families import Evidence, Family, recognise
from .families.evidence import read_evidence, weight_files
from .files import indexed_weights, wanted

_TORCH = (".bin", ".pt", ".pth", ".nemo", ".onnx", ".gguf", ".ckpt", ".h5", ".msgpack")
_AGAIN = "fetch it again with `voxlive models pull`, or complete the folder"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that hinders a model, and what to do about it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def check_files(folder: Path) -> tuple[Problem, ...]:
    """Everything that is wrong with the files in a folder; empty if nothing is."""
    try:
        evidence = read_evidence(folder)
    except (DamagedFile, OSError) as problem:
        return (Problem(str(problem), _AGAIN),)
    found = recognise(evidence)
    family = found.family if found else None
    return (*_weights(folder, evidence, family), *_tokenizer(evidence, family))


def _weights(folder: Path, evidence: Evidence, family: Family | None) -> list[Problem]:
    problems = [Problem(said, _AGAIN) for said in evidence.unreadable]
    if not weight_files(evidence.files):
        return [*problems, _no_weights(folder, evidence)]
    mistral = family is not None and family.name == "voxtral_realtime"
    try:
        names = wanted(evidence.files, str(folder), mistral=mistral)
        indexed_weights(folder, names)
    except CheckpointError as problem:
        problems.append(Problem(problem.message, _remedy(folder)))
    if not problems and not evidence.shapes:
        problems.append(Problem(f"the weights in {folder} hold no tensors", _AGAIN))
    return problems


def _no_weights(folder: Path, evidence: Evidence) -> Problem:
    dangling = [path.name for path in folder.iterdir() if path.is_symlink() and not path.exists()]
    if dangling:
        return Problem(f"{', '.join(sorted(dangling)[:3])} in {folder} lead nowhere", _AGAIN)
    others = sorted(name for name in evidence.files if name.endswith(_TORCH))
    if others:
        return Problem(
            f"{folder} has weights only as {others[0]}",
            "take a checkpoint with safetensors, or convert it",
        )
    return Problem(f"{folder} has no *.safetensors", _remedy(folder))


def _remedy(folder: Path) -> str:
    """What to do about missing files: a snapshot's blobs tell of a download that was cut off."""
    blobs = folder.resolve().parent.parent / "blobs"
    local = folder / ".cache" / "huggingface" / "download"
    halves = [*blobs.glob("*.incomplete"), *local.glob("**/*.incomplete")]
    if halves:
        return "its download stopped half way; finish it with `voxlive models pull`"
    return _AGAIN


def _tokenizer(evidence: Evidence, family: Family | None) -> list[Problem]:
    if family is None or family.has_tokenizer(evidence):
        return []
    sets = " or ".join(" with ".join(one) for one in family.tokenizers)
    return [
        Problem(
            f"{evidence.name} has no tokenizer ({sets})",
            f"copy it from the {family.title} checkpoint that this one was made of",
        )
    ]
