"""Several protocols over real sockets at once: a full server, SIGTERM, keys."""

import asyncio
import json
import signal

import pytest
from support.clips import clip
from support.server import serving
from support.talk import (
    AUDIO_START,
    BEGIN,
    DEEPGRAM,
    MISTRAL,
    OPTIONS,
    PANEL,
    PORTS,
    STOP,
    WHISPER,
    call,
    chunk,
    completed,
    deepgram_finals,
    mistral_append,
    outcome,
    panel_finals,
    transcripts,
    utterance,
    wyoming,
)
from support.wire import START, dial, listen, receive, receive_until, s16le, send
from websockets.exceptions import InvalidStatus
from wyoming.event import Event, async_read_event, async_write_event

SPEECH = s16le(clip("doctor").samples)
UTTERANCE = utterance(SPEECH)
UNHURRIED = ("--drain-seconds", "60")
"""Last words take longer where much else runs."""


async def test_deepgram_and_mistral_report_a_full_server(small):
    async with (
        dial(f"{small.ws}{MISTRAL}") as waiting,
        dial(f"{small.ws}/v1/live") as first,
    ):
        assert (await receive(waiting))["type"] == "session.created"
        await send(first, START)
        await receive(first)
        with pytest.raises(InvalidStatus) as refused:
            async with dial(f"{small.ws}{DEEPGRAM}"):
                pass
        response = refused.value.response
        assert response.status_code == 503
        assert json.loads(response.body)["err_code"] == "SERVICE_UNAVAILABLE"
        assert int(response.headers["retry-after"]) > 0
        # One that connected before learns it with its first audio, a new one at once.
        await send(waiting, mistral_append(SPEECH))
        for result in (await listen(waiting), await outcome(small, MISTRAL)):
            assert result.messages[-1]["error"]["code"] == 503
            assert result.code == 1013
        await send(first, SPEECH, {"type": "stop"})
        assert "doctor" in (await listen(first)).of("done")[0]["text"]


async def test_whisper_live_echopanel_and_wyoming_report_a_full_server(small):
    async with dial(f"{small.ws}/v1/live") as first:
        await send(first, START)
        await receive(first)
        waiting = await outcome(small, WHISPER, OPTIONS)
        assert waiting.messages == [{"uid": "u", "status": "WAIT", "message": 1}]
        result = await outcome(small, PANEL)
        assert (result.messages[-1]["state"], result.code) == ("error", 1013)
        [error] = await wyoming(small, *UTTERANCE[:1])
        assert (error.type, error.data["code"]) == ("error", "server_full")
        await send(first, {"type": "stop"})
        assert not (await listen(first)).errors
    # A second source of EchoPanel's may find no room: the first one goes on.
    result = await outcome(small, PANEL, BEGIN, SPEECH, b"EP\1\1" + SPEECH, STOP)
    assert "doctor" in panel_finals(result)
    assert [m["state"] for m in result.of("status")].count("warning") == 1
    assert result.of("final_summary")
    assert result.code == 1000


async def test_deepgram_and_mistral_send_the_last_words_at_sigterm():
    speech = SPEECH[: 32_000 * 4]
    with serving("--max-sessions", "2", "--commit", "pause", *UNHURRIED) as server:
        async with (
            dial(f"{server.ws}{DEEPGRAM}&vad_events=true") as deepgram,
            dial(f"{server.ws}{MISTRAL}") as mistral,
        ):
            turns = {"type": "session.update", "session": {"turn_detection": {}}}
            await send(deepgram, speech)
            await send(mistral, turns, mistral_append(speech))
            await receive_until(deepgram, "SpeechStarted")
            await receive_until(mistral, "turn.start")
            server.process.send_signal(signal.SIGTERM)
            results, other = await asyncio.gather(listen(deepgram), listen(mistral))
        assert "doctor" in deepgram_finals(results)
        assert results.messages[-1]["type"] == "Metadata"
        [done] = other.of("transcription.done")
        assert done["text"] == deepgram_finals(results)
        assert not other.of("error")
        assert results.code == other.code == 1012
        assert server.process.wait(60) == 0


async def test_whisper_live_echopanel_and_wyoming_send_the_last_words_at_sigterm():
    with serving(*PORTS, "--max-sessions", "3", *UNHURRIED) as server:
        async with (
            dial(server.others["WhisperLive"]) as whisper,
            dial(f"{server.ws}{PANEL}") as panel,
            call(server) as (reader, writer),
            call(server) as (idle, _),
        ):
            short = s16le(clip("yes").samples)
            await send(whisper, OPTIONS, short)
            await send(panel, BEGIN, short)
            for event in (AUDIO_START, chunk(short)):
                await async_write_event(event, writer)
            while (await async_read_event(reader)).type != "voice-started":
                pass
            await receive_until(panel, "status")
            await receive(whisper)
            await server.until(in_use=3)
            server.process.send_signal(signal.SIGTERM)
            result, panel_result = await asyncio.gather(listen(whisper), listen(panel))
            events = []
            while event := await async_read_event(reader):
                events.append(event)
            assert await idle.read() == b""
        assert "Yes" in completed(result)
        assert result.messages[-1] == {"uid": "u", "message": "DISCONNECT"}
        assert "Yes" in panel_finals(panel_result)
        assert panel_result.of("final_summary")
        assert result.code == panel_result.code == 1012
        assert "Yes" in transcripts(events)[0]
        assert server.process.wait(60) == 0


async def test_keys_are_required_on_every_port():
    with serving(*PORTS, "--wyoming-allow", "127.0.0.1", "--api-key", "secret-key-of-16") as server:
        whisper = server.others["WhisperLive"]
        for url, options in [
            (f"{whisper}?token=secret-key-of-16", {}),
            (whisper, {"additional_headers": {"Authorization": "Bearer secret-key-of-16"}}),
        ]:
            async with dial(url, **options) as client:
                await send(client, OPTIONS)
                assert (await receive(client))["message"] == "SERVER_READY"
        with pytest.raises(InvalidStatus) as refused:
            async with dial(whisper):
                pass
        assert refused.value.response.status_code == 401
        async with dial(
            f"{server.ws}{PANEL}", additional_headers={"x-echopanel-token": "secret-key-of-16"}
        ) as client:
            assert (await receive(client))["state"] == "connected"
        result = await outcome(server, PANEL)
        assert (result.messages[-1]["state"], result.code) == ("error", 1008)
        assert result.messages[-1]["code"] == "invalid_api_key"
        assert [event.type for event in await wyoming(server, Event("describe"))] == ["info"]
