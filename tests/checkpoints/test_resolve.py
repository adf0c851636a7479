import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from voxlive.checkpoints.errors import CheckpointNotFound
from voxlive.checkpoints.resolve import ALIASES, resolve

REPOSITORY = "someone/speech"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEEDED = {"params.json", "consolidated.safetensors", "tekken.json"}
FETCHED = NEEDED | {"config.json"}
REALTIME = {"multimodal": {"whisper_model_args": {"encoder_args": {"causal": True}}}}
DOCUMENTS = {"params.json": REALTIME, "config.json": {"model_type": "voxtral_realtime"}}
OTHERS = ("model.safetensors", "README.md", "generation_config.json")
ENTRY = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
TENSORS = len(ENTRY).to_bytes(8, "little") + ENTRY + bytes(4)
CONTENT = {
    name: TENSORS
    if name.endswith(".safetensors")
    else json.dumps(DOCUMENTS.get(name, name * 50)).encode()
    for name in (*FETCHED, *OTHERS)
}
# The hub's client reads its settings when it is imported, so it runs in a process of its own.
ASK = """
import sys
from voxlive.checkpoints.errors import CheckpointError
from voxlive.checkpoints.resolve import resolve
try:
    folder = resolve(sys.argv[1], offline=sys.argv[2] == "offline")
    print(folder, *sorted(p.name for p in folder.iterdir()), sep="\\n")
except CheckpointError as error:
    print(error.code, error.message, sep="\\n")
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for; notes every request."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            self._answer(json.dumps([_entry(name) for name in CONTENT]).encode())
        elif (
            self.path
            in (f"/api/models/{REPOSITORY}/revision/{rev}" for rev in ("main", "v1", COMMIT))
            or self.path == f"/api/models/{REPOSITORY}"
        ):
            siblings = [{"rfilename": name} for name in CONTENT]
            about = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings}
            self._answer(json.dumps(about).encode())
        elif self.path.startswith(f"/{REPOSITORY}/resolve/") and self._name in CONTENT:
            self._answer(CONTENT[self._name])
        elif self.path.startswith(f"/api/models/{REPOSITORY}/"):
            self._answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        elif self.path.startswith("/api/models/gated/"):
            self._answer(b"{}", 403, {"X-Error-Code": "GatedRepo"})
        else:
            self._answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self):
        self.do_GET()

    @property
    def _name(self):
        return self.path.rpartition("/")[2]

    def _answer(self, body, status=200, headers=()):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        if self._name in CONTENT:
            self.send_header("ETag", f'"{_blob(self._name)}"')
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def _blob(name):
    return hashlib.sha1(CONTENT[name]).hexdigest()


def _entry(name):
    return {"type": "file", "path": name, "oid": _blob(name), "size": len(CONTENT[name])}


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(home, model, hub=None, mode="online", **environment):
    port = hub.server_port if hub else 9
    answer = subprocess.run(
        [sys.executable, "-c", ASK, model, mode],
        env=os.environ
        | {
            "HF_HOME": str(home),
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HUB_DISABLE_XET": "1",
        }
        | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return answer.stdout.splitlines()


def test_only_the_needed_files_are_downloaded_and_only_once(hub, tmp_path):
    folder, *names = ask(tmp_path, REPOSITORY, hub)
    assert set(names) == FETCHED
    assert folder.endswith(COMMIT)
    fetched = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert fetched == FETCHED
    hub.asked.clear()
    assert ask(tmp_path, REPOSITORY, hub) == [folder, *names]
    assert hub.asked == []
    assert ask(tmp_path, REPOSITORY, HF_HUB_OFFLINE="1") == [folder, *names]
    assert ask(tmp_path, f"{REPOSITORY}@{COMMIT}", mode="offline") == [folder, *names]


def test_a_revision_can_be_pinned(hub, tmp_path):
    folder, *names = ask(tmp_path, f"{REPOSITORY}@v1", hub)
    assert set(names) == FETCHED
    assert ask(tmp_path, f"{REPOSITORY}@v1", mode="offline") == [folder, *names]
    code, message = ask(tmp_path, f"{REPOSITORY}@v2", hub)
    assert code == "checkpoint_not_found"
    assert f"{REPOSITORY}@v2" in message


def test_a_download_that_stopped_half_way_is_finished(hub, tmp_path):
    folder, *_ = ask(tmp_path, REPOSITORY, hub)
    Path(folder, "consolidated.safetensors").unlink()
    assert ask(tmp_path, REPOSITORY, mode="offline")[0] == "checkpoint_not_downloaded"
    hub.asked.clear()
    assert set(ask(tmp_path, REPOSITORY, hub)[1:]) == FETCHED
    assert hub.asked


@pytest.mark.parametrize(
    ("model", "how", "code", "says"),
    [
        ("no/such", {}, "checkpoint_not_found", "the hub has no no/such, or it is private"),
        ("gated/model", {}, "checkpoint_not_downloaded", "accept them on its page"),
        (REPOSITORY, {"mode": "offline"}, "checkpoint_not_downloaded", "without --offline"),
        (REPOSITORY, {"HF_HUB_OFFLINE": "1"}, "checkpoint_not_downloaded", "HF_HUB_OFFLINE"),
    ],
)
def test_what_is_not_to_be_had_is_said(hub, tmp_path, model, how, code, says):
    found, message = ask(tmp_path, model, hub, **how)
    assert found == code
    assert says in message
    assert not how or hub.asked == []


def test_a_hub_that_does_not_answer_is_said(tmp_path):
    code, message = ask(tmp_path, "voxtral")
    assert code == "checkpoint_not_downloaded"
    assert message.startswith(ALIASES["voxtral"])


def test_a_hand_made_cache_serves_aliases(tmp_path):
    owner, name = ALIASES["voxtral"].split("/")
    home = tmp_path / "hub" / f"models--{owner}--{name}"
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    for file in ("config.json", "model.safetensors", "tekken.json"):
        (snapshot / file).write_bytes(TENSORS if file.endswith(".safetensors") else b"{}")
    assert ask(tmp_path, "voxtral", mode="offline")[0] == str(snapshot)
    assert ask(tmp_path, f"voxtral@{COMMIT}", mode="offline")[0] == str(snapshot)
    assert ask(tmp_path, "voxtral@other", mode="offline")[0] == "checkpoint_not_downloaded"


def test_a_local_folder_comes_first(tmp_path, monkeypatch):
    assert resolve(str(tmp_path)) == tmp_path
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path.parent / "voxtral").symlink_to(tmp_path)
    assert resolve("voxtral", offline=True) == Path("voxtral")


@pytest.mark.parametrize("model", ["/no/such/folder", "./gone", "~/gone", "whisper", "a/b/c", ""])
def test_a_name_that_means_nothing_is_refused(model):
    with pytest.raises(CheckpointNotFound, match="voxtral, voxtral-bf16"):
        resolve(model)


def test_a_file_is_no_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_text("x")
    with pytest.raises(CheckpointNotFound, match="is no folder"):
        resolve(str(file))
