"""The endpoints that issue short-lived keys, and what those keys open."""

from __future__ import annotations

from datetime import datetime

import pytest
from support.asgi import Running, running
from support.keys import KEYS, LIVE, bearer, every_protocol, let_in, url

from voxlive.web.access.keys import Key, digest

HALL_TICKETS = Key("hall", digest(LIVE))


async def secret_of(server: Running, **body) -> str:
    path = "/v1/realtime/client_secrets"
    answer = await server.http.post(path, json=body, headers=bearer(LIVE))
    assert answer.status_code == 200
    return answer.json()["value"]


@every_protocol
async def test_a_short_lived_key_opens_each_protocol_until_it_expires(path):
    async with running(HALL_TICKETS) as server:
        secret = await secret_of(server, expires_after={"seconds": 10})
        assert await let_in(server, path, offered=("token", secret))
        server.clock[0] += 9
        assert await let_in(server, path, headers=bearer(secret))
        server.clock[0] += 1
        code, _ = await server.refused(url(path), offered=("token", secret))
        assert code in (401, 4401, 1008)


async def test_a_session_may_outlast_its_short_lived_key():
    async with running(HALL_TICKETS) as server:
        secret = await secret_of(server, expires_after={"seconds": 10})
        async with server.dial("/v1/live", offered=("token", secret)) as talk:
            server.clock[0] += 3600
            talk.send('{"type": "start", "format": "s16le"}')
            talk.send('{"type": "stop"}')
            await talk.over.wait()
            assert talk.code == 1000


async def test_a_short_lived_key_issues_no_others_and_reads_no_metrics():
    async with running(HALL_TICKETS) as server:
        secret = await secret_of(server)
        for path in ("/v1/realtime/client_secrets", "/v1/auth/grant", "/v1/client/sessions"):
            assert (await server.http.post(path, headers=bearer(secret))).status_code == 403
        assert (await server.http.get("/metrics", headers=bearer(secret))).status_code == 403
        assert (await server.http.get("/v1/models", headers=bearer(secret))).status_code == 200


@pytest.mark.parametrize("keys", [(), (HALL_TICKETS,)])
async def test_the_requested_session_applies_to_the_key(keys):
    session = {"audio": {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None}}}
    async with running(*keys) as server:
        secret = await secret_of(server, session=session)
        offered = ("realtime", f"openai-insecure-api-key.{secret}")
        async with server.dial("/v1/realtime", offered=offered) as talk:
            while not talk.said:
                talk.answered.clear()
                await talk.answered.wait()
            inside = talk.said[0]["session"]["audio"]["input"]
    assert inside["format"] == {"type": "audio/pcmu"}
    assert inside["turn_detection"] is None


async def test_deepgram_grant():
    async with running(HALL_TICKETS) as server:
        for body, lasts in (({}, 30), ({"ttl_seconds": 90}, 90)):
            answer = await server.http.post("/v1/auth/grant", json=body, headers=bearer(LIVE))
            assert answer.json()["expires_in"] == lasts
            token = answer.json()["access_token"]
            assert await let_in(server, "/v1/listen", headers=bearer(token))
            server.clock[0] += lasts
            assert (await server.refused(url("/v1/listen"), headers=bearer(token)))[0] == 401
        body = {"ttl_seconds": 0}
        answer = await server.http.post("/v1/auth/grant", json=body, headers=bearer(LIVE))
        assert (answer.status_code, answer.json()["err_code"]) == (400, "Bad Request")


async def test_mistral_client_sessions():
    path = "/v1/client/sessions"
    body = {"model": "any", "purpose": "realtime", "ttl_seconds": 60}
    async with running(HALL_TICKETS) as server:
        answer = await server.http.post(path, json=body, headers=bearer(LIVE))
        assert answer.status_code == 201
        made = answer.json()
        assert (made["object"], made["purpose"]) == ("client.session", "realtime")
        expires = datetime.fromisoformat(made["client_secret"]["expires_at"])
        assert expires.timestamp() == server.clock[0] + 60
        secret = made["client_secret"]["value"]
        assert await let_in(server, "/v1/audio/transcriptions/realtime", headers=bearer(secret))
        answer = await server.http.post(path, json={"ttl_seconds": "x"}, headers=bearer(LIVE))
        assert (answer.status_code, answer.json()["param"]) == (400, "ttl_seconds")


async def test_a_key_without_the_live_scope_issues_none():
    only_files = Key("files", digest(KEYS["files"]), frozenset({"files"}))
    async with running(only_files) as server:
        answer = await server.http.post("/v1/auth/grant", headers=bearer(KEYS["files"]))
        assert answer.status_code == 403
