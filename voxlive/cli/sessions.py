"""``voxlive sessions``: stored transcripts, of this machine's store or of a server.

Both give the same JSON. Tables on a terminal, lines with tabs in a pipe: there no cell begins like
a formula, whatever a session is called.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from voxlive.cli.console import MISUSED, fail, print_error
from voxlive.cli.models import Json, print_table, write_json
from voxlive.processes.logs import escaped

if TYPE_CHECKING:
    from rich.text import Text

    from voxlive.store.contract import SessionStore

_HEADINGS = ("id", "began", "length", "words", "state", "title")
_TIMEOUT_S = 60.0
_MAX_ANSWER = 1 << 28
_FORMULA = ("=", "+", "-", "@")
_AUDIO = "ogg"
_LOOK_S = 1.0
_HERE = "command line"

Store = Annotated[
    str | None,
    typer.Option(
        envvar="VOXLIVE_STORE",
        metavar="FOLDER|URL",
        help="The store, as for `serve`. Default: the folder that a server here keeps them in.",
    ),
]
ServerUrl = Annotated[
    str | None,
    typer.Option("--server", metavar="URL", help="Ask this server, as http://127.0.0.1:8000."),
]
ServerKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", "--key", metavar="KEY", envvar="VOXLIVE_API_KEY", help="The server's key."
    ),
]
Ident = Annotated[str, typer.Argument(metavar="ID", help="As `list` has it.")]
Original = Annotated[
    bool, typer.Option("--original", help="What was recognised live: --layer live.")
]
Layer = Literal["best", "live", "corrected", "refined"]
LayerName = Annotated[
    Layer, typer.Option("--layer", help="Which words; best: corrected, else refined, else live.")
]
Limit = Annotated[int, typer.Option(min=1, help="So many at most, the newest.")]
ModelName = Annotated[str | None, typer.Option("--model", help="Of this model.")]
Spoken = Annotated[str | None, typer.Option("--language", help="In this language: a code.")]
Owner = Annotated[str | None, typer.Option(help="Recorded with the key of this name.")]
Since = Annotated[str | None, typer.Option(help="Begun then or later: 2026-01-31, or with a time.")]
Before = Annotated[str | None, typer.Option(help="Begun before then.")]
FileFormat = Literal["txt", "srt", "vtt", "json", "md", "docx", "ogg"]


class LocalSessions:
    """The sessions of a store, everybody's. Every method raises VoxliveError."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    def page(self, query: Mapping[str, str]) -> dict[str, Any]:
        """A page of a list or a search: the answer of ``GET /v1/sessions``."""
        from voxlive.web.rest.history import list_sessions

        return list_sessions(self._store, query, None)

    def read(self, ident: str, layer: Layer) -> dict[str, Any]:
        """A session whole: the answer of ``GET /v1/sessions/ID``."""
        from voxlive.runners.outputs.formats import transcript_json

        return transcript_json(self._store.transcript(ident, None), layer)

    def refine(self, ident: str, model: str | None) -> None:
        """Have a session refined here."""
        import asyncio

        from voxlive.checkpoints.resolve import resolve
        from voxlive.runners.batch import Batch
        from voxlive.runners.catalogue import make_catalogue
        from voxlive.runners.refusals import LoadOptions
        from voxlive.web.refiner import Refiner
        from voxlive.web.rest.files import FileService

        catalogue = make_catalogue(resolve(model), (), LoadOptions())

        async def refine() -> None:
            batch = Batch()
            try:
                refiner = Refiner(self._store, FileService(batch, catalogue))
                session = self._store.session(ident, None)
                await refiner.request(session, None, None, _HERE)
                await refiner.finish(ident)
            finally:
                await batch.aclose()

        asyncio.run(refine())

    def export(self, ident: str, suffix: str, layer: Layer) -> tuple[str, bytes]:
        """A session as a file: its name, and what is in it."""
        from voxlive.errors import RequestRefused
        from voxlive.runners.outputs.formats import export, file_name

        if suffix == _AUDIO:
            session, path = self._store.session(ident, None), self._store.audio.find(ident)
            if path is None:
                raise RequestRefused("no_audio", f"the audio of {ident} is not kept")
            return f"{file_name(session)}.{suffix}", path.read_bytes()
        found = self._store.transcript(ident, None)
        name = f"{file_name(found.session)}.{suffix}"
        return name, export(found, suffix, layer)

    def delete(self, ident: str) -> None:
        """Delete a session."""
        self._store.delete(ident, None)


class ServerSessions:
    """The sessions of a server that ``key`` may use. Every method raises VoxliveError."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = f"{url.rstrip('/')}/v1/sessions"
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def page(self, query: Mapping[str, str]) -> dict[str, Any]:
        """A page of a list or a search: the answer of ``GET /v1/sessions``."""
        return self._json("", query)

    def read(self, ident: str, layer: Layer) -> dict[str, Any]:
        """A session whole: the answer of ``GET /v1/sessions/ID``."""
        return self._json(_path(ident), {"layer": layer})

    def refine(self, ident: str, model: str | None) -> None:
        """Have a session refined by the server, and wait until it is."""
        import time

        body = {"model": model} if model else {}
        self._ask("POST", f"{_path(ident)}/refine", body=body)
        while (self.read(ident, "live")["refinement"] or {}).get("state") in ("queued", "running"):
            time.sleep(_LOOK_S)

    def export(self, ident: str, suffix: str, layer: Layer) -> tuple[str, bytes]:
        """A session as a file: its name, and what is in it."""
        from urllib.parse import unquote

        from voxlive.runners.outputs.formats import safe_name

        place = f"{_path(ident)}{'/audio' if suffix == _AUDIO else f'.{suffix}'}"
        content, disposition = self._ask("GET", place, {"layer": layer})
        given = re.search(r"filename\*=UTF-8''([\w.%~-]+)", disposition)
        name = safe_name(unquote(given[1]).removesuffix(f".{suffix}")) if given else ""
        return f"{name or safe_name(ident)}.{suffix}", content

    def delete(self, ident: str) -> None:
        """Delete a session."""
        self._ask("DELETE", _path(ident))

    def _json(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        from voxlive.errors import VoxliveError

        content, _ = self._ask("GET", path, query)
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise VoxliveError("unreachable", f"{self._url} is not one of voxlive's")
        return found

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] = {},
        body: Mapping[str, str] | None = None,
    ) -> tuple[bytes, str]:
        """The body of an answer, and its Content-Disposition."""
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.parse import urlencode
        from urllib.request import Request, build_opener

        from voxlive.errors import VoxliveError

        url = f"{self._url}{path}{'?' if query else ''}{urlencode(query)}"
        data = None if body is None else json.dumps(body).encode()
        request = Request(url, data, self._headers, method=method)  # noqa: S310, see below
        try:
            with build_opener(_no_redirects()).open(request, timeout=_TIMEOUT_S) as answer:
                content = answer.read(_MAX_ANSWER)
                return content, answer.headers.get("content-disposition", "")
        except HTTPError as error:
            raise _refusal(error.code, error.read(1 << 16)) from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise VoxliveError("unreachable", f"cannot reach {self._url}: {reason}") from None


SessionSource = LocalSessions | ServerSessions


def _no_redirects() -> Any:
    """For urllib: a key goes to no other address than the one that was given."""
    from urllib.request import HTTPRedirectHandler

    class NoRedirects(HTTPRedirectHandler):
        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

    return NoRedirects()


def _refusal(status: int, body: bytes) -> Exception:
    from voxlive.errors import RequestRefused

    try:
        error = json.loads(body)["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        code, message = "unreachable", f"the server answers {status}"
    return RequestRefused(code, message)


def _path(ident: str) -> str:
    from urllib.parse import quote

    return f"/{quote(ident, safe='')}"


@contextmanager
def _opened(store: str | None, server: str | None, key: str | None) -> Iterator[SessionSource]:
    """The sessions that the options name; one line and an exit code for what fails."""
    from voxlive.errors import VoxliveError

    try:
        if server is not None:
            server = server if "://" in server else f"http://{server}"
            if not re.match("https?://", server):
                fail("--server is an address such as http://127.0.0.1:8000", MISUSED)
            yield ServerSessions(server, key)
            return
        from voxlive.store.backends import open_store
        from voxlive.web.recorder import default_folder

        place = store or str(default_folder())
        if "://" not in place and not Path(place).expanduser().is_dir():
            fail(f"no sessions are kept in {place}; --store or --server says where they are")
        opened = open_store(place, os.environ.get("VOXLIVE_AUDIO_FOLDER"))
        try:
            yield LocalSessions(opened)
        finally:
            opened.close()
    except VoxliveError as error:
        fail(escaped(error.message))


sessions = typer.Typer(
    help="List, read, search, export, refine and delete stored transcripts.",
    no_args_is_help=True,
)


@sessions.command("list")
def list_sessions(
    limit: Limit = 50,
    model: ModelName = None,
    language: Spoken = None,
    owner: Owner = None,
    since: Since = None,
    before: Before = None,
    as_json: Json = False,
    store: Store = None,
    server: ServerUrl = None,
    key: ServerKey = None,
) -> None:
    """List sessions, the newest first."""
    query = _query(model=model, language=language, owner=owner, since=since, before=before)
    with _opened(store, server, key) as source:
        found = list(_pages(source, query, limit))
    if as_json:
        write_json(found)
    else:
        print_table(_HEADINGS, [tuple(map(_cell, _row(one))) for one in found])


@sessions.command()
def search(
    words: Annotated[list[str], typer.Argument(help="All of these; '\"in this order\"'.")],
    limit: Limit = 20,
    model: ModelName = None,
    language: Spoken = None,
    owner: Owner = None,
    since: Since = None,
    before: Before = None,
    as_json: Json = False,
    store: Store = None,
    server: ServerUrl = None,
    key: ServerKey = None,
) -> None:
    """Find sessions by their words, and show where they were said."""
    query = _query(
        q=" ".join(words), model=model, language=language, owner=owner, since=since, before=before
    )
    with _opened(store, server, key) as source:
        found = list(_pages(source, query, limit))
    if as_json:
        write_json(found)
        return
    for one in found:
        _print("  ".join(filter(None, (_text(one["id"]), _began(one), _text(one["title"])))))
        for snippet in one["snippets"]:
            _print(_snippet(snippet))


@sessions.command()
def show(
    ident: Ident,
    layer: LayerName = "best",
    original: Original = False,
    as_json: Json = False,
    store: Store = None,
    server: ServerUrl = None,
    key: ServerKey = None,
) -> None:
    """Show one session: what is known of it, and its text with times."""
    with _opened(store, server, key) as source:
        found = source.read(ident, "live" if original else layer)
    if as_json:
        write_json(found)
        return
    facts = {
        "id": found["id"],
        "title": found["title"],
        "began": _began(found),
        "length": _clock(found["duration"]),
        "state": found["state"],
        "ended by": found["error"],
        "model": found["model"],
        "languages": ", ".join(found["languages"]),
        "recorded with": f"{found['protocol']}, {found['path']}, key {found['owner']}",
        "refined by": (found["refinement"] or {}).get("layer"),
        "corrections": str(len(found["corrections"])) if found["corrections"] else "",
    }
    for name, value in facts.items():
        if value:
            _print(f"{name}: {_text(value)}")
    starts = {one["id"]: one["start"] for one in found["segments"]}
    lines: dict[int, list[str]] = {}
    sources: dict[int, str] = {}
    for word in found["words"]:
        starts.setdefault(word["segment"], word["start"])
        lines.setdefault(word["segment"], []).append(word["text"])
        sources[word["segment"]] = f"{word['source']}: " if word["source"] else ""
    if any(sources.values()):  # those of several sources overlap
        lines = dict(sorted(lines.items(), key=lambda line: starts[line[0]]))
    for segment, texts in lines.items():
        said = sources[segment] + "".join(texts).strip()
        _print(f"{_clock(starts[segment])}  {_text(said)}")


@sessions.command()
def export(
    ident: Ident,
    file_format: Annotated[FileFormat, typer.Option("--format", "-f", help="Its ending.")] = "txt",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write this file, or - for stdout. Default: one by its title."
        ),
    ] = None,
    layer: LayerName = "best",
    original: Original = False,
    store: Store = None,
    server: ServerUrl = None,
    key: ServerKey = None,
) -> None:
    """Write a session as a file."""
    with _opened(store, server, key) as source:
        name, content = source.export(ident, file_format, "live" if original else layer)
    if str(output) == "-":
        sys.stdout.buffer.write(content)
        return
    path = output or Path(name)
    try:
        # A name that was not chosen here replaces nothing.
        with path.open("xb" if output is None else "wb") as file:
            file.write(content)
    except FileExistsError:
        fail(f"{path} is there already: choose another with --output")
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror}")
    typer.echo(path)


@sessions.command()
def refine(
    ident: Ident,
    model: Annotated[
        str | None, typer.Option("--model", help="By this model for files. Default: the default.")
    ] = None,
    store: Store = None,
    server: ServerUrl = None,
    key: ServerKey = None,
) -> None:
    """Recognise a session again from its kept audio, and wait until that is done."""
    with _opened(store, server, key) as source:
        source.refine(ident, model)
        done = source.read(ident, "live")["refinement"]
    if done["state"] != "done":
        fail(escaped(f"{done['state']}: {done['message'] or done['error']}"))
    typer.echo(f"refined by {_text(done['layer'])}")


@sessions.command()
def rm(
    idents: Annotated[list[str], typer.Argument(metavar="ID...", help="As `list` has them.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: Store = None,
    server: ServerUrl = None,
    key: ServerKey = None,
) -> None:
    """Delete sessions: their words are then in no file of the store."""
    what = idents[0] if len(idents) == 1 else f"{len(idents)} sessions"
    if not yes:
        if not sys.stdin.isatty():
            fail(f"deleting {what} needs --yes where nobody can be asked", MISUSED)
        typer.confirm(f"Delete {what} for ever?", abort=True, err=True)
    from voxlive.errors import VoxliveError

    bad = False
    with _opened(store, server, key) as source:
        for ident in idents:
            try:
                source.delete(ident)
                typer.echo(f"deleted {escaped(ident)}")
            except VoxliveError as error:
                print_error(escaped(error.message))
                bad = True
    if bad:
        raise typer.Exit(1)


def _query(**given: str | None) -> dict[str, str]:
    return {name: value for name, value in given.items() if value is not None}


def _pages(source: SessionSource, query: dict[str, str], limit: int) -> Iterator[dict[str, Any]]:
    """Sessions of as many pages as it takes."""
    cursor: dict[str, str] = {}
    while limit > 0:
        page = source.page({**query, **cursor, "limit": str(min(limit, 200))})
        yield from page["sessions"]
        limit -= len(page["sessions"])
        if page["next"] is None:
            return
        cursor = {"cursor": page["next"]}


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["id"],
        _began(one),
        _clock(one["duration"]),
        str(one["word_count"]),
        one["state"],
        one["title"] or one["name"] or one["preview"],
    )


def _began(one: dict[str, Any]) -> str:
    """In the time of this machine."""
    return f"{datetime.fromisoformat(one['started_at']).astimezone():%Y-%m-%d %H:%M}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _text(text: object) -> str:
    return escaped(str(text or ""))


def _cell(text: str) -> str:
    """A cell; of what goes into a pipe no spreadsheet takes it for a formula."""
    shown = _text(text)
    return f"'{shown}" if shown.startswith(_FORMULA) and not sys.stdout.isatty() else shown


def _snippet(snippet: dict[str, Any]) -> Text:
    """A snippet with its time; what was found is bold on a terminal."""
    from rich.text import Text

    time = _clock(snippet["start"]) if snippet["segment"] is not None else "title"
    line = Text(f"  {time}  ")
    at = 0
    for start, end in snippet["found"]:
        line.append(_text(snippet["text"][at:start]))
        line.append(_text(snippet["text"][start:end]), "bold")
        at = end
    return line.append(_text(snippet["text"][at:]))


def _print(line: str | Text) -> None:
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(line, markup=False)
