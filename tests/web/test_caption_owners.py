"""Which keys may read a session's captions, and which key owns a captions name."""

import pytest
from support.asgi import running
from support.keys import bearer, every_protocol, url

from voxlive.web.access.keys import BadKey, Key, digest, read_keys

HALL, KITCHEN, SCREEN, LOBBY, ALL = (f"the-key-of-the-{n}" for n in range(5))
KEYS = (
    Key("hall", digest(HALL)),
    Key("kitchen", digest(KITCHEN)),
    Key("screen", digest(SCREEN), frozenset({"captions"}), reads=frozenset({"hall"})),
    Key("lobby", digest(LOBBY), frozenset({"captions"})),
    Key("all", digest(ALL), frozenset({"captions:all"})),
)


def named(path: str, name: str) -> str:
    at = url(path)
    return f"{at}{'&' if '?' in at else '?'}captions={name}"


async def test_a_key_reads_captions_of_its_own_and_its_listed_keys():
    listen = url("/v1/listen")
    async with (
        running(*KEYS) as server,
        server.dial(f"{listen}&captions=stage", headers=bearer(HALL)),
        server.dial(f"{listen}&captions=stove", headers=bearer(KITCHEN)),
    ):
        for key, names in (
            (HALL, {"stage"}),
            (KITCHEN, {"stove"}),
            (SCREEN, {"stage"}),
            (LOBBY, set()),
            (ALL, {"stage", "stove"}),
        ):
            listed = (await server.http.get("/captions", headers=bearer(key))).json()
            assert {one["name"] for one in listed["sessions"]} == names
            for name in {"stage", "stove"} - names:
                for suffix in ("", ".vtt"):
                    path = f"/captions/{name}{suffix}"
                    answer = await server.http.get(path, headers=bearer(key))
                    assert answer.status_code == 404
                    assert answer.json()["error"]["code"] == "no_such_session"


@every_protocol
async def test_a_captions_name_is_reserved_for_one_key_while_in_use(path):
    async with running(*KEYS) as server:
        async with server.dial(named(path, "stage"), headers=bearer(HALL)):
            code, said = await server.refused(named(path, "stage"), headers=bearer(KITCHEN))
            assert code in (409, 4409, 1008, 1011)
            assert "another key" in str(said)
            # Its own key may have it again, and keeps it while one of them is there.
            async with server.dial(named(path, "stage"), headers=bearer(HALL)) as second:
                assert (second.status, second.code) == (None, None)
            code, _ = await server.refused(named(path, "stage"), headers=bearer(KITCHEN))
            assert code in (409, 4409, 1008, 1011)
        async with server.dial(named(path, "stage"), headers=bearer(KITCHEN)) as later:
            assert (later.status, later.code) == (None, None)


async def test_without_keys_all_captions_can_be_read():
    async with running() as server, server.dial(f"{url('/v1/listen')}&captions=stage"):
        listed = (await server.http.get("/captions")).json()["sessions"]
        assert [one["name"] for one in listed] == ["stage"]


def test_the_keys_file_lists_whose_captions_a_key_reads():
    hall, screen = read_keys(
        f'[hall]\nkey = "{HALL}"\n[screen]\nkey = "{SCREEN}"\n'
        'scopes = ["captions"]\nfor = ["hall"]\n'
    )
    assert (hall.reads, screen.reads) == (frozenset(), frozenset({"hall"}))
    assert "captions:all" not in hall.scopes
    for wrong in ('for = "hall"', 'for = ["cellar"]', "for = [1]"):
        with pytest.raises(BadKey):
            read_keys(f'[hall]\nkey = "{HALL}"\n[screen]\nkey = "{SCREEN}"\n{wrong}\n')
