"""Which Host and which origins are served, and which responses other sites may read (CORS)."""

import socket

import httpx
import pytest
from support.asgi import HOST, running
from support.keys import KEYED, KEYS, LIVE, bearer, every_protocol, url
from support.server import serving
from support.wire import dial, listen
from websockets.exceptions import InvalidStatus

from voxlive.web.access.sites import Origin, Sites, host_names, with_cors

FRIEND = "https://friend.test"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


def scope(host, origin=None, scheme="http", server="127.0.0.1"):
    headers = [(b"host", host.encode())] if host else []
    headers += [(b"origin", origin.encode())] if origin else []
    return {"type": "http", "scheme": scheme, "server": (server, 8000), "headers": headers}


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("https://Friend.test", "https://friend.test"),
        ("https://friend.test/", "https://friend.test"),
        ("https://friend.test:443", "https://friend.test"),
        ("http://friend.test:443", "http://friend.test:443"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_an_origin_is_formatted_as_by_browsers(text, written):
    assert str(Origin.parse(text)) == written


@pytest.mark.parametrize(
    "text", ["null", "", "friend.test", "https://", "https://a:b", "https://a/b", "https://u@a"]
)
def test_invalid_origins(text):
    assert Origin.parse(text) is None


@pytest.mark.parametrize(
    ("host", "origin", "scheme", "let_in"),
    [
        ("a.test", None, "http", True),
        ("a.test", "http://a.test", "http", True),
        ("a.test:80", "http://a.test", "http", True),
        ("a.test", "https://a.test", "https", True),
        ("a.test:443", "https://a.test", "wss", True),
        ("a.test:8000", "http://a.test:8000", "ws", True),
        ("a.test", "https://a.test", "http", False),
        ("a.test", "http://a.test", "https", False),
        ("a.test:8000", "http://a.test", "http", False),
        ("a.test", "http://a.test:8000", "http", False),
        ("a.test", "http://b.test", "http", False),
        ("a.test", "null", "http", False),
        ("a.test", FRIEND, "http", True),
        ("a.test", "https://friend.test:444", "http", False),
        ("a.test", "http://friend.test", "http", False),
        ("a.test", "https://sub.friend.test", "http", False),
    ],
)
def test_a_page_has_the_servers_origin_or_an_allowed_one(host, origin, scheme, let_in):
    refused = Sites([f"{FRIEND}:443"], None).page_refusal(scope(host, origin, scheme))
    assert (refused is None) == let_in


@pytest.mark.parametrize(
    ("host", "server", "served"),
    [
        ("localhost", "127.0.0.1", True),
        ("LOCALHOST.:8000", "127.0.0.1", True),
        ("app.localhost", "127.0.0.1", True),
        ("127.0.0.1:8000", "127.0.0.1", True),
        ("127.0.0.2", "127.0.0.1", True),
        ("[::1]:8000", "::1", True),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.8", "172.17.0.2", True),
        ("allowed.test:9", "127.0.0.1", True),
        ("", "127.0.0.1", True),
        ("evil.test", "127.0.0.1", False),
        ("evil.test", "192.0.2.7", False),
        ("192.0.2.8", "127.0.0.1", False),
        ("127.0.0.1.evil.test", "127.0.0.1", False),
        ("localhost.evil.test", "127.0.0.1", False),
        ("allowed.test.evil.test", "127.0.0.1", False),
        ("evil.test@localhost", "127.0.0.1", False),
        ("a b", "127.0.0.1", False),
        ("[::1", "127.0.0.1", False),
    ],
)
def test_hosts_served_without_keys(host, server, served):
    sites = Sites((), ["Allowed.test"])
    assert (sites.host_refusal(scope(host, server=server)) is None) == served
    assert Sites((), None).host_refusal(scope(host, server=server)) is None
    assert Sites((), ["*"]).host_refusal(scope(host, server=server)) is None


def test_host_names_are_the_bound_name_and_the_machines():
    assert {"box.test", socket.gethostname().lower()} <= host_names("Box.test")


# What a page of a name that was given this server's address would send.
REBOUND = {"host": "evil.test", "origin": "http://evil.test"}


async def test_dns_rebinding_is_refused_over_http(server):
    async with httpx.AsyncClient(base_url=server.url) as http:
        for method, path in (
            ("GET", "/"),
            ("GET", "/captions"),
            ("GET", "/health"),
            ("POST", "/v1/audio/transcriptions"),
            ("POST", "/v1/listen"),
            ("OPTIONS", "/v1/models"),
        ):
            for headers in (REBOUND, {"host": "evil.test"}):
                answer = await http.request(method, path, headers=headers)
                assert answer.status_code == 421, path
                assert "--allow-host" in answer.text
        own = {"host": f"localhost:{server.url.rpartition(':')[2]}"}
        assert (await http.get("/captions", headers=own)).status_code == 200
        foreign = {"origin": "http://evil.test"}
        assert (await http.get("/captions", headers=foreign)).status_code == 403


@every_protocol
async def test_dns_rebinding_is_refused_over_websocket(path):
    async with running(hosts=frozenset()) as app:
        status, said = await app.refused(url(path), headers={"host": "evil.test"})
        assert (status, said["error"]["code"]) == (421, "unknown_host")
        status, said = await app.refused(
            url(path), headers={"host": "localhost", "origin": "http://evil.test"}
        )
        assert (status, said["error"]["code"]) == (403, "foreign_origin")


async def test_a_refused_handshake_has_its_reason(server):
    with pytest.raises(InvalidStatus) as refused:
        async with dial(f"{server.ws}/v1/live", additional_headers={"Origin": "http://evil.test"}):
            pass
    assert refused.value.response.status_code == 403
    assert b"foreign_origin" in refused.value.response.body


@pytest.mark.long
async def test_an_allowed_host_and_a_trusted_proxys_scheme_are_served():
    with serving("--allow-host", "site.test") as server:
        async with httpx.AsyncClient(base_url=server.url) as http:
            page = {"host": "site.test", "origin": "https://site.test"}
            refused = await http.get("/health", headers=page)
            assert refused.status_code == 403
            assert "X-Forwarded-Proto" in refused.text
            proxied = {**page, "x-forwarded-proto": "https"}
            assert (await http.get("/health", headers=proxied)).status_code == 200
        options = ("--allow-host", "site.test", "--forwarded-allow-ips", "192.0.2.1")
        with serving(*options) as other:
            async with httpx.AsyncClient(base_url=other.url) as http:
                assert (await http.get("/health", headers=proxied)).status_code == 403


async def test_a_preflight_needs_no_key():
    async with running(*KEYED, allow=frozenset({FRIEND})) as app:
        for path in ("/v1/audio/transcriptions", "/captions/stage", "/nowhere"):
            answer = await app.http.options(path, headers={"origin": FRIEND, **PREFLIGHT})
            assert answer.status_code == 200, path
            assert answer.headers["access-control-allow-origin"] == FRIEND
            allowed = answer.headers["access-control-allow-headers"]
            assert "authorization" in allowed
            assert "x-stainless-lang" in allowed
            assert "POST" in answer.headers["access-control-allow-methods"]
            assert int(answer.headers["access-control-max-age"]) > 0
            assert "Origin" in answer.headers["vary"]
            other = {"origin": "https://evil.test", **PREFLIGHT}
            refused = await app.http.options(path, headers=other)
            assert refused.status_code == 400
            assert "access-control-allow-origin" not in refused.headers


async def test_every_response_has_cors_headers_for_an_allowed_site():
    async with running(*KEYED, allow=frozenset({FRIEND})) as app:

        async def crash(scope, receive, send):
            raise RuntimeError("as if")

        app.app.router.routes[0].app = crash  # "/"
        transport = httpx.ASGITransport(
            with_cors(app.app, Sites({FRIEND})), raise_app_exceptions=False
        )
        http = httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}")
        files = bearer(KEYS["files"])
        for method, path, key, body, status in (
            ("GET", "/health", {}, b"", 200),
            ("GET", "/v1/models", {}, b"", 401),
            ("GET", "/nowhere", bearer(LIVE), b"", 404),
            ("POST", "/v1/audio/transcriptions", bearer(LIVE), b"", 403),
            ("POST", "/v1/audio/transcriptions", files, b"", 400),
            ("POST", "/v1/realtime/client_secrets", bearer(LIVE), bytes(100_000), 413),
            ("GET", "/captions/nobody", bearer(KEYS["captions"]), b"", 404),
            ("GET", "/", {}, b"", 500),
        ):
            headers = {"origin": FRIEND, **key}
            answer = await http.request(method, path, headers=headers, content=body)
            assert answer.status_code == status, path
            assert answer.headers["access-control-allow-origin"] == FRIEND, path
            assert "Origin" in answer.headers["vary"]
            exposed = answer.headers["access-control-expose-headers"].lower()
            assert {"x-request-id", "retry-after", "x-voxlive-warnings"} <= set(exposed.split(", "))


async def test_without_allowed_sites_there_are_no_cors_headers():
    async with running() as app:
        for method in ("GET", "POST", "OPTIONS"):
            answer = await app.http.request(
                method, "/v1/models", headers={"origin": FRIEND, **PREFLIGHT}
            )
            assert answer.status_code == 403
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_all_sites_can_be_allowed():
    async with running(allow=frozenset({"*"})) as app:
        answer = await app.http.get("/v1/models", headers={"origin": "null"})
        assert answer.headers["access-control-allow-origin"] == "*"
        async with app.dial("/v1/live", headers={"origin": "https://any.test"}) as talk:
            assert talk.status is None


async def test_an_allowed_site_may_open_a_websocket(server):
    with serving("--allow-origin", f"{FRIEND}/") as friendly:
        async with dial(f"{friendly.ws}/v1/live", additional_headers={"Origin": FRIEND}) as socket:
            await socket.send("{}")
            assert (await listen(socket)).errors == ["bad_start"]


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/health/", "/health"),
        ("/captions/?a=b", "/captions?a=b"),
        ("/v1/listen/", "/v1/listen"),
        ("//health/", "/health"),
        ("//evil.test/", None),
        ("/\\evil.test/", None),
    ],
)
async def test_a_redirect_has_a_path_and_no_host(path, location):
    async with running() as app:
        answer = await app.http.get(f"http://{HOST}{path}", headers={"host": "evil.test"})
        assert answer.headers.get("location") == location
        assert answer.status_code == (307 if location else 404)
