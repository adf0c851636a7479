"""Replicas on Ray Serve without Ray: their options, what is told to Ray, and how one is drained."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from fsspec.core import url_to_fs
from support.clips import clip
from support.object_store import BUCKET, s3_serving
from support.ray_replicas import ray_replicas
from support.wire import START, dial, listen, receive_until, s16le, send

from voxlive.cli.cluster import LocalNode
from voxlive.cluster import (
    NODE_ENVIRONMENT,
    Ingress,
    Replica,
    SessionsPolicy,
    check_node,
    check_options,
    read_options,
)
from voxlive.web.config import ConfigError, ServeConfig

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy" / "ray"
DRAINING = "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"
SHARED = {"state": "redis://127.0.0.1:6379/0", "ticket_key": "what-replicas-sign-with"}


def test_the_deployed_config_is_about_this_server():
    config = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
    [deployed] = config["applications"]
    module, _, name = deployed["import_path"].partition(":")
    assert callable(getattr(import_module(module), name))
    options = read_options(deployed["args"], {"VOXLIVE_STATE": SHARED["state"]})
    lines = (DEPLOY / "node.env").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert environment == NODE_ENVIRONMENT
    check_node(environment, options.drain_seconds)
    [deployment] = deployed["deployments"]
    assert deployment["name"] == Replica.__name__
    assert deployment["graceful_shutdown_timeout_s"] >= float(environment[DRAINING]) + 5
    policy = deployment["autoscaling_config"]["policy"]
    module, _, name = policy["policy_function"].partition(":")
    assert getattr(import_module(module), name)(**policy["policy_kwargs"])
    if find_spec("ray"):
        from ray.serve.schema import ServeDeploySchema

        ServeDeploySchema.model_validate(config)


def test_options_come_from_a_file_the_environment_and_the_arguments(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('[serve]\nport = 8123\nmax-sessions = 2\nrate = 30\nlive = { a = "b" }\n')
    environment = {
        "VOXLIVE_RATE": "20",
        "VOXLIVE_PORT": "tcp://10.0.0.1",
        "VOXLIVE_ALSO": "c=d e=f",
    }
    args = {"config": str(file), "max-sessions": "4", "no-store": True, "quantize": 8}
    options = read_options(args, environment)
    assert options == ServeConfig(
        max_sessions=4, rate=20.0, live=("a=b",), also=("c=d", "e=f"), no_store=True, quantize=8
    )
    for wrong, named in (
        ({"max-sessions": "four"}, "max-sessions: 'four'"),
        ({"no-store": "perhaps"}, "no-store"),
        ({"quantize": 5}, "quantize"),
        ({"port": 8000}, "port is not an option"),
        ({"modle": "voxtral"}, "modle is not an option"),
        ({"config": str(tmp_path / "none")}, "cannot read"),
    ):
        with pytest.raises(ConfigError, match=named):
            read_options(wrong, {})
    with pytest.raises(ConfigError, match="VOXLIVE_RATE: 'often'"):
        read_options({}, {"VOXLIVE_RATE": "often"})


def test_what_replicas_cannot_be_is_refused_before_they_start():
    for options, named in (
        ({}, "state"),
        ({**SHARED}, "others can reach"),
        ({**SHARED, "insecure": True, "https": True}, "https"),
    ):
        with pytest.raises(ConfigError, match=named):
            check_options(ServeConfig(**options), 2)
    with pytest.raises(ConfigError, match=r"RAY_SERVE_ENABLE_HA_PROXY=1"):
        check_node({}, 10)
    with pytest.raises(ConfigError, match=rf"{DRAINING}=33"):
        check_node(NODE_ENVIRONMENT, 30)


def test_autoscaling_wants_a_share_of_the_slots_in_use():
    def wanted(**metrics) -> float:
        context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=3)
        return SessionsPolicy(0.5)(context)[0]

    assert wanted() == 3
    assert wanted(sessions={"a": 10, "b": 0}, slots={"a": 10, "b": 10}) == 2
    assert wanted(sessions={"a": 10, "b": 9}, slots={"a": 10, "b": 10}) == pytest.approx(3.8)
    assert wanted(sessions={"a": 0}, slots={"a": 10}) == 0


async def test_sessions_are_drained_as_soon_as_ray_says_that_the_replica_is_to_end():
    health, drained, seen = [b"success"], asyncio.Event(), []

    async def ray(scope, receive, send):
        seen.append(scope)
        if scope["path"] == "/-/healthz":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": health[0]})
        elif scope["path"] == "/captions/stage":
            await asyncio.Event().wait()

    async def drain():
        drained.set()

    ingress = Ingress(ray, lambda: drain)
    await ingress({"type": "websocket", "path": "/asr", "headers": [(b"host", b"a")]}, None, None)
    assert seen[0]["headers"] == [(b"host", b"a"), (b"x-request-disconnect-disabled", b"?1")]
    while len(seen) < 3:  # noqa: ASYNC110 - it asks by the clock
        await asyncio.sleep(0.05)
    assert not drained.is_set()
    reader = asyncio.create_task(
        ingress({"type": "http", "path": "/captions/stage", "headers": []}, None, None)
    )
    health[0] = b"DRAINING"
    await asyncio.wait_for(drained.wait(), 30)
    await asyncio.wait([reader], timeout=30)
    assert reader.cancelled()
    proxy = Ingress(ray, lambda: None)  # where there is no replica
    await proxy({"type": "http", "path": "/", "headers": []}, None, None)
    assert seen[-1]["headers"] == []


def test_the_commands_say_what_is_missing(tmp_path):
    """With a package of that name in the way that cannot be imported, if Ray is there."""
    program = "import sys; sys.modules['ray'] = None; from voxlive.cli.main import app; app()"
    for command in ("up", "status", "down"):
        done = subprocess.run(
            [sys.executable, "-c", program, "cluster", command], capture_output=True, text=True
        )
        assert done.returncode == 1
        assert "pip install 'voxlive[cluster]'" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.timeout(600)
async def test_the_end_of_the_replicas_is_told_as_that_of_a_server(tmp_path, postgres_server):
    speech = s16le(clip("doctor").samples[: 3 * 16_000])
    model = ("--model", str(ROOT / "tests" / "models" / "tiny-voxtral"), "--device", "cpu")
    store = postgres_server.new_database()
    with ray_replicas(tmp_path, store, *model, "--max-sessions", "2") as running:
        assert "RUNNING: 2" in await asyncio.to_thread(running.run, "status")
        node = running.node
        async with dial(running.url) as socket:
            await send(socket, START, speech)
            await receive_until(socket, "speech_started")
            ending = asyncio.create_task(asyncio.to_thread(running.run, "down"))
            heard = await listen(socket)
            await ending
    assert heard.errors == ["shutting_down"]
    assert len(heard.of("done")) == 1
    assert heard.code == 1012
    assert not await asyncio.to_thread(Path(node["folder"]).exists)


@pytest.mark.endurance
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_every_file_of_an_archive_is_done_once_though_a_worker_is_killed(
    tmp_path, monkeypatch, kind
):
    """And the command, which goes on where it was."""
    if not find_spec("ray"):
        pytest.skip("Ray is not installed: pip install 'voxlive[cluster]'")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    files, out = tmp_path / "heard", tmp_path / "out"
    files.mkdir()
    texts = {}
    for number in range(200):
        name = ("yes", "doctor")[number % 20 == 0]
        texts[f"{number}.txt"] = name
        (files / f"{number}.flac").write_bytes(clip(name).path.read_bytes())
    with ExitStack() as stack:
        url = str(files)
        if kind == "s3":
            for name, value in stack.enter_context(s3_serving()).items():
                monkeypatch.setenv(name, value)
            url = f"s3://{BUCKET}/heard"
            store, root = url_to_fs(url)
            store.put(f"{files}/", root, recursive=True)
        node = LocalNode.start("http://127.0.0.1:0", 2)
        stack.callback(node.end)
        for name, value in node.token.items():
            monkeypatch.setenv(name, value)
        command = [sys.executable, "-m", "voxlive.cli.main", "transcribe", url, "-o", str(out)]
        command += ["--model", "whisper-tiny.en", "--offline", "--ray", node.address]

        def run(until: int, then: Callable[[subprocess.Popen[str]], object]) -> str:
            """What it says last; ``then`` is called when so many files are done."""
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            with subprocess.Popen(command, **pipes) as process:
                while len([*out.glob("*.txt")]) < until:
                    assert process.poll() is None, process.stderr.read()
                    time.sleep(0.1)
                then(process)
                printed, said = process.communicate(timeout=600)
                assert printed == ""
                return said.splitlines()[-1]

        ended = run(30, lambda process: process.send_signal(signal.SIGTERM))
        assert ended == "voxlive: ended by SIGTERM"
        before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.txt")}
        assert 30 <= len(before) < 150
        said = run(len(before) + 20, lambda _: next(workers_of(node)).kill())
        skipped, done = len(before), 200 - len(before)
        assert {*said.removeprefix("voxlive: ").split(", ")} == {
            f"{skipped} skipped",
            f"{done} done",
        }
    written = {path.name: path for path in out.iterdir()}
    assert written.keys() == texts.keys()
    assert {name: written[name].stat().st_mtime_ns for name in before} == before
    read: dict[str, set[str]] = {"yes": set(), "doctor": set()}
    for name, kind_of in texts.items():
        read[kind_of].add(written[name].read_text())
    assert read["yes"] == {"Yes.\n"}
    assert len(read["doctor"]) == 1


def workers_of(node: LocalNode) -> Iterator[psutil.Process]:
    """Those that do files now."""
    for process in psutil.Process(node.pid).children(recursive=True):
        if "transcribe_file" in " ".join(process.cmdline()):
            yield process
