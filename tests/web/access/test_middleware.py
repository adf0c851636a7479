"""Every path and every wire format is authenticated, and each refuses in its own form."""

import json

import pytest
from starlette.routing import Mount, Route, WebSocketRoute
from support.asgi import HOST, Running, running
from support.keys import KEYED, KEYS, LIVE, bearer, every_protocol, let_in, url

from voxlive.web.access.middleware import find_rule
from voxlive.web.protocols import PROTOCOLS

STRANGERS = (None, "wrong-wrong-wrong-wrong")
READING = {"/read", "/read/events", "/read/state", "/overlay", "/overlay/{session}"}
OPEN = {"/", "/health", "/health/live", "/health/ready", "/static", *READING}


def websockets(server: Running) -> list[str]:
    return [route.path for route in server.app.routes if isinstance(route, WebSocketRoute)]


def pages(server: Running) -> list[Route | Mount]:
    return [route for route in server.app.routes if not isinstance(route, WebSocketRoute)]


async def test_every_route_has_a_rule():
    async with running() as server:
        for route in pages(server):
            assert isinstance(route, Route | Mount)
            place, rule = find_rule(route.path or "/")
            assert place != "elsewhere", route.path
            assert rule.open == ((route.path or "/") in OPEN), route.path


@pytest.mark.parametrize("secret", STRANGERS)
async def test_no_route_serves_a_client_without_a_key(secret):
    async with running(*KEYED) as server:
        for path in websockets(server):
            code, _ = await server.refused(url(path), headers=bearer(secret))
            assert code in (401, 4401, 1008), path
    closed = [route for route in pages(server) if (route.path or "/") not in OPEN]
    for some in (closed[::3], closed[1::3], closed[2::3]):  # more wrong keys at once would be 429
        async with running(*KEYED) as server:
            for route in some:
                path = route.path.replace("{session}", "abc").replace("{name:path}", "abc")
                for method in route.methods:
                    answer = await server.http.request(method, path, headers=bearer(secret))
                    assert answer.status_code == 401, path
                    assert answer.headers["www-authenticate"] == "Bearer"


async def test_unknown_paths_are_401_without_a_key():
    async with running(*KEYED) as server:
        assert (await server.http.get("/v1/nowhere")).status_code == 401
        answer = await server.http.get("/v1/nowhere", headers=bearer(LIVE))
        assert answer.status_code == 404
        for path in (
            "//v1/models",
            "/static/../v1/models",
            "/static/%2e%2e/v1/models",
            "/health/x",
        ):
            assert (await server.http.get(path)).status_code in (401, 404)


async def test_the_page_is_open_and_health_shows_no_details():
    async with running(*KEYED) as server:
        for path in ("/", "/static/app.js"):
            assert (await server.http.get(path)).status_code == 200
        stranger = (await server.http.get("/health")).json()
        assert stranger == {"status": "ok", "live": True, "ready": True, "key_needed": True}
        friend = (await server.http.get("/health", headers=bearer(KEYS["metrics"]))).json()
        assert (friend["model"], friend["key_needed"]) == ("none", False)


@every_protocol
async def test_a_key_opens_a_protocol_from_every_place(path):
    async with running(*KEYED) as server:
        for headers in (
            bearer(LIVE),
            {"authorization": f"token {LIVE}"},
            {"x-api-key": LIVE},
            *({name: LIVE} for name in PROTOCOLS[path].key_headers),
        ):
            assert await let_in(server, path, headers=headers), headers
        for name in PROTOCOLS[path].key_params:
            assert await let_in(server, path, {name: LIVE})


@every_protocol
async def test_a_key_in_a_subprotocol_is_never_the_one_selected(path):
    openai = f"openai-insecure-api-key.{LIVE}"
    async with running(*KEYED) as server:
        for offered in (("token", LIVE), ("bearer", LIVE), ("realtime", openai)):
            async with server.dial(url(path), offered=offered) as talk:
                assert (talk.code, talk.subprotocol) == (None, offered[0])
        async with server.dial(url(path), offered=(openai,)) as talk:
            assert (talk.code, talk.subprotocol) == (None, None)


@every_protocol
async def test_a_key_without_the_scope_is_refused(path):
    async with running(*KEYED) as server:
        code, said = await server.refused(url(path), headers=bearer(KEYS["files"]))
        assert code in (403, 4403, 1008)
        assert "live" in json.dumps(said)


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/audio/transcriptions", "files"),
        ("POST", "/v1/listen", "files"),
        ("POST", "/v1/realtime/client_secrets", "live"),
        ("POST", "/v1/auth/grant", "live"),
        ("POST", "/v1/client/sessions", "live"),
        ("GET", "/captions", "captions"),
        ("GET", "/v1/shares", "live"),
        ("POST", "/v1/shares", "live"),
        ("DELETE", "/v1/shares/abc", "live"),
        ("GET", "/metrics", "metrics"),
        ("GET", "/v1/sessions/abc", "history"),
    ],
)
async def test_a_path_needs_its_scope(method, path, scope):
    async with running(*KEYED) as server:
        for other, secret in KEYS.items():
            answer = await server.http.request(method, path, headers=bearer(secret))
            opens = other.partition(":")[0] == scope or (other, scope) == ("admin", "history")
            assert (answer.status_code == 403) != opens, (other, answer.text)
            assert answer.status_code != 401


async def test_only_captions_take_the_key_from_the_query():
    async with running(*KEYED) as server:
        query = {"token": KEYS["captions"]}
        assert (await server.http.get("/captions", params=query)).status_code == 200
        assert (await server.http.get("/v1/models", params=query)).status_code == 401


async def test_each_protocol_refuses_in_its_own_form():
    openai = {"message", "type", "param", "code"}
    async with running(*KEYED) as server:
        status, said = await server.refused(url("/v1/realtime"))
        assert (status, said["error"]["code"]) == (401, "invalid_api_key")
        assert set(said["error"]) == openai
        status, said = await server.refused(url("/v1/listen"))
        assert (status, said["err_code"]) == (401, "INVALID_AUTH")
        status, said = await server.refused(url("/v1/audio/transcriptions/realtime"))
        assert (status, said["object"], said["code"]) == (401, "error", "invalid_api_key")
        code, said = await server.refused("/v1/live")
        assert (code, said["code"], said["fatal"]) == (4401, "invalid_api_key", True)
        code, said = await server.refused("/asr")
        assert (code, said["type"], said["code"]) == (4401, "error", "invalid_api_key")
        posted = {path: (await server.http.post(path)).json() for path in POSTED}
    assert posted["/v1/audio/transcriptions"]["error"]["code"] == "invalid_api_key"
    assert set(posted["/v1/audio/transcriptions"]["error"]) == openai
    assert posted["/v1/listen"]["err_code"] == "INVALID_AUTH"
    assert posted["/v1/auth/grant"]["err_code"] == "INVALID_AUTH"
    assert posted["/v1/client/sessions"]["code"] == "invalid_api_key"


POSTED = ("/v1/audio/transcriptions", "/v1/listen", "/v1/auth/grant", "/v1/client/sessions")


@pytest.mark.parametrize("path", POSTED)
async def test_pages_of_other_sites_may_not_post(path):
    async with running(allow=frozenset({"https://friend.test"})) as server:
        for origin, foreign in (
            ("https://elsewhere.test", True),
            ("null", True),
            ("https://friend.test", False),
            (f"http://{HOST}", False),
        ):
            answer = await server.http.post(path, headers={"origin": origin})
            assert (answer.status_code == 403) == foreign
