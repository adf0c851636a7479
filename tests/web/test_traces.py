"""Sessions as traces: what a collector gets from a real server, and how utterances are followed."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from support.clips import clip
from support.collector import Collector, collecting
from support.server import AT_PAUSES, serving
from support.weights import TINY_EN
from support.wire import START, dial, listen, live, s16le, send

from voxlive.streaming.events import SegmentClosed
from voxlive.streaming.traces import PipelineTrace, TraceExporter, TracesUnavailable

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = {"ingest", "detection", "step", "emission", "store"}


def about(span) -> dict:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as receiver:
        yield receiver


@pytest.mark.long
async def test_a_session_is_a_trace_with_its_stages(collector, real_weights, tmp_path):
    pause = np.zeros(24_000, np.float32)
    speech = s16le(np.concatenate([clip("doctor").samples, pause, clip("yes").samples, pause]))
    options = ("--model", TINY_EN, *AT_PAUSES, "--store", str(tmp_path), "--trace", collector.url)
    with serving(*options) as server:
        header = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        async with dial(f"{server.ws}/v1/live", additional_headers=header) as socket:
            await send(socket, START, speech, {"type": "stop"})
            heard = await listen(socket)
        alone = await live(server.ws, speech)
        async with dial(f"{server.ws}/v1/live") as socket:
            await send(socket, {"type": "start", "format": "container"}, b"no audio at all" * 99)
            await send(socket, {"type": "stop"})
            assert (await listen(socket)).errors == ["bad_audio"]
    assert collector.paths == {"/v1/traces"}
    [named] = {about(one.resource)["service.name"] for one in collector.resources}
    assert named == "voxlive"
    spans = {span.span_id: span for span in collector.spans}
    roots = [span for span in spans.values() if span.name == "session"]
    assert len(roots) == 3
    # What the client has begun is joined, and nothing else.
    [joined] = [root for root in roots if root.trace_id.hex() == TRACE]
    assert joined.parent_span_id.hex() == PARENT
    assert len({root.trace_id for root in roots}) == 3
    assert about(joined)["voxlive.session.id"] == heard.messages[0]["session"]
    assert about(joined)["voxlive.protocol"] == "live"
    [failed] = [root for root in roots if root.status.code == root.status.STATUS_CODE_ERROR]
    assert about(failed)["error.type"] == "bad_audio"

    for answer in (heard, alone):
        ident = answer.messages[0]["session"]
        [root] = [one for one in roots if about(one).get("voxlive.session.id") == ident]
        segments = answer.of("segment")
        below = [span for span in spans.values() if span.parent_span_id == root.span_id]
        spoken = [
            one
            for one in below
            if {s.name for s in spans.values() if s.parent_span_id == one.span_id} == STAGES
        ]
        assert {span.name for span in below} == {"utterance"}
        assert len(spoken) == len(segments) >= 2
        for span in below:
            assert span.trace_id == root.trace_id
            inside = [one for one in spans.values() if one.parent_span_id == span.span_id]
            for one in inside:
                assert root.start_time_unix_nano <= span.start_time_unix_nano
                assert span.start_time_unix_nano <= one.start_time_unix_nano
                assert one.start_time_unix_nano <= one.end_time_unix_nano
                assert one.end_time_unix_nano <= span.end_time_unix_nano
                assert span.end_time_unix_nano <= root.end_time_unix_nano
        # Nothing that was said is in it.
        everything = b"".join(collector.bodies).lower()
        told = {
            word["text"].strip(" .,?!").lower() for m in answer.of("words") for word in m["words"]
        }
        long = [word for word in told if len(word) > 4]
        assert long
        assert not [word for word in long if word.encode() in everything]


def test_utterances_are_followed_in_order():
    """The next one is taken in while the engine is at this one, and this one is being sent."""
    clock, done = [0], []
    trace = PipelineTrace(lambda: clock[0], done.append)

    def at(now: int) -> None:
        clock[0] = now

    trace.on_fed(100)
    at(10)
    trace.on_marker(1)
    at(20)
    trace.on_fed(300)  # the second
    at(30)
    trace.on_words()
    at(40)
    trace.on_reached(1)
    at(50)
    trace.on_marker(2)
    trace.on_progress()
    trace.on_fed(5)  # a third, of which there is no word
    trace.on_marker(3)
    assert done == []
    trace.on_words()
    at(60)
    trace.on_sent(SegmentClosed(1, 0, 1, ""))
    [first] = done
    assert first.samples == 100
    assert (first.stages["step"].start, first.stages["step"].end) == (0, 40)
    assert (first.stages["emission"].start, first.stages["emission"].end) == (30, 60)
    at(70)
    trace.on_reached(2)
    trace.on_reached(3)
    assert [one.samples for one in done] == [100, 5]
    assert "emission" not in done[1].stages
    trace.close()
    assert [one.samples for one in done] == [100, 5, 300]


def test_nobody_is_traced_who_did_not_ask(monkeypatch, caplog):
    for name in ("", "TRACES_"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT", raising=False)
    assert TraceExporter.of(None) is None
    loaded = "import sys, voxlive.web.server; sys.exit('opentelemetry.sdk' in sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True)
    # The environment may mean other programs: what is missing is said, and the server starts.
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert TraceExporter.of(None) is None
    assert "voxlive[trace]" in caplog.text
    with pytest.raises(TracesUnavailable, match=r"voxlive\[trace\]"):
        TraceExporter.of("http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    caplog.clear()
    assert TraceExporter.of(None) is None
    assert not caplog.text
