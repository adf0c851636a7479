import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest
from support.clips import clip

from voxlive.vad.gate import WINDOW
from voxlive.vad.silero import CONTEXT, FRAME, STATE, Silero, SileroMissing, find_model


@pytest.fixture(scope="module")
def model():
    return Silero()


def frames_of(samples):
    padded = np.concatenate((np.zeros(CONTEXT, np.float32), samples))
    return np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::WINDOW]


def test_the_network_is_that_of_the_installed_package():
    path = find_model()
    files = importlib.metadata.files("silero-vad")
    assert path.samefile(next(f for f in files if f.name == "silero_vad_16k_op15.onnx").locate())


def test_importing_it_imports_no_torch_and_not_the_package():
    code = "import sys, voxlive.vad.silero as s; s.Silero(); print({*sys.modules} & {*sys.argv})"
    args = [sys.executable, "-c", code, "torch", "silero_vad", "mlx"]
    assert subprocess.run(args, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_without_the_package_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(SileroMissing, match=r"not installed; .*pip install .*silero-vad"):
        find_model()


def test_without_the_file_it_says_so(monkeypatch, tmp_path):
    info = tmp_path / "silero_vad-9.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: silero-vad\nVersion: 9.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(SileroMissing, match=r"silero-vad 9\.0 carries no file .*pip install"):
        find_model()


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

    def heard(rows):
        state, result = np.zeros((2, len(rows), STATE), np.float32), []
        for frames in zip(*rows, strict=True):
            probabilities, state = model.step(np.stack(frames), state)
            result.append(probabilities)
        return np.stack(result, axis=1)

    together = heard(rows)
    alone = np.concatenate([heard([row]) for row in rows])
    assert np.abs(together - alone).max() < 1e-6
    assert together[0].max() > 0.95
    assert together[3].max() < 0.1
