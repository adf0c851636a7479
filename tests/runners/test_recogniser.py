"""Files through faster-whisper: real weights, every door, every format, and what is refused."""

import json
from functools import cache, partial

import httpx
import pytest
from support.clips import clip
from support.commands import command_line
from support.runner_jobs import UpdateList, transcribe
from support.scoring import word_error_rate
from support.server import Server, serving
from support.weights import BASE, TINY_EN

import voxlive
from voxlive.checkpoints.resolve import resolve
from voxlive.errors import RequestRefused
from voxlive.runners.contract import Job, RunnerSpec
from voxlive.runners.recogniser import load
from voxlive.values import SAMPLE_RATE, seconds

GOLDEN = {
    "yes": "Yes.",
    "train": "The train to the airport leaves in 15 minutes. Please keep your ticket and your bags "
    "with you.",
    "market": "We bought apples, bread, and a bottle of milk at the market. The total was less "
    "than $20.",
}
"""What tiny.en writes of the synthetic clips."""


@pytest.fixture(scope="module")
def tiny(real_weights):
    runner = load(RunnerSpec(TINY_EN, "faster_whisper", "whisper", resolve(TINY_EN, offline=True)))
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def transcribed(tiny):
    """What tiny.en writes of a clip with its words, once for all tests."""
    return cache(partial(transcribe, tiny, words=True))


@pytest.fixture(scope="module")
def base(real_weights):
    runner = load(RunnerSpec(BASE, "faster_whisper", "whisper", resolve(BASE, offline=True)))
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def server(real_weights):
    with serving("--max-sessions", "1") as running:
        yield running


@pytest.mark.parametrize(
    "name", ["yes", *(pytest.param(n, marks=pytest.mark.endurance) for n in ("train", "market"))]
)
def test_the_clips_have_their_words(tiny, name):
    """Processors round differently: commas and apostrophes may come and go."""
    assert word_error_rate(GOLDEN[name], transcribe(tiny, name)[0].text) == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "most"),
    [
        pytest.param("noisy", 0.2, marks=pytest.mark.endurance),
        ("pauses", 0.1),
        pytest.param("minute", 0.05, marks=pytest.mark.endurance),
    ],
)
def test_longer_clips_are_cut_and_joined(transcribed, name, most):
    transcript, updates = transcribed(name)
    assert word_error_rate(clip(name).text, transcript.text) <= most
    starts = [word.start for segment in transcript.segments for word in segment.words]
    assert starts == sorted(starts)
    assert len(updates.progress) >= 3


def test_segments_have_openais_figures_and_lie_where_somebody_speaks(transcribed):
    transcript, _ = transcribed("pauses")
    details = dict(transcript.segments[0].details)
    assert set(details) == {
        "tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob",
    }  # fmt: skip
    sentences = clip("pauses").sentences
    for word in (word for segment in transcript.segments for word in segment.words):
        middle = seconds(word.start + word.end) / 2
        assert any(one.start - 0.5 < middle < one.end + 0.5 for one in sentences)


def test_silence_says_nothing(tiny):
    transcript, _ = transcribe(tiny, "silence")
    assert (transcript.text, transcript.segments, transcript.language) == ("", (), None)


@pytest.mark.endurance
def test_a_limit_of_tokens_holds_for_the_whole_file(tiny):
    transcript, _ = transcribe(tiny, "minute", max_tokens=12)
    assert transcript.truncated
    assert transcript.completion_tokens == 12
    assert clip("minute").text.lower().startswith(transcript.text.lower()[:12])


@pytest.mark.endurance
def test_a_job_ends_soon_after_it_is_cancelled(tiny):
    updates = UpdateList()
    transcript = tiny.run(Job(clip("minute").path), updates.append, lambda: bool(updates.text))
    assert 0 < len(transcript.text) < len(clip("minute").text)


@pytest.mark.endurance
def test_a_multilingual_model_says_which_language_it_recognised(base):
    transcript, _ = transcribe(base, "doctor")
    assert transcript.language == "en"
    assert transcribe(base, "doctor", language="en")[0].language is None
    assert word_error_rate(clip("doctor").text, transcript.text) <= 0.1


@pytest.mark.endurance
def test_translation_gives_english(base):
    transcript, _ = transcribe(base, "doctor", task="translate", language="en")
    assert transcript.task == "translate"
    assert word_error_rate(clip("doctor").text, transcript.text) <= 0.3


def test_a_prompt_and_a_temperature_reach_the_model(tiny):
    named, _ = transcribe(tiny, "doctor", prompt="Dokter Strange. The Dokter", language="en")
    assert "Dokter" in named.text
    warm, _ = transcribe(tiny, "doctor", temperature=0.4, language="en")
    assert dict(warm.segments[0].details)["temperature"] == 0.4


def test_what_an_english_only_model_cannot_do_is_refused(tiny):
    with pytest.raises(RequestRefused, match="does not know German") as refused:
        transcribe(tiny, "yes", language="de")
    assert refused.value.code == "unsupported_language"
    with pytest.raises(RequestRefused, match="only English") as refused:
        transcribe(tiny, "yes", task="translate")
    assert refused.value.code == "unsupported_task"


@pytest.mark.endurance
def test_a_program_transcribes_by_the_short_name(transcribed, same_priority):
    samples = clip("doctor").samples
    transcript = voxlive.transcribe(samples, TINY_EN, words=True, offline=True)
    assert transcript.text == transcribed("doctor")[0].text
    assert transcript.segments[-1].words[-1].end <= len(samples)
    assert transcript.duration == pytest.approx(len(samples) / SAMPLE_RATE)


@pytest.mark.endurance
def test_the_command_line_transcribes_and_refuses(transcribed):
    command = ("transcribe", clip("doctor").path, "--model", TINY_EN, "--offline")
    with command_line() as voxlive:
        done = voxlive(*command)
        german = voxlive(*command, "--language", "German")
        english = voxlive(*command, "--task", "translate")
    assert done.stdout.strip() == transcribed("doctor")[0].text
    assert german.returncode == 1
    assert "does not know German (de): use en" in german.stderr
    assert english.returncode == 1
    assert "does not translate" in english.stderr


async def ask(server: Server, **fields: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        file = {"file": ("doctor.flac", clip("doctor").path.read_bytes())}
        return await http.post(
            "/v1/audio/transcriptions", files=file, data={"model": TINY_EN} | fields
        )


@pytest.mark.endurance
async def test_rest_answers_in_every_format(server, transcribed):
    text = transcribed("doctor")[0].text
    plain = await ask(server, response_format="text")
    assert (plain.status_code, plain.text.strip()) == (200, text)
    assert (await ask(server)).json()["text"] == text
    verbose = (
        await ask(server, response_format="verbose_json", **{"timestamp_granularities[]": "word"})
    ).json()
    assert verbose["text"] == text
    assert [word["word"].strip(" .") for word in verbose["words"]] == text.strip(".").split()
    for form, mark in (("srt", "-->"), ("vtt", "WEBVTT")):
        subtitles = (await ask(server, response_format=form)).text
        assert mark in subtitles
        assert "doctor will call" in " ".join(subtitles.split())
    streamed = await ask(server, stream="true")
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line[:7] == "data: {"]
    deltas = [one["delta"] for one in events if one["type"] == "transcript.text.delta"]
    assert "".join(deltas) == text


async def test_rest_refuses_what_an_english_only_model_cannot_do(server):
    german = await ask(server, language="de")
    assert german.status_code == 422
    assert german.json()["error"]["code"] == "unsupported_language"


async def test_rest_lists_the_model_with_its_languages(server):
    async with httpx.AsyncClient(base_url=server.url) as http:
        listed = (await http.get("/v1/models")).json()["data"]
    assert {"Systran/faster-whisper-tiny.en", "Systran/faster-whisper-base"} <= {
        one["id"] for one in listed
    }
