"""OpenAI's own Python client about files: transcriptions, translations, chat with audio, models."""

import base64
import json
import re

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from support.clips import clip, two_people, write_wav
from support.encode import encode
from support.scoring import spelt
from support.server import serving
from support.weights import TINY_EN_ID
from support.wire import s16le


@pytest.fixture(scope="module")
def client(server):
    with OpenAI(api_key="any", base_url=f"{server.url}/v1", max_retries=0, timeout=120) as one:
        yield one


@pytest.fixture(scope="module")
def text(client):
    """The clip's text in the short form: every other form must have the same."""
    result = transcribed(client).text
    assert "doctor" in result
    return result


def upload(name="doctor"):
    return (f"{name}.flac", clip(name).path.read_bytes())


def transcribed(client, name="doctor", **options):
    create = client.audio.transcriptions.create
    return create(file=upload(name), model="gpt-4o-transcribe", **options)


def subtitle_words(subtitles):
    """The words of a subtitle file."""
    lines = subtitles.splitlines()
    return [
        word
        for line in lines
        if line != "WEBVTT" and "-->" not in line and not line.isdecimal()
        for word in line.split()
    ]


@pytest.mark.long
def test_every_format(client, text):
    short = transcribed(client, response_format="json", temperature=0)
    assert short.text == text
    prompted = transcribed(client, prompt="a doctor speaks").text
    assert prompted != text
    assert {"doctor", "afternoon", "results"} <= set(spelt(prompted))
    assert (short.usage.type, short.usage.seconds) == ("duration", 5)
    assert transcribed(client, response_format="text") == f"{text}\n"
    srt = transcribed(client, response_format="srt")
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n", srt)
    vtt = transcribed(client, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    assert subtitle_words(srt) == subtitle_words(vtt) == text.split()
    verbose = transcribed(
        client, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert (verbose.text, verbose.language) == (text, None)
    assert verbose.duration == pytest.approx(clip("doctor").duration, abs=0.01)
    assert " ".join(segment.text for segment in verbose.segments) == text
    assert [word.word for word in verbose.words] == text.split()
    assert all(0 <= w.start < w.end <= verbose.duration for w in verbose.words)


@pytest.mark.long
@pytest.mark.parametrize(
    "formats",
    [
        pytest.param(("vtt",), id="some"),
        pytest.param(("verbose_json", "vtt", "srt", "text"), id="all", marks=pytest.mark.endurance),
    ],
)
def test_speakers_are_told_apart_in_every_format(client, tmp_path, formats):
    """The same voice twice is one speaker, whatever the model is."""
    wav = write_wav(tmp_path / "two.wav", s16le(two_people()))

    def asked(**more):
        create = client.audio.transcriptions.create
        return create(file=wav, model="gpt-4o-transcribe-diarize", **more)

    told = asked(response_format="diarized_json")
    assert [one.speaker for one in told.segments] == ["Speaker 1", "Speaker 2", "Speaker 1"]
    assert "".join(f" {one.text}" for one in told.segments).strip() == told.text
    diarize = {"extra_body": {"diarize": "true", "speakers": "2", "max_speakers": "4"}}
    answers = {name: asked(response_format=name, **diarize) for name in formats}
    if verbose := answers.get("verbose_json"):
        assert [one.speaker for one in verbose.segments] == [one.speaker for one in told.segments]
    assert re.findall("<v (.*?)>", answers["vtt"])[0] == "Speaker 1"
    if srt := answers.get("srt"):
        assert "\nSpeaker 2: " in srt
    if text := answers.get("text"):
        lines = text.splitlines()
        assert [line.split(":")[0] for line in lines] == [one.speaker for one in told.segments]
        assert lines[0] == lines[2]
    for bad in ({"speakers": "9"}, {"max_speakers": "0"}, {"min_speech_ms": "x"}):
        with pytest.raises(openai.BadRequestError) as refused:
            asked(response_format="json", extra_body={"diarize": "true", **bad})
        assert refused.value.param == next(iter(bad))


@pytest.mark.endurance
def test_a_stream_has_the_text_as_it_is_recognised(client):
    events = list(transcribed(client, "pauses", stream=True))
    *deltas, done = events
    assert done.type == "transcript.text.done"
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert len(deltas) > 1
    assert "".join(event.delta for event in deltas) == done.text
    assert done.text.strip() == transcribed(client, "pauses").text


async def test_the_asynchronous_client(server, text):
    async with AsyncOpenAI(api_key="any", base_url=f"{server.url}/v1") as client:
        stream = await client.audio.transcriptions.create(
            file=upload(), model="whisper-1", stream=True
        )
        assert [event async for event in stream][-1].text.strip() == text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_translation_needs_a_model_that_translates(client):
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.audio.translations.create(file=upload(), model="whisper-1")
    assert (refused.value.code, refused.value.param) == ("unsupported_task", "task")


def test_chat_with_audio(client, text):
    wav = base64.b64encode(encode(clip("doctor").samples, "wav", "pcm_s16le", 16_000)).decode()
    audio = {"type": "input_audio", "input_audio": {"data": wav, "format": "wav"}}
    question = {"type": "text", "text": "What is said here?"}
    request = {
        "model": "gpt-audio",
        "messages": [
            {"role": "system", "content": "You transcribe."},
            {"role": "user", "content": [question, audio]},
        ],
    }
    answer = client.chat.completions.create(**request)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == "stop"
    chunks = list(client.chat.completions.create(**request, stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces).strip() == text
    assert chunks[-1].choices[0].finish_reason == "stop"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="gpt-audio", messages=[{"role": "user", "content": "?"}]
        )
    assert "input_audio" in str(refused.value)


@pytest.mark.parametrize(
    ("options", "kind", "code"),
    [
        ({"model": "no-such-model"}, openai.NotFoundError, "model_not_found"),
        ({"model": "/etc/passwd"}, openai.NotFoundError, "model_not_found"),
        ({"model": "../tests"}, openai.NotFoundError, "model_not_found"),
        ({"language": "xx"}, openai.BadRequestError, "bad_language"),
        ({"language": "fr"}, openai.UnprocessableEntityError, "unsupported_language"),
        ({"response_format": "docx"}, openai.BadRequestError, "unknown_value"),
        ({"temperature": 7}, openai.BadRequestError, "bad_field"),
        ({"include": ["logprobs"]}, openai.UnprocessableEntityError, "unsupported_option"),
        ({"file": ("a.wav", b"no audio")}, openai.BadRequestError, None),
    ],
)
def test_refusals_are_the_clients_own_exceptions(client, options, kind, code):
    with pytest.raises(kind) as refused:
        client.audio.transcriptions.create(
            **{"file": upload("yes"), "model": "whisper-1", **options}
        )
    assert refused.value.request_id.startswith("req_")
    assert refused.value.type == "invalid_request_error"
    if code:
        assert refused.value.code == code


def test_models_can_be_listed_and_named(server, client, text):
    listed = client.models.list().data
    assert listed[0].id == TINY_EN_ID
    assert client.models.retrieve(TINY_EN_ID).id == TINY_EN_ID
    assert client.models.retrieve(server.health()["model"]).id == TINY_EN_ID
    named = client.audio.transcriptions.create(file=upload(), model=listed[0].id)
    assert named.text == text
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_limits_are_the_clients_own_exceptions():
    with (
        serving("--max-upload-mb", "2", "--max-file-minutes", "0.1") as server,
        OpenAI(api_key="any", base_url=f"{server.url}/v1", max_retries=0) as client,
    ):
        for file, code in [
            (("long.flac", clip("minute").path.read_bytes()), "audio_too_long"),
            (("big.wav", bytes(2_100_000)), "too_big"),
        ]:
            with pytest.raises(openai.APIStatusError) as refused:
                client.audio.transcriptions.create(file=file, model="whisper-1")
            assert (refused.value.status_code, refused.value.code) == (413, code)
        short = client.audio.transcriptions.create(file=upload("yes"), model="whisper-1")
        assert json.loads(short.to_json())["text"]
