"""Models for people: tables on a terminal, lines with tabs in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ..runners.catalogue import ModelCard

_HEADINGS = ("--model", "family", "backend", "size", "can", "state")


def show_list(cards: Iterable[ModelCard], absent: Mapping[str, str]) -> None:
    """One line per model; ``absent`` are short names whose repository is not here."""
    rows = [_row(card) for card in cards]
    rows += [(f"{name}, {where}", "", "", "", "", "not fetched") for name, where in absent.items()]
    _print(_HEADINGS, rows)


def show_card(card: ModelCard) -> None:
    """All of one model, a line per fact."""
    found, routing = card.survey.capabilities, card.survey.routing
    facts = {
        "model": card.id,
        "short name": ", ".join(card.aliases),
        "family": found.family.title if found.family else "unknown",
        "told by": "; ".join(found.signals),
        "layout": found.layout,
        "backend": routing.backend or "none",
        "by the rule": routing.tie_break or routing.rule,
        "can": _abilities(card) or "nothing here: no backend runs it",
        "cannot be used": found.refused,
        "languages": ", ".join(found.languages) if found.languages else "not told by its files",
        "input": f"{found.sample_rate / 1000:g} kHz",
        "weights": size(found.weights_bytes) if found.weights_bytes else "",
        "quantised": f"{found.bits} bits" if found.bits else "",
        "tokenizer": ", ".join(found.tokenizer),
        "folder": str(found.folder or ""),
        "worth knowing": "; ".join(found.warnings),
        "state": "healthy" if card.survey.health.healthy else "",
    }
    rows = [(name, value) for name, value in facts.items() if value]
    rows += [("problem", str(problem)) for problem in card.survey.health.problems]
    _print(None, rows)


def size(nbytes: int) -> str:
    """Bytes for people, as disks count them."""
    value, units = float(nbytes), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 1000 and unit != "TB":
        value, unit = value / 1000, next(units)
    return f"{value:.3g} {unit}"


def _row(card: ModelCard) -> tuple[str, ...]:
    found, health = card.survey.capabilities, card.survey.health
    name = ", ".join((*card.aliases, card.id))
    state = "healthy" if health.healthy else health.problems[0].what
    if found.refused:
        state = "cannot be used"
    bits = f", {found.bits} bits" if found.bits else ""
    return (
        name,
        found.family.title if found.family else found.model_type or "unknown",
        card.survey.routing.backend or "none",
        f"{size(found.weights_bytes)}{bits}" if found.weights_bytes else "built in",
        _abilities(card),
        state,
    )


def _abilities(card: ModelCard) -> str:
    if card.survey.capabilities.refused or not card.survey.hears:
        return ""
    return ", ".join(("transcribe", *sorted(card.survey.capabilities.features)))


def _print(headings: tuple[str, ...] | None, rows: Iterable[tuple[str, ...]]) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        for row in [headings, *rows] if headings else rows:
            typer.echo("\t".join(row))
        return
    console.print(_table(headings, rows))


def _table(headings: tuple[str, ...] | None, rows: Iterable[tuple[str, ...]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=headings is not None)
    for heading in headings or ("", ""):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
