"""The files of one checkpoint among those of a folder or repository, and whether they are complete.

Nothing here reads weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from voxlive.checkpoints.contents import (
    CONFIG,
    EXTRACTORS,
    INDEX,
    MODEL_BIN,
    PARAMS,
    Contents,
    weight_files,
)
from voxlive.checkpoints.families import recognise_family
from voxlive.checkpoints.families.family import Evidence, ModelFamily, read_evidence
from voxlive.errors import CheckpointError, DamagedFile, IncompleteCheckpoint

TEKKEN = "tekken.json"
_CONSOLIDATED = "consolidated"
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")
_WEIGHTS = (".safetensors", ".npz", MODEL_BIN)
_TORCH = (".bin", ".pt", ".pth", ".nemo", ".onnx", ".gguf", ".ckpt", ".h5", ".msgpack")
_AGAIN = "fetch it again with `voxlive models pull`, or complete the folder"
# What tokenizers, feature extractors and the models' own hooks read.
_SMALL = re.compile(r".+\.(json|txt|model|mvn|tiktoken|jinja|vocab)")
_FOREIGN = re.compile(r"(onnx|original|openvino|gguf|coreml|examples?|assets|figures)/.*", re.I)
_TOKENIZER_BELOW = re.compile(r"[^/]+/(tokenizer.*|vocab\..*|merges\.txt|.*tokens.*\.json)")


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """A Voxtral Realtime checkpoint's files. ``extractor`` is transformers' mel description."""

    folder: Path
    config: Path
    weights: tuple[Path, ...]
    tekken: Path
    extractor: Path | None


def select_files(names: Collection[str], where: str, *, mistral: bool) -> tuple[str, ...]:
    """The names that make up one checkpoint among all of a folder or repository, config first.

    Of Mistral's and another layout side by side ``mistral`` takes the former, else the latter.
    Raises IncompleteCheckpoint with what is missing; ``where`` is for that message.
    """
    weights = _weights(names, mistral)
    consolidated = any(map(_is_mistral, weights))
    configs = (PARAMS, CONFIG) if consolidated else (CONFIG, PARAMS)
    config = next((name for name in configs if name in names), None)
    missing = _missing_shards(weights)
    if config is None:
        missing.append(f"{CONFIG} or {PARAMS}")
    if not weights:
        missing.append("*.safetensors")
    if missing or config is None:
        raise IncompleteCheckpoint(f"{where} has no {' and no '.join(missing)}")
    if consolidated and config == PARAMS:
        small = [name for name in names if name == TEKKEN]
    else:
        small = [name for name in names if _is_small(name) and name != config]
    indexes = [name for name in names if _is_index(name) and _is_mistral(name) == consolidated]
    return (config, *sorted(weights), *sorted(indexes), *sorted(small))


def find_files(contents: Contents) -> CheckpointFiles:
    """The Voxtral Realtime checkpoint in a folder; raises IncompleteCheckpoint, DamagedFile."""
    folder = contents.folder
    names = select_files(contents.files, str(folder), mistral=True)
    if TEKKEN not in contents.files:
        raise IncompleteCheckpoint(f"{folder} has no {TEKKEN}")
    extractors = [folder / name for name in EXTRACTORS if name in names and names[0] == CONFIG]
    return CheckpointFiles(
        folder=folder,
        config=folder / names[0],
        weights=indexed_weights(contents, names),
        tekken=folder / TEKKEN,
        extractor=extractors[0] if extractors else None,
    )


def indexed_weights(contents: Contents, names: Collection[str]) -> tuple[Path, ...]:
    """The weight files among ``names``, or those that their index lists.

    Raises IncompleteCheckpoint when one of them is missing.
    """
    folder = contents.folder
    weights = {name for name in names if name.endswith(_WEIGHTS)}
    index = next((name for name in names if _is_index(name)), None)
    if index is not None:
        sharded = set(map(str, contents.document(index).section("weight_map").data.values()))
        missing = sorted(sharded - weights)
        if missing:
            raise IncompleteCheckpoint(f"{folder} has no {' and no '.join(missing[:3])}")
        weights = sharded
    return tuple(folder / name for name in sorted(weights))


def _weights(names: Collection[str], mistral: bool) -> list[str]:
    top = [name for name in names if name.endswith(_WEIGHTS[:-1]) and "/" not in name]
    tensors = [name for name in top if name.endswith(".safetensors")]
    consolidated = [name for name in tensors if _is_mistral(name)]
    others = [name for name in tensors if name not in consolidated]
    first, second = (consolidated, others) if mistral else (others, consolidated)
    return first or second or top or [name for name in names if name == MODEL_BIN]


def _is_small(name: str) -> bool:
    if _is_index(name) or _FOREIGN.fullmatch(name) or name.startswith("."):
        return False
    if name in ("README.txt", "LICENSE.txt", "NOTICE.txt", "requirements.txt"):
        return False
    if "/" in name:
        return _TOKENIZER_BELOW.fullmatch(name) is not None
    return _SMALL.fullmatch(name) is not None


def _missing_shards(names: Collection[str]) -> list[str]:
    """Shards missing by the count in the names of others: a download may have stopped half way."""
    promised = set()
    for stem, count in {(shard[1], shard[3]) for shard in map(_SHARD.fullmatch, names) if shard}:
        width = len(count)
        promised |= {
            f"{stem}-{n:0{width}}-of-{count}.safetensors" for n in range(1, int(count) + 1)
        }
    return sorted(promised - set(names))[:3]


def _is_index(name: str) -> bool:
    return name.endswith(INDEX) and "/" not in name


def _is_mistral(name: str) -> bool:
    return name.startswith(_CONSOLIDATED)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that prevents loading a model, and what to do about it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def check_files(contents: Contents) -> tuple[Problem, ...]:
    """Everything that is wrong with the files in a folder; empty if nothing is."""
    try:
        evidence = read_evidence(contents)
    except DamagedFile as problem:
        return (Problem(str(problem), _AGAIN),)
    found = recognise_family(evidence)
    family = found.family if found else None
    return (*_check_weights(contents, evidence, family), *_tokenizer(evidence, family))


def _check_weights(
    contents: Contents, evidence: Evidence, family: ModelFamily | None
) -> list[Problem]:
    folder = contents.folder
    problems = [Problem(message, _AGAIN) for message in evidence.unreadable]
    if not weight_files(evidence.files):
        return [*problems, _no_weights(folder, evidence)]
    mistral = family is not None and family.name == "voxtral_realtime"
    try:
        names = select_files(evidence.files, str(folder), mistral=mistral)
        indexed_weights(contents, names)
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
    """What to do about missing files: incomplete blobs are a download that was cut off."""
    blobs = folder.resolve().parent.parent / "blobs"
    local = folder / ".cache" / "huggingface" / "download"
    halves = [*blobs.glob("*.incomplete"), *local.glob("**/*.incomplete")]
    if halves:
        return "its download stopped half way; finish it with `voxlive models pull`"
    return _AGAIN


def _tokenizer(evidence: Evidence, family: ModelFamily | None) -> list[Problem]:
    if family is None or family.has_tokenizer(evidence):
        return []
    sets = " or ".join(" with ".join(one) for one in family.tokenizers)
    return [
        Problem(
            f"{evidence.name} has no tokenizer ({sets})",
            f"copy it from the {family.title} checkpoint that this one was made of",
        )
    ]
