"""``voxlive models``: which models there are, what they can do, and whether they are whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import FAILED, MISUSED, complain, fail

if TYPE_CHECKING:
    from ..checkpoints.resolve import Repository
    from ..runners.catalogue import Catalogue, ModelCard

Json = Annotated[bool, typer.Option("--json", help="Write JSON on stdout.")]
Name = Annotated[
    str, typer.Argument(help="A built-in model, a short name, owner/name[@revision] or a path.")
]
Fetched = Annotated[str, typer.Argument(help="A short name or owner/name[@revision].")]

models = typer.Typer(help="List, look at, fetch, check and remove models.")


@models.callback(invoke_without_command=True)
def _models(context: typer.Context) -> None:
    """List, look at, fetch, check and remove models."""
    if context.invoked_subcommand is None:
        list_models()


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models that can be asked for by name: built in, fetched, and short names."""
    from ..checkpoints.resolve import ALIASES
    from .model_tables import show_list

    cards = _catalogue().cards()
    there = {alias for card in cards for alias in card.aliases}
    absent = {alias: where for alias, where in ALIASES.items() if alias not in there}
    if as_json:
        missing = [
            {"id": where, "aliases": [alias], "healthy": None, "folder": None}
            for alias, where in absent.items()
        ]
        _write_json([*(card.document() for card in cards), *missing])
    else:
        show_list(cards, absent)


@models.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show all that is known of one model, and by what it was told. Nothing is loaded."""
    from .model_tables import show_card

    card = _card(name)
    if as_json:
        _write_json(card.document())
    else:
        show_card(card)


@models.command()
def pull(
    names: Annotated[list[str], typer.Argument(help="Short names or owner/name[@revision].")],
) -> None:
    """Fetch models, or what is missing or newer of them, into the hub's cache; then check them."""
    from ..checkpoints.errors import CheckpointError
    from ..checkpoints.resolve import download

    bad = False
    for name, repository in [(name, _repository(name)) for name in names]:
        try:
            folder = download(repository)
        except CheckpointError as error:
            complain(error.message)
            bad = True
            continue
        except KeyboardInterrupt:
            fail(f"{name}: stopped; the same command goes on where it ended")
        card = _card(str(folder), str(repository))
        typer.echo(f"{card.id}: {folder}")
        bad |= _complain_of(card)
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
    cards = [_card(name) for name in names] if names else _catalogue().cards()
    if as_json:
        _write_json(
            [
                {key: card.document()[key] for key in ("id", "folder", "healthy", "problems")}
                for card in cards
            ]
        )
        bad = not all(card.survey.health.healthy for card in cards)
    else:
        bad = False
        for card in cards:
            if card.survey.health.healthy:
                typer.echo(f"{card.id}: healthy")
            bad |= _complain_of(card)
    if bad:
        raise typer.Exit(FAILED)


@models.command()
def rm(
    name: Fetched,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a fetched model from the hub's cache. Folders of your own are never touched."""
    from ..checkpoints.cache import plan_removal
    from .model_tables import size

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


def _catalogue() -> Catalogue:
    from ..runners.catalogue import Catalogue, Entry
    from ..runners.survey import BUILT_IN

    return Catalogue(Entry(next(iter(BUILT_IN)), None), hosted=False)


def _card(name: str, known_as: str | None = None) -> ModelCard:
    """A model by name or, on the command line alone, by its path."""
    from ..runners.catalogue import Catalogue, Entry
    from ..runners.contract import Refusal

    folder = Path(name).expanduser()
    if folder.is_dir():
        return Catalogue(Entry(known_as or str(folder), folder), hosted=False).card()
    if folder.exists():
        fail(f"{name} is a file: give the folder that it lies in")
    try:
        return _catalogue().card(name)
    except Refusal as refusal:
        fail(refusal.message)


def _repository(name: str) -> Repository:
    from ..checkpoints.resolve import ALIASES, parse_repository

    repository = parse_repository(name)
    if Path(name).expanduser().exists() and (repository is None or name not in ALIASES):
        fail(f"{name} is a folder of yours: this is for models in the hub's cache", MISUSED)
    if repository is None:
        fail(f"{name!r} is neither owner/name nor one of {', '.join(ALIASES)}", MISUSED)
    return repository


def _complain_of(card: ModelCard) -> bool:
    for problem in card.survey.health.problems:
        complain(f"{card.id}: {problem}")
    return not card.survey.health.healthy


def _write_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
