"""Keys and where they are read from, and the rate limiter."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxlive.web.access.keys import (
    SCOPES,
    BadKey,
    Key,
    Keyring,
    Limits,
    TokenBucket,
    digest,
    find_credentials,
    generate_secret,
    load_keys,
    read_keys,
    read_secrets,
    validate_secret,
)

SECRET = "correct-horse-battery"


def test_a_keys_file_has_names_scopes_and_limits():
    hall, kitchen = read_keys(
        f"""
        [hall]
        key = "{SECRET}"
        [kitchen]
        sha256 = "{digest("another-horse-battery").hex().upper()}"
        scopes = ["live", "captions"]
        sessions = 2
        session-minutes = 0.5
        idle-seconds = 30
        message-kb = 64
        upload-mb = 10
        rate = 12.5
        """
    )
    assert hall == Key("hall", digest(SECRET))
    assert hall.scopes == frozenset(SCOPES) - {"captions:all", "history:all", "admin"}
    assert kitchen.scopes == {"live", "captions"}
    assert kitchen.limits == Limits(
        sessions=2, session_minutes=0.5, idle_s=30, message_kb=64, upload_mb=10, rate=12.5
    )
    ring = Keyring([hall, kitchen])
    assert ring.find(SECRET) is hall
    assert ring.find("another-horse-battery") is kitchen
    assert ring.find(SECRET[:-1]) is None


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "no keys"),
        ("[a", "no TOML"),
        (f'key = "{SECRET}"', "table of its own"),
        ("[a]", "either key or sha256"),
        (f'[a]\nkey = "{SECRET}"\nsha256 = "{"0" * 64}"', "either key or sha256"),
        ('[a]\nkey = "short-secret"', "16"),
        (f'[a]\nkey = "{SECRET} "', "letters"),
        ("[a]\nkey = 5", "string"),
        ('[a]\nsha256 = "abc"', "64"),
        (f'[a]\nkey = "{SECRET}"\nscope = "live"', "no such field"),
        (f'[a]\nkey = "{SECRET}"\nscopes = ["root"]', "live, files"),
        (f'[a]\nkey = "{SECRET}"\nscopes = "live"', "list"),
        (f'[a]\nkey = "{SECRET}"\nsessions = 0', "sessions"),
        (f'[a]\nkey = "{SECRET}"\nsessions = 1.5', "sessions"),
        (f'[a]\nkey = "{SECRET}"\nrate = true', "rate"),
        (f'[a]\nkey = "{SECRET}"\nrate = inf', "rate"),
        (f'["{"n" * 61}"]\nkey = "{SECRET}"', "name"),
    ],
)
def test_an_error_names_the_mistake_and_not_the_key(text, hint):
    with pytest.raises(BadKey) as error:
        read_keys(text)
    assert hint in str(error.value)
    assert SECRET not in str(error.value)
    assert "short-secret" not in str(error.value)


@given(st.text("ab0\n[]=\"'#.\\ é", max_size=200))
def test_any_text_is_parsed_or_raises_bad_key(text):
    for read in (read_keys, read_secrets):
        with contextlib.suppress(BadKey):
            assert read(text)


@given(st.text("ab\"'\\\n=[é", min_size=1))
def test_an_error_never_quotes_a_broken_file(secret):
    with pytest.raises(BadKey) as error:
        read_keys(f'[kitchen]\nkey = "{SECRET}\n{secret!r}')
    assert SECRET not in str(error.value)


def test_a_file_of_secrets_has_one_on_each_line():
    text = f"# the hall's\n{SECRET}  # until May\n\nanother-horse-battery\n"
    assert read_secrets(text) == (SECRET, "another-horse-battery")


def test_two_keys_cannot_be_the_same_or_have_one_name():
    with pytest.raises(BadKey):
        Keyring([Key("a", digest(SECRET)), Key("b", digest(SECRET))])
    with pytest.raises(BadKey):
        Keyring([Key("a", digest(SECRET)), Key("a", digest("another"))])


def test_generated_secrets_are_valid_and_unique():
    assert validate_secret(generate_secret()) != validate_secret(generate_secret())


def test_the_repr_of_a_key_has_neither_secret_nor_digest():
    assert digest(SECRET).hex() not in repr(Key("hall", digest(SECRET)))
    assert repr(digest(SECRET)) not in repr(Key("hall", digest(SECRET)))


@given(st.integers(1, 9) | st.none(), st.integers(1, 9) | st.none())
def test_the_lower_limit_applies(ours, theirs):
    limit = Limits(sessions=ours).within(Limits(sessions=theirs)).sessions
    assert limit == min((n for n in (ours, theirs) if n is not None), default=None)


KEY = "a-key"


@pytest.mark.parametrize(
    ("headers", "offered", "query", "labels"),
    [
        ({"authorization": f"Bearer {KEY}"}, (), {}, ()),
        ({"authorization": f"bearer {KEY}"}, (), {}, ()),
        ({"authorization": f"Token {KEY}"}, (), {}, ()),
        ({"x-api-key": KEY}, (), {}, ()),
        ({"authorization": "Basic abc", "x-api-key": KEY}, (), {}, ()),
        ({"authorization": "Bearer ", "x-api-key": KEY}, (), {}, ()),
        ({"x-echo-token": KEY}, (), {}, ()),
        ({}, ("token", KEY), {}, ("token",)),
        ({}, ("bearer", KEY, "x-session", "1"), {}, ("bearer", "x-session", "1")),
        ({}, ("realtime", f"openai-insecure-api-key.{KEY}"), {}, ("realtime",)),
        (
            {},
            ("realtime", f"openai-insecure-api-key.{KEY}", "openai-agents-sdk.0.1"),
            {},
            ("realtime", "openai-agents-sdk.0.1"),
        ),
        ({}, (), {"token": KEY}, ()),
        ({"authorization": f"Bearer {KEY}"}, ("token", "other"), {"token": "third"}, ("token",)),
    ],
)
def test_credentials_are_found_in_every_place(headers, offered, query, labels):
    found = find_credentials(
        headers, offered, query, extra_headers=["x-echo-token"], key_params=["token"]
    )
    assert found.secret == KEY
    assert found.labels == labels
    assert KEY not in repr(found)


@pytest.mark.parametrize(
    ("headers", "offered", "query"),
    [
        ({}, (), {}),
        ({"authorization": KEY}, (), {}),
        ({"authorization": f"Basic {KEY}"}, (), {}),
        ({}, ("token",), {}),
        ({}, ("realtime", KEY), {}),
        ({}, (), {"api_key": KEY}),
        ({"x-echo-token": KEY}, (), {}),
    ],
)
def test_credentials_are_found_in_no_other_place(headers, offered, query):
    assert find_credentials(headers, offered, query, key_params=["token"]).secret is None


def test_a_file_that_others_can_read_is_warned_about(tmp_path):
    key, other = "the-key-for-all-of-it", "another-key-of-the-hall"
    warnings: list[str] = []
    path = tmp_path / "keys"
    path.write_text(f"{key}\n")
    path.chmod(0o644)
    load_keys((), path, None, warnings.append)
    assert "chmod 600" in warnings.pop()
    path.chmod(0o600)
    found = load_keys([other], path, None, warnings.append)
    assert [one.digest for one in found] == [digest(other), digest(key)]
    assert warnings == []
    with pytest.raises(BadKey):
        load_keys([key], path, None, warnings.append)


steps = st.lists(st.floats(0, 120), min_size=1, max_size=60)


@given(st.floats(0.1, 600), steps)
def test_a_bucket_never_exceeds_its_burst_and_rate(per_minute, gaps):
    """In any stretch of time there are at most a full bucket and what flowed into it."""
    bucket = TokenBucket(per_minute)
    now, taken = 0.0, []
    for gap in gaps:
        now += gap
        if bucket.wait_s(now) == 0:
            bucket.take(now)
            taken.append(now)
    for first, start in enumerate(taken):
        for count, end in enumerate(taken[first:], 1):
            assert count <= max(1.0, per_minute) + (end - start) * per_minute / 60 + 1e-6


@given(st.floats(0.1, 600), st.integers(0, 700))
def test_a_token_is_there_after_the_wait(per_minute, tries):
    bucket = TokenBucket(per_minute)
    now = 0.0
    for _ in range(min(tries, 50)):
        now += bucket.wait_s(now) * (1 + 1e-9) + 1e-9
        assert bucket.wait_s(now) <= 1e-6
        bucket.take(now)


def test_a_bucket_fills_to_its_capacity():
    bucket = TokenBucket(3)
    for _ in range(3):
        assert bucket.wait_s(0) == 0
        bucket.take(0)
    assert bucket.wait_s(0) == 20
    assert bucket.wait_s(15) == 5
    for _ in range(3):
        assert bucket.wait_s(1e6) == 0
        bucket.take(1e6)
    assert bucket.wait_s(1e6) == 20
