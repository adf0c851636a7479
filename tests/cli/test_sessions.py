"""``voxlive sessions`` on a store of this machine, and on a server that recorded somebody."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import rich.console
from support.clips import clip
from support.commands import Run
from support.server import AT_PAUSES, Server, serving
from support.storing import spoken
from support.weights import TINY_EN, TINY_EN_ID
from support.wire import START, dial, listen, receive, receive_until, s16le, send
from typer.testing import CliRunner

from voxlive.cli import sessions
from voxlive.cli.main import app
from voxlive.runners.outputs.formats import EXPORTS
from voxlive.store.audio import OpusFile
from voxlive.store.backends import open_store
from voxlive.values import samples

SECRET = {name: f"the-secret-of-{name}-alone" for name in ("kitchen", "hall", "boss")}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of two sessions of two keys."""
    folder = tmp_path / "store"
    opened = open_store(folder)
    opened.apply(spoken("s1", ["The quick brown fox", "jumps over"], title="Foxes"))
    opened.apply(spoken("s2", ["Good day"], "bob", minute=5, languages=("de",)))
    opened.close()
    return folder


@pytest.fixture
def lines(voxlive: Run, store: Path):
    """The lines that a command on that store says."""

    def lines_of(*args: object) -> list[str]:
        done = voxlive("sessions", *args, "--store", store)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return lines_of


def test_sessions_are_listed_the_newest_first(lines):
    heading, *rows = [line.split("\t") for line in lines("list")]
    assert heading == ["id", "began", "length", "words", "state", "title"]
    assert [(row[0], row[3], row[5]) for row in rows] == [
        ("s2", "2", "Good day"),
        ("s1", "6", "Foxes"),
    ]
    assert len(lines("list", "--limit", 1)) == 2
    assert len(lines("list", "--owner", "ann", "--before", "2026-03-02")) == 2
    assert len(lines("list", "--language", "de")) == 2
    assert len(lines("list", "--model", "none")) == 1
    listed = json.loads("\n".join(lines("list", "--json", "--since", "2026-03-01T12:04")))
    assert [one["id"] for one in listed] == ["s2"]


def test_more_than_a_page_is_listed(tmp_path, voxlive):
    opened = open_store(tmp_path)
    for n in range(205):
        opened.apply(spoken(f"s{n}", ["word"], minute=n))
    opened.close()
    for limit, expected in ((1000, 205), (203, 203), (200, 200)):
        done = voxlive("sessions", "list", "--limit", limit, "--store", tmp_path)
        ids = [line.split("\t")[0] for line in done.stdout.splitlines()[1:]]
        assert ids == [f"s{n}" for n in range(204, 204 - expected, -1)]


def test_a_search_shows_what_was_found(lines):
    first, second = lines("search", "quick", "FOX")
    assert first.startswith("s1  2026-03-01 ")
    assert second == "  0:00:00  The quick brown fox"
    assert lines("search", '"brown quick"') == []
    [hit] = json.loads("\n".join(lines("search", "jumps", "--json")))
    assert hit["snippets"][0]["text"] == "jumps over"


def test_a_session_is_shown(lines):
    shown = lines("show", "s1")
    assert shown[:2] == ["id: s1", "title: Foxes"]
    assert shown[-2:] == ["0:00:00  The quick brown fox", "0:00:00  jumps over"]
    assert json.loads("\n".join(lines("show", "s1", "--json")))["text"].endswith("jumps over")


def test_a_session_is_exported(lines, tmp_path, monkeypatch, voxlive, store, failed):
    monkeypatch.chdir(tmp_path)
    for ending in EXPORTS:
        path = tmp_path / f"Foxes.{ending}"
        assert lines("export", "s1", "-f", ending, "-o", path) == [str(path)]
        assert path.stat().st_size > 10
    assert (tmp_path / "Foxes.txt").read_text() == "The quick brown fox\n\njumps over\n"
    assert lines("export", "s1", "-o", "-")[0] == "The quick brown fox"
    assert "audio" in failed("sessions", "export", "s1", "-f", "ogg", "--store", store)
    (store / "audio").mkdir(mode=0o700)
    (store / "audio" / "s1.ogg").write_bytes(b"OggS and so on")
    path = tmp_path / "Foxes.ogg"
    assert lines("export", "s1", "-f", "ogg", "-o", path) == [str(path)]
    assert path.read_bytes() == b"OggS and so on"


@pytest.mark.long
def test_a_session_is_refined_here(lines, store, failed):
    """From its own audio, in its own segments, beside what was recognised live."""
    place = ("--store", store)
    assert "audio" in failed("sessions", "refine", "s1", "--model", TINY_EN, *place)
    opened = open_store(store)
    opened.audio.make_folder()
    file = OpusFile(opened.audio.path / "s1.ogg")
    file.write((clip("yes").samples * 32767).astype(np.int16))
    file.end()
    file.close()
    opened.close()
    assert lines("refine", "s1", "--model", TINY_EN) == [f"refined by {TINY_EN_ID}"]
    assert "yes" in lines("export", "s1", "-o", "-")[0].lower()
    assert lines("export", "s1", "-o", "-", "--layer", "live")[0] == "The quick brown fox"
    assert lines("export", "s1", "-o", "-", "--original")[0] == "The quick brown fox"
    assert f"refined by: {TINY_EN_ID}" in lines("show", "s1")


def run(*args: object, **how: object):
    """In this process, where what a terminal would do can be seen."""
    return CliRunner().invoke(app, ["sessions", *map(str, args)], **how)


def test_an_export_is_named_by_its_title_and_replaces_nothing(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = open_store(store)
    opened.patch("s1", None, title="../../up: \x1b[31m=2+2")
    opened.close()
    for expected in (0, 1):
        done = run("export", "s1", "--store", store)
        assert done.exit_code == expected
    assert "is there already" in done.output
    [written] = tmp_path.glob("*.txt")
    assert written.name == "up [31m=2+2.txt"
    assert not list(tmp_path.parent.glob("*.txt"))


def test_deleting_asks_first(store, monkeypatch, failed, voxlive):
    assert "--yes" in failed("sessions", "rm", "s1", "--store", store)
    monkeypatch.setattr(
        sessions, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    )
    assert run("rm", "s1", "--store", store, input="n\n").exit_code == 1
    assert run("rm", "s1", "--store", store, input="y\n").exit_code == 0
    gone = voxlive("sessions", "rm", "s1", "s2", "--yes", "--store", store)
    assert (gone.returncode, gone.stdout) == (1, "deleted s2\n")
    assert "no session 's1'" in gone.stderr
    assert b"quick" not in b"".join(path.read_bytes() for path in store.rglob("*"))


def test_no_text_acts_on_a_terminal_or_in_a_spreadsheet(tmp_path, voxlive, monkeypatch):
    opened = open_store(tmp_path)
    texts = ["=1+1", "+1", "-1", "@x", "\x1b]0;x\x07\x1b[2J", "[red]a[/red]", "a\tb", "\u202eabc"]
    for n, text in enumerate(texts):
        opened.apply(spoken(f"s{n}", [text, "word"], title=text, minute=n))
    opened.close()
    done = voxlive("sessions", "list", "--store", tmp_path)
    cells = [line.split("\t") for line in done.stdout.splitlines()[1:]][::-1]
    assert [row[5] for row in cells] == [
        "'=1+1",
        "'+1",
        "'-1",
        "'@x",
        "\\x1b]0;x\\x07\\x1b[2J",
        "[red]a[/red]",
        "a\\tb",
        "\\u202eabc",
    ]
    for command in (["search", "word"], *(["show", f"s{n}"] for n in range(len(texts)))):
        done = voxlive("sessions", *command, "--store", tmp_path)
        assert done.returncode == 0
        assert not any(char in done.stdout for char in "\x1b\x07\u202e")
    monkeypatch.setattr(rich.console.Console, "is_terminal", property(lambda _: True))
    done = run("list", "--store", tmp_path)
    assert "[red]a[/red]" in done.output
    assert "\x1b]" not in done.output


def test_what_cannot_be_is_one_clear_line(failed, store, tmp_path):
    for args, expected in [
        (("show", "nowhere", "--store", store), "no session 'nowhere'"),
        (("list", "--store", tmp_path / "none"), "no sessions are kept in"),
        (("list", "--store", "mysql://x"), "postgresql://"),
        (("list", "--since", "yesterday", "--store", store), "since must be a date"),
        (("search", "...", "--store", store), "give a word"),
        (("list", "--server", "ftp://localhost"), "http://127.0.0.1:8000"),
        (("list", "--server", "127.0.0.1:9"), "cannot reach http://127.0.0.1:9"),
    ]:
        assert expected in failed("sessions", *args)


def test_the_default_store_is_the_servers(voxlive, store, monkeypatch):
    """That of ``serve`` without ``--store``, or of its variable."""
    monkeypatch.setenv("XDG_DATA_HOME", str(store.parent / "data"))
    assert "no sessions are kept in" in run("list").output
    place = store.parent / "data" / "voxlive" / "sessions"
    place.parent.mkdir(parents=True)
    store.rename(place)
    assert "Foxes" in run("list").output
    monkeypatch.setenv("VOXLIVE_STORE", str(store))
    assert "no sessions are kept in" in run("list").output


# A server.


@dataclass(frozen=True)
class RecordedServer:
    """A server, what it has told the client of a session, and its audit log."""

    server: Server
    id: str
    text: str
    audit: Path
    folder: Path


@pytest.fixture(scope="module")
def keyed(tmp_path_factory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("server")
    keys = folder / "keys.toml"
    keys.touch(0o600)
    scopes = {"boss": '\nscopes = ["admin"]'}
    keys.write_text("\n".join(f'[{n}]\nkey = "{s}"{scopes.get(n, "")}' for n, s in SECRET.items()))
    options = ("--store", str(folder / "store"), "--audit-log", str(folder / "audit.jsonl"))
    with serving(*options, "--keys", str(keys), *AT_PAUSES, key=SECRET["kitchen"]) as server:
        yield server, folder


@pytest.fixture
async def recorded(keyed) -> RecordedServer:
    server, folder = keyed
    audio = s16le(clip("train").samples)
    async with dial(f"{server.ws}/v1/live", additional_headers=server.headers) as socket:
        await send(socket, START, audio, {"type": "stop"})
        said = await listen(socket)
    ident, text = said.of("ready")[0]["session"], said.of("done")[0]["text"]
    assert text.strip()
    return RecordedServer(server, ident, text, folder / "audit.jsonl", folder / "store")


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRET[name]}"}


async def test_a_session_of_a_server_over_http(recorded):
    url = f"{recorded.server.url}/v1/sessions"
    async with httpx.AsyncClient(headers=key("kitchen")) as http:
        listed = (await http.get(url, params={"limit": 1})).json()["sessions"]
        assert [(one["id"], one["owner"]) for one in listed] == [(recorded.id, "kitchen")]
        whole = (await http.get(f"{url}/{recorded.id}")).json()
        assert whole["text"] == recorded.text.strip()
        assert whole["state"] == "ended"
        last = whole["word_count"] - 1
        change = {
            "title": "Züge",
            "corrections": [{"first": 0, "stop": last, "text": "Everything"}],
        }
        assert (await http.patch(f"{url}/{recorded.id}", json=change)).json()["title"] == "Züge"
        for ending in EXPORTS:
            file = await http.get(f"{url}/{recorded.id}.{ending}")
            assert file.status_code == 200
            assert f"Z%C3%BCge.{ending}" in file.headers["content-disposition"]
        assert (await http.get(f"{url}/{recorded.id}.txt")).text.startswith("Everything")
        original = await http.get(f"{url}/{recorded.id}.txt", params={"original": "true"})
        assert original.text.split() == recorded.text.split()
        found = await http.get(url, params={"q": "everything"})
        assert [one["id"] for one in found.json()["sessions"]] == [recorded.id]
        for method, path in (("GET", ""), ("GET", ".docx"), ("PATCH", ""), ("DELETE", "")):
            other = await http.request(
                method, f"{url}/{recorded.id}{path}", headers=key("hall"), json={"title": "x"}
            )
            assert other.status_code == 404
        assert (await http.get(url, headers=key("hall"))).json()["sessions"] == []
        assert (await http.delete(f"{url}/{recorded.id}")).status_code == 204
        assert (await http.get(f"{url}/{recorded.id}")).status_code == 404
    log = recorded.audit.read_text()
    assert "Everything" not in log
    last = [json.loads(line) for line in log.splitlines()][-2:]
    assert [(one["who"], one["action"], one["result"]) for one in last] == [
        ("kitchen", "delete", "ok"),
        ("kitchen", "read", "unknown_session"),
    ]


async def test_a_running_session_is_read_along_by_its_events(keyed):
    server, _ = keyed
    audio = s16le(clip("yes").samples)
    pause = bytes(2 * samples(2.0))
    async with (
        dial(f"{server.ws}/v1/live", additional_headers=server.headers) as socket,
        httpx.AsyncClient(base_url=server.url, headers=key("kitchen"), timeout=60) as http,
    ):
        await send(socket, START)
        path = f"/v1/sessions/{(await receive(socket))['session']}/events"
        await send(socket, audio + pause)
        told = await receive_until(socket, "segment")
        place = ""
        async with http.stream("GET", path) as answer:  # and away, with the session still running
            async for line in answer.aiter_lines():
                place = line.removeprefix("id: ") if line.startswith("id: ") else place
                if line == "event: segment":
                    break
        await send(socket, audio + pause, {"type": "stop"})
        told += (await listen(socket)).messages
        rest = (await http.get(path, headers={"last-event-id": place})).text
        whole = (await http.get(path)).text
    words = [word["text"] for m in told if m["type"] == "words" for word in m["words"]]
    assert words_of(whole) == words
    again = words_of(rest)
    assert 0 < len(again) < len(words)
    assert words[-len(again) :] == again
    assert rest.rstrip().splitlines()[-2] == "event: done"


def words_of(text: str) -> list[str]:
    data = (json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: "))
    return [word["text"] for one in data for word in one.get("words", [])]


async def test_a_session_of_a_server_by_the_command(recorded, voxlive, failed, tmp_path):
    def sessions_of(name: str, *args: object) -> tuple[object, ...]:
        return ("sessions", *args, "--server", recorded.server.url, "--key", SECRET[name])

    listed = json.loads(voxlive(*sessions_of("kitchen", "list", "--json")).stdout)
    local = voxlive("sessions", "list", "--json", "--store", recorded.folder)
    assert listed == json.loads(local.stdout)
    assert listed[0]["id"] == recorded.id
    shown = voxlive(*sessions_of("kitchen", "show", recorded.id, "--json"))
    assert json.loads(shown.stdout)["text"] == recorded.text.strip()
    assert voxlive(*sessions_of("hall", "list")).stdout.count("\n") == 1
    assert "no session" in failed(*sessions_of("hall", "show", recorded.id))
    word = recorded.text.split()[-1]
    assert recorded.id in voxlive(*sessions_of("kitchen", "search", word)).stdout
    path = tmp_path / "talk.docx"
    done = voxlive(*sessions_of("kitchen", "export", recorded.id, "-f", "docx", "-o", path))
    assert (done.returncode, path.read_bytes()[:2]) == (0, b"PK")
    sound = recorded.folder / "audio" / f"{recorded.id}.ogg"
    sound.parent.mkdir(mode=0o700)
    sound.write_bytes(b"OggS and so on")
    path = tmp_path / "talk.ogg"
    done = voxlive(*sessions_of("kitchen", "export", recorded.id, "-f", "ogg", "-o", path))
    assert (done.returncode, path.read_bytes()) == (0, b"OggS and so on")
    assert "--yes" in failed(*sessions_of("boss", "rm", recorded.id))
    assert "no session" in failed(*sessions_of("hall", "rm", recorded.id, "--yes"))
    done = voxlive(*sessions_of("boss", "rm", recorded.id, "--yes"))
    assert done.stdout == f"deleted {recorded.id}\n"
    assert "key is wrong" in failed(
        "sessions", "list", "--server", recorded.server.url, "--key", "wrong-wrong-wrong-wrong"
    )
    assert "no session" in failed("sessions", "show", recorded.id, "--store", recorded.folder)


class Elsewhere(BaseHTTPRequestHandler):
    """Sends everybody on to /stolen, and names files badly."""

    seen: list[tuple[str, str | None]] = []  # noqa: RUF012, of the whole server

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("authorization")))
        if self.path.startswith("/v1/sessions/named"):
            self.send_response(200)
            name = "..%2F..%2Fevil%00.txt"
            self.send_header("content-disposition", f"attachment; filename*=UTF-8''{name}")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")
            return
        self.send_response(302)
        self.send_header("location", "/stolen")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    Elsewhere.seen.clear()
    server = HTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_key_goes_to_no_other_address_and_a_file_to_no_other_folder(
    elsewhere, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = run("list", "--server", elsewhere, "--key", "a-key")
    assert (done.exit_code, "answers 302" in done.output) == (1, True)
    assert Elsewhere.seen == [("/v1/sessions?limit=50", "Bearer a-key")]
    assert run("export", "named", "--server", elsewhere).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["evil.txt"]
    assert "authorization" not in str(Elsewhere.seen[1])
