"""Which files of a folder or repository make up one checkpoint."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .documents import read_json
from .errors import IncompleteCheckpoint

TEKKEN = "tekken.json"
_CONFIG = "config.json"
_PARAMS = "params.json"
_CONSOLIDATED = "consolidated"
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")
_EXTRACTORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, slots=True)
class Files:
    """A checkpoint's files in one folder. ``extractor`` is transformers' mel description."""

    folder: Path
    config: Path
    weights: tuple[Path, ...]
    tekken: Path
    extractor: Path | None


def wanted(names: Collection[str], where: str) -> tuple[str, ...]:
    """The names that make up one checkpoint among all of a folder or repository.

    Where Mistral's and another layout lie side by side only Mistral's is taken. Raises
    IncompleteCheckpoint with what is missing; ``where`` is for that message.
    """
    weights = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    consolidated = [name for name in weights if name.startswith(_CONSOLIDATED)]
    weights = consolidated or weights
    missing = _missing_shards(weights)
    configs = (_PARAMS, _CONFIG) if consolidated else (_CONFIG, _PARAMS)
    config = next((name for name in configs if name in names), None)
    missing += [
        what
        for what, there in (
            ("config.json or params.json", config),
            ("*.safetensors", weights),
            (TEKKEN, TEKKEN in names),
        )
        if not there
    ]
    if missing or config is None:
        raise IncompleteCheckpoint(f"{where} has no {' and no '.join(missing)}")
    indexes = [name for name in names if _is_index(name) and bool(consolidated) == _mistral(name)]
    extractors = [name for name in _EXTRACTORS if name in names and config == _CONFIG]
    return (config, TEKKEN, *sorted(weights), *indexes, *extractors[:1])


def find_files(folder: Path) -> Files:
    """The checkpoint in a folder; raises IncompleteCheckpoint when a file is missing."""
    every = [path.name for path in folder.iterdir() if path.is_file()]
    names = wanted(every, str(folder))
    weights = {name for name in names if name.endswith(".safetensors")}
    index = next((name for name in names if _is_index(name)), None)
    if index is not None:
        sharded = set(read_json(folder / index).section("weight_map").data.values())
        missing = sorted(map(str, sharded - weights))
        if missing:
            raise IncompleteCheckpoint(f"{folder} has no {' and no '.join(missing[:3])}")
        weights = sharded
    extractor = next((folder / name for name in names if name in _EXTRACTORS), None)
    return Files(
        folder=folder,
        config=folder / names[0],
        weights=tuple(folder / name for name in sorted(weights)),
        tekken=folder / TEKKEN,
        extractor=extractor,
    )


def _missing_shards(names: Collection[str]) -> list[str]:
    """Shards that the numbers in others' names promise: a download may have stopped half way."""
    promised = set()
    for stem, count in {(shard[1], shard[3]) for shard in map(_SHARD.fullmatch, names) if shard}:
        width = len(count)
        promised |= {
            f"{stem}-{n:0{width}}-of-{count}.safetensors" for n in range(1, int(count) + 1)
        }
    return sorted(promised - set(names))[:3]


def _is_index(name: str) -> bool:
    return name.endswith(".safetensors.index.json") and "/" not in name


def _mistral(name: str) -> bool:
    return name.startswith(_CONSOLIDATED)
