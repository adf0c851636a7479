"""The goldens hold only for these very weights and this very audio."""

import hashlib

import numpy as np

from training.golden.audio import synthetic_audio
from training.golden.weights import random_weights

WEIGHTS = "09174a368ff91136c70c76a65dc7cc8a6c556626c530ea709a17a408e6b0170e"
AUDIO = "da8d194daa63f319ff3a889c8edc76b3741190b749c951de40e3204a64150bb5"


def test_weights_are_those_of_the_goldens():
    weights = random_weights()
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].tobytes())
    assert digest.hexdigest() == WEIGHTS


def test_audio_is_that_of_the_goldens():
    audio = synthetic_audio()
    assert hashlib.sha256(audio.tobytes()).hexdigest() == AUDIO
    assert np.array_equal(synthetic_audio(50_000), audio[:50_000])
