import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.golden.layouts import write_safetensors
from voxlive.checkpoints.contents import read_header, same_bytes
from voxlive.errors import DamagedFile

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(5, np.float32),
    "scalar": np.float32(3).reshape(()),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "some.safetensors"
    write_safetensors(path, TENSORS)
    return path


def test_header_gives_the_place_of_every_tensor(stored):
    header = read_header(stored)
    data = stored.read_bytes()
    assert header.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        found = header[name]
        assert (found.dtype, found.shape) == ("F32", tensor.shape)
        assert data[found.begin : found.end] == tensor.tobytes()


@given(st.data())
def test_a_file_cut_anywhere_is_refused(stored, tmp_path_factory, data):
    whole = stored.read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DamagedFile, match="cut short"):
        read_header(path)


def _file(path, header, data=b"\0" * 64):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _entry(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"x": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (_entry(offsets=(0, 15)), "contradicts itself"),
        (_entry(offsets=(-16, 0)), "contradicts itself"),
        (_entry(shape=(-2, -2)), "contradicts itself"),
        (_entry(offsets=(64, 80)), "cut short"),
        (_entry(dtype="F128"), "'x' is unreadable"),
        (_entry(shape=("4",)), "'x' is unreadable"),
        ({"x": {"dtype": "F32"}}, "'x' is unreadable"),
        ({"x": 3}, "'x' is unreadable"),
        ([], "no readable safetensors header"),
        (b"{", "no readable safetensors header"),
        (b"\xff\xff", "no readable safetensors header"),
    ],
)
def test_a_contradictory_header_is_refused(tmp_path, header, message):
    with pytest.raises(DamagedFile, match=message):
        read_header(_file(tmp_path / "x.safetensors", header))


def test_a_pointer_to_a_file_is_named_as_such(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DamagedFile, match="Git LFS pointer"):
        read_header(path)


def test_same_bytes_compares_values_dtype_and_shape(tmp_path):
    big = np.zeros(700_000, np.float32)
    late = big.copy()
    late[-1] = 1
    tensors = {"a": big, "b": big, "late": late, "square": big.reshape(700, 1000)}
    write_safetensors(tmp_path / "f32.safetensors", tensors)
    write_safetensors(tmp_path / "f16.safetensors", {"a": big}, "F16")
    header = read_header(tmp_path / "f32.safetensors")
    assert same_bytes(header["a"], header["b"])
    assert not same_bytes(header["a"], header["late"])
    assert not same_bytes(header["a"], header["square"])
    assert not same_bytes(header["a"], read_header(tmp_path / "f16.safetensors")["a"])
