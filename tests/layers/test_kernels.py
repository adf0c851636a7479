"""Where compiled kernels are kept, and what a process that ends meanwhile leaves behind."""

import os
import subprocess
import sys
import time

import pytest

from voxlive.layers import kernels
from voxlive.layers.kernels import _kernel_folder, _marked

VARIABLE = "MLX_PTX_CACHE_DIR"


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)


def test_a_folder_for_each_version_and_card():
    assert _kernel_folder("0.32.4", "NVIDIA H100 80GB HBM3") == "mlx-0.32.4-nvidia-h100-80gb-hbm3"


def test_kernels_stay_for_the_next_process(tmp_path):
    folder = tmp_path / "a" / "b"
    with _marked(folder):
        assert os.environ[VARIABLE] == str(folder)
        (folder / "add.ptx").write_text("whole")
    with _marked(folder):
        assert (folder / "add.ptx").read_text() == "whole"
    assert folder.stat().st_mode & 0o077 == 0


def interrupted(folder, error):
    """A process that compiled something a while ago and ends while it writes the next."""

    def compiling():
        with _marked(folder):
            (folder / "early.ptx").write_text("whole")
            a_while_ago = time.time() - 60
            os.utime(folder / "early.ptx", (a_while_ago, a_while_ago))
            (folder / "add.ptx").write_text("ha")
            (folder / "add.txt").write_text("")
            raise error

    with pytest.raises(error):
        compiling()


def test_what_an_interrupted_process_left_is_compiled_again(tmp_path):
    interrupted(tmp_path, KeyboardInterrupt)
    with _marked(tmp_path):
        assert {file.name for file in tmp_path.iterdir()} == {"early.ptx", "unfinished"}
        (tmp_path / "add.ptx").write_text("whole")
    with _marked(tmp_path):
        assert (tmp_path / "add.ptx").exists()


def test_kernels_with_which_mlx_fails_are_all_compiled_again(tmp_path):
    interrupted(tmp_path, RuntimeError)
    with _marked(tmp_path):
        assert {file.name for file in tmp_path.iterdir()} == {"unfinished"}


HOLD = """
import sys
from pathlib import Path
from voxlive.layers.kernels import _marked
with _marked(Path(sys.argv[1])):
    print("holds", flush=True)
    sys.stdin.read()
    (Path(sys.argv[1]) / "add.ptx").write_text("whole")
"""


def test_one_process_compiles_and_the_next_waits_for_it(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "holds\n"
        other.stdin.close()
        with _marked(tmp_path):
            assert (tmp_path / "add.ptx").read_text() == "whole"


def test_a_folder_that_is_in_use_for_too_long_is_not_shared(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(kernels, "_KERNELS_WAIT_S", 0.2)
    with _marked(tmp_path):
        del os.environ[VARIABLE]
        with _marked(tmp_path):
            assert VARIABLE not in os.environ
    assert "in use for too long" in caplog.text


def test_without_a_folder_to_write_mlx_uses_its_own(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with _marked(tmp_path / "file" / "kernels"):
        assert VARIABLE not in os.environ
    assert "cannot be kept" in caplog.text
