"""The model against transformers in float32: see tests/golden/README.md for what was kept."""

from __future__ import annotations

from pathlib import Path
from random import Random

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples
from support.tiny_voxtral import (
    BLOCK,
    decode,
    encode,
    mel_of,
    mel_tokens,
    quantised_weights,
    tiny_decoder,
    tiny_encoder,
)

from training.golden.audio import synthetic_audio
from training.golden.sample import BOS, RIGHT_PAD_TOKENS, STREAMING_PAD, rotating_sample
from training.golden.weights import TINY
from voxlive.decoders.decoder import NOT_FINITE, TextDecoder, prompt, time_embedding
from voxlive.encoders.encoder import AudioEncoder

POSITIONS = 150
CLIPS = np.random.default_rng(5).normal(size=(4, POSITIONS, TINY.decoder.dim)).astype(np.float32)
DELAYS = (1, 6, 12, 30)
DECODER = tiny_decoder(slots=4)


@pytest.fixture(scope="module")
def alone():
    decoder = tiny_decoder()
    return [decode(decoder, 0, clip, delay) for clip, delay in zip(CLIPS, DELAYS, strict=True)]


@examples(6)
@given(st.integers(0, 1 << 32))
def test_batched_equals_alone(alone, seed):
    """Rows of different age and delay that join, pause and leave at random."""
    random = Random(seed)
    todo, clip, at, got = [0, 1, 2, 3], {}, {}, {0: [], 1: [], 2: [], 3: []}
    random.shuffle(todo)
    while todo or clip:
        free = [slot for slot in range(4) if slot not in clip]
        if todo and free and random.random() < 0.2:
            slot, index = random.choice(free), todo.pop()
            clip[slot] = index
            DECODER.join(slot, DELAYS[index])
            at[slot] = DECODER.prompt_length(slot)
            prefix = mx.array(CLIPS[index][None, : at[slot]])
            got[index].append(int(DECODER.prefill([slot], prefix)[0]))
        rows = [slot for slot in clip if random.random() < 0.9]
        random.shuffle(rows)
        if rows:
            audio = mx.array(np.stack([CLIPS[clip[slot]][at[slot]] for slot in rows]))
            for slot, token in zip(rows, DECODER.step(rows, audio).tolist(), strict=True):
                got[clip[slot]].append(token)
                at[slot] += 1
        for slot in [slot for slot in clip if at[slot] == POSITIONS]:
            DECODER.leave(slot)
            del clip[slot]
    assert [got[index] for index in range(4)] == alone


def test_the_clips_tell_rows_and_delays_apart(alone):
    assert len({tuple(tokens[-100:]) for tokens in alone}) == 4
    other = decode(tiny_decoder(), 0, CLIPS[1], delay=7)
    assert other[-100:] != alone[1][-100:]


def test_prefill_of_several_rows_is_that_of_each(alone):
    decoder = tiny_decoder(slots=3)
    for slot in range(3):
        decoder.join(slot, 6)
    audio = mx.array(CLIPS[[1, 0, 1], : decoder.prompt_length(0)])
    tokens = decoder.prefill([0, 1, 2], audio).tolist()
    assert tokens[0] == tokens[2] == alone[1][0]


def test_a_reused_slot_gives_the_same_tokens_as_a_new_one(alone):
    decoder = tiny_decoder()
    for index in (3, 0, 2, 1):
        assert decode(decoder, 0, CLIPS[index], DELAYS[index]) == alone[index]


@pytest.mark.endurance
def test_positions_stay_bounded_and_moving_them_changes_no_token():
    long = np.random.default_rng(1).normal(size=(560, TINY.decoder.dim)).astype(np.float32)
    moving, still = tiny_decoder(), tiny_decoder()
    still.rings.limit = 1 << 30
    assert decode(moving, 0, long) == decode(still, 0, long)
    assert moving.rings.position(0) <= moving.rings.limit == 512
    assert still.rings.position(0) == 560


def test_a_prompt_is_begin_and_pads_for_silence_and_delay():
    ids = prompt(32, 6, bos=1, pad=32)
    assert ids.tolist() == [1] + [32] * 38


def test_the_delay_is_cosines_then_sines():
    embedding = np.array(time_embedding(6, 8))
    turns = 6 * 10_000.0 ** (-np.arange(4) / 4)
    assert embedding == pytest.approx(np.concatenate([np.cos(turns), np.sin(turns)]), abs=1e-6)


def test_a_penalty_is_taken_off_the_pad_of_its_row_alone():
    decoder, twin = tiny_decoder(slots=2), tiny_decoder()
    silence = mx.zeros((1, 39, TINY.decoder.dim))
    for slot in (0, 1):
        decoder.join(slot, 6)
        first = decoder.prefill([slot], silence)
    twin.join(0, 6)
    twin.prefill([0], silence)
    logits = np.array(twin.logits([0], first[None], silence[:, :1]))[0, 0]
    best, margin = int(logits.argmax()), float(logits.max() - logits[STREAMING_PAD])
    assert best != STREAMING_PAD
    short, enough = 0.01 - margin, -0.01 - margin
    tokens = decoder.step([0, 1], mx.repeat(silence[:, 0], 2, axis=0), [enough, short])
    assert tokens.tolist() == [STREAMING_PAD, best]


def test_a_row_that_overflows_says_so_and_leaves_the_others_alone(alone):
    decoder = tiny_decoder(slots=2)
    want = alone[1]
    for slot in (0, 1):
        decoder.join(slot, 6)
    first = decoder.prompt_length(0)
    audio = mx.array(CLIPS[[1, 1]])
    tokens = [decoder.prefill([0, 1], audio[:, :first]).tolist()[0]]
    for position in range(first, first + 20):
        step = audio[:, position]
        if position == first + 10:
            step[1] = float("nan")
        out = decoder.step([0, 1], step).tolist()
        tokens.append(out[0])
        assert (out[1] == NOT_FINITE) == (position >= first + 10)
    assert tokens == want[:21]
    decoder.leave(1, scrub=True)
    assert decode(decoder, 1, CLIPS[1], 6) == want


def test_memory_grows_with_age_to_the_window_and_is_given_back():
    decoder = tiny_decoder(slots=8)
    empty = decoder.rings.nbytes
    decoder.join(5, 6)
    audio = mx.array(CLIPS[0])[None]
    decoder.prefill([5], audio[:, :39])
    held = [decoder.rings.slot_nbytes(5)]
    for position in range(39, POSITIONS):
        decoder.step([5], audio[:, position])
        held.append(decoder.rings.slot_nbytes(5))
    assert held == sorted(held)
    assert held[0] == 5 * decoder.rings.block_nbytes
    assert held[-1] == decoder.rings.full_nbytes
    for slot in range(8):
        decode(decoder, slot, CLIPS[0][:45])
    assert decoder.rings.nbytes > empty
    for slot in range(8):
        decoder.leave(slot)
    assert decoder.rings.nbytes == empty


def test_a_step_copies_nothing_of_the_rows_that_are_not_in_it():
    decoder = tiny_decoder(slots=64)
    for slot in range(60):
        decoder.join(slot, 6)
    for first in range(0, 60, 20):
        rows = range(first, first + 20)
        decoder.prefill(rows, mx.zeros((20, 39, TINY.decoder.dim)))
    audio = mx.zeros((2, TINY.decoder.dim))
    mx.eval(decoder.step([0, 9], audio), decoder.rings.pools)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for _ in range(4):
        mx.async_eval(decoder.step([9, 0], audio))
    mx.eval(decoder.rings.pools)
    assert mx.get_peak_memory() - before < decoder.rings.nbytes / 10


def test_half_precision_stays_half_precision():
    decoder = tiny_decoder(dtype=mx.bfloat16)
    decoder.join(0, 6)
    audio = mx.array(CLIPS[0], mx.float32)[None]
    assert decoder.prefill([0], audio[:, :39]).dtype == mx.int32
    assert decoder.logits([0], mx.array([[7]]), audio[:, :1]).dtype == mx.bfloat16
    assert {pool.dtype for pool in decoder.rings.pools} == {mx.bfloat16}
    assert decoder._scale.dtype == mx.bfloat16


# Where there is no GPU a C++ compiler takes half a minute for it, and nothing else is compiled.
@pytest.mark.endurance
def test_a_compiled_step_gives_the_same_tokens():
    mx.enable_compile()
    clip = CLIPS[0][:60]
    assert decode(tiny_decoder(compiled=True), 0, clip) == decode(tiny_decoder(), 0, clip)


@pytest.mark.parametrize("delay", [0, 31])
def test_a_delay_out_of_range_is_refused(delay):
    with pytest.raises(ValueError, match="1 to 30 positions"):
        DECODER.join(0, delay)


def test_a_prefill_takes_fresh_rows_of_one_delay():
    DECODER.join(0, 6)
    DECODER.join(1, 7)
    with pytest.raises(ValueError, match="one delay"):
        DECODER.prefill([0, 1], mx.zeros((2, 39, TINY.decoder.dim)))
    DECODER.prefill([0], mx.zeros((1, 39, TINY.decoder.dim)))
    with pytest.raises(ValueError, match="just joined"):
        DECODER.prefill([0], mx.zeros((1, 39, TINY.decoder.dim)))


def everything(name):
    return 32, 4


def mixed(name):
    """Per-layer settings as mixed recipes have them: q, k and v cannot be joined."""
    if name.endswith((".q", ".up", "linear1")):
        return None
    return (64, 8) if name.endswith((".v", "embed")) else (32, 5)


@pytest.mark.parametrize("choose", [everything, mixed])
def test_packed_weights_run_as_their_unpacked_numbers(choose):
    mel, results = mel_tokens(60), []
    for dense in (False, True):
        weights = quantised_weights(choose, dense=dense)
        encoder = AudioEncoder(TINY, weights, slots=1, block=BLOCK)
        decoder = TextDecoder(TINY, weights, slots=1, bos=BOS, pad=STREAMING_PAD, block=BLOCK)
        embeddings = encode(encoder, 0, mel, (4,))
        results.append((embeddings, decode(decoder, 0, embeddings)))
    (packed, tokens), (unpacked, same) = results
    assert np.abs(packed - unpacked).max() < 1e-4 * np.abs(unpacked).max()
    assert tokens == same


GOLDEN = Path(__file__).parents[1] / "golden"
DELAYS_PARITY = (6, 12)


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def text_side():
    return {delay: golden(f"delay_{delay}") for delay in DELAYS_PARITY}


@pytest.fixture(scope="module")
def mel():
    audio, unit = synthetic_audio(), TINY.samples_per_token
    right = -len(audio) % unit + (max(DELAYS_PARITY) + 1 + RIGHT_PAD_TOKENS + 1) * unit
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


@pytest.mark.parametrize("delay", DELAYS_PARITY)
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


@pytest.mark.long
def test_every_greedy_token_of_two_delays_in_one_batch(embeddings, text_side):
    decoder, audio = tiny_decoder(slots=2), mx.array(embeddings)
    got, at = {}, {}
    for slot, delay in enumerate(DELAYS_PARITY):
        decoder.join(slot, delay)
        at[slot] = decoder.prompt_length(slot)
        got[slot] = [decoder.prefill([slot], audio[None, : at[slot]])]
    ends = [len(text_side[delay]["logits"]) for delay in DELAYS_PARITY]
    while rows := [slot for slot in at if at[slot] < ends[slot]]:
        tokens = decoder.step(rows, mx.stack([audio[at[slot]] for slot in rows]))
        for index, slot in enumerate(rows):
            got[slot].append(tokens[index : index + 1])
            at[slot] += 1
        mx.async_eval(tokens)
    for slot, delay in enumerate(DELAYS_PARITY):
        want = text_side[delay]["tokens"][decoder.prompt_length(slot) :]
        assert np.array_equal(np.array(mx.concatenate(got[slot])), want)
    assert decoder.rings.position(0) <= decoder.rings.limit < ends[0]
