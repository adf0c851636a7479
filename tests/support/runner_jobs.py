from contextlib import contextmanager

import pytest
from support.clips import clip

from voxlive.checkpoints.local_model import read_model
from voxlive.runners.contract import Delta, Job, JobProgress, RunnerSpec
from voxlive.runners.mlx_audio import load
from voxlive.values import samples


@contextmanager
def running(family, folder, **options):
    runner = load(RunnerSpec(folder.name, "mlx_audio", family, read_model(folder), **options))
    try:
        yield runner
    finally:
        runner.close()


class UpdateList(list):
    """The updates of a job."""

    @property
    def text(self):
        return "".join(update.text for update in self if isinstance(update, Delta))

    @property
    def progress(self):
        return [update for update in self if isinstance(update, JobProgress)]


def transcribe(runner, name, **options):
    """A clip's transcript and its updates; both are checked for what holds of every runner."""
    updates = UpdateList()
    transcript = runner.run(Job(clip(name).path, **options), updates.append, lambda: False)
    assert (
        updates.text == transcript.text == "".join(segment.text for segment in transcript.segments)
    )
    assert transcript.text == transcript.text.strip()
    assert transcript.duration == pytest.approx(clip(name).duration, abs=0.01)
    assert [segment.id for segment in transcript.segments] == list(range(len(transcript.segments)))
    done = [update.done_s for update in updates.progress]
    assert done == sorted(done)
    assert updates.progress[-1] == JobProgress(transcript.duration, transcript.duration)
    for segment in transcript.segments:
        if segment.start is not None:
            assert 0 <= segment.start < segment.end <= samples(transcript.duration)
        if segment.words is not None:
            assert "".join(word.text for word in segment.words) == segment.text
    return transcript, updates
