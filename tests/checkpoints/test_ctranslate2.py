"""The headers of CTranslate2's files, whole and damaged, and what is told from them."""

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_whisper import write_whisper

from voxlive.checkpoints.contents import read_bin_header
from voxlive.checkpoints.local_model import read_model
from voxlive.errors import DamagedFile
from voxlive.runners.routing import detect_audio_backend

TENSORS = {
    "encoder/conv1/weight": (4, 80, 3),
    "encoder/layer_0/ffn/linear_0/weight": (4, 4),
    "encoder/layer_1/ffn/linear_0/weight": (4, 4),
    "encoder/layer_norm/beta": (4,),
    "decoder/embeddings/weight": (51865, 4),
    "decoder/layer_0/ffn/linear_0/weight": (4, 4),
    "decoder/layer_1/ffn/linear_0/weight": (4, 4),
    "decoder/scale_embeddings": (),
}


def model_bin(tensors: dict[str, tuple[int, ...]] = TENSORS, version: int = 6) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text("WhisperSpec"), struct.pack("<II", 3, len(tensors))]
    for name, shape in tensors.items():
        nbytes = 2
        for size in shape:
            nbytes *= size
        parts += [text(name), struct.pack(f"<B{len(shape)}I", len(shape), *shape)]
        parts += [struct.pack("<BI", 4, nbytes), bytes(nbytes)]
    return b"".join(parts)


def folder_of(path: Path, weights: bytes, *files: str) -> Path:
    path.mkdir(parents=True)
    (path / "model.bin").write_bytes(weights)
    for name in ("config.json", "vocabulary.txt", *files):
        (path / name).write_text("{}")
    return path


def test_names_and_shapes_are_read_and_nothing_else(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(model_bin())
    found = read_bin_header(path)
    assert {name: tensor.shape for name, tensor in found.items()} == TENSORS
    assert {tensor.dtype for tensor in found.values()} == {"F16"}
    assert found["decoder/scale_embeddings"].nbytes == 2


@given(st.data())
def test_a_damaged_file_is_called_damaged(tmp_path_factory, data):
    whole = model_bin({name: shape for name, shape in TENSORS.items() if "emb" not in name})
    path = tmp_path_factory.mktemp("bin") / "model.bin"
    if data.draw(st.booleans()):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(DamagedFile, match="fetch it again"):
            read_bin_header(path)
        return
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at] + data.draw(st.binary(min_size=1, max_size=8)) + whole[at + 1 :])
    with suppress(DamagedFile):  # a value may be another, and all be in order
        read_bin_header(path)


def test_a_whisper_is_told_by_its_tensors(tmp_path):
    folder = folder_of(tmp_path / "any-name", model_bin(), "tokenizer.json")
    found = read_model(folder)
    assert found.problems == ()
    assert found.family.name == "whisper"
    assert found.capabilities.layout == "ctranslate2"
    assert found.capabilities.features == {"translate", "words", "prompt"}
    assert "de" in found.capabilities.languages
    assert detect_audio_backend(found.capabilities).backend == "faster_whisper"


def test_english_only_and_shortened_decoders_do_not_translate(tmp_path):
    english = TENSORS | {"decoder/embeddings/weight": (51864, 4)}
    found = read_model(folder_of(tmp_path / "en", model_bin(english), "tokenizer.json"))
    assert found.capabilities.languages == ("en",)
    assert "translate" not in found.capabilities.features
    turbo = {name: shape for name, shape in TENSORS.items() if "decoder/layer_1" not in name}
    found = read_model(folder_of(tmp_path / "turbo", model_bin(turbo), "tokenizer.json"))
    assert "de" in found.capabilities.languages
    assert "translate" not in found.capabilities.features


def test_what_a_folder_lacks_is_told_before_it_is_loaded(tmp_path):
    found = read_model(folder_of(tmp_path / "bare", model_bin()))
    assert any("no tokenizer" in str(problem) for problem in found.problems)
    cut = read_model(folder_of(tmp_path / "cut", model_bin()[:99], "tokenizer.json"))
    assert any("cut short" in str(problem) for problem in cut.problems)
    other = {"encoder/embeddings/weight": (10, 4)}
    translator = read_model(folder_of(tmp_path / "mt", model_bin(other), "tokenizer.json"))
    assert translator.family is None


def test_safetensors_come_first_where_both_lie_in_a_folder(tmp_path):
    folder = write_whisper(tmp_path / "both")
    (folder / "model.bin").write_bytes(model_bin())
    found = read_model(folder)
    assert found.capabilities.layout == "transformers"
    assert detect_audio_backend(found.capabilities).backend == "mlx_audio"
