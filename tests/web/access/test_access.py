"""Keys, scopes, limits and tickets of ``Access``, without sockets."""

from __future__ import annotations

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


def access(time, limits=UNLIMITED, **of_hall) -> Access:
    keys = [
        Key("hall", digest(HALL), limits=Limits(**of_hall)),
        Key("kitchen", digest(KITCHEN), frozenset({"captions"})),
    ]
    return Access(keys, limits, time, time)


def refused(admit, *args) -> RequestRefused:
    with pytest.raises(RequestRefused) as refusal:
        admit(*args)
    return refusal.value


def test_without_keys_every_client_is_admitted(time):
    for secret in (None, "anything"):
        grant = Access((), Limits(), time, time).admit(secret, "live")
        assert grant.scopes == set(SCOPES)


def test_with_keys_only_their_clients_are_admitted(time):
    server = access(time)
    assert server.admit(HALL, "live").name == "hall"
    assert refused(server.admit, None, "live").status == 401
    wrong = refused(server.admit, HALL + "x", None)
    assert (wrong.code, wrong.status) == ("invalid_api_key", 401)
    assert HALL not in wrong.message
    assert error_headers(wrong)["www-authenticate"] == "Bearer"


def test_a_key_is_admitted_for_its_scopes_only(time):
    server = access(time)
    assert server.admit(KITCHEN, "captions").name == "kitchen"
    assert server.admit(KITCHEN, None).name == "kitchen"
    assert refused(server.admit, KITCHEN, "live").status == 403


def test_a_ticket_counts_as_its_key_and_expires(time):
    server = access(time, sessions=1)
    secret, ticket = server.issue(server.admit(HALL, "live"), 60, "settings")
    grant = server.admit(secret, "live")
    assert (grant.name, grant.settings, ticket.expires_at) == ("hall", "settings", 1060)
    assert refused(server.admit, secret, "metrics").code == "forbidden"
    assert refused(server.issue, grant, 60).code == "forbidden"
    with server.admit(HALL, "live").session():
        assert refused(grant.session().__enter__).code == "too_many_sessions"
    time.now = 1060
    assert refused(server.admit, secret, "live").code == "invalid_api_key"


def test_a_ticket_has_no_more_scopes_than_its_key(time):
    server = access(time)
    secret, _ = server.issue(server.admit(KITCHEN, "captions"), 60)
    assert refused(server.admit, secret, "live").code == "forbidden"


def test_tickets_are_bounded_until_some_expire(time):
    server = access(time)
    hall = server.admit(HALL, "live")
    for _ in range(MAX_TICKETS):
        server.issue(hall, 60)
    full = refused(server.issue, hall, 60)
    assert (full.status, error_headers(full)["retry-after"]) == (429, "60")
    server.issue(server.admit(KITCHEN, None), 60)
    time.now += 60
    server.issue(hall, 60)


def test_a_finished_session_no_longer_counts(time):
    server = access(time, sessions=2)
    hall = server.admit(HALL, "live")
    with hall.session():
        second = hall.session()
        second.__enter__()
        refused(hall.session().__enter__)
        assert not second.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        with hall.session():
            pass


def test_rates_are_per_key_and_of_the_server(time):
    server = access(time, Limits(rate=3), rate=1)
    server.admit(HALL, "live")
    slow = refused(server.admit, HALL, "live")
    assert (slow.status, error_headers(slow)["retry-after"]) == (429, "60")
    server.admit(KITCHEN, "captions")
    server.admit(KITCHEN, "captions")
    assert error_headers(refused(server.admit, KITCHEN, "captions"))["retry-after"] == "20"
    time.now += 20
    server.admit(KITCHEN, "captions")


def test_a_refused_request_does_not_count_against_the_rate(time):
    server = access(time, Limits(rate=1))
    for _ in range(5):
        refused(server.admit, "wrong-wrong-wrong-wrong", "live")
        refused(server.admit, KITCHEN, "live")
    server.admit(HALL, "live")


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
