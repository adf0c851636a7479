"""Models of several families behind one server: every format, and refusals."""

import json
from pathlib import Path

import httpx
import pytest
from support.clips import clip
from support.server import serving
from support.tiny_speech import SAID, write_parakeet, write_qwen3
from support.tiny_whisper import drop_tensor, write_whisper
from support.weights import TINY_EN_ID

from voxlive.runners.outputs.formats import FORMATS

TINY_VOXTRAL = Path(__file__).parents[2] / "models" / "tiny-voxtral"
WHISPER = "ab cd ef."


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Folders are named after other families: a model is what its files say."""
    folder = tmp_path_factory.mktemp("models")
    models = {
        "whisper": write_whisper(folder / "canary-vs-whisper"),
        "parakeet": write_parakeet(folder / "moonshine"),
        "qwen": write_qwen3(folder / "glm-canary"),
        "realtime": TINY_VOXTRAL,
        "broken": write_whisper(folder / "whisper"),
    }
    drop_tensor(models["broken"], "model.encoder.conv1.weight")
    also = [word for name, path in models.items() for word in ("--also", f"{name}={path}")]
    with (
        serving("--max-resident", "4", *also) as server,
        httpx.Client(base_url=server.url, timeout=170) as one,
    ):
        yield one


def ask(client, model, path="transcriptions", **wishes):
    file = {"file": ("yes.flac", clip("yes").path.read_bytes())}
    data = {"model": model, **wishes}
    return client.post(f"/v1/audio/{path}", files=file, data=data)


def lines(subtitles):
    return [
        line
        for line in subtitles.splitlines()
        if line and line != "WEBVTT" and "-->" not in line and not line.isdecimal()
    ]


@pytest.mark.parametrize(
    ("model", "says", "words"),
    [("whisper", WHISPER, True), ("parakeet", "", True), ("qwen", SAID, False),
     pytest.param("realtime", "", True, marks=pytest.mark.endurance)],
)  # fmt: skip
@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.endurance)])
def test_every_format_of_every_family(client, model, says, words, everything):
    both = {"timestamp_granularities[]": ["word", "segment"]}
    timed = ask(client, model, response_format="verbose_json", **both)
    if words:
        assert [word["word"] for word in timed.json()["words"]]
    else:
        assert (timed.status_code, timed.json()["error"]["code"]) == (422, "no_word_times")
    # Where words have times, that is the verbose answer of `make test`.
    formats = ("json",) if words else ("json", "verbose_json")
    if everything:
        formats = tuple(name for name in FORMATS if "diarized" not in name)
    answers = {name: ask(client, model, response_format=name) for name in formats}
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(
        answers, 200
    ), {name: answer.text for name, answer in answers.items()}
    text = answers["json"].json()["text"]
    assert text
    assert says in text
    assert answers["json"].json()["model"] == model
    verbose = answers.get("verbose_json", timed).json()
    assert verbose["text"] == text
    assert verbose["duration"] == pytest.approx(clip("yes").duration, abs=0.02)
    assert all(0 <= s["start"] < s["end"] <= verbose["duration"] for s in verbose["segments"])
    for name in answers.keys() & {"text", "srt", "vtt"}:
        shown = " ".join(lines(answers[name].text))
        assert shown.split() == text.split()


def test_streamed_deltas_join_to_the_text(client):
    body = ask(client, "whisper", stream="true").text
    events = [line.removeprefix("data: ") for line in body.splitlines() if line[:5] == "data:"]
    assert events.pop() == "[DONE]"
    *deltas, done = map(json.loads, events)
    assert "".join(event["delta"] for event in deltas) == done["text"]
    assert WHISPER in done["text"]


def warned(response: httpx.Response) -> list[str]:
    warnings = json.loads(response.headers.get("x-voxlive-warnings", "[]"))
    return [warning["code"] for warning in warnings]


def test_options_that_a_model_has_no_use_for_are_warned_about(client):
    plain = ask(client, "parakeet", temperature="0", chunking_strategy="auto")
    assert (plain.status_code, warned(plain)) == (200, [])
    hinted = ask(client, "parakeet", prompt="names", temperature="0.5")
    assert (hinted.status_code, warned(hinted)) == (200, ["prompt_ignored", "temperature_ignored"])
    assert hinted.json()["text"] == plain.json()["text"]
    expected = ask(client, "parakeet", **{"keywords[]": "Anna", "response_format": "verbose_json"})
    [warning] = expected.json()["warnings"]
    assert warning["code"] == "prompt_ignored"
    events = ask(client, "parakeet", prompt="names", stream="true").text
    assert "prompt_ignored" in events


def test_whisper_translates(client):
    answer = ask(client, "whisper", "translations", response_format="verbose_json")
    assert answer.status_code == 200, answer.text
    assert answer.json()["task"] == "translate"


def test_a_model_with_a_missing_tensor_is_refused(client):
    answer = ask(client, "broken")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unusable_model")
    assert "conv1.weight" in answer.json()["error"]["message"]


def test_models_are_listed(client):
    listed = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert listed[0] == TINY_EN_ID
    assert {"whisper", "parakeet", "qwen", "realtime"} <= set(listed)
