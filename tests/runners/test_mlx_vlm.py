"""What a multimodal model is asked, and what is said where mlx-vlm is not installed."""

import sys

import numpy as np
import pytest

from voxlive.checkpoints.families import FAMILIES as PROBED
from voxlive.checkpoints.local_model import read_model
from voxlive.errors import RequestRefused
from voxlive.recognisers.mlx_audio.family import CallOptions, FamilyRequest
from voxlive.runners.contract import Job, RunnerSpec
from voxlive.runners.mlx_audio import check_job
from voxlive.runners.mlx_vlm import FAMILIES, load

GEMMA = FAMILIES["gemma3n"]


def arguments_for(language=None, **options):
    request = FamilyRequest(
        CallOptions(**options), np.zeros(1, np.float32), 1.0, None, language, 50
    )
    return GEMMA.arguments(request)


def test_every_multimodal_family_that_the_probe_finds_is_served():
    assert FAMILIES.keys() == {name for name in PROBED if PROBED[name].kind == "multimodal"}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_stretches_are_at_most_thirty_seconds(family):
    assert family.window_s == 30


def test_the_instruction_asks_for_the_words_alone():
    arguments = arguments_for()
    assert arguments["instruction"].startswith("Transcribe the speech")
    assert "\n" not in arguments["instruction"]
    assert (arguments["max_tokens"], arguments["temperature"]) == (50, 0.0)


def test_language_and_prompt_follow_the_instruction():
    arguments = arguments_for("German", prompt="Zug, Gleis", task="translate")
    first, second, third = arguments["instruction"].split("\n")
    assert first.startswith("Translate the speech")
    assert second == "The speech is in German."
    assert third == "It may have to do with this: Zug, Gleis"
    assert arguments.keys() == {"instruction", "max_tokens", "temperature"}


def test_a_jobs_instruction_replaces_it():
    assert arguments_for(instruction="Who speaks?")["instruction"] == "Who speaks?"


def test_a_language_is_known_by_its_code():
    with pytest.raises(RequestRefused, match="klingon"):
        check_job(GEMMA, None, Job(None, language="klingon"))
    check_job(GEMMA, None, Job(None, language="de", task="translate", prompt="a", temperature=0.5))


def test_without_mlx_vlm_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx_vlm", None)
    with pytest.raises(RequestRefused, match=r"pip install 'voxlive\[multimodal\]'") as refused:
        load(RunnerSpec("gemma", "mlx_vlm", "gemma3n", read_model(tmp_path)))
    assert (refused.value.status, refused.value.code) == (501, "missing_dependency")


def test_another_family_is_refused(tmp_path):
    with pytest.raises(RequestRefused, match="serves gemma3n, gemma4, qwen3_omni_moe"):
        load(RunnerSpec("llama", "mlx_vlm", "llama", read_model(tmp_path)))
