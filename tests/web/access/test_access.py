"""Keys, scopes, limits and tickets of ``Access``, without sockets."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import ExitStack

import pytest

from voxlive.errors import RequestRefused
from voxlive.web.access.access import MAX_TICKETS, Access, Tickets
from voxlive.web.access.keys import SCOPES, Key, Limits, digest
from voxlive.web.errors import error_headers

HALL, KITCHEN = "hall-hall-hall-hall", "kitchen-kitchen-kitchen"
UNLIMITED = Limits()


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def access(time, limits=UNLIMITED, ticket_key=None, **of_hall) -> Access:
    keys = [
        Key("hall", digest(HALL), limits=Limits(**of_hall)),
        Key("kitchen", digest(KITCHEN), frozenset({"captions"})),
    ]
    return Access(keys, limits, time, time, ticket_key=ticket_key)


async def refused(admit, *args) -> RequestRefused:
    async def ask() -> None:
        answer = admit(*args)
        if isinstance(answer, Awaitable):
            await answer

    with pytest.raises(RequestRefused) as refusal:
        await ask()
    return refusal.value


async def test_without_keys_every_client_is_admitted(time):
    for secret in (None, "anything"):
        grant = await Access((), Limits(), time, time).admit(secret, "live")
        assert grant.scopes == set(SCOPES)


async def test_with_keys_only_their_clients_are_admitted(time):
    server = access(time)
    assert (await server.admit(HALL, "live")).name == "hall"
    assert (await refused(server.admit, None, "live")).status == 401
    wrong = await refused(server.admit, HALL + "x", None)
    assert (wrong.code, wrong.status) == ("invalid_api_key", 401)
    assert HALL not in wrong.message
    assert error_headers(wrong)["www-authenticate"] == "Bearer"


async def test_a_key_is_admitted_for_its_scopes_only(time):
    server = access(time)
    assert (await server.admit(KITCHEN, "captions")).name == "kitchen"
    assert (await server.admit(KITCHEN, None)).name == "kitchen"
    assert (await refused(server.admit, KITCHEN, "live")).status == 403


async def test_a_ticket_counts_as_its_key_and_expires(time):
    server = access(time, sessions=1)
    secret, ticket = server.issue(await server.admit(HALL, "live"), 60, {"a": "setting"})
    grant = await server.admit(secret, "live")
    assert (grant.name, grant.settings, ticket.expires_at) == ("hall", {"a": "setting"}, 1060)
    assert (await refused(server.admit, secret, "metrics")).code == "forbidden"
    assert (await refused(server.issue, grant, 60)).code == "forbidden"
    with ExitStack() as session:
        await server.take_session(await server.admit(HALL, "live"), session)
        assert (await refused(server.take_session, grant, session)).code == "too_many_sessions"
    time.now = 1060
    assert (await refused(server.admit, secret, "live")).code == "invalid_api_key"


async def test_a_ticket_has_no_more_scopes_than_its_key(time):
    server = access(time)
    secret, _ = server.issue(await server.admit(KITCHEN, "captions"), 60)
    assert (await refused(server.admit, secret, "live")).code == "forbidden"


async def test_a_ticket_is_good_at_every_server_that_signs_with_the_same_key(time):
    signing = "the-same-key-at-both"
    one, two = (access(time, ticket_key=signing) for _ in range(2))
    secret, _ = one.issue(await one.admit(HALL, "live"), 60, {"a": "setting"})
    assert (await two.admit(secret, "live")).settings == {"a": "setting"}
    forged = [
        secret[:-2],
        f"{secret[:-6]}AAAAAA",
        f"{secret[:9]}AAA{secret[12:]}",
        secret.partition(".")[0],
        f"{secret.partition('.')[0]}.",
        f"{secret}é",
        "ek_!.!",
        "ek_.",
    ]
    strangers = (access(time), access(time, ticket_key="another-key-than-that"))
    for wrong in (*((two, one) for one in forged), *((one, secret) for one in strangers)):
        assert (await refused(wrong[0].admit, wrong[1], "live")).code == "invalid_api_key"
    keyless = Access((), Limits(), time, time, ticket_key=signing)  # the key is gone there
    assert (await keyless.admit(secret, "live")).settings is None
    only_reads = Key("hall", digest(HALL), frozenset({"captions"}))
    narrowed = Access([only_reads], Limits(), time, time, ticket_key=signing)
    assert (await refused(narrowed.admit, secret, "live")).code == "forbidden"
    changed = Access([Key("hall", digest("another-" + HALL))], Limits(), time, ticket_key=signing)
    assert (await refused(changed.admit, secret, "live")).code == "invalid_api_key"
    time.now += 60
    assert (await refused(two.admit, secret, "live")).code == "invalid_api_key"
    words = {"prompt": "".join(map(chr, range(0x4E00, 0x4E00 + 6000)))}
    hall = await one.admit(HALL, "live")
    assert (await refused(one.issue, hall, 60, words)).code == "too_big"


async def test_tickets_are_bounded_until_some_expire(time):
    server = access(time)
    hall = await server.admit(HALL, "live")
    for _ in range(MAX_TICKETS):
        server.issue(hall, 60)
    full = await refused(server.issue, hall, 60)
    assert (full.status, error_headers(full)["retry-after"]) == (429, "60")
    server.issue(await server.admit(KITCHEN, None), 60)
    time.now += 60
    server.issue(hall, 60)


async def test_a_finished_session_no_longer_counts(time):
    server = access(time, sessions=2)
    hall = await server.admit(HALL, "live")
    with ExitStack() as first, ExitStack() as second:
        await server.take_session(hall, first)
        await server.take_session(hall, second)
        await refused(server.take_session, hall, second)
        second.close()
        await server.take_session(hall, second)


async def test_rates_are_per_key_and_of_the_server(time):
    server = access(time, Limits(rate=3), rate=1)
    await server.admit(HALL, "live")
    slow = await refused(server.admit, HALL, "live")
    assert (slow.status, error_headers(slow)["retry-after"]) == (429, "60")
    await server.admit(KITCHEN, "captions")
    await server.admit(KITCHEN, "captions")
    assert error_headers(await refused(server.admit, KITCHEN, "captions"))["retry-after"] == "20"
    time.now += 20
    await server.admit(KITCHEN, "captions")


async def test_a_refused_request_does_not_count_against_the_rate(time):
    server = access(time, Limits(rate=1))
    for _ in range(5):
        await refused(server.admit, "wrong-wrong-wrong-wrong", "live")
        await refused(server.admit, KITCHEN, "live")
    await server.admit(HALL, "live")


def test_refusals_are_counted_and_passed_to_listeners(time):
    server, seen = access(time), []
    server.error_listeners.append(lambda *what: seen.append(what))
    server.count_error("invalid_api_key", "/v1/listen")
    assert server.errors["invalid_api_key", "/v1/listen"] == 1
    assert seen == [("invalid_api_key", "/v1/listen")]


@pytest.mark.parametrize("noticed", [True, False])
def test_an_expired_ticket_stays_expired_when_the_calendar_is_set_back(noticed):
    calendar, clock = [1e9], [0.0]
    tickets = Tickets(lambda: calendar[0], lambda: clock[0])
    secret, _ = tickets.issue("hall", frozenset({"live"}), 60)
    calendar[0], clock[0] = 1e9 + 59, 59
    assert tickets.find(secret)
    calendar[0], clock[0] = 1e9 + 61, 61
    if noticed:
        assert tickets.find(secret) is None
        clock[0] = 0  # as if only the calendar counted
    calendar[0] = 1e9 - 3600
    assert tickets.find(secret) is None
