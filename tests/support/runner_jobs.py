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


class Told(list):
    """What a runner told."""

    @property
    def text(self):
        return "".join(update.text for update in self if isinstance(update, Delta))

    @property
    def progress(self):
        return [update for update in self if isinstance(update, JobProgress)]


def transcribe(runner, name, **wishes):
    """A clip's transcript and what was told; both are checked for what holds of every runner."""
    told = Told()
    said = runner.run(Job(clip(name).path, **wishes), told.append, lambda: False)
    assert told.text == said.text == "".join(segment.text for segment in said.segments)
    assert said.text == said.text.strip()
    assert said.duration == pytest.approx(clip(name).duration, abs=0.01)
    assert [segment.id for segment in said.segments] == list(range(len(said.segments)))
    done = [update.done_s for update in told.progress]
    assert done == sorted(done)
    assert told.progress[-1] == JobProgress(said.duration, said.duration)
    for segment in said.segments:
        if segment.start is not None:
            assert 0 <= segment.start < segment.end <= samples(said.duration)
        if segment.words is not None:
            assert "".join(word.text for word in segment.words) == segment.text
    return said, told
