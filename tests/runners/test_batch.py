import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import psutil
import pytest
from support.batches import (
    TINY_VOXTRAL,
    UpdateRecorder,
    batch,
    job,
    refused,
    scratch,
    until,
    voxtral,
    whisper,
)
from support.clips import clip

from voxlive.runners.process import Memory
from voxlive.runners.scratch import sweep

GIB = 1 << 30


async def test_waiting_files_are_bounded():
    async with batch(queue=1) as files:
        first = asyncio.create_task(files.transcribe(whisper(), job("yes")))
        await asyncio.sleep(0)
        refusal = await refused(files.transcribe(whisper(), job("yes")))
        assert (refusal.status, refusal.code) == (503, "queue_full")
        assert refusal.retry_after_s
        first.cancel()


async def test_a_killed_process_is_reported_and_replaced():
    async with batch() as files:
        updates = UpdateRecorder()
        work = asyncio.create_task(files.transcribe(whisper(), job("minute"), updates))
        await updates.has_text.wait()
        (before,) = files.loaded
        waiting = asyncio.create_task(files.transcribe(whisper(), job("yes")))
        os.kill(before.pid, signal.SIGKILL)
        refusal = await refused(work)
        assert (refusal.status, refusal.code) == (500, "runner_crashed")
        assert "SIGKILL" in refusal.message
        assert (await waiting).text
        (after,) = files.loaded
        assert after.pid != before.pid


@pytest.mark.endurance
async def test_jobs_beside_a_crash_are_retried_once():
    async with batch() as files:
        updates = UpdateRecorder()
        clips = ["yes", "yes"]
        work = [asyncio.create_task(files.transcribe(voxtral(), job("doctor"), updates))]
        await updates.begun.wait()
        work += [asyncio.create_task(files.transcribe(voxtral(), job(name))) for name in clips]
        await updates.has_text.wait()
        (before,) = files.loaded
        assert before.running == 3
        os.kill(before.pid, signal.SIGKILL)
        assert (await refused(work.pop(0))).code == "runner_crashed"
        transcripts = await asyncio.gather(*work)
        assert [bool(transcript.text) for transcript in transcripts] == [True, True]


async def test_a_process_that_hangs_is_killed():
    async with batch(process={"stall_s": 1.0}) as files:
        updates = UpdateRecorder()
        work = asyncio.create_task(files.transcribe(whisper(), job("minute"), updates))
        await updates.begun.wait()
        (loaded,) = files.loaded
        os.kill(loaded.pid, signal.SIGSTOP)
        refusal = await refused(work)
        assert (refusal.status, refusal.code) == (500, "runner_hung")
        assert not psutil.pid_exists(loaded.pid)
        await until(lambda: not scratch())


async def test_a_job_that_cannot_be_cancelled_costs_its_process():
    async with batch(process={"cancel_s": 0.3}) as files:
        updates = UpdateRecorder()
        work = asyncio.create_task(files.transcribe(whisper(), job("minute"), updates))
        await updates.begun.wait()
        (loaded,) = files.loaded
        os.kill(loaded.pid, signal.SIGSTOP)
        work.cancel()
        await until(lambda: not psutil.pid_exists(loaded.pid))


async def test_a_job_that_takes_too_long_for_its_audio_times_out():
    async with batch(process={"timeout_s": 0.1, "timeout_factor": 0.001}) as files:
        refusal = await refused(files.transcribe(whisper(), job("minute")))
        assert (refusal.status, refusal.code) == (503, "timeout")


async def test_a_process_that_takes_too_much_memory_is_killed():
    async with batch(process={"memory_limit": 40 << 20}) as files:
        refusal = await refused(files.transcribe(whisper(), job("yes")))
        assert (refusal.status, refusal.code) == (507, "insufficient_memory")
        assert "40 MiB" in refusal.message
        assert not files.loaded


async def test_a_broken_checkpoint_is_refused_with_its_reason(tmp_path):
    folder = shutil.copytree(TINY_VOXTRAL, tmp_path / "broken")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    async with batch() as files:
        refusal = await refused(files.transcribe(voxtral(folder), job("yes")))
        assert (refusal.status, refusal.code) == (500, "model_load_failed")
        assert "model.safetensors" in refusal.message


async def test_an_idle_model_is_unloaded():
    async with batch(idle_s=0.2) as files:
        await files.transcribe(whisper(), job("yes"))
        (loaded,) = files.loaded
        await until(lambda: not files.loaded)
        await until(lambda: not psutil.pid_exists(loaded.pid))


@pytest.mark.endurance
async def test_the_model_that_was_idle_longest_is_unloaded_first():
    async with batch(max_resident=2, wait_s=0.3) as files:
        a, b, c = (whisper(name) for name in "abc")
        for spec in (a, b, a, c):
            await files.transcribe(spec, job("yes"))
        assert [loaded.spec.model for loaded in files.loaded] == ["a", "c"]
        busy = [asyncio.create_task(files.transcribe(spec, job("minute"))) for spec in (a, c)]
        refusal = await refused(files.transcribe(b, job("yes")))
        assert (refusal.status, refusal.code) == (503, "models_busy")
        assert "a, c are at work" in refusal.message
        for work in busy:
            work.cancel()


async def test_a_model_is_not_loaded_without_memory_for_it():
    big = whisper("big", needed_bytes=4 * GIB)
    machine = Memory(16 * GIB, 3 * GIB)
    async with batch(lambda: machine, wait_s=0.1) as files:
        refusal = await refused(files.transcribe(big, job("yes")))
        assert (refusal.status, refusal.code) == (507, "insufficient_memory")
        assert "3072 MiB are free" in refusal.message
        assert not files.loaded


@pytest.mark.long
async def test_an_idle_model_is_unloaded_for_its_memory():
    big = whisper("b", 4 * GIB)

    def memory():
        return Memory(
            16 * GIB, 2 * GIB if any(x.spec.model == "a" for x in files.loaded) else 8 * GIB
        )

    async with batch(memory) as files:
        await files.transcribe(whisper("a"), job("yes"))
        await files.transcribe(big, job("yes"))
        assert [loaded.spec.model for loaded in files.loaded] == ["b"]


async def test_waiting_jobs_fail_when_the_batch_closes():
    async with batch(queue=4) as files:
        updates = UpdateRecorder()
        work = [asyncio.create_task(files.transcribe(whisper(), job("minute"), updates))]
        work += [asyncio.create_task(files.transcribe(whisper(), job("yes")))]
        await updates.begun.wait()
        await files.aclose()
        for refusal in [await refused(task) for task in work]:
            assert (refusal.status, refusal.code) == (503, "shutting_down")
        late = await refused(files.transcribe(whisper(), job("yes")))
        assert late.code == "shutting_down"


# A server in small: it says which processes it has once a job is under way.
PARENT = """
import asyncio, sys
from pathlib import Path
from voxlive.checkpoints.resolve import resolve
from voxlive.runners.batch import Batch
from voxlive.runners.contract import Job, RunnerSpec

async def main():
    batch = Batch()
    spec = RunnerSpec("tiny", "faster_whisper", "whisper", resolve("whisper-tiny.en", offline=True))
    async for _ in batch.follow(spec, Job(Path(sys.argv[1]))):
        print(batch.loaded[0].pid, flush=True)

asyncio.run(main())
"""


@pytest.mark.long
def test_processes_end_with_a_killed_server_and_its_files_are_swept(tmp_path, monkeypatch):
    command = [sys.executable, "-c", PARENT, str(clip("minute").path)]
    # A folder of its own: every Batch sweeps the common one.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        runner = psutil.Process(int(parent.stdout.readline()))
        started = [runner, *runner.children(recursive=True)]
        os.kill(parent.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive
    assert [*tmp_path.glob("voxlive-scratch-*/runner-*")]
    sweep()
    assert [*tmp_path.iterdir()] == []
