"""As much of the hub as a download asks for, on this machine."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1")


class Hub(ThreadingHTTPServer):
    """Serves repositories given as name -> file -> bytes, and notes what was asked for."""

    def __init__(self, repositories: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.asked: list[str] = []

    def commit(self, name: str) -> str:
        """The first repository's is COMMIT. No two have the same: removal goes by commits."""
        first = name == next(iter(self.repositories))
        return COMMIT if first else hashlib.sha1(name.encode()).hexdigest()

    @property
    def fetched(self) -> set[str]:
        return {path.split("/", 5)[5] for path in self.asked if "/resolve/" in path}


@contextmanager
def serving_hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    with Hub(repositories) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def hub_environment(home: Path, hub: Hub | None) -> dict[str, str]:
    """What points the hub's client here; at a closed port where there is no hub.

    Models from packages are looked for in ``home`` as well.
    """
    port = hub.server_port if hub else 9
    return {
        "HF_HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HUB_DISABLE_XET": "1",
    }


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    _commit = COMMIT

    def do_GET(self):
        self.server.asked.append(self.path)
        for name, content in self.server.repositories.items():
            api, commit = f"/api/models/{name}", self.server.commit(name)
            self._commit = commit
            resolved = f"/{name}/resolve/"
            if self.path.startswith(f"{api}/tree/"):
                return self._answer(json.dumps([_entry(*one) for one in content.items()]).encode())
            if self.path in (
                api,
                *(f"{api}/revision/{revision}" for revision in (*REVISIONS, commit)),
            ):
                siblings = [{"rfilename": file} for file in content]
                about = {"id": name, "modelId": name, "sha": commit, "siblings": siblings}
                return self._answer(json.dumps(about).encode())
            if self.path.startswith(resolved):
                file = self.path.removeprefix(resolved).partition("/")[2]
                if file in content:
                    return self._answer(
                        content[file], headers={"ETag": f'"{_blob(content[file])}"'}
                    )
            if self.path.startswith(f"{api}/"):
                return self._answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        if self.path.startswith("/api/models/gated/"):
            return self._answer(b"{}", 403, {"X-Error-Code": "GatedRepo"})
        return self._answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self):
        self.do_GET()

    def _answer(self, body, status=200, headers=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", self._commit)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def _blob(content):
    return hashlib.sha1(content).hexdigest()


def _entry(file, content):
    return {"type": "file", "path": file, "oid": _blob(content), "size": len(content)}
