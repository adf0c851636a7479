import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hub import COMMIT, hub_environment, serving_hub

from voxlive.checkpoints.resolve import ALIASES, resolve
from voxlive.errors import CheckpointNotFound

REPOSITORY = "someone/speech"
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
PROGRAM = """
import sys
from voxlive.errors import CheckpointError
from voxlive.checkpoints.resolve import resolve
try:
    folder = resolve(sys.argv[1], offline=sys.argv[2] == "offline").folder
    print(folder, *sorted(p.name for p in folder.iterdir()), sep="\\n")
except CheckpointError as error:
    print(error.code, error.message, sep="\\n")
"""


@pytest.fixture
def hub():
    with serving_hub({REPOSITORY: CONTENT}) as server:
        yield server


def resolve_in_process(home, model, hub=None, mode="online", **environment):
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, model, mode],
        env=os.environ | hub_environment(home, hub) | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return answer.stdout.splitlines()


def test_only_the_needed_files_are_downloaded_and_only_once(hub, tmp_path):
    folder, *names = resolve_in_process(tmp_path, REPOSITORY, hub)
    assert set(names) == FETCHED
    assert folder.endswith(COMMIT)
    assert hub.fetched == FETCHED
    hub.asked.clear()
    assert resolve_in_process(tmp_path, REPOSITORY, hub) == [folder, *names]
    assert hub.asked == []
    assert resolve_in_process(tmp_path, REPOSITORY, HF_HUB_OFFLINE="1") == [folder, *names]
    assert resolve_in_process(tmp_path, f"{REPOSITORY}@{COMMIT}", mode="offline") == [
        folder,
        *names,
    ]


def test_a_revision_can_be_pinned(hub, tmp_path):
    folder, *names = resolve_in_process(tmp_path, f"{REPOSITORY}@v1", hub)
    assert set(names) == FETCHED
    assert resolve_in_process(tmp_path, f"{REPOSITORY}@v1", mode="offline") == [folder, *names]
    code, message = resolve_in_process(tmp_path, f"{REPOSITORY}@v2", hub)
    assert code == "checkpoint_not_found"
    assert f"{REPOSITORY}@v2" in message


def test_a_download_that_stopped_half_way_is_finished(hub, tmp_path):
    folder, *_ = resolve_in_process(tmp_path, REPOSITORY, hub)
    Path(folder, "consolidated.safetensors").unlink()
    assert (
        resolve_in_process(tmp_path, REPOSITORY, mode="offline")[0] == "checkpoint_not_downloaded"
    )
    hub.asked.clear()
    assert set(resolve_in_process(tmp_path, REPOSITORY, hub)[1:]) == FETCHED
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
def test_a_failed_download_names_its_reason(hub, tmp_path, model, how, code, says):
    found, message = resolve_in_process(tmp_path, model, hub, **how)
    assert found == code
    assert says in message
    assert not how or hub.asked == []


def test_an_unreachable_hub_is_reported(tmp_path):
    code, message = resolve_in_process(tmp_path, "voxtral")
    assert code == "checkpoint_not_downloaded"
    assert message.startswith(ALIASES["voxtral"])


def test_a_cache_on_disk_serves_aliases(tmp_path):
    owner, name = ALIASES["voxtral"].split("/")
    home = tmp_path / "hub" / f"models--{owner}--{name}"
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    for file in ("config.json", "model.safetensors", "tekken.json"):
        (snapshot / file).write_bytes(TENSORS if file.endswith(".safetensors") else b"{}")
    assert resolve_in_process(tmp_path, "voxtral", mode="offline")[0] == str(snapshot)
    assert resolve_in_process(tmp_path, f"voxtral@{COMMIT}", mode="offline")[0] == str(snapshot)
    assert (
        resolve_in_process(tmp_path, "voxtral@other", mode="offline")[0]
        == "checkpoint_not_downloaded"
    )


def test_a_local_folder_comes_first(tmp_path, monkeypatch):
    assert resolve(str(tmp_path)).folder == tmp_path
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path.parent / "voxtral").symlink_to(tmp_path)
    assert resolve("voxtral", offline=True).folder == tmp_path


@pytest.mark.parametrize("model", ["/no/such/folder", "./gone", "~/gone", "whisper", "a/b/c", ""])
def test_an_invalid_name_is_refused(model):
    with pytest.raises(CheckpointNotFound, match="voxtral, voxtral-bf16"):
        resolve(model)


def test_a_file_is_no_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_text("x")
    with pytest.raises(CheckpointNotFound, match="is no folder"):
        resolve(str(file))
