"""``POST /v1/audio/transcriptions`` on the live model: formats, fields, refusals."""

import asyncio
import io
import json
import wave
from itertools import pairwise, product

import httpx
import pytest
from support.clips import clip
from support.encode import encode
from support.examples import sampled

PATH = "/v1/audio/transcriptions"
MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=60) as http:
        yield http


def post(client, data: bytes, **fields) -> httpx.Response:
    return client.post(PATH, files={"file": ("clip", data)}, data={"model": "whisper-1", **fields})


def error(response: httpx.Response) -> dict:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def wav(frames: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
        out.writeframes(bytes(2 * frames))
    return file.getvalue()


@pytest.mark.endurance
def test_every_format(client):
    data = clip("doctor").path.read_bytes()
    plain = post(client, data)
    assert plain.headers["content-type"] == "application/json"
    assert plain.headers["x-request-id"]
    text = plain.json()["text"]
    assert "doctor" in text
    assert plain.json()["usage"] == {"type": "duration", "seconds": 5}
    assert post(client, data, response_format="text").text == f"{text}\n"
    srt = post(client, data, response_format="srt").text
    assert srt.startswith("1\n00:00:0")
    vtt = post(client, data, response_format="vtt").text
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    assert " ".join(vtt.split("\n")[3:]).split() == text.split()
    verbose = post(client, data, response_format="verbose_json").json()
    assert verbose["text"] == text
    assert verbose["duration"] == pytest.approx(clip("doctor").duration, abs=0.01)
    assert " ".join(segment["text"] for segment in verbose["segments"]) == text
    assert "words" not in verbose


def test_words_are_listed_when_asked_for(client):
    data = clip("doctor").path.read_bytes()
    both = ["word", "segment"]
    for name, asked in [
        ("timestamp_granularities[]", both),
        ("timestamp_granularities", "word"),
    ]:
        verbose = post(client, data, response_format="verbose_json", **{name: asked}).json()
        assert " ".join(word["word"] for word in verbose["words"]) == verbose["text"]
        assert ("segments" in verbose) == (asked is both)
    assert all(a["end"] <= b["end"] for a, b in pairwise(verbose["words"]))


def test_timestamps_alone_imply_verbose_json(client):
    """As Mistral's clients ask: their answer has one format."""
    answer = post(
        client, clip("doctor").path.read_bytes(), timestamp_granularities="segment"
    ).json()
    assert "doctor" in answer["text"]
    assert answer["segments"][0]["end"] > answer["segments"][0]["start"] >= 0


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("webm", "libopus"),
        pytest.param("mp4", "aac", marks=pytest.mark.endurance),
        pytest.param("mp3", "libmp3lame", marks=pytest.mark.endurance),
    ],
)
def test_containers(client, container, codec):
    data = encode(clip("doctor").samples, container, codec)
    assert "doctor" in post(client, data).json()["text"]


def test_silence_and_an_empty_recording_are_an_empty_text(client):
    for data in (wav(0), wav(48_000), clip("noise").path.read_bytes()):
        response = post(client, data)
        assert response.status_code == 200
        assert response.json()["text"] == ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "docx"}, "response_format"),
        ({"language": "speak easy"}, "language"),
        ({"stream": "perhaps"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "stream"),
        ({"temperature": "hot"}, "temperature"),
        (
            {"timestamp_granularities[]": "word", "response_format": "json"},
            "timestamp_granularities[]",
        ),
        (
            {"timestamp_granularities[]": "letter", "response_format": "verbose_json"},
            "timestamp_granularities[]",
        ),
    ],
)
def test_invalid_fields_are_400_with_the_field(client, fields, param):
    response = post(client, clip("yes").path.read_bytes(), **fields)
    assert response.status_code == 400
    assert error(response)["param"] == param
    assert error(response)["type"] == "invalid_request_error"


def test_a_missing_or_invalid_file_is_refused(client):
    assert error(client.post(PATH, data={"model": "x"}))["code"] == "missing_file"
    for data in (b"", b"not audio at all", clip("yes").path.read_bytes()[:1000]):
        response = post(client, data)
        assert response.status_code == 400
        assert error(response)["param"] == "file"
    broken = client.post(
        PATH,
        content=b"--x\r\nnonsense",
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert broken.status_code == 400
    assert error(broken)


YES = clip("yes").path.read_bytes()


def codes(response) -> list[str]:
    said = json.loads(response.headers.get("x-voxlive-warnings", "[]"))
    return [warning["code"] for warning in said]


def test_options_that_are_as_the_model_has_them_bring_no_warning(client):
    plain = post(client, YES, temperature="0", language="en", chunking_strategy="auto")
    assert (plain.status_code, codes(plain)) == (200, [])


def test_unknown_fields_are_warned_about(client):
    odd = {"seed": "1", "known_as": "me", "chunking_strategy[type]": "server_vad"}
    response = post(client, YES, **odd, response_format="verbose_json")
    [warning] = response.json()["warnings"]
    assert warning["code"] == "fields_ignored"
    assert warning["message"].endswith(": seed, known_as")
    assert "fields_ignored" in post(client, YES, seed="1", stream="true").text
    many = post(client, YES, **{f"a{at}": "1" for at in range(50)})
    assert codes(many) == ["fields_ignored"]
    assert "and 40 more" in many.headers["x-voxlive-warnings"]


NAMES = ["timestamp_granularities", "timestamp_granularities[]", "timestamp_granularities[0]"]
VALUES = ["word", "Word", '["word"]', "word,segment"]
# `make test` has each name and each value.
EACH = [(NAMES[at % 3], value) for at, value in enumerate(VALUES)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(*both, marks=[] if both in EACH else pytest.mark.endurance)
        for both in product(NAMES, VALUES)
    ],
)
def test_granularities_can_be_sent_in_every_form(client, name, value):
    answer = post(client, YES, **{name: value, "response_format": "Verbose_JSON"}).json()
    assert [word["word"] for word in answer["words"]] == answer["text"].split()
    assert ("segments" in answer) == ("segment" in value)


def test_a_list_with_indices_is_a_list(client):
    both = {"timestamp_granularities[0]": "word", "timestamp_granularities[1]": "segment"}
    answer = post(client, YES, **both).json()
    assert answer["words"]
    assert answer["segments"]


@pytest.mark.parametrize("response_format", sampled(["JSON", "Text", " srt ", "VTT"], 2))
def test_response_format_is_case_insensitive(client, response_format):
    assert post(client, YES, response_format=response_format).status_code == 200


@pytest.mark.parametrize("field", ["url", "file_url", "file_id"])
def test_urls_are_refused_with_or_without_a_file(client, field):
    for response in (
        client.post(PATH, data={field: "https://example.com/a.wav"}),
        post(client, YES, **{field: "https://example.com/a.wav"}),
    ):
        assert response.status_code == 422
        assert error(response)["param"] == field


def test_task_can_be_a_field(client):
    assert post(client, YES, task="Transcribe").status_code == 200
    translated = post(client, YES, task="translate")
    assert translated.status_code == 422
    assert error(translated)["code"] == "unsupported_task"
    assert error(post(client, YES, task="summarise"))["param"] == "task"
    both = client.post(
        "/v1/audio/translations", files={"file": ("clip", YES)}, data={"task": "transcribe"}
    )
    assert (both.status_code, error(both)["param"]) == (400, "task")


def test_a_large_upload_is_413_with_or_without_content_length(client):
    declared = post(client, bytes(50_000_001))
    assert declared.status_code == 413

    def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(51):
            yield bytes(1_000_000)

    streamed = client.post(PATH, content=chunks(), headers=MULTIPART)
    assert streamed.status_code == 413
    assert error(streamed)["code"] == "too_big"


def test_unknown_paths_and_methods_have_openais_error_shape(client):
    nowhere = client.get("/v1/nowhere")
    assert nowhere.status_code == 404
    assert error(nowhere)["code"] == "not_found"
    assert nowhere.headers["x-request-id"]
    wrong = client.get(PATH)
    assert wrong.status_code == 405
    assert error(wrong)


async def test_a_disconnect_cancels_the_job(server):
    data = clip("minute").path.read_bytes()
    for stream in ("false", "true"):
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as leaver:
            post = leaver.post(PATH, files={"file": data}, data={"stream": stream})
            request = asyncio.create_task(post)
            await server.until(files=1)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        await server.until(files=0)
