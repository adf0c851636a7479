"""Generates the tables of the documentation from the tables in the code.

    python -m voxlive.cli.document docs/batch.md docs/errors.md docs/operations.md  # writes them

Each stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from voxlive.checkpoints.families import FAMILIES
from voxlive.checkpoints.families.family import ModelFamily
from voxlive.checkpoints.families.speech import CTRANSLATE2
from voxlive.errors import ERRORS
from voxlive.runners.refusals import FIELDS
from voxlive.runners.refusals import REFUSAL_RULES as REFUSALS
from voxlive.runners.routing import HOSTED
from voxlive.runners.routing import ROUTING_RULES as ROUTES
from voxlive.streaming.ingest.sniff import CONTAINERS
from voxlive.web.config import OPTIONS, ServeConfig, option_name

_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)
_BACKENDS = {"speech": "mlx_audio", "multimodal": "mlx_vlm"}


def update_tables(text: str) -> str:
    """A document with all of its tables as they are now; raises KeyError for an unknown one."""
    return _BLOCK.sub(lambda found: found[1] + _TABLES[found[2]]() + found[3], text)


def families() -> str:
    """Family, backend, what it can do."""
    every = sorted(FAMILIES.values(), key=lambda family: family.title.lower())
    return _table(("family", "backend", "beyond transcribing", "what else"), map(_family, every))


def routing() -> str:
    """The order in which a backend is chosen."""
    rows = ((str(at), rule.name, rule.when) for at, rule in enumerate(ROUTES, 1))
    return _table(("", "rule", "holds for"), rows)


def refusals() -> str:
    """Status, code, when."""
    rows = ((str(rule.status), f"`{rule.code}`", rule.when) for rule in REFUSALS)
    return _table(("status", "code", "when"), rows)


def fields() -> str:
    """What a model cannot use of a request."""
    done = {True: "422 `unsupported_parameter`", False: "has no effect; warning `{}_ignored`"}
    rows = (
        (f"`{field.name}`", done[field.refused].format(field.name), field.why) for field in FIELDS
    )
    return _table(("field", "then", ""), rows)


def hosted() -> str:
    """The names of other services that mean the default model."""
    rows = (
        (service, ", ".join(f"`{name}`" for name in names)) for service, names in HOSTED.items()
    )
    return _table(("service", "names"), rows)


def containers() -> str:
    """What audio and video files are taken."""
    rows = (
        (one.name, ", ".join(f"`.{ending}`" for ending in one.endings.split()))
        for one in CONTAINERS
    )
    return _table(("container", "files"), rows)


def errors() -> str:
    """Every code on HTTP and WebSockets, by its meaning."""
    rows = (
        (f"`{code}`", _number(info.status), _number(info.close), info.meaning)
        for code, info in ERRORS.items()
    )
    return _table(("code", "HTTP", "WebSocket close", "when"), rows)


def _number(number: int | None) -> str:
    return "-" if number is None else str(number)


def options() -> str:
    """The options of ``voxlive serve``."""
    rows = ((f"`{option_name(name)}`", _default(name), OPTIONS[name].help) for name in OPTIONS)
    return _table(("option", "default", "what"), rows)


def _default(name: str) -> str:
    value = getattr(ServeConfig(), name)
    if value is None or value in ("", ()) or isinstance(value, bool):
        return ""
    return f"`{value:g}`" if isinstance(value, int | float) else f"`{value}`"


def _family(family: ModelFamily) -> tuple[str, ...]:
    usable = [shape for shape in family.shapes if shape.refused is None]
    notes = [f"{shape.layout}: {shape.refused}" for shape in family.shapes if shape.refused]
    notes += [family.note] if family.note else []
    if family.imports:
        notes.append(f"needs {', '.join(family.imports.values())}")
    features = ", ".join(sorted(family.features | ({"live"} if family.live else set()))) or "-"
    notes += [f"files alone: {family.not_live}"] if family.not_live else []
    backend = _BACKENDS.get(family.kind, "mlx_audio")
    if "live" in family.features:
        backend = family.name
    named = f"`{backend}`" if usable else "none"
    if any(shape.layout == CTRANSLATE2 for shape in family.shapes):
        named += ", `faster_whisper`"
    return (family.title, named, features, "; ".join(notes))


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


_TABLES = {
    "families": families,
    "routing": routing,
    "refusals": refusals,
    "fields": fields,
    "hosted": hosted,
    "containers": containers,
    "errors": errors,
    "options": options,
}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        document = Path(name)
        document.write_text(update_tables(document.read_text("utf-8")), "utf-8")
