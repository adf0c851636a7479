"""A model's name to its files: built in, a local folder, the hub's cache or a download.

Also which repositories the hub's cache on this machine holds, and how to remove one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from voxlive.checkpoints.contents import (
    CONFIG,
    DOCUMENTS,
    PARAMS,
    display_name,
    read_contents,
)
from voxlive.checkpoints.families import recognise_family
from voxlive.checkpoints.families.evidence import read_evidence
from voxlive.checkpoints.files import select_files
from voxlive.checkpoints.local_model import BUILT_IN, LocalModel, read_model
from voxlive.errors import CheckpointNotFound, IncompleteCheckpoint, NotDownloaded

ALIASES = {
    "voxtral": "mlx-community/Voxtral-Mini-4B-Realtime-2602-4bit",
    "voxtral-bf16": "mistralai/Voxtral-Mini-4B-Realtime-2602",
}
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_PATH_STARTS = (".", "~", os.sep)
_PREFERS_MISTRAL = "voxtral_realtime"
_PREFIX = "models--"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository on the hub; ``revision`` None is its main branch."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def parse_repository(model: str) -> Repository | None:
    """What an alias or ``owner/name@revision`` stands for; None if it is neither."""
    name, at, pinned = model.partition("@")
    found = _REPOSITORY.fullmatch(ALIASES.get(name, name) + at + pinned)
    if found is None or model.startswith(_PATH_STARTS) or ".." in model:
        return None
    return Repository(found[1], found[2])


def resolve(model: str, *, offline: bool = False) -> LocalModel:
    """The model of a built-in's name, an alias, a local path or a hub repository.

    A repository is ``owner/name`` or ``owner/name@revision``. Nothing touches the network when its
    files are on this machine already; otherwise the needed ones are downloaded, with a progress
    bar, unless ``offline``. Raises CheckpointNotFound, NotDownloaded, IncompleteCheckpoint or
    DamagedFile; what is wrong with the files of a local folder, the model itself says.
    """
    if model in BUILT_IN:
        return BUILT_IN[model]
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return read_model(folder, display_name(folder))
    repository = parse_repository(model)
    if folder.exists() or repository is None:
        raise CheckpointNotFound(
            f"{model!r} is no folder, no hub repository (owner/name) and none of the short names "
            f"{', '.join(ALIASES)}"
        )
    here = cached(repository)
    if here is not None:
        found = read_model(here, str(repository))
        if not found.problems:
            return found
    if offline:
        raise NotDownloaded(
            f"{model} is not on this machine and downloads are off: run the same command once "
            "without --offline to fetch it"
        )
    return read_model(download(repository), str(repository))


def cached(repository: Repository) -> Path | None:
    """The newest snapshot of a repository in the hub's cache, complete or not."""
    from huggingface_hub import try_to_load_from_cache

    for name in (CONFIG, PARAMS):
        path = try_to_load_from_cache(repository.name, name, revision=repository.revision)
        if isinstance(path, str):
            return Path(path).parent
    return None


def download(repository: Repository) -> Path:
    """Fetch what is missing, and only what the model needs. Raises as ``resolve``.

    The small documents come first: they say which of several layouts side by side is of use.
    """
    from huggingface_hub import HfApi, errors, snapshot_download

    name, revision = repository.name, repository.revision
    try:
        info = HfApi().model_info(name, revision=revision)
        files = [sibling.rfilename for sibling in info.siblings or []]
        select_files(files, str(repository), mistral=True)
        documents = [document for document in DOCUMENTS if document in files]
        # The first call asks for nothing but documents; bars are for what takes time.
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=documents))
        names = select_files(files, str(repository), mistral=_prefers_mistral(folder))
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(names)))
    except errors.GatedRepoError as problem:
        raise NotDownloaded(
            f"{repository} is given out after its terms have been accepted: accept them on its "
            "page, then `hf auth login`"
        ) from problem
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as problem:
        raise CheckpointNotFound(f"the hub has no {repository}, or it is private") from problem
    except IncompleteCheckpoint:
        raise
    except (OSError, errors.XetDownloadError, errors.HTTPError) as problem:  # type: ignore[attr-defined]
        reason = str(problem).strip().partition("\n")[0]
        raise NotDownloaded(
            f"{repository} is not on this machine and not to be had: {reason}"
        ) from problem


def _prefers_mistral(folder: Path) -> bool:
    """Of two layouts side by side: voxlive loads Mistral's own, mlx-audio the other."""
    found = recognise_family(read_evidence(read_contents(folder)))
    return found is not None and found.family.name == _PREFERS_MISTRAL


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing a repository would free. ``run`` does it."""

    repository: str
    revisions: tuple[str, ...]
    nbytes: int

    def run(self) -> None:
        """Delete it from the cache; other repositories and all other folders stay as they are."""
        from huggingface_hub import scan_cache_dir

        scan_cache_dir(cache_folder()).delete_revisions(*self.revisions).execute()


def cache_folder() -> Path:
    """Where the hub's client keeps its files (``HF_HOME``, ``HF_HUB_CACHE``)."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def repositories() -> list[str]:
    """The names of the cached model repositories, whole or not, sorted."""
    try:
        names = [path.name for path in cache_folder().iterdir() if path.is_dir()]
    except OSError:
        return []
    found = (name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))
    return sorted(name.replace("--", "/", 1) for name in found if "--" in name)


def plan_removal(repository: str, revision: str | None = None) -> Removal | None:
    """What there is to remove of a repository; None if the cache has nothing of it."""
    from huggingface_hub import errors, scan_cache_dir

    try:
        cache = scan_cache_dir(cache_folder())
    except errors.CacheNotFound:
        return None
    revisions = [
        one.commit_hash
        for repo in cache.repos
        if repo.repo_type == "model" and repo.repo_id == repository
        for one in repo.revisions
        if revision is None or revision == one.commit_hash or revision in one.refs
    ]
    if not revisions:
        return None
    freed = cache.delete_revisions(*revisions).expected_freed_size
    return Removal(repository, tuple(revisions), freed)
