import pytest

from voxlive.web.access.credentials import find

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
def test_every_place(headers, offered, query, labels):
    found = find(headers, offered, query, extra_headers=["x-echo-token"], key_params=["token"])
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
def test_no_other_place_counts(headers, offered, query):
    assert find(headers, offered, query, key_params=["token"]).secret is None
