"""The model against transformers in float32: see tests/golden/README.md for what was kept."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from support.tiny_voxtral import encode, mel_of, tiny_decoder, tiny_encoder

from voxlive.training.golden.audio import synthetic_audio
from voxlive.training.golden.sample import RIGHT_PAD_TOKENS, rotating_sample
from voxlive.training.golden.weights import TINY

GOLDEN = Path(__file__).parents[1] / "golden"
DELAYS = (6, 12)


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def text_side():
    return {delay: golden(f"delay_{delay}") for delay in DELAYS}


@pytest.fixture(scope="module")
def mel():
    audio, unit = synthetic_audio(), TINY.samples_per_token
    right = -len(audio) % unit + (max(DELAYS) + 1 + RIGHT_PAD_TOKENS + 1) * unit
    padded = np.pad(audio, (TINY.left_pad_tokens * unit, right))
    return mel_of(padded)


@pytest.fixture(scope="module")
def embeddings(mel):
    return encode(tiny_encoder(), 0, mel, sizes=(1, 8, 3, 2, 5))


def test_mel(mel):
    want = golden("audio")
    assert np.abs(mel[:24] - want["mel_first"]).max() <= 1e-5
    assert np.abs(mel[len(want["mel"]) - 24 : len(want["mel"])] - want["mel_last"]).max() <= 1e-5
    assert np.abs(rotating_sample(mel, 4)[: len(want["mel"])] - want["mel"]).max() <= 1e-5


def test_audio_embeddings(embeddings):
    want = golden("audio")["embeddings"]
    got = rotating_sample(embeddings, 16)[: len(want)]
    assert len(want) * TINY.token_seconds > 60
    error = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
    assert error.max() <= 1e-4


@pytest.mark.parametrize("delay", DELAYS)
def test_logits(embeddings, text_side, delay):
    want = text_side[delay]
    positions = len(want["logits"])
    tokens = mx.array(want["tokens"][None, :positions].astype(np.int32))
    decoder = tiny_decoder()
    decoder.join(0, delay)
    got = np.concatenate(
        [
            np.array(decoder.logits([0], tokens[:, at : at + 63], embedding)[0])
            for at in range(0, positions, 63)
            for embedding in [mx.array(embeddings[None, at : min(at + 63, positions)])]
        ]
    )
    assert np.abs(rotating_sample(got, 16) - want["logits"]).max() <= 1e-3
    assert np.abs(np.sort(got, axis=1)[:, :-3:-1] - want["top"]).max() <= 1e-3


def test_every_greedy_token_of_two_delays_in_one_batch(embeddings, text_side):
    decoder, audio = tiny_decoder(slots=2), mx.array(embeddings)
    got, at = {}, {}
    for slot, delay in enumerate(DELAYS):
        decoder.join(slot, delay)
        at[slot] = decoder.prompt_length(slot)
        got[slot] = [decoder.prefill([slot], audio[None, : at[slot]])]
    ends = [len(text_side[delay]["logits"]) for delay in DELAYS]
    while rows := [slot for slot in at if at[slot] < ends[slot]]:
        tokens = decoder.step(rows, mx.stack([audio[at[slot]] for slot in rows]))
        for index, slot in enumerate(rows):
            got[slot].append(tokens[index : index + 1])
            at[slot] += 1
        mx.async_eval(tokens)
    for slot, delay in enumerate(DELAYS):
        want = text_side[delay]["tokens"][decoder.prompt_length(slot) :]
        assert np.array_equal(np.array(mx.concatenate(got[slot])), want)
    assert decoder.rings.position(0) <= decoder.rings.limit < ends[0]
