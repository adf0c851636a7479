from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile

import numpy as np
import psutil
import pytest
import pytest_asyncio
from support.batches import Told, batch, job, pocketsphinx, refused, voxtral
from support.clips import clip
from support.encode import encode

from voxlive.runners.contract import Job, JobProgress, Transcript
from voxlive.runners.scratch import sweep
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.values import samples

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared():
    """For jobs that leave their process as it was."""
    async with batch() as one:
        yield one


@pytest.mark.parametrize("spec", [pocketsphinx(), voxtral()], ids=["pocketsphinx", "voxtral"])
async def test_a_file_becomes_text_with_times(shared, spec):
    told = Told()
    said = await shared.transcribe(spec, job("doctor"), told)
    assert said.text == told.text == "".join(segment.text for segment in said.segments)
    assert len(set(said.text.split()) & set(clip("doctor").text.lower().split())) > 5
    assert said.duration == pytest.approx(clip("doctor").duration, abs=0.001)
    for segment in said.segments:
        assert segment.text == "".join(word.text for word in segment.words)
        assert 0 <= segment.start < segment.end <= samples(said.duration)
    assert said.language is None
    done = [progress.done_s for progress in told.progress]
    assert done == sorted(done)
    assert {progress.total_s for progress in told.progress} == {said.duration}


async def test_it_can_be_followed_and_the_model_stays_loaded(shared):
    items = [item async for item in shared.follow(pocketsphinx(), job("yes"))]
    said = items.pop()
    assert isinstance(said, Transcript)
    assert isinstance(items[0], JobProgress)
    assert said.text == "".join(item.text for item in items if not isinstance(item, JobProgress))
    pids = [one.pid for one in shared.loaded if one.spec == pocketsphinx()]
    assert await shared.transcribe(pocketsphinx(), job("yes")) == said
    assert [one.pid for one in shared.loaded if one.spec == pocketsphinx()] == pids


async def test_raw_pcm(shared, tmp_path):
    path = tmp_path / "yes.pcm"
    path.write_bytes((clip("yes").samples * 32767).astype("<i2").tobytes())
    said = await shared.transcribe(pocketsphinx(), Job(path, raw=AudioFormat("s16le")))
    assert said.text == (await shared.transcribe(pocketsphinx(), job("yes"))).text


async def test_silence_is_no_text_and_its_progress_moves(shared, tmp_path):
    path = tmp_path / "silence.flac"
    path.write_bytes(encode(np.zeros(240 * 16_000, np.float32), "flac", "flac", 16_000))
    told = Told()
    said = await shared.transcribe(pocketsphinx(), Job(path), told)
    assert (said.text, said.segments, said.duration) == ("", (), 240.0)
    assert len({progress.done_s for progress in told.progress}) > 2


@pytest.mark.parametrize(
    ("options", "status", "param"),
    [
        ({"language": "fr"}, 422, "language"),
        ({"task": "translate"}, 422, "task"),
        ({"longest_s": 2.0}, 413, "file"),
        ({"longest_s": 2.0, "raw": AudioFormat("s16le")}, 413, "file"),
    ],
)
async def test_what_it_cannot_do_is_refused(shared, options, status, param):
    refusal = await refused(shared.transcribe(pocketsphinx(), job("doctor", **options)))
    assert (refusal.status, refusal.param) == (status, param)


async def test_what_is_no_audio_is_refused(shared, tmp_path):
    path = tmp_path / "bad.flac"
    path.write_bytes(b"no audio at all")
    refusal = await refused(shared.transcribe(pocketsphinx(), Job(path)))
    assert (refusal.status, refusal.code, refusal.param) == (400, "bad_audio", "file")


async def test_what_is_cut_off_is_transcribed_as_far_as_it_decodes(shared, tmp_path):
    path = tmp_path / "bad.flac"
    path.write_bytes(clip("doctor").path.read_bytes()[:20_000])
    transcript = await shared.transcribe(pocketsphinx(), Job(path))
    assert [warning.code for warning in transcript.warnings] == ["cut_off"]
    assert transcript.text.strip()


async def test_a_bomb_of_silence_is_refused_before_it_is_heard(shared, tmp_path):
    path = tmp_path / "bomb.flac"
    path.write_bytes(encode(np.zeros(1800 * 16_000, np.float32), "flac", "flac", 16_000))
    assert path.stat().st_size < clip("minute").path.stat().st_size
    told = Told()
    refusal = await refused(shared.transcribe(pocketsphinx(), Job(path, longest_s=60.0), told))
    assert (refusal.status, refusal.code) == (413, "audio_too_long")
    assert not told.updates


async def test_max_tokens_ends_the_text_and_says_so(shared):
    whole = await shared.transcribe(pocketsphinx(), job("doctor"))
    told = Told()
    said = await shared.transcribe(pocketsphinx(), job("doctor", max_tokens=3), told)
    assert said.truncated
    assert not whole.truncated
    assert said.text.split() == whole.text.split()[:3]
    assert told.text == said.text


async def test_who_stops_waiting_cancels_the_job_and_the_process_goes_on(shared):
    await shared.transcribe(pocketsphinx(), job("yes"))
    (pid,) = [one.pid for one in shared.loaded if one.spec == pocketsphinx()]
    told = Told()
    work = asyncio.create_task(shared.transcribe(pocketsphinx(), job("minute"), told))
    await told.begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    told.updates.clear()
    assert (await shared.transcribe(pocketsphinx(), job("yes"))).duration < 5
    assert [one.pid for one in shared.loaded if one.spec == pocketsphinx()] == [pid]
    assert not told.updates


# A server in small: it says which processes it has once a job is under way.
PARENT = """
import asyncio, sys
from pathlib import Path
from voxlive.checkpoints.local_model import BUILT_IN
from voxlive.runners.batch import Batch
from voxlive.runners.contract import Job, RunnerSpec

async def main():
    batch = Batch()
    spec = RunnerSpec("pocketsphinx", "pocketsphinx", "pocketsphinx", BUILT_IN["pocketsphinx"])
    async for _ in batch.follow(spec, Job(Path(sys.argv[1]))):
        print(batch.loaded[0].pid, flush=True)

asyncio.run(main())
"""


def test_no_process_outlives_a_killed_server_and_its_files_are_swept_up(tmp_path, monkeypatch):
    command = [sys.executable, "-c", PARENT, str(clip("minute").path)]
    # A folder of its own: every Batch sweeps the common one.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        runner = psutil.Process(int(parent.stdout.readline()))
        started = [runner, *runner.children(recursive=True)]
        assert len(started) > 1  # PocketSphinx has workers of its own
        os.kill(parent.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive
    assert [*tmp_path.glob("voxlive-scratch-*/runner-*")]
    sweep()
    assert [*tmp_path.iterdir()] == []
