"""Sounds without speech bring no word, though the gate is open, and words lie where there is sound:
tiny.en with real weights.

Audio is fed as fast as passes are made, on simulated cores. ``make endurance``
has ten minutes of each.
"""

import numpy as np
import pytest
from support.clips import clip, names
from support.simulated_cores import SimulatedCores, chunks
from support.sounds import SOUNDS
from support.weights import TINY_EN

from voxlive.checkpoints.resolve import resolve
from voxlive.engines.contract import Committed, Progressed
from voxlive.engines.utterances.checks import within_sound
from voxlive.engines.utterances.commitment import RULES
from voxlive.engines.utterances.engine import LAST, make_pass
from voxlive.engines.utterances.utterance import PassPlan, UtteranceStream
from voxlive.recognisers import load_recogniser
from voxlive.recognisers.contract import LoadingOptions
from voxlive.values import SAMPLE_RATE, Samples

_DRAFT_S = 0.12
"""What a pass takes on the simulated clock: the same drafts are made on every machine."""


@pytest.fixture(scope="module")
def tiny(real_weights):
    model = resolve(TINY_EN, offline=True)
    return load_recogniser("faster_whisper", model, LoadingOptions("cpu"))


def committed(recogniser, name: str, seconds: int) -> list[str]:
    return committed_of(recogniser, SOUNDS[name](seconds * SAMPLE_RATE, np.random.default_rng(7)))


def committed_of(recogniser, audio: Samples) -> list[str]:
    cores = SimulatedCores(2, lambda due: (make_pass(recogniser, due), _DRAFT_S))
    stream = cores.add(UtteranceStream(RULES["steady"], PassPlan()))
    for at, piece in chunks(audio):
        cores.feed(stream, piece, at, (at + len(piece)) / SAMPLE_RATE)
    cores.mark(stream, 1, len(audio) / SAMPLE_RATE)
    cores.run()
    messages = [message for _, message in stream.messages]
    assert Progressed(len(audio)) in messages
    return [word.text for m in messages if isinstance(m, Committed) for word in m.words]


# `make test` has a steady sound and one of tones.
@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("white_noise", "chords")
        else pytest.param(name, marks=pytest.mark.endurance)
        for name in SOUNDS
    ],
)
def test_a_few_seconds_without_speech_bring_no_word(tiny, name):
    assert committed(tiny, name, 5) == []


@pytest.mark.endurance
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SOUNDS)
def test_ten_minutes_without_speech_bring_no_word(tiny, name):
    assert committed(tiny, name, 600) == []


@pytest.mark.endurance
@pytest.mark.timeout(7200)
def test_eight_voices_at_once_for_ten_minutes_bring_a_word_a_minute_at_most(tiny):
    # Neither pauses, in which others stand out, nor a voice that says one word again and again.
    voices = [clip(name).speech for name in names()]
    voices = [voice for voice in voices if len(voice) > 2 * SAMPLE_RATE]
    rng = np.random.default_rng(7)
    audio = np.zeros(600 * SAMPLE_RATE, np.float32)
    for one in rng.permutation(len(voices))[:8]:
        voice = voices[one] / np.sqrt(np.mean(voices[one] ** 2))
        audio += np.resize(np.roll(voice, rng.integers(len(voice))), len(audio))
    assert len(committed_of(tiny, audio / (2 * np.abs(audio).max()))) <= 10


@pytest.mark.parametrize("name", ["message", "train", "noisy"])
def test_words_begin_and_end_with_the_speech(tiny, name):
    """A pass alone is 0.2 s early at the start, and 0.15 to 0.6 s late at the end of these."""
    spoken = clip(name)
    begin = max(round((spoken.sentences[0].start - 0.3) * SAMPLE_RATE), 0)
    audio = spoken.samples[begin : round((spoken.sentences[-1].end + 0.6) * SAMPLE_RATE)]
    found = within_sound(tiny.recognise(audio, "en", how=LAST).words, audio, first=True, last=True)
    near = 0.12 * SAMPLE_RATE
    assert abs(begin + found[0].start - spoken.words[0].start * SAMPLE_RATE) < near
    assert abs(begin + found[-1].end - spoken.words[-1].end * SAMPLE_RATE) < near
