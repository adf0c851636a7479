import pytest

from voxlive.web.access.access import Access
from voxlive.web.access.keys import SCOPES, Key, digest
from voxlive.web.access.limits import Limits
from voxlive.web.access.refusal import Refusal
from voxlive.web.access.tickets import MOST

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


def refused(admit, *args) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        admit(*args)
    return refusal.value


def test_without_keys_everyone_is_let_in(time):
    for secret in (None, "anything"):
        grant = Access((), Limits(), time, time).admit(secret, "live")
        assert grant.scopes == set(SCOPES)


def test_with_keys_nobody_else_is(time):
    door = access(time)
    assert door.admit(HALL, "live").name == "hall"
    assert refused(door.admit, None, "live").status == 401
    wrong = refused(door.admit, HALL + "x", None)
    assert (wrong.code, wrong.status) == ("invalid_api_key", 401)
    assert HALL not in wrong.message
    assert wrong.headers["www-authenticate"] == "Bearer"


def test_a_key_opens_its_scopes_alone(time):
    door = access(time)
    assert door.admit(KITCHEN, "captions").name == "kitchen"
    assert door.admit(KITCHEN, None).name == "kitchen"
    assert refused(door.admit, KITCHEN, "live").status == 403


def test_a_ticket_is_its_keys_and_expires(time):
    door = access(time, sessions=1)
    secret, ticket = door.issue(door.admit(HALL, "live"), 60, "settings")
    grant = door.admit(secret, "live")
    assert (grant.name, grant.settings, ticket.expires_at) == ("hall", "settings", 1060)
    assert refused(door.admit, secret, "metrics").code == "forbidden"
    assert refused(door.issue, grant, 60).code == "forbidden"
    with door.admit(HALL, "live").session():
        assert refused(grant.session().__enter__).code == "too_many_sessions"
    time.now = 1060
    assert refused(door.admit, secret, "live").code == "invalid_api_key"


def test_a_ticket_opens_no_more_than_its_key(time):
    door = access(time)
    secret, _ = door.issue(door.admit(KITCHEN, "captions"), 60)
    assert refused(door.admit, secret, "live").code == "forbidden"


def test_tickets_have_a_bound_that_time_clears(time):
    door = access(time)
    hall = door.admit(HALL, "live")
    for _ in range(MOST):
        door.issue(hall, 60)
    full = refused(door.issue, hall, 60)
    assert (full.status, full.headers["retry-after"]) == (429, "60")
    door.issue(door.admit(KITCHEN, None), 60)
    time.now += 60
    door.issue(hall, 60)


def test_a_place_is_free_again_when_its_session_is_over(time):
    door = access(time, sessions=2)
    hall = door.admit(HALL, "live")
    with hall.session():
        second = hall.session()
        second.__enter__()
        refused(hall.session().__enter__)
        assert not second.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        with hall.session():
            pass


def test_each_key_has_its_own_rate_and_all_share_the_servers(time):
    door = access(time, Limits(rate=3), rate=1)
    door.admit(HALL, "live")
    slow = refused(door.admit, HALL, "live")
    assert (slow.status, slow.headers["retry-after"]) == (429, "60")
    door.admit(KITCHEN, "captions")
    door.admit(KITCHEN, "captions")
    assert refused(door.admit, KITCHEN, "captions").headers["retry-after"] == "20"
    time.now += 20
    door.admit(KITCHEN, "captions")


def test_whoever_is_refused_uses_nothing_up(time):
    door = access(time, Limits(rate=1))
    for _ in range(5):
        refused(door.admit, "wrong-wrong-wrong-wrong", "live")
        refused(door.admit, KITCHEN, "live")
    door.admit(HALL, "live")


def test_refusals_are_counted_and_watched(time):
    door, seen = access(time), []
    door.watchers.append(lambda *what: seen.append(what))
    door.note("invalid_api_key", "/v1/listen")
    assert door.refusals["invalid_api_key", "/v1/listen"] == 1
    assert seen == [("invalid_api_key", "/v1/listen")]
