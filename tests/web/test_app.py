"""The server inside another ASGI application, and started from a Python program."""

import os
import signal
import subprocess
import sys

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from support.clips import clip
from support.keys import bearer
from support.weights import TINY_EN_ID
from support.wire import START, s16le

import voxlive
from voxlive.web.access.keys import BadKey

KEY = "the-key-for-all-of-it"

PROGRAM = """
import voxlive

config = voxlive.ServeConfig(port=0, max_sessions=1)
voxlive.serve(config, on_ready=lambda url: print(url, flush=True))
print("over", flush=True)
"""


def hosting(speech, *, lifespan=None) -> Starlette:
    """An application of somebody else's that has this one under a path."""
    own = Route("/", lambda _request: PlainTextResponse("mine"))
    return Starlette(routes=[own, Mount("/speech", speech)], lifespan=lifespan)


def live(client: TestClient, url: str) -> list[dict]:
    """What a live session says of a clip."""
    told: list[dict] = []
    with client.websocket_connect(url) as socket:
        socket.send_json(START)
        socket.send_bytes(s16le(clip("yes").samples))
        socket.send_json({"type": "stop"})
        while not told or told[-1]["type"] != "done":
            told.append(socket.receive_json())
    return told


def test_models_are_loaded_and_freed_with_the_hosts_lifespan() -> None:
    config = voxlive.ServeConfig(max_sessions=1)
    speech = voxlive.create_app(config)
    with TestClient(hosting(speech, lifespan=speech.lifespan), "http://localhost") as client:
        core = speech._core
        assert core.service.engine.info.capacity == 1
        assert client.get("/").text == "mine"
        assert client.get("/speech/health").json()["status"] == "ok"
        page = client.get("/speech/")
        assert page.headers["content-type"].startswith("text/html")
        assert live(client, "ws://localhost/speech/v1/live")[-1]["text"].strip() == "Yes."
        assert client.get("/speech/nothing").status_code == 404
    assert core.service.closing
    assert speech._core is None


def test_mounted_without_a_lifespan_models_are_loaded_by_the_first_request() -> None:
    config = voxlive.ServeConfig(max_sessions=1, api_key=(KEY,))
    speech = voxlive.create_app(config)
    with TestClient(hosting(speech), "http://localhost") as client:
        assert speech._core is None
        assert client.get("/speech/v1/models").status_code == 401
        models = client.get("/speech/v1/models", headers=bearer(KEY)).json()
        assert [one["id"] for one in models["data"]] == [TINY_EN_ID]
        client.portal.call(speech._core.aclose)


def test_the_application_follows_the_lifespan_protocol() -> None:
    speech = voxlive.create_app(voxlive.ServeConfig(max_sessions=1))
    with TestClient(speech, "http://localhost") as client:
        assert speech._core is not None
        assert client.get("/health/live").status_code == 200
    assert speech._core is None


def test_a_mounted_application_refuses_other_hosts() -> None:
    speech = voxlive.create_app(voxlive.ServeConfig(max_sessions=1, allow_host=("speech.test",)))
    with TestClient(speech, "http://speech.test") as client:
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"host": "evil.test"}).status_code == 421


def test_a_bad_key_is_refused_before_loading() -> None:
    with pytest.raises(BadKey):
        voxlive.create_app(voxlive.ServeConfig(api_key=("short",)))


def test_serve_runs_until_a_signal() -> None:
    env = {name: value for name, value in os.environ.items() if name != "VOXLIVE_API_KEY"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/health/ready", timeout=30).status_code == 200
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "over\n")
