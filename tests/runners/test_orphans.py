import os
import signal
import subprocess
import sys
import tempfile

import psutil
from support.clips import clip

from voxlive.runners.scratch import sweep

# A server in small: it says which processes it has once a job is under way.
PARENT = """
import asyncio, sys
from pathlib import Path
from voxlive.runners.batch import Batch
from voxlive.runners.contract import Job, RunnerSpec

async def main():
    batch = Batch()
    spec = RunnerSpec("pocketsphinx", "pocketsphinx", "pocketsphinx")
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
