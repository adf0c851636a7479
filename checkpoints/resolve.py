"""A model's name to its files: a local folder, the hub's cache, or a download, in this order."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import CheckpointNotFound, IncompleteCheckpoint, NotDownloaded
from .files import TEKKEN, Files, find_files, wanted

ALIASES = {
    "voxtral": "mlx-community/Voxtral-Mini-4B-Realtime-2602-4bit",
    "voxtral-bf16": "mistralai/Voxtral-Mini-4B-Realtime-2602",
}
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_PATH_STARTS = (".", "~", os.sep)


def resolve(model: str, *, offline: bool = False) -> Files:
    """The files of an alias, a local folder or a hub repository (``owner/name@revision``).

    Nothing touches the network when they are on this machine already; otherwise the needed ones
    are downloaded, with a progress bar, unless ``offline``. Raises CheckpointNotFound,
    NotDownloaded or IncompleteCheckpoint.
    """
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return find_files(folder)
    name, at, pinned = model.partition("@")
    found = _REPOSITORY.fullmatch(ALIASES.get(name, name) + at + pinned)
    if model.startswith(_PATH_STARTS) or folder.exists() or found is None:
        raise CheckpointNotFound(
            f"{model!r} is no folder, no hub repository (owner/name) and none of the short names "
            f"{', '.join(ALIASES)}"
        )
    repository, revision = found.groups()
    cached = _cached(repository, revision)
    if cached is not None:
        return cached
    if offline:
        raise NotDownloaded(
            f"{model} is not on this machine and downloads are off: run the same command once "
            "without --offline to fetch it"
        )
    return _download(repository, revision)


def _cached(repository: str, revision: str | None) -> Files | None:
    from huggingface_hub import try_to_load_from_cache

    tekken = try_to_load_from_cache(repository, TEKKEN, revision=revision)
    if not isinstance(tekken, str):
        return None
    try:
        return find_files(Path(tekken).parent)
    except IncompleteCheckpoint:
        return None


def _download(repository: str, revision: str | None) -> Files:
    from huggingface_hub import HfApi, errors, snapshot_download

    name = f"{repository}@{revision}" if revision else repository
    try:
        siblings = HfApi().model_info(repository, revision=revision).siblings or []
        names = wanted([sibling.rfilename for sibling in siblings], name)
        return find_files(
            Path(snapshot_download(repository, revision=revision, allow_patterns=list(names)))
        )
    except errors.GatedRepoError as problem:
        raise NotDownloaded(
            f"{name} is given out after its terms have been accepted: accept them on its page, "
            "then `hf auth login`"
        ) from problem
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as problem:
        raise CheckpointNotFound(f"the hub has no {name}, or it is private") from problem
    except (OSError, errors.XetDownloadError, errors.HTTPError) as problem:  # type: ignore[attr-defined]
        reason = str(problem).strip().partition("\n")[0]
        raise NotDownloaded(
            f"{name} is not on this machine and not to be had: {reason}"
        ) from problem
