"""Whole sessions over real sockets on the main engine, with the small model that knows words."""

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import httpx
import jiwer
import numpy as np
import pytest
from support.clips import clip
from support.commands import command_line
from support.server import serving
from support.wire import (
    START,
    ServerOutput,
    asr,
    dial,
    listen,
    live,
    play,
    receive,
    s16le,
    send,
    text_of_lines,
)

TINY = Path(__file__).parents[1] / "models" / "tiny-voxtral"


@pytest.fixture(scope="module")
def voxtral():
    with serving("--model", str(TINY), "--device", "cpu", "--max-sessions", "4") as running:
        yield running


@pytest.fixture(
    scope="module",
    params=[
        ("market",),
        pytest.param(("minute", "pauses", "train", "doctor"), marks=pytest.mark.endurance),
    ],
    ids=lambda names: names[0],
)
def native(voxtral, request) -> dict[str, ServerOutput]:
    """What these clips become on the native protocol, all at once and as fast as they are taken."""
    names = request.param

    async def together() -> list[ServerOutput]:
        return await asyncio.gather(
            *(live(voxtral.ws, s16le(clip(name).samples), chunk=2560) for name in names)
        )

    return dict(zip(names, asyncio.run(together()), strict=True))


def first(native: dict[str, ServerOutput]) -> str:
    """The name of the longest clip."""
    return next(iter(native))


def plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def wer(said: str, name: str) -> float:
    return jiwer.wer(plain(clip(name).text), plain(said))


def spoken(heard) -> str:
    words = [word for m in heard.of("words") for word in m["words"]]
    [done] = heard.of("done")
    assert "".join(word["text"] for word in words) == done["text"]
    assert "".join(m["text"] for m in heard.of("segment")) == done["text"]
    bounds = [bound for word in words for bound in (word["start"], word["end"])]
    assert bounds == sorted(bounds)
    assert all(0 <= bound <= done["duration"] for bound in bounds)
    assert heard.code == 1000
    return done["text"]


def test_a_clip_is_transcribed(native):
    name = first(native)
    assert wer(spoken(native[name]), name) <= 0.08
    [done] = native[name].of("done")
    assert done["duration"] == pytest.approx(clip(name).duration, abs=1e-3)


@pytest.mark.endurance
async def test_every_protocol_has_the_same_text(voxtral, native):
    expected, long = spoken(native[first(native)]).split(), clip(first(native))
    url, upload = f"{voxtral.url}/v1/audio/transcriptions", {"file": long.path.read_bytes()}
    theirs, file = await asyncio.gather(
        asr(voxtral.ws, s16le(long.samples), chunk=3201),
        asyncio.to_thread(httpx.post, url, files=upload, timeout=120),
    )
    assert text_of_lines(theirs.of(None)[-1]["lines"]).split() == expected
    assert file.json()["text"].split() == expected


async def test_words_come_during_speech(voxtral):
    """Half of a sentence's before the speaker's first pause, however slow the machine is."""
    doctor, heard = clip("doctor"), ServerOutput()

    def said() -> int:
        return sum(len(m["words"]) for m in heard.of("words"))

    async with dial(f"{voxtral.ws}/v1/live") as socket:
        await send(socket, START)
        listening = asyncio.create_task(listen(socket, heard))
        for _ in range(15):  # a minute, without a pause
            await play(socket, s16le(doctor.speech), 1.0, 2560)
            if said() > 0.5 * len(doctor.words):
                break
        kinds = [m["type"] for m in heard.messages]
        assert said() > 0.5 * len(doctor.words)
        assert "speech_stopped" not in kinds
        await send(socket, {"type": "stop"})
        await listening
    assert spoken(heard)


@pytest.mark.endurance
def test_the_command_line_has_the_same_text(native):
    names = ("train", "doctor") if "minute" in native else (first(native),)
    files = [str(clip(name).path) for name in (*names, "silence")]
    with command_line() as voxlive:
        done = voxlive("transcribe", "--model", TINY, "--device", "cpu", *files)
    lines = [plain(line) for line in done.stdout.splitlines() if line.strip()]
    for name in names:
        assert any(plain(spoken(native[name])) in line for line in lines)
    assert done.returncode == 0


def test_word_times_match_the_audio(native):
    errors = []
    for name, heard in native.items():
        said = [word for m in heard.of("words") for word in m["words"]]
        theirs = " ".join(plain(word.text) for word in clip(name).words)
        ours = " ".join(plain(word["text"]) for word in said)
        for chunk in jiwer.process_words(theirs, ours).alignments[0]:
            if chunk.type == "equal":
                pairs = zip(
                    clip(name).words[chunk.ref_start_idx : chunk.ref_end_idx],
                    said[chunk.hyp_start_idx : chunk.hyp_end_idx],
                    strict=True,
                )
                errors += [abs(true.end - word["end"]) for true, word in pairs]
    assert len(errors) > (150 if "minute" in native else 15)
    assert median(errors) <= 0.1


@pytest.mark.endurance
@pytest.mark.parametrize("seconds", [4, 12])
async def test_silence_noise_and_tones_have_no_words(voxtral, seconds):
    for name in ("silence", "noise"):
        assert spoken(await live(voxtral.ws, s16le(clip(name).samples))) == ""
    time = np.arange(seconds * 16_000) / 16_000
    noise = np.random.default_rng(0).standard_normal(time.size) * 0.03
    chord = sum(np.sin(2 * np.pi * hertz * time) for hertz in (220, 277.2, 329.6)) * 0.05
    rhythm = chord * (np.sin(2 * np.pi * time) > 0)
    unheard = await asyncio.gather(
        *(live(voxtral.ws, s16le(sound), vad=False) for sound in (noise, rhythm))
    )
    assert [spoken(heard) for heard in unheard] == ["", ""]


@pytest.mark.endurance
@pytest.mark.parametrize(
    ("names", "delays"),
    [
        (("doctor", "message"), (240, 960)),
        (("train", "doctor", "message", "market"), (240, 480, 720, 960)),
    ],
    ids=["two", "four"],
)
async def test_delays_are_per_session_and_sessions_do_not_mix(voxtral, names, delays):
    alone = [
        spoken(await live(voxtral.ws, s16le(clip(name).samples), delay_ms=delay))
        for name, delay in zip(names, delays, strict=True)
    ]
    together = await asyncio.gather(
        *(
            live(voxtral.ws, s16le(clip(name).samples), delay_ms=delay, pace=3.0)
            for name, delay in zip(names, delays, strict=True)
        )
    )
    assert [spoken(heard) for heard in together] == alone
    assert [heard.of("ready")[0]["delay_ms"] for heard in together] == list(delays)
    assert np.mean([wer(text, name) for text, name in zip(alone, names, strict=True)]) <= 0.15


@pytest.mark.endurance
async def test_a_flush_loses_and_repeats_no_word(voxtral, native):
    name = "train" if "train" in native else first(native)
    audio, whole = s16le(clip(name).samples), spoken(native[name])
    pause = int(clip(name).sentences[0].end * 16_000) * 2 + 2 * 1600
    async with dial(f"{voxtral.ws}/v1/live") as socket:
        await send(socket, START)
        assert (await receive(socket))["type"] == "ready"
        await send(socket, audio[:pause], {"type": "flush", "id": "a"}, audio[pause:])
        await send(socket, {"type": "stop"})
        heard = await listen(socket)
    assert [m["id"] for m in heard.of("flushed")] == ["a"]
    assert jiwer.wer(plain(whole), plain(spoken(heard))) <= 0.1


async def test_a_client_beyond_capacity_and_a_bad_delay_are_refused(voxtral):
    refused = await live(voxtral.ws, b"", delay_ms=100)
    assert refused.errors == ["unsupported_option"]
    assert refused.code == 4400
    async with AsyncExitStack() as stack:
        for _ in range(4):
            socket = await stack.enter_async_context(dial(f"{voxtral.ws}/v1/live"))
            await send(socket, START)
            assert (await receive(socket))["type"] == "ready"
        refused = await listen(await stack.enter_async_context(dial(f"{voxtral.ws}/v1/live")))
        assert refused.errors == ["server_full"]
        assert refused.code == 1013
