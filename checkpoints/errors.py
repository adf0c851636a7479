"""What can be wrong with a checkpoint. Every message names the thing and says what to do."""

from __future__ import annotations


class CheckpointError(Exception):
    """A checkpoint cannot be used. ``code`` is stable, ``message`` is for people."""

    code = "checkpoint_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UnsupportedConfig(CheckpointError):
    """A config lacks a key, or holds a value that this model code does not implement."""

    code = "unsupported_config"
