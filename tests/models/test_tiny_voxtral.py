"""The trained tiny checkpoint gives the tokens that torch gave: see tests/models/README.md."""

import json
import shutil
from pathlib import Path

import jiwer
import mlx.core as mx
import numpy as np
import pytest
from support.held_out import TINY_VOXTRAL, exact_names, recording
from support.tiny_voxtral import mel_of
from support.tiny_whisper import add_tensor

from training.golden.layouts import write_checkpoint
from voxlive.checkpoints.contents import read_contents
from voxlive.checkpoints.local_model import read_checkpoint, read_model
from voxlive.engines import load_engine
from voxlive.engines.contract import EngineOptions
from voxlive.engines.voxtral.loading import load_weights
from voxlive.engines.voxtral.model import CHUNK, VoxtralModel
from voxlive.values import SAMPLE_RATE

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tiny_voxtral.json").read_text())
MARGIN = 1 + 10  # tokens of silence after the audio and the delay


def load(folder, **how):
    checkpoint = read_checkpoint(read_contents(folder))
    tekken = checkpoint.tekken
    return VoxtralModel(
        checkpoint.config,
        load_weights(checkpoint.plan, dtype=mx.float32, **how),
        slots=len(exact_names()),
        bos=tekken.bos,
        pad=tekken.streaming_pad,
    )


@pytest.fixture(scope="module")
def model():
    return load(TINY_VOXTRAL)


def transcribe(model, audio, delay):
    """The tokens of several clips as one batch; shorter ones are followed by more silence."""
    config = model.config
    unit, left = config.samples_per_token, config.left_pad_tokens
    sizes = [left - (-len(clip) // unit) + delay + MARGIN for clip in audio]
    mels = []
    for clip in audio:
        # One token more than is used: the last frames look ahead.
        padded = np.zeros((max(sizes) + 1) * unit, np.float32)
        padded[left * unit : left * unit + len(clip)] = clip
        mels.append(mel_of(padded, model.front_end)[: max(sizes) * config.mel_per_token])
    tokens = [[] for _ in audio]
    for slot in range(len(audio)):
        model.join(slot, delay)
    step = CHUNK * config.mel_per_token
    for at in range(0, len(mels[0]), step):
        model.encode(range(len(audio)), np.stack([mel[at : at + step] for mel in mels]))
        for slots, found in model.decode({}):
            for slot, token in zip(slots, found, strict=True):
                tokens[slot].append(token)
    for slot in range(len(audio)):
        model.leave(slot)
    return [row[: size - left - delay] for row, size in zip(tokens, sizes, strict=True)]


@pytest.fixture(scope="module")
def some(model):
    """The beginnings of a few clips, and their tokens."""
    audio = [recording(name).samples[: 2 * SAMPLE_RATE] for name in exact_names()[::5]]
    return audio, transcribe(model, audio, 6)


@pytest.fixture
def tekken():
    """Its tokenizer, by mistral_common, which takes a second to import."""
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    return Tekkenizer.from_file(TINY_VOXTRAL / "tekken.json")


@pytest.mark.parametrize(
    ("delay", "clips", "most_wrong"),
    [
        (6, 2, 0.2),
        pytest.param(3, 2, 0.2, marks=pytest.mark.endurance),
        pytest.param(12, 2, 0.2, marks=pytest.mark.endurance),
        pytest.param(6, 10, 0.08, marks=pytest.mark.endurance),
    ],
)
def test_greedy_tokens_equal_torch_and_are_what_is_said(model, tekken, delay, clips, most_wrong):
    said = {name: recording(name) for name in exact_names()[:: 10 // clips]}
    rows = transcribe(model, [clip.samples for clip in said.values()], delay)
    want = GOLDEN[f"delay {delay}"]
    assert dict(zip(said, rows, strict=True)) == {name: want[name]["exported"] for name in said}
    heard = [tekken.decode([token for token in row if token >= 64]).strip() for row in rows]
    assert jiwer.wer([clip.text for clip in said.values()], heard) <= most_wrong


@pytest.mark.endurance
def test_same_tokens_in_the_layout_of_mistral(some, tmp_path):
    plan = read_checkpoint(read_contents(TINY_VOXTRAL)).plan
    stored = mx.load(str(TINY_VOXTRAL / "model.safetensors"))
    dense = {}
    for step in plan.steps:
        module, _, kind = step.target.rpartition(".")
        source = step.tensor.name.rpartition(".")[0]
        if kind == "weight" and module in plan.quantised:
            parts = (stored[f"{source}.{part}"] for part in ("weight", "scales", "biases"))
            how = plan.quantised[module]
            dense[step.target] = np.array(mx.dequantize(*parts, how.group_size, how.bits))
        elif kind in ("weight", "bias"):
            dense[step.target] = np.array(stored[step.tensor.name])
    write_checkpoint(tmp_path, "mistral", plan.config, dense)
    shutil.copy(TINY_VOXTRAL / "tekken.json", tmp_path)
    audio, tokens = some
    assert transcribe(load(tmp_path), audio, 6) == tokens


@pytest.mark.endurance
def test_same_tokens_with_unpacked_weights(some):
    audio, tokens = some
    assert transcribe(load(TINY_VOXTRAL, unpack=True), audio, 6) == tokens


def test_mistral_common_reads_the_tokenizer(tekken):
    assert tekken.get_special_token("[STREAMING_PAD]") == 32
    assert tekken.get_special_token("[STREAMING_WORD]") == 33
    assert (tekken.bos_id, tekken.eos_id, tekken.n_words) == (1, 2, 2048)
    assert tekken.audio.is_streaming
    assert tekken.audio.get_num_delay_tokens() == 6
    assert (
        tekken.decode(tekken.encode(" the last train", bos=False, eos=False)) == " the last train"
    )


def test_size():
    assert sum(file.stat().st_size for file in TINY_VOXTRAL.iterdir()) <= 12_000_000


def test_a_fine_tune_with_tensors_of_its_own_loads_and_says_so(tmp_path):
    folder = tmp_path / "tuned"
    shutil.copytree(TINY_VOXTRAL, folder)
    add_tensor(folder, "ctc_head.own.weight")
    engine = load_engine(read_model(folder), EngineOptions(1, "cpu"))
    try:
        assert "ctc_head.own.weight" in engine.info.warning
    finally:
        engine.shutdown()
