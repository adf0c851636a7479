from __future__ import annotations

import asyncio

import numpy as np
import pytest
import pytest_asyncio
from support.batches import UpdateRecorder, batch, job, refused, voxtral, whisper
from support.clips import clip
from support.encode import encode

from voxlive.runners.contract import Job, JobProgress, Transcript
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.values import samples

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared():
    """For jobs that leave their process as it was."""
    async with batch() as one:
        yield one


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(whisper(), id="whisper"),
        pytest.param(voxtral(), id="voxtral", marks=pytest.mark.endurance),
    ],
)
async def test_a_file_becomes_text_with_times(shared, spec):
    updates = UpdateRecorder()
    transcript = await shared.transcribe(spec, job("doctor", words=True), updates)
    assert (
        transcript.text == updates.text == "".join(segment.text for segment in transcript.segments)
    )
    assert len(set(transcript.text.split()) & set(clip("doctor").text.split())) > 5
    assert transcript.duration == pytest.approx(clip("doctor").duration, abs=0.001)
    for segment in transcript.segments:
        assert segment.text == "".join(word.text for word in segment.words)
        assert 0 <= segment.start < segment.end <= samples(transcript.duration)
    assert transcript.language is None
    done = [progress.done_s for progress in updates.progress]
    assert done == sorted(done)
    assert {progress.total_s for progress in updates.progress} == {transcript.duration}


async def test_it_can_be_followed_and_the_model_stays_loaded(shared):
    items = [item async for item in shared.follow(whisper(), job("yes"))]
    transcript = items.pop()
    assert isinstance(transcript, Transcript)
    assert isinstance(items[0], JobProgress)
    assert transcript.text == "".join(
        item.text for item in items if not isinstance(item, JobProgress)
    )
    pids = [one.pid for one in shared.loaded if one.spec == whisper()]
    assert await shared.transcribe(whisper(), job("yes")) == transcript
    assert [one.pid for one in shared.loaded if one.spec == whisper()] == pids


async def test_raw_pcm(shared, tmp_path):
    path = tmp_path / "yes.pcm"
    path.write_bytes((clip("yes").samples * 32767).astype("<i2").tobytes())
    transcript = await shared.transcribe(whisper(), Job(path, raw=AudioFormat("s16le")))
    assert transcript.text == (await shared.transcribe(whisper(), job("yes"))).text


async def test_silence_is_no_text_and_its_progress_moves(shared, tmp_path):
    path = tmp_path / "silence.flac"
    path.write_bytes(encode(np.zeros(120 * 16_000, np.float32), "flac", "flac", 16_000))
    updates = UpdateRecorder()
    transcript = await shared.transcribe(voxtral(), Job(path), updates)
    assert (transcript.text, transcript.segments, transcript.duration) == ("", (), 120.0)
    assert len({progress.done_s for progress in updates.progress}) > 2


@pytest.mark.parametrize(
    ("options", "status", "param"),
    [
        ({"language": "fr"}, 422, "language"),
        ({"task": "translate"}, 422, "task"),
        ({"longest_s": 2.0}, 413, "file"),
        ({"longest_s": 2.0, "raw": AudioFormat("s16le")}, 413, "file"),
    ],
)
async def test_unsupported_options_are_refused(shared, options, status, param):
    refusal = await refused(shared.transcribe(whisper(), job("doctor", **options)))
    assert (refusal.status, refusal.param) == (status, param)


async def test_a_file_without_audio_is_refused(shared, tmp_path):
    path = tmp_path / "bad.flac"
    path.write_bytes(b"no audio at all")
    refusal = await refused(shared.transcribe(whisper(), Job(path)))
    assert (refusal.status, refusal.code, refusal.param) == (400, "bad_audio", "file")


async def test_a_truncated_file_is_transcribed_as_far_as_it_decodes(shared, tmp_path):
    path = tmp_path / "bad.flac"
    path.write_bytes(clip("doctor").path.read_bytes()[:20_000])
    transcript = await shared.transcribe(whisper(), Job(path))
    assert [warning.code for warning in transcript.warnings] == ["cut_off"]
    assert transcript.text.strip()


async def test_too_long_silence_is_refused_before_it_is_decoded(shared, tmp_path):
    path = tmp_path / "bomb.flac"
    path.write_bytes(encode(np.zeros(600 * 16_000, np.float32), "flac", "flac", 16_000))
    assert path.stat().st_size < clip("minute").path.stat().st_size
    updates = UpdateRecorder()
    refusal = await refused(shared.transcribe(whisper(), Job(path, longest_s=60.0), updates))
    assert (refusal.status, refusal.code) == (413, "audio_too_long")
    assert not updates.updates


async def test_max_tokens_truncates_the_text(shared):
    whole = await shared.transcribe(whisper(), job("doctor"))
    updates = UpdateRecorder()
    transcript = await shared.transcribe(whisper(), job("doctor", max_tokens=3), updates)
    assert transcript.truncated
    assert not whole.truncated
    assert 0 < len(transcript.text) < len(whole.text)
    assert whole.text.startswith(transcript.text)
    assert updates.text == transcript.text


async def test_cancelling_a_job_keeps_the_process(shared):
    await shared.transcribe(whisper(), job("yes"))
    (pid,) = [one.pid for one in shared.loaded if one.spec == whisper()]
    updates = UpdateRecorder()
    work = asyncio.create_task(shared.transcribe(whisper(), job("minute"), updates))
    await updates.begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    updates.updates.clear()
    assert (await shared.transcribe(whisper(), job("yes"))).duration < 5
    assert [one.pid for one in shared.loaded if one.spec == whisper()] == [pid]
    assert not updates.updates
