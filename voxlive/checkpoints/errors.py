"""What can be wrong with a checkpoint. Every message names the thing and says what to do."""

from __future__ import annotations

from collections.abc import Iterable

_LISTED = 8


class CheckpointError(Exception):
    """A checkpoint cannot be used. ``code`` is stable, ``message`` is for people."""

    code = "checkpoint_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CheckpointNotFound(CheckpointError):
    """No such folder, alias, repository or revision."""

    code = "checkpoint_not_found"


class NotDownloaded(CheckpointError):
    """The files are not on this machine and the network was not allowed or did not answer."""

    code = "checkpoint_not_downloaded"


class IncompleteCheckpoint(CheckpointError):
    """Files that belong to the checkpoint are missing."""

    code = "checkpoint_incomplete"


class DamagedFile(CheckpointError):
    """A file is cut short or is not what its name says."""

    code = "checkpoint_damaged"


class UnsupportedConfig(CheckpointError):
    """A config lacks a key, or holds a value that this model code does not implement."""

    code = "unsupported_config"


class WeightsMismatch(CheckpointError):
    """Tensors are missing, unknown, misshaped or of a wrong kind."""

    code = "weights_mismatch"


class WrongTokenizer(CheckpointError):
    """The tokenizer lacks what the model needs, or belongs to another model."""

    code = "wrong_tokenizer"


def listed(names: Iterable[str]) -> str:
    """Names for a message, in order, the first few of many."""
    every = sorted(names)
    rest = len(every) - _LISTED
    return ", ".join(every[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
