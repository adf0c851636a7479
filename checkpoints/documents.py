"""JSON documents read key by key, so that an error says which key of which file is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import CheckpointError, DamagedFile, UnsupportedConfig


class Section:
    """An object in a JSON document. ``path`` is where it stands, for messages.

    ``error`` is what a missing or unusable value raises.
    """

    def __init__(
        self, data: dict[str, Any], path: str, error: type[CheckpointError] = UnsupportedConfig
    ) -> None:
        self.data = data
        self.path = path
        self.error = error

    def __contains__(self, key: str) -> bool:
        """Whether ``key`` is there and not null."""
        return self.data.get(key) is not None

    def section(self, key: str) -> Section:
        """The object under ``key``."""
        value = self._present(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return Section(value, self._at(key), self.error)

    def list(self, key: str) -> list[Any]:
        """The array under ``key``."""
        value = self._present(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list", value)
        return value

    def text(self, key: str) -> str:
        """The string under ``key``."""
        value = self._present(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """The whole number under ``key``; some exporters write it as a string."""
        value = self._present(key) if default is None else self.data.get(key, default)
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, "a whole number", value)
        return value

    def number(self, key: str) -> float:
        """The number under ``key``."""
        value = self._present(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(key, "a number", value)
        return float(value)

    def require(self, key: str, *known: object) -> None:
        """Refuse any value under ``key`` but ``known`` ones; absent and null are fine."""
        if key in self and self.data[key] not in known:
            names = " or ".join(json.dumps(value) for value in known)
            value = json.dumps(self.data[key])[:80]
            raise self.error(f"{self._at(key)} is {value}; only {names or 'null'} is supported")

    def _present(self, key: str) -> Any:
        if key not in self:
            raise self.error(f"{self._at(key)} is missing")
        return self.data[key]

    def _wrong(self, key: str, kind: str, value: object) -> CheckpointError:
        return self.error(f"{self._at(key)} must be {kind}, not {json.dumps(value)[:80]}")

    def _at(self, key: str) -> str:
        return f"{self.path}: {key}" if self.path.endswith(".json") else f"{self.path}.{key}"


def read_json(path: Path, error: type[CheckpointError] = UnsupportedConfig) -> Section:
    """The object in a JSON file; raises DamagedFile when it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise DamagedFile(f"{path} is not a JSON document: {problem}") from problem
    if not isinstance(data, dict):
        raise DamagedFile(f"{path} holds no JSON object")
    return Section(data, path.name, error)
