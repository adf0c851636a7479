"""Speaker encoders that are ONNX files: what they are given, which one is used, where from."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.hub import hub_environment, serving_hub
from support.tiny_encoder import write_encoder

from voxlive.checkpoints import packages
from voxlive.checkpoints.packages import BETTER_SPEAKER_MODEL, PARTS
from voxlive.speakers.encoder import SpeakerDetector, SpeakerEncoder, load_encoder
from voxlive.speakers.onnx import OnnxSpeakerEncoder, filter_banks
from voxlive.speakers.tracker import SpeakerOptions, SpeakerTracker
from voxlive.vad.gate import WINDOW as STEP
from voxlive.vad.gate import GateOptions
from voxlive.vad.network import NetworkFailed
from voxlive.values import SAMPLE_RATE

ENCODER = write_encoder(normalize_samples="1", sample_rate="16000")


def test_filter_banks_are_kaldi_s():
    t = np.arange(1200) / SAMPLE_RATE
    tones = 0.1 * np.sin(2 * np.pi * 220 * t) + 0.05 * np.sin(2 * np.pi * 26100 * t * t + 1)
    banks = filter_banks((tones + 0.02).astype(np.float32))
    assert banks.shape == (6, 80)
    # kaldi-native-fbank 1.22.3 with its defaults, 80 bands and no dither.
    across = [-8.3646, -0.9343, -15.0769, -15.9424, -11.544, -0.2276, 0.9192, -13.4774, -15.9424]
    assert np.allclose(banks[3, :72:8], across, atol=2e-3)
    along = [-15.0298, -5.6979, 1.1101, -0.2276, -10.0587, -15.5174]
    assert np.allclose(banks[:, 40], along, atol=2e-3)
    assert filter_banks(np.zeros(100, np.float32)).shape == (1, 80)


def test_a_vector_is_of_what_the_network_is_given():
    audio = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32) * 0.1
    vector = OnnxSpeakerEncoder(ENCODER, "tiny").embed(audio)
    features = filter_banks(audio)
    expected = np.abs(features - features.mean(0)).mean(0)
    assert np.allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
    # Without metadata samples are those of 16 bits, which the mean over time takes off again.
    others = OnnxSpeakerEncoder(write_encoder(), "tiny").embed(audio)
    assert np.allclose(vector, others, atol=1e-4)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (write_encoder(40), "80 filter banks"),
        (write_encoder(sample_rate="8000"), "8000 Hz"),
    ],
)
def test_another_network_is_refused(content: bytes, why: str):
    with pytest.raises(NetworkFailed, match=why):
        OnnxSpeakerEncoder(content, "other")


@pytest.fixture
def known(monkeypatch) -> None:
    """The tiny one is the file that is known by its hash."""
    [(name, file)] = PARTS[BETTER_SPEAKER_MODEL].files.items()
    tiny = replace(file, sha256=hashlib.sha256(ENCODER).hexdigest(), size=len(ENCODER))
    part = replace(PARTS[BETTER_SPEAKER_MODEL], files={name: tiny})
    monkeypatch.setattr(packages, "PARTS", {**PARTS, BETTER_SPEAKER_MODEL: part})


def put(monkeypatch, folder: Path, content: bytes = ENCODER) -> None:
    monkeypatch.setattr(packages, "models_folder", lambda: folder)
    place = folder / BETTER_SPEAKER_MODEL
    place.mkdir(exist_ok=True)
    [name] = PARTS[BETTER_SPEAKER_MODEL].files
    (place / name).write_bytes(content)


def test_the_better_one_is_used_where_it_is_here(known, monkeypatch, tmp_path):
    before = SpeakerDetector()
    assert before.likeness == SpeakerEncoder.likeness
    put(monkeypatch, tmp_path)
    assert isinstance(load_encoder(), OnnxSpeakerEncoder)
    assert SpeakerDetector().likeness == OnnxSpeakerEncoder.likeness
    # One that has begun with the other stays with it.
    assert before.likeness == SpeakerEncoder.likeness
    put(monkeypatch, tmp_path, ENCODER[:-1])
    with pytest.raises(NetworkFailed, match=f"models fetch {BETTER_SPEAKER_MODEL}"):
        load_encoder()


FETCH = f"""
from dataclasses import replace
from voxlive.checkpoints import packages
from voxlive.cli.main import app
name = {BETTER_SPEAKER_MODEL!r}
part = packages.PARTS[name]
[(file, known)] = part.files.items()
known = replace(known, sha256={hashlib.sha256(ENCODER).hexdigest()!r}, size={len(ENCODER)})
part = replace(part, files={{file: known}}, hub=(part.hub[0], "main"))
packages.PARTS = {{**packages.PARTS, name: part}}
app()
"""


@pytest.mark.long
def test_it_comes_from_the_hub_and_by_its_hash_alone(tmp_path):
    [file] = PARTS[BETTER_SPEAKER_MODEL].files.values()
    repository, commit = PARTS[BETTER_SPEAKER_MODEL].hub
    assert len(commit) == 40

    def fetch(content: bytes | None) -> subprocess.CompletedProcess[str]:
        files = {} if content is None else {file.parts[0]: content}
        with serving_hub({repository: files}) as hub:
            return subprocess.run(
                [sys.executable, "-c", FETCH, "models", "fetch", BETTER_SPEAKER_MODEL],
                env={"PATH": "", **hub_environment(tmp_path, hub)},
                capture_output=True,
                text=True,
            )

    for content, why in ((None, "could not be fetched"), (ENCODER + b"x", "SHA-256 is another")):
        refused = fetch(content)
        assert refused.returncode == 1
        assert why in refused.stderr
        assert not [*tmp_path.rglob("campplus.onnx")]
    for content in (ENCODER, None):  # the second time it is here
        assert fetch(content).returncode == 0
    [path] = tmp_path.rglob("campplus.onnx")
    assert path.read_bytes() == ENCODER


def test_who_goes_on_with_another_encoder_gets_new_numbers():
    def hear(tracker: SpeakerTracker, vector: np.ndarray) -> int | None:
        for _ in range(2 * SAMPLE_RATE // STEP):
            tracker.push(1.0)
            if tracker.ask:
                tracker.hear(vector)
        return tracker.parts[-1].speaker

    first = SpeakerTracker(SpeakerOptions(), GateOptions())
    assert hear(first, np.eye(256, dtype=np.float32)[0]) == 0
    other = SpeakerTracker(SpeakerOptions(), GateOptions())
    other.resume(first.state)
    assert hear(other, np.eye(192, dtype=np.float32)[0]) == 1
    assert other.voice(0) is None
