"""``GET /metrics`` as a scraper reads it, after sessions whose figures are known."""

import json
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from support.asgi import running
from support.clips import clip
from support.keys import KEYED, KEYS, LIVE, bearer
from support.server import serving
from support.weights import TINY_EN_ID
from support.wire import START, dial, listen, live, receive_until, s16le, send
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient

from voxlive.web.protocols import PROTOCOLS
from voxlive.web.protocols.whisper_live import WhisperLiveProtocol
from voxlive.web.protocols.wyoming import WyomingProtocol

SPEECH = s16le(clip("doctor").samples)
SECONDS = len(SPEECH) / 32_000
NAMES = {WyomingProtocol.name, WhisperLiveProtocol.name}.union(
    *(protocol.names or {protocol.name} for protocol in PROTOCOLS.values())
)
ANSWER = "/v1/listen?encoding=linear16&sample_rate=16000"


class Figures:
    """One scrape. ``figures(name, label=value)`` is a sample; None where there is none.

    The label ``model`` may be left out where there is one model.
    """

    def __init__(self, text: str, parse=text_string_to_metric_families) -> None:
        self.families = {family.name: family for family in parse(text)}
        self.samples = [s for family in self.families.values() for s in family.samples]

    def __call__(self, name: str, **labels: str) -> float | None:
        named = [s for s in self.samples if s.name == name]
        if "model" not in labels:
            named = [s._replace(labels={**s.labels}) for s in named]
            for sample in named:
                sample.labels.pop("model", None)
        found = [s.value for s in named if s.labels == labels]
        assert len(found) < 2
        return found[0] if found else None

    def labels(self) -> dict[str, set[str]]:
        """Every value of every label of ours."""
        values: dict[str, set[str]] = {}
        for sample in self.samples:
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
        return values


async def scrape(http: httpx.AsyncClient, **options) -> Figures:
    answer = await http.get("/metrics", **options)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return Figures(answer.text)


@pytest.fixture(scope="module")
def server():
    with serving("--max-sessions", "3", "--wyoming-port", "0") as running_server:
        yield running_server


async def say_to_wyoming(server) -> str:
    host, port = server.others["Wyoming"].removeprefix("tcp://").split(":")
    async with AsyncTcpClient(host, int(port)) as client:
        shape = {"rate": 16_000, "width": 2, "channels": 1}
        await client.write_event(Transcribe().event())
        await client.write_event(AudioStart(**shape).event())
        await client.write_event(AudioChunk(audio=SPEECH, **shape).event())
        await client.write_event(AudioStop().event())
        while event := await client.read_event():
            if Transcript.is_type(event.type):
                return Transcript.from_event(event).text
    raise AssertionError("no transcript")


async def test_sessions_are_counted_by_protocol(server):
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        before = await scrape(http)
        for protocol in NAMES - {"whisper_live"}:
            assert before("voxlive_sessions", protocol=protocol) == 0
            assert before("voxlive_words_total", protocol=protocol) == 0
        assert before("voxlive_slots") == 3

        heard = await live(server.ws, SPEECH)
        words = sum(len(message["words"]) for message in heard.of("words"))
        async with dial(server.ws + ANSWER) as socket:
            await send(socket, SPEECH, {"type": "CloseStream"})
            said = await listen(socket)
        finals = [r for r in said.of("Results") if r["is_final"]]
        deepgram = sum(len(r["channel"]["alternatives"][0]["words"]) for r in finals)
        spoken = await say_to_wyoming(server)
        async with dial(f"{server.ws}/v1/live") as socket:
            await send(socket, {"type": "start", "format": "s16le", "rate": -1})
            assert (await listen(socket)).errors
        await server.until(in_use=0)

        after = await scrape(http)
        told = {"live": words, "deepgram": deepgram, "wyoming": len(spoken.split())}
        for protocol, said_there in told.items():
            assert said_there > 0
            assert after("voxlive_words_total", protocol=protocol) == said_there
            assert after("voxlive_sessions_opened_total", protocol=protocol) == 1
            assert after("voxlive_sessions", protocol=protocol) == 0
            audio = after("voxlive_audio_seconds_total", protocol=protocol)
            assert audio == pytest.approx(SECONDS, abs=0.01)
        assert after("voxlive_sessions_opened_total", protocol="asr") == 0
        assert after("voxlive_errors_total", code="bad_start", place="live") == 1
        assert after("voxlive_slots_in_use") == 0
        assert after("voxlive_worst_lag_seconds") == 0
        # Each of three sessions is work of the engine, and its lag is looked at.
        assert after("voxlive_engine_step_seconds_count") >= 3
        assert after("voxlive_engine_step_seconds_sum") > 0
        assert after("voxlive_lag_seconds_count") >= 3
        assert after("voxlive_lag_seconds_bucket", le="+Inf") == after("voxlive_lag_seconds_count")


async def test_protocols_of_one_path_are_counted_and_logged_separately():
    with serving("--log-json", "--log-level", "info") as one_server:
        async with dial(f"{one_server.ws}/v1/realtime") as socket:
            await send(socket, {"type": "session.update", "model": "any"})
            await send(socket, {"type": "input_audio_buffer.append", "audio": "AAAA"})
            await one_server.until(in_use=1)
        await one_server.until(in_use=0)
        openai = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
        async with dial(f"{one_server.ws}/v1/realtime?intent=transcription") as socket:
            await send(socket, {"type": "session.update", "session": openai})
            await send(socket, {"type": "input_audio_buffer.append", "audio": "AAAA"})
            await one_server.until(in_use=1)
        await one_server.until(in_use=0)
        async with httpx.AsyncClient(base_url=one_server.url, timeout=60) as http:
            figures = await scrape(http)
        lines = [json.loads(line) for line in one_server.logged().splitlines()]
    opened = [line for line in lines if " opened over " in line["message"]]
    assert [line["protocol"] for line in opened] == ["vllm_realtime", "openai_realtime"]
    for begun in opened:
        own = [line for line in lines if line.get("session") == begun["session"]]
        assert len(own) >= 2
        assert {line["protocol"] for line in own} == {begun["protocol"]}
    for protocol in ("vllm_realtime", "openai_realtime"):
        assert figures("voxlive_sessions_opened_total", protocol=protocol) == 1


def test_protocol_names_are_unique_and_documented():
    assert len(NAMES) == len(PROTOCOLS) + 3
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    table = text.partition("| `protocol` | clients |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == NAMES


async def test_open_sessions_and_refusals_are_counted(server):
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        before = await scrape(http)
        async with (
            dial(f"{server.ws}/v1/live?captions=show") as one,
            dial(f"{server.ws}/v1/live") as two,
            dial(server.ws + ANSWER),
        ):
            for socket in (one, two):
                await send(socket, START)
                await receive_until(socket, "ready")
            await server.until(in_use=3)
            async with dial(f"{server.ws}/v1/live") as late:
                assert (await listen(late)).errors == ["server_full"]
            async with http.stream("GET", "/captions/show") as reader:
                lines = reader.aiter_lines()  # kept: the response is closed with it
                await anext(lines)
                during = await scrape(http)
        await server.until(in_use=0)
        after = await scrape(http)
    assert during("voxlive_sessions", protocol="live") == 2
    assert during("voxlive_sessions", protocol="deepgram") == 1
    assert during("voxlive_slots_in_use") == 3
    assert during("voxlive_captions_readers") == 1
    full = {"code": "server_full", "place": "live"}
    assert during("voxlive_errors_total", **full) == 1 + (
        before("voxlive_errors_total", **full) or 0
    )
    for protocol in ("live", "deepgram"):
        assert after("voxlive_sessions", protocol=protocol) == 0
    assert after("voxlive_captions_readers") == 0


async def test_files_and_requests_are_counted(server):
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        path = "/v1/audio/transcriptions"
        good, bad = clip("yes").path.read_bytes(), b"this is no audio at all"
        assert (await http.post(path, files={"file": good})).status_code == 200
        assert (await http.post(path, files={"file": bad})).status_code == 400
        assert (
            await http.post(path, files={"file": good}, data={"model": "a/b"})
        ).status_code == 404
        await http.get("/captions/a-users-words")
        await http.get("/nowhere/some-secret-of-a-client")
        await http.get("/health/live")
        figures = await scrape(http)
    outcomes = {
        sample.labels["outcome"]: sample.value
        for sample in figures.families["voxlive_files"].samples
        if sample.labels["model"] == TINY_EN_ID
    }
    assert outcomes.pop("ok") == 1
    assert sum(outcomes.values()) == 1
    assert figures("voxlive_models_loaded") == 1
    for state in ("running", "waiting"):
        assert figures("voxlive_files_in_hand", model=TINY_EN_ID, state=state) == 0
    requests = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for sample in figures.families["voxlive_http_requests"].samples
    }
    assert requests[path, "200"] == 1
    assert requests[path, "400"] == 1
    assert requests[path, "404"] == 1
    assert requests["/captions/{session}", "404"] == 1
    assert requests["elsewhere", "404"] == 1
    assert requests["/health/live", "200"] == 1
    assert figures("voxlive_errors_total", code="model_not_found", place="/v1/audio") == 1
    labels = figures.labels()
    labels.pop("le")
    for name, values in labels.items():
        assert not [v for v in values if re.search(r"secret|users|show|[0-9a-f]{16}", v)], name


async def test_engine_info_and_openmetrics():
    async with running() as app:
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        answer = await app.http.get("/metrics", headers=accept)
        assert "openmetrics" in answer.headers["content-type"]
        info = Figures(answer.text, openmetrics).families["voxlive"].samples[0].labels
        assert (info["engine"], info["model"], info["device"]) == ("deaf", "none", "cpu")


async def test_metrics_need_their_scope():
    async with running(*KEYED) as app:
        assert (await app.http.get("/metrics")).status_code == 401
        assert (await app.http.get("/metrics", headers=bearer(LIVE))).status_code == 403
        figures = await scrape(app.http, headers=bearer(KEYS["metrics"]))
        place = {"place": "/metrics"}
        assert figures("voxlive_errors_total", code="invalid_api_key", **place) == 1
        assert figures("voxlive_errors_total", code="forbidden", **place) == 1
        assert not set(KEYS.values()) & set().union(*figures.labels().values())
