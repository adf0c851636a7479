"""``GET /health`` and its probes, and ``GET /v1/models``."""

import httpx
import pytest
from support.asgi import running
from support.keys import KEYED


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield http


def test_health_has_the_engine(client):
    response = client.get("/health")
    assert response.status_code == 200
    health = response.json()
    assert (health["status"], health["live"], health["ready"]) == ("ok", True, True)
    assert health["engine"] == "whisper"
    assert 0 <= health["in_use"] <= health["capacity"]
    assert health["note"]
    assert f": {health['command']} serve --model" in health["note"]
    assert health["error"] is None


def test_models_have_openais_shape(client):
    [model] = client.get("/v1/models").json()["data"]
    assert model["object"] == "model"
    assert client.get(f"/v1/models/{model['id']}").json() == model
    missing = client.get("/v1/models/org/none")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


async def test_liveness_and_readiness():
    async with running(*KEYED) as app:
        for path in ("/health/live", "/health?live"):
            assert (await app.http.get(path)).json() == {"status": "ok", "live": True}
        ready = await app.http.get("/health/ready")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
