"""A server with several live models: which engine a client gets, and what each shows of itself."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import pytest
from support.asgi import AsgiSocket, DeafEngine, Running, running
from support.keys import LIVE, bearer
from support.wire import START

from voxlive.errors import ProtocolError, RequestRefused
from voxlive.streaming.service import Service
from voxlive.web.access.keys import Key, digest
from voxlive.web.config import ServeConfig
from voxlive.web.live_models import LiveModels
from voxlive.web.metrics import SessionMetrics
from voxlive.web.ports import open_ports
from voxlive.web.protocols.contract import OpenSession
from voxlive.web.protocols.whisper_live import WhisperLiveProtocol
from voxlive.web.server import startup_lines

AUDIO = base64.b64encode(bytes(9600)).decode()
STOP = '{"type": "stop"}'
T = TypeVar("T")
NAMES = "none, quick, accurate"
DEFAULT_NAMES = ("gpt-4o-transcribe", "gpt-realtime-whisper", "whisper-1", "nova-3", "nova-2")
MISTRAL = "/v1/audio/transcriptions/realtime"
LISTEN = "/v1/listen?encoding=linear16&sample_rate=16000"


async def until(found: Callable[[], T | None]) -> T:
    """What there is in the end: the server is a task beside this one."""
    async with asyncio.timeout(10):
        while True:
            if result := found():
                return result
            await asyncio.sleep(0.001)


class Engines:
    """A default with one slot, which other names lead to as well, and two others."""

    def __init__(self) -> None:
        self.default = DeafEngine(capacity=1)
        self.quick = DeafEngine("org/quick-model", vocabulary=())
        self.accurate = DeafEngine("Systran/faster-whisper-base")
        self.named = {"quick": self.quick, "accurate": self.accurate}

    async def opened(self) -> DeafEngine:
        """The engine that the one session of a test was opened on."""
        every = (self.default, *self.named.values())
        return await until(lambda: next((engine for engine in every if engine.opened), None))


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
async def server(engines: Engines) -> AsyncIterator[Running]:
    async with running(default=engines.default, live=engines.named) as one:
        yield one


async def said(talk: AsgiSocket, kind: str) -> dict:
    """The first message of a type."""
    return await until(lambda: next((one for one in talk.said if one["type"] == kind), None))


async def live_ready(server: Running, path: str = "/v1/live", **start: object) -> dict:
    """What the native protocol's first answer is."""
    async with server.dial(path) as talk:
        talk.send(json.dumps({**START, **start}))
        talk.send(STOP)
        await talk.over.wait()
        return talk.said[0]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        (None, "none"),
        ("quick", "org/quick-model"),
        ("org/quick-model", "org/quick-model"),
        ("accurate", "Systran/faster-whisper-base"),
        ("whisper-base", "Systran/faster-whisper-base"),  # a short name of its model
        *((name, "none") for name in DEFAULT_NAMES),
    ],
)
async def test_the_native_start_and_the_url_choose_a_model(server, name, model):
    assert (await live_ready(server, model=name))["model"] == model
    query = f"?model={name}" if name else ""
    assert (await live_ready(server, f"/v1/live{query}"))["model"] == model


async def test_a_start_goes_before_the_url_unless_it_names_nothing_here(server):
    assert (await live_ready(server, "/v1/live?model=quick", model="accurate"))["model"] == (
        "Systran/faster-whisper-base"
    )
    assert (await live_ready(server, "/v1/live?model=quick", model="whisper-1"))["model"] == (
        "org/quick-model"
    )


async def test_an_unknown_name_ends_a_native_session_with_the_list(server):
    for path, start in (("/v1/live", {"model": "slow"}), ("/v1/live?model=slow", {})):
        async with server.dial(path) as talk:
            talk.send(json.dumps({**START, **start}))
            await talk.over.wait()
            code, error = talk.refusal
        assert (code, error["code"]) == (4404, "model_not_found")
        assert "'slow'" in error["message"]
        assert NAMES in error["message"]
    metrics = (await server.http.get("/metrics")).text
    assert 'voxlive_errors_total{code="model_not_found",place="live"} 2.0' in metrics


@pytest.mark.conforms(
    "Deepgram",
    "`model`",
    "which of a server's models, where it has several; any name otherwise, and Deepgram's own "
    "always: the default",
)
async def test_deepgram_names_its_model_in_the_url(server, engines):
    status, body = await server.refused(f"{LISTEN}&model=slow")
    assert (status, body["err_code"]) == (404, "NOT_FOUND")
    assert NAMES in body["err_msg"]
    async with server.dial(f"{LISTEN}&model=quick&keyterm=Kyoto") as talk:
        talk.send('{"type": "CloseStream"}')
        await talk.over.wait()
        metadata = talk.said[-1]
    assert [info["name"] for info in metadata["model_info"].values()] == ["org/quick-model"]
    # What the query asks for is read for that engine: the default takes no vocabulary.
    assert engines.quick.opened[0].vocabulary == ("Kyoto",)


@pytest.mark.parametrize("name", DEFAULT_NAMES)
async def test_another_providers_name_in_deepgrams_url_is_the_default(server, engines, name):
    async with server.dial(f"{LISTEN}&model={name}") as talk:
        talk.send('{"type": "CloseStream"}')
        await talk.over.wait()
    assert await engines.opened() is engines.default


@pytest.mark.conforms(
    "Mistral",
    "`model` in the URL",
    "which of a server's models, where it has several; any name otherwise, and Mistral's own "
    "always: the default",
)
async def test_mistral_names_its_model_in_the_url(server):
    async with server.dial(f"{MISTRAL}?model=voxtral-mini-transcribe-realtime-2602") as talk:
        assert (await said(talk, "session.created"))["session"]["model"] == "none"
    async with server.dial(f"{MISTRAL}?model=accurate") as talk:
        created = await said(talk, "session.created")
        assert created["session"]["model"] == "Systran/faster-whisper-base"
    code, error = await server.refused(f"{MISTRAL}?model=slow")
    assert (code, error["error"]["code"]) == (4404, 404)
    assert NAMES in error["error"]["message"]


@pytest.mark.parametrize("path", ["/asr", "/ws/live-listener"])
async def test_a_protocol_without_a_model_takes_it_from_the_url(server, engines, path):
    async with server.dial(f"{path}?model=quick") as talk:
        if path == "/asr":
            talk.send(bytes(32_000))
        else:
            talk.send('{"type": "start"}')
            talk.send(bytes(3200))
        assert await engines.opened() is engines.quick
    code, error = await server.refused(f"{path}?model=slow")
    assert (code, error["code"]) == (4404, "model_not_found")


def nested(**transcription: object) -> str:
    session = {"type": "transcription", "audio": {"input": {"transcription": transcription}}}
    return json.dumps({"type": "session.update", "event_id": "e1", "session": session})


def flat(**transcription: object) -> str:
    session = {"input_audio_transcription": transcription}
    return json.dumps({"type": "transcription_session.update", "session": session})


APPEND = json.dumps({"type": "input_audio_buffer.append", "audio": AUDIO})


@pytest.mark.conforms(
    "OpenAI",
    "`transcription.model`, `?model=`",
    "which of a server's models, where it has several; any name otherwise, and OpenAI's own "
    "always: the default. `session.updated` has the model in force; it stays from the first "
    "audio on",
)
@pytest.mark.parametrize("update", [nested, flat])
@pytest.mark.parametrize("path", ["/v1/realtime", "/v1/realtime?model=gpt-realtime"])
async def test_openais_session_names_its_model(server, engines, update, path):
    async with server.dial(path) as talk:
        # Its prompt is read for that engine: the default takes no vocabulary.
        talk.send(update(model="quick", prompt="Kyoto"))
        talk.send(APPEND)
        assert await engines.opened() is engines.quick
        assert engines.quick.opened[0].vocabulary == ("Kyoto",)
        talk.send(update(model="accurate"))
        kind = "session.updated" if update is nested else "transcription_session.updated"
        await until(lambda: sum(one["type"] == kind for one in talk.said) == 2)
        answers = [one for one in talk.said if one["type"] == kind]
    for answer in answers:
        session = answer["session"]
        shown = (
            session["audio"]["input"]["transcription"]
            if update is nested
            else session["input_audio_transcription"]
        )
        assert shown["model"] == "org/quick-model"
    assert not engines.accurate.opened


@pytest.mark.parametrize("name", DEFAULT_NAMES)
async def test_openais_own_names_leave_the_choice_to_the_url(server, engines, name):
    async with server.dial(f"/v1/realtime?model=quick&intent={name}") as talk:
        talk.send(nested(model=name))
        talk.send(APPEND)
        assert await engines.opened() is engines.quick


async def test_openais_unknown_model_is_an_error_and_the_session_goes_on(server, engines):
    async with server.dial("/v1/realtime") as talk:
        talk.send(nested(model="slow"))
        error = (await said(talk, "error"))["error"]
        assert (error["code"], error["event_id"]) == ("model_not_found", "e1")
        assert error["param"] == "session.audio.input.transcription.model"
        assert NAMES in error["message"]
        talk.send(APPEND)
        assert await engines.opened() is engines.default


@pytest.mark.conforms(
    "OpenAI's keys",
    "`transcription.model`",
    "as in a session; an unknown one is 404 `model_not_found`",
)
async def test_a_client_secret_carries_its_model(server, engines):
    def body(model: str) -> dict:
        return {"session": {"audio": {"input": {"transcription": {"model": model}}}}}

    path = "/v1/realtime/client_secrets"
    answer = await server.http.post(path, json=body("slow"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    made = (await server.http.post(path, json=body("quick"))).json()
    shown = made["session"]["audio"]["input"]["transcription"]
    assert shown["model"] == "org/quick-model"
    offered = ("realtime", f"openai-insecure-api-key.{made['value']}")
    async with server.dial("/v1/realtime", offered=offered) as talk:
        created = await said(talk, "session.created")
        assert created["session"]["audio"]["input"]["transcription"]["model"] == "org/quick-model"
        talk.send(APPEND)
        assert await engines.opened() is engines.quick


@pytest.mark.parametrize("name", ["mistralai/Voxtral-Mini-4B-Realtime-2602", "whisper-1"])
async def test_vllms_default_names_lead_to_the_default(server, engines, name):
    async with server.dial("/v1/realtime") as talk:
        talk.send(json.dumps({"type": "session.update", "model": name}))
        talk.send(APPEND)
        assert await engines.opened() is engines.default


@pytest.mark.conforms(
    "vLLM",
    "`model` of `session.update`",
    "which of a server's models, where it has several, until the first audio: an unknown one is "
    "`model_not_found`, after which the session is not validated; any name otherwise",
)
async def test_vllms_update_names_its_model(server, engines):
    async with server.dial("/v1/realtime") as talk:
        talk.send('{"type": "session.update", "model": "slow"}')
        error = await said(talk, "error")
        assert error["code"] == "model_not_found"
        assert NAMES in error["error"]
        talk.send('{"type": "input_audio_buffer.commit"}')
        await until(lambda: talk.said[-1]["code"] == "model_not_validated")
        talk.send('{"type": "session.update", "model": "accurate"}')
        talk.send(APPEND)
        assert await engines.opened() is engines.accurate


@pytest.mark.conforms(
    "WhisperLive",
    "`model`",
    "which of a server's models, where it has several: an unknown one is an `ERROR`, and `small`, "
    "which clients send when nothing was chosen, the default; any name otherwise",
)
@pytest.mark.parametrize("name", ["quick", "other", None])
def test_whisper_lives_options_name_a_model(engines, name):
    def find(asked: str | None):
        if asked == "slow":
            raise RequestRefused("model_not_found", "there is no such model", "model")
        return (engines.quick if asked == "quick" else engines.default).info

    protocol = WhisperLiveProtocol({}, engines.default.info)
    protocol.offer_engines(find)
    [opening] = protocol.received(json.dumps({"uid": "u", "model": name, "hotwords": "Kyoto"}))
    assert isinstance(opening, OpenSession)
    assert opening.options.model == name
    assert opening.options.stream.vocabulary == (("Kyoto",) if name == "quick" else ())
    other = WhisperLiveProtocol({}, engines.default.info)
    other.offer_engines(find)
    with pytest.raises(RequestRefused):
        other.received('{"uid": "u", "model": "slow"}')
    third = WhisperLiveProtocol({}, engines.default.info)
    third.offer_engines(find)
    with pytest.raises(ProtocolError):
        third.received('{"uid": "u", "model": 5}')


async def test_each_model_has_its_own_slots(server):
    async with server.dial("/v1/live") as first, server.dial("/v1/live") as second:
        first.send(json.dumps(START))
        assert (await said(first, "ready"))["model"] == "none"
        # The default is full; whoever may still name another one is let in.
        second.send(json.dumps({**START, "model": "quick"}))
        assert (await said(second, "ready"))["model"] == "org/quick-model"
        code, error = await server.refused("/v1/live?model=none")
        assert (code, error["code"]) == (1013, "server_full")
        async with server.dial("/v1/live") as third:
            third.send(json.dumps(START))
            await third.over.wait()
            assert third.refusal[1]["code"] == "server_full"
        health = (await server.http.get("/health")).json()
        assert (health["model"], health["capacity"], health["in_use"]) == ("none", 1, 1)
        models = {one["name"]: one for one in health["models"]}
        assert list(models) == ["none", "quick", "accurate"]
        assert [one["in_use"] for one in models.values()] == [1, 1, 0]
        assert [one["capacity"] for one in models.values()] == [1, 4, 4]
        assert models["quick"]["model"] == "org/quick-model"
        metrics = (await server.http.get("/metrics")).text
        assert 'voxlive_slots{model="quick"} 4.0' in metrics
        assert 'voxlive_slots_in_use{model="quick"} 1.0' in metrics
        assert 'voxlive_slots_in_use{model="accurate"} 0.0' in metrics
        assert 'voxlive_worst_lag_seconds{model="none"} 0.0' in metrics


async def test_a_fault_of_one_engine_is_named(server, engines):
    engines.quick.fault = "hangs"
    answer = await server.http.get("/health/ready")
    health = answer.json()
    assert (answer.status_code, health["ready"]) == (503, False)
    assert health["error"] == "quick: hangs"
    assert [one["error"] for one in health["models"]] == [None, "hangs", None]


async def test_an_unknown_model_is_not_found_out_without_a_key(engines):
    key = Key("hall", digest(LIVE))
    async with running(key, default=engines.default, live=engines.named) as keyed:
        assert (await keyed.refused(f"{LISTEN}&model=slow"))[0] == 401
        headers = bearer(LIVE)
        assert (await keyed.refused(f"{LISTEN}&model=slow", headers=headers))[0] == 404


async def test_with_one_engine_every_name_means_that_one():
    engine = DeafEngine()
    async with running(default=engine) as single:
        assert (await live_ready(single, "/v1/live?model=x", model="anything"))["model"] == "none"
        assert (await single.refused("/v1/realtime?model=anything&language=q"))[0] == 4400
        async with single.dial("/v1/realtime") as talk:
            talk.send(nested(model="anything"))
            updated = await said(talk, "session.updated")
            shown = updated["session"]["audio"]["input"]["transcription"]
            assert shown["model"] == "none"
            talk.send(nested(model=5))
            talk.send(APPEND)
            await until(lambda: len(engine.opened) == 2)
        assert "error" not in [message["type"] for message in talk.said]


def test_the_first_lines_name_every_model_with_its_slots(engines):
    named = {name: Service(engine, None) for name, engine in engines.named.items()}
    models = LiveModels(Service(engines.default, None), named)
    with open_ports("127.0.0.1", 0, None, None) as ports:
        lines = startup_lines(models, ports, ServeConfig(), tls=False)
    assert lines[:3] == [
        "none on cpu, 1 session at a time",
        "quick: org/quick-model on cpu, 4 sessions at a time",
        "accurate: Systran/faster-whisper-base on cpu, 4 sessions at a time",
    ]


def test_lags_are_counted_by_model():
    metrics = SessionMetrics(lambda code, place: None)
    metrics.lags["quick"].observe(1.0)
    assert (metrics.lags["quick"].read().count, metrics.lags["none"].read().count) == (1, 0)
    assert not metrics.figures({}).worst_lag_s
