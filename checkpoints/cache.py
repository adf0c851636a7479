"""The hub's cache on this machine: which repositories it holds, and how to remove one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PREFIX = "models--"


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
