"""Live sessions over mlx-audio's families: a real Whisper's words, a small checkpoint's server."""

import queue
from itertools import pairwise

import pytest
from support.clips import clip
from support.scoring import word_errors
from support.server import serving
from support.tiny_speech import SAID, write_parakeet, write_qwen3
from support.wire import START, dial, receive, send

from voxlive.checkpoints.local_model import read_model
from voxlive.engines import load_engine
from voxlive.engines.contract import Committed, EngineInfo, EngineOptions, Reached, StreamOptions
from voxlive.engines.utterances.commitment import RULES
from voxlive.engines.utterances.engine import UtteranceEngine
from voxlive.errors import EngineError, UnsupportedOption
from voxlive.recognisers import load_recogniser
from voxlive.recognisers.contract import LoadingOptions
from voxlive.values import SAMPLE_RATE


def words_of(engine, samples, step):
    """What a stream commits of audio that comes in steps."""
    messages = queue.Queue()
    stream = engine.open(StreamOptions(), messages.put)
    for at in range(0, len(samples), step):
        stream.feed(samples[at : at + step], at)
    stream.end_utterance(1)
    words = []
    while not isinstance(message := messages.get(timeout=300), Reached):
        words += message.words if isinstance(message, Committed) else ()
    stream.close()
    return words


@pytest.mark.endurance
def test_a_real_whisper_through_mlx_is_live(mlx_whisper):
    recogniser = load_recogniser("mlx_audio", read_model(mlx_whisper), LoadingOptions())
    info = EngineInfo("whisper", "tiny.en", "cpu", 1, ("en",))
    engine = UtteranceEngine(recogniser, info, RULES["fast"])
    spoken = clip("doctor")
    try:
        words = words_of(engine, spoken.samples, 2 * SAMPLE_RATE)
    finally:
        engine.shutdown()
    assert word_errors(spoken.text, "".join(word.text for word in words)) <= 2
    assert all(one.end <= two.start for one, two in pairwise(words))
    assert words[-1].end <= len(spoken.samples)


def test_a_model_without_languages_of_its_own_takes_any(tmp_path):
    engine = load_engine(read_model(write_parakeet(tmp_path)), EngineOptions(max_sessions=2))
    try:
        info = engine.info
        assert (info.engine, info.languages, info.note, info.capacity) == ("parakeet", (), None, 2)
        info.validate(StreamOptions(language="fi"))
        assert engine.check(60) is None
        samples = clip("yes").samples
        words = words_of(engine, samples, SAMPLE_RATE)
    finally:
        engine.shutdown()
    assert words
    assert all(0 <= word.start <= word.end <= len(samples) for word in words)


def test_a_model_that_needs_a_language_takes_no_stream_without():
    info = EngineInfo("canary", "c", "cpu", 1, ("de", "en"), language_required=True)
    info.validate(StreamOptions(language="de"))
    with pytest.raises(UnsupportedOption, match="one of de, en"):
        info.validate(StreamOptions())


def test_files_that_make_up_no_model_are_refused(tmp_path):
    write_parakeet(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(EngineError, match="cannot be loaded as parakeet") as refused:
        load_engine(read_model(tmp_path), EngineOptions())
    assert refused.value.code == "unusable_model"


async def test_a_server_serves_a_folder_of_qwen3_asr(tmp_path):
    folder = write_qwen3(tmp_path / "model")
    with serving("--model", str(folder), "--max-sessions", "2") as running:
        async with dial(f"{running.ws}/v1/live") as socket:
            await send(socket, START)
            ready = await receive(socket)
            assert (ready["engine"], ready["languages"]) == ("qwen3_asr", ["en", "zh"])
            await send(socket, clip("yes").pcm.tobytes())
            await send(socket, {"type": "stop"})
            messages = []
            while not messages or messages[-1]["type"] != "done":
                messages.append(await receive(socket))
        words = [word for one in messages if one["type"] == "words" for word in one["words"]]
        assert messages[-1]["text"].strip() == SAID
        assert "".join(word["text"] for word in words) == messages[-1]["text"]
        assert {word.get("probability") for word in words} == {None}
