"""Several live engines in one server: which one a name means."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from voxlive.errors import RequestRefused
from voxlive.web.live_models import LiveModels


class ClosableService:
    def __init__(self, model: str) -> None:
        self.engine = SimpleNamespace(info=SimpleNamespace(model=model))
        self.drains: list[float] = []

    async def aclose(self, drain_s: float) -> None:
        self.drains.append(drain_s)


DEFAULT, ACCURATE, QUICK = map(ClosableService, ("tiny.en", "voxtral-mini-4b", "base"))
MODELS = LiveModels(DEFAULT, {"accurate": ACCURATE, "quick": QUICK})


@pytest.mark.parametrize(
    ("name", "service"),
    [
        (None, DEFAULT),
        ("", DEFAULT),
        ("tiny.en", DEFAULT),
        ("accurate", ACCURATE),
        ("quick", QUICK),
        ("voxtral-mini-4b", ACCURATE),  # a hosted kind of name, and an engine's own
        ("base", QUICK),
        ("nova-3", DEFAULT),
        ("gpt-4o-transcribe", DEFAULT),
    ],
)
def test_finds_the_engine_of_a_name(name, service):
    assert MODELS.find(name) is service


def test_an_unknown_name_is_not_found_and_the_known_ones_are_listed():
    with pytest.raises(RequestRefused) as refused:
        MODELS.find("slow")
    assert (refused.value.code, refused.value.status) == ("model_not_found", 404)
    for name in ("accurate", "quick", "tiny.en", "voxtral-mini-4b", "base"):
        assert name in refused.value.message


def test_one_engine_is_meant_by_every_name():
    assert LiveModels(DEFAULT).find("anything") is DEFAULT


def test_a_given_name_goes_before_an_id_and_the_defaults_id_before_anothers():
    same, other = ClosableService("tiny.en"), ClosableService("x")
    models = LiveModels(DEFAULT, {"base": other, "second": same, "quick": QUICK})
    assert models.find("base") is other
    assert models.find("tiny.en") is DEFAULT
    assert models.find("second") is same


def test_every_engine_is_drained():
    services = [ClosableService("a"), ClosableService("b")]
    asyncio.run(LiveModels(services[0], {"b": services[1]}).aclose(3.0))
    assert [service.drains for service in services] == [[3.0], [3.0]]
