"""Several live engines in one server: which one a name means."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from voxlive.engines.contract import EngineInfo
from voxlive.errors import RequestRefused
from voxlive.web.config import ConfigError, ServeConfig
from voxlive.web.live_models import LiveModels, LiveSpec


class ClosableService:
    def __init__(self, model: str) -> None:
        self.engine = SimpleNamespace(info=EngineInfo("test", model, "cpu", 1, ()))
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


def test_a_service_goes_by_its_name_the_default_by_its_model():
    assert list(MODELS.labels) == ["tiny.en", "accurate", "quick"]
    assert [MODELS.label(service) for service in MODELS] == ["tiny.en", "accurate", "quick"]
    assert MODELS.serves("voxtral-mini-4b")
    assert not MODELS.serves("nova-3")


def test_another_providers_name_leaves_an_earlier_choice():
    assert MODELS.find("nova-3", ACCURATE) is ACCURATE
    assert MODELS.find(None, ACCURATE) is ACCURATE
    assert MODELS.find("quick", ACCURATE) is QUICK


def test_a_protocols_own_default_is_no_choice_but_where_it_is_served():
    assert MODELS.find("small", ACCURATE, ("small",)) is ACCURATE
    assert LiveModels(DEFAULT, {"small": QUICK}).find("small", None, ("small",)) is QUICK


def test_a_model_with_options_of_its_own():
    server = ServeConfig(
        model="voxtral", max_sessions=2, device="gpu", delay_ms=480, quantize=4, engine_timeout=7
    )
    plain = LiveSpec.parse("quick=whisper-base").config(server).engine
    assert plain.max_sessions is plain.delay_ms is plain.quantize is None
    # The machine and its supervision are the server's.
    assert (plain.device, plain.deadline_s) == ("gpu", 7)
    text = "quick=whisper-base,max-sessions=3,device=cpu,commit=fast,vocabulary=Kyoto"
    spec = LiveSpec.parse(text)
    own = spec.config(server)
    assert (spec.name, own.model, own.live) == ("quick", "whisper-base", ())
    assert (own.engine.max_sessions, own.engine.device) == (3, "cpu")
    assert (own.engine.commit, own.engine.vocabulary) == ("fast", ("Kyoto",))
    accurate = LiveSpec.parse("accurate=voxtral,delay-ms=960,quantize=8").config(server).load
    assert (accurate.delay_ms, accurate.quantize) == (960, 8)


def test_the_defaults_vocabulary_and_rule_are_its_own():
    server = ServeConfig(commit="fast", vocabulary=("Kyoto",))
    engine = LiveSpec.parse("accurate=voxtral").config(server).engine
    assert (engine.commit, engine.vocabulary) == (None, ())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("voxtral", "'voxtral' is not NAME=MODEL"),
        ("=voxtral", "is not NAME=MODEL"),
        ("a=", "is not NAME=MODEL"),
        ("a b=voxtral", "'a b': a name has no spaces"),
        (f"{'a' * 101}=voxtral", "at most 100 characters"),
        ("a=b,slots=4", "a: 'slots=4' is none of max-sessions=, device="),
        ("a=b,device", "a: 'device' is none of"),
        ("a=b,device=tpu", "a: device: 'tpu' is not gpu or cpu"),
        ("a=b,max-sessions=many", "a: max-sessions: 'many' is not a whole number"),
        ("a=b,max-sessions=0", "a: max-sessions: 0 is less than 1"),
        ("a=b,quantize=5", "a: quantize: '5' is not 4 or 8"),
        ("a=b,device=cpu,device=gpu", "a: device is given twice"),
    ],
)
def test_a_wrong_option_says_what_is_wrong(text, reason):
    with pytest.raises(ConfigError, match=r"^live: ") as refused:
        ServeConfig(live=(text,))
    assert reason in refused.value.message


def test_a_name_comes_once():
    with pytest.raises(ConfigError, match="live: a is given twice"):
        ServeConfig(live=("a=b", "c=d", "a=e"))
