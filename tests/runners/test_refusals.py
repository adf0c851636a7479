"""What a model or a request is refused for before anything is loaded."""

from dataclasses import replace

import pytest
from support.model_shapes import (
    GEMMA_3N,
    SHAPES,
    WHISPER,
    Saved,
    whisper,
    write_shape,
)

from voxlive.checkpoints.local_model import read_model
from voxlive.errors import RequestRefused
from voxlive.runners.catalogue import inspect_model
from voxlive.runners.refusals import Allowed, LoadOptions, Requirements, select_backend_policy
from voxlive.runners.routing import Installed, Package, find_installed

VLM = Package("0.7.10", frozenset({"gemma3n", "gemma4", "qwen3_omni_moe"}))
EVERYTHING = replace(find_installed(), mlx_vlm=VLM, modules=frozenset({"torch", "mistral_common"}))
NOTHING = Installed()
GRANULARITIES = "timestamp_granularities[]"


def decide(folder, requirements=None, installed=EVERYTHING, load=None):
    found = inspect_model(read_model(folder), installed)
    return select_backend_policy(
        "some/model", found.model, found.routing, found.health, requirements, load
    )


@pytest.mark.parametrize(
    ("shape", "installed", "code", "says"),
    [
        ("gemma-3n", replace(EVERYTHING, mlx_vlm=None), "missing_dependency", "[multimodal]"),
        ("whisper-hf", NOTHING, "missing_dependency", "mlx-audio is not installed"),
        ("voxtral-realtime-voxmlx", NOTHING, "missing_dependency", "MLX is not installed"),
        (
            "granite-nar",
            replace(EVERYTHING, mlx_audio=Package("0.3.0", frozenset({"whisper"}))),
            "unsupported_by_backend",
            "mlx-audio 0.3.0 has no code for granite_speech_nar",
        ),
    ],
)  # fmt: skip
def test_a_missing_package_is_501_with_a_remedy(tmp_path, shape, installed, code, says):
    [wanted] = [one for one in SHAPES if one.id == shape]
    outcome = decide(write_shape(tmp_path / "m", wanted), installed=installed)
    assert isinstance(outcome, RequestRefused)
    assert (outcome.status, outcome.code) == (501, code)
    assert says in outcome.message


@pytest.mark.parametrize(
    ("config", "requirements", "code", "param"),
    [
        (whisper(), Requirements("translate", "de"), None, None),
        (whisper(), Requirements(words=True, language="en"), None, None),
        (whisper(), Requirements(language="zh"), None, None),
        (whisper(decoder=4), Requirements("translate"), "unsupported_task", "task"),
        (whisper(tokens=51864), Requirements("translate"), "unsupported_task", "task"),
        (whisper(tokens=51864), Requirements(language="de"), "unsupported_language", "language"),
        (whisper(tokens=51864), Requirements(language="en"), None, None),
        (whisper(), Requirements(language="tlh"), "unsupported_language", "language"),
        (whisper(), Requirements("summarise"), "bad_task", "task"),
        ({"model_type": "moonshine"}, Requirements("translate"), "unsupported_task", "task"),
        ({"model_type": "moonshine"}, Requirements(words=True), "no_word_times", GRANULARITIES),
        ({"model_type": "moss_transcribe_diarize"}, Requirements(speakers=True), None, None),
        (GEMMA_3N, Requirements(words=True), "no_word_times", GRANULARITIES),
    ],
)  # fmt: skip
def test_what_a_model_cannot_do_is_refused_before_it_is_loaded(
    tmp_path, config, requirements, code, param
):
    folder = write_shape(tmp_path / "m", Saved("x", config, None, None, files=WHISPER))
    outcome = decide(folder, requirements)
    if code is None:
        assert isinstance(outcome, Allowed), outcome
    else:
        assert isinstance(outcome, RequestRefused)
        assert (outcome.code, outcome.param) == (code, param)
        assert outcome.status == (400 if code.startswith("bad") else 422)


def test_options_of_loading_are_for_models_that_have_them(tmp_path):
    load = LoadOptions(device="cpu", quantize=4, delay_ms=960)
    [realtime] = [one for one in SHAPES if one.id == "voxtral-realtime-voxmlx"]
    spec = decide(write_shape(tmp_path / "v", realtime), load=load).spec
    assert (spec.device, spec.quantize, spec.delay_ms) == ("cpu", 4, 960)
    folder = write_shape(tmp_path / "w", SHAPES[0])
    assert decide(folder, load=load).code == "unsupported_option"
    assert decide(folder, load=LoadOptions(device="cpu")).spec.device == "cpu"


def test_needed_memory_grows_with_the_weights(tmp_path):
    big = {"a": [3_000_000]}
    [small, large] = [
        decide(write_shape(tmp_path / name, replace(SHAPES[0], tensors=tensors))).spec
        for name, tensors in (("s", {"a": [1]}), ("l", big))
    ]
    assert large.needed_bytes - small.needed_bytes >= 2 * 2_999_999
