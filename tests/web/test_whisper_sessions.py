"""A real server with a real, small Whisper as its live engine."""

import re
from itertools import pairwise

import httpx
import pytest
from support.clips import clip
from support.scoring import spelt
from support.server import serving
from support.talk import CLOSE, DEEPGRAM, append
from support.weights import BASE, TINY_EN
from support.wire import START, dial, receive, send

CHUNK = 3200


@pytest.fixture(scope="module")
def whisper(real_weights):
    with serving("--model", TINY_EN, "--max-sessions", "2") as running:
        yield running


async def test_spoken_words_come_once_before_the_pause_and_are_right(whisper):
    spoken = clip("doctor")
    async with dial(f"{whisper.ws}/v1/live") as socket:
        await send(socket, START)
        ready = await receive(socket)
        assert (ready["engine"], ready["languages"]) == ("whisper", ["en"])
        assert ready["vad"]["min_silence_ms"] == 500
        pcm = spoken.pcm.tobytes()
        for at in range(0, len(pcm), CHUNK):
            await send(socket, pcm[at : at + CHUNK])
        await send(socket, {"type": "stop"})
        messages = []
        while not messages or messages[-1]["type"] != "done":
            messages.append(await receive(socket))
    words = [word for m in messages if m["type"] == "words" for word in m["words"]]
    assert "".join(word["text"] for word in words) == messages[-1]["text"]
    wanted = spelt(spoken.text)
    assert len(set(wanted) & set(spelt(messages[-1]["text"]))) > 0.8 * len(set(wanted))
    assert all(one["end"] <= two["start"] for one, two in pairwise(words))
    assert words[-1]["end"] <= spoken.duration
    kinds = [message["type"] for message in messages]
    assert kinds.index("words") < kinds.index("segment")


def test_it_is_what_a_server_runs_that_is_given_no_model(real_weights, tmp_path):
    nothing = tmp_path / "config.toml"
    nothing.touch()
    with serving(env={"VOXLIVE_CONFIG": str(nothing)}) as server:
        health = server.health()
    assert (health["engine"], health["model"]) == ("whisper", "Systran/faster-whisper-base")
    assert health["pause_ms"] == 900
    assert health["note"] is None


def test_the_health_and_the_list_of_models_say_that_it_knows_english_only(whisper):
    health = httpx.get(f"{whisper.url}/health", timeout=30).json()
    [model, *_] = httpx.get(f"{whisper.url}/v1/models", timeout=30).json()["data"]
    assert model["note"] == health["note"]
    assert re.match(r"English only: \S*voxlive serve --model whisper-base ", health["note"])


async def test_another_language_is_refused_with_what_the_model_knows(whisper):
    async with dial(f"{whisper.ws}/v1/live") as socket:
        await send(socket, {**START, "language": "de"})
        error = await receive(socket)
    assert (error["type"], error["code"]) == ("error", "unsupported_option")
    assert "German" in error["message"]
    assert "English only" in error["message"]
    await whisper.until(in_use=0)


async def said(server, **asked) -> list[dict]:
    """All messages of a session over a clip."""
    async with dial(f"{server.ws}/v1/live") as socket:
        await send(socket, {**START, **asked}, clip("doctor").pcm.tobytes(), {"type": "stop"})
        messages = [await receive(socket)]
        while messages[-1]["type"] not in ("done", "error"):
            messages.append(await receive(socket))
    await server.until(in_use=0)
    return messages


async def test_terms_are_written_as_they_are_spelt_and_the_rule_is_the_sessions(whisper):
    messages = await said(whisper, vocabulary=["Doctor Will", "Resullts"], commit="pause")
    ready, done = messages[0], messages[-1]
    assert (ready["vocabulary"], ready["commit"], ready["task"]) == (2, "pause", "transcribe")
    assert "Doctor Will call you back" in done["text"]
    assert done["text"].rstrip().endswith("Resullts.")
    [words] = [message["words"] for message in messages if message["type"] == "words"]
    assert {word["original"] for word in words if "original" in word} >= {"doctor will"}


async def test_deepgrams_key_terms_and_replacements_are_in_its_results(whisper):
    query = "keyterm=Doctor%20Will&replace=results:outcome&replace=the%20outcome:it"
    async with dial(f"{whisper.ws}{DEEPGRAM}&{query}") as socket:
        await send(socket, clip("doctor").pcm.tobytes(), CLOSE)
        text = ""
        while (message := await receive(socket))["type"] != "Metadata":
            if message["type"] == "Results" and message["is_final"]:
                text += " " + message["channel"]["alternatives"][0]["transcript"]
    assert "Doctor Will call you back" in text
    assert text.rstrip().endswith("about the outcome.")
    await whisper.until(in_use=0)


async def test_openais_prompt_is_a_list_of_terms(whisper):
    transcription = {"model": "whisper-1", "prompt": "Doctor Will, Kellynch Hall"}
    audio = {"format": {"type": "audio/pcm", "rate": 16_000}, "transcription": transcription}
    session = {"type": "transcription", "audio": {"input": audio}}
    async with dial(f"{whisper.ws}/v1/realtime") as socket:
        await send(socket, {"type": "session.update", "session": session})
        await send(socket, append(clip("doctor").pcm.tobytes()))
        await send(socket, {"type": "input_audio_buffer.commit"})
        while not (message := await receive(socket))["type"].endswith(".completed"):
            assert message["type"] != "error", message
    assert "Doctor Will call you back" in message["transcript"]
    await whisper.until(in_use=0)


async def test_a_model_of_english_alone_does_not_translate(whisper):
    [error] = await said(whisper, task="translate")
    assert (error["type"], error["code"]) == ("error", "unsupported_option")
    assert "English" in error["message"]


async def test_a_model_of_many_languages_says_which_is_spoken_once(real_weights):
    with serving("--model", BASE, "--max-sessions", "1", "--vocabulary", "Doctor Will") as base:
        messages = await said(base)
        assert (messages[0]["language"], messages[0]["vocabulary"]) == (None, 1)
        [found] = [message for message in messages if message["type"] == "language"]
        assert found["language"] == "en"
        assert 0.5 < found["p"] <= 1
        assert "Doctor Will call you back" in messages[-1]["text"]
        messages = await said(base, language="en", task="translate")
        assert (messages[0]["language"], messages[0]["task"]) == ("en", "translate")
        assert not [message for message in messages if message["type"] == "language"]
        assert len(set(spelt(clip("doctor").text)) & set(spelt(messages[-1]["text"]))) >= 8
