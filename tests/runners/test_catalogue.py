import ast
import os
from pathlib import Path

import pytest
from support.model_shapes import HF, SHAPES, Saved, mlx_whisper, whisper, write_shape

import voxlive.cli.document as document
from voxlive.checkpoints.local_model import read_model
from voxlive.checkpoints.resolve import resolve
from voxlive.errors import CheckpointNotFound, RequestRefused, status_of
from voxlive.runners.catalogue import Catalogue, CatalogueEntry, make_catalogue
from voxlive.runners.refusals import REFUSAL_RULES, LoadOptions, Requirements

ROOT = Path(__file__).parents[2]
REALTIME = next(shape for shape in SHAPES if shape.id == "voxtral-realtime-mlx-audio")
TURBO = Saved("turbo", whisper(decoder=4), "whisper", "mlx_audio", files=SHAPES[0].files)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub; gives what puts a model into it."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "packages"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", _finder(cache))

    def put(name, shape, commit="0123abcd" * 5):
        home = cache / f"models--{name.replace('/', '--')}"
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / "main").write_text(commit)
        return write_shape(home / "snapshots" / commit, shape)

    return put


def _finder(cache):
    from huggingface_hub.file_download import try_to_load_from_cache

    return lambda name, file, revision=None: try_to_load_from_cache(
        name, file, cache_dir=cache, revision=revision
    )


@pytest.fixture
def catalogue(hub, tmp_path):
    hub("openai/whisper-large-v3", SHAPES[0])
    hub("meta/llama", Saved("x", {"model_type": "llama"}, None, None, files=HF))
    hub("half/whisper", Saved("x", mlx_whisper(), "whisper", None))
    hub("mlx-community/Voxtral-Mini-4B-Realtime-2602-4bit", REALTIME)
    served = write_shape(tmp_path / "served", REALTIME)
    lectures = write_shape(tmp_path / "somewhere", TURBO)
    return make_catalogue(
        read_model(served), [f"lectures={lectures}"], LoadOptions("cpu", 4), offline=True
    )


def refused(catalogue, name, requirements=None):
    with pytest.raises(RequestRefused) as caught:
        catalogue.find(name, requirements)
    return caught.value


@pytest.mark.parametrize(
    ("name", "model", "family"),
    [
        (None, "served", "voxtral_realtime"),
        ("", "served", "voxtral_realtime"),
        ("served", "served", "voxtral_realtime"),
        ("whisper-1", "served", "voxtral_realtime"),
        ("gpt-4o-mini-transcribe", "served", "voxtral_realtime"),
        ("gpt-transcribe", "served", "voxtral_realtime"),
        ("gpt-4o-transcribe-diarize", "served", "voxtral_realtime"),
        ("nova-3", "served", "voxtral_realtime"),
        ("voxtral-mini-latest", "served", "voxtral_realtime"),
        ("lectures", "lectures", "whisper"),
        ("openai/whisper-large-v3", "openai/whisper-large-v3", "whisper"),
        (f"openai/whisper-large-v3@{'0123abcd' * 5}", None, "whisper"),
        ("voxtral", "mlx-community/Voxtral-Mini-4B-Realtime-2602-4bit", "voxtral_realtime"),
    ],
)
def test_names_that_may_be_used(catalogue, name, model, family):
    spec = catalogue.find(name)
    assert (spec.model, spec.family) == (model or name, family)
    assert spec.device == "cpu"
    assert spec.quantize == (4 if spec.model == "served" else None)


def test_an_alias_and_its_repository_are_one_model(catalogue):
    full = catalogue.find("mlx-community/Voxtral-Mini-4B-Realtime-2602-4bit")
    assert catalogue.find("voxtral") == full


@pytest.mark.parametrize("how", ["{0}", "{0}/", "./served", "../served", "file://{0}", "~/x", "/"])
def test_a_name_is_never_a_path(catalogue, tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    name = how.format(tmp_path / "served")
    assert Path(tmp_path, "served").is_dir()
    refusal = refused(catalogue, name)
    assert (refusal.status, refusal.code, refusal.param) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    "name",
    [
        "a/../../etc", "../../etc/passwd", "openai/whisper-large-v3@../../../x", "x" * 100_000,
        "a/b\0", "models--openai--whisper", "openai/whisper-large-v3/snapshots", "..", "%2e%2e/x",
    ],
)  # fmt: skip
def test_odd_names_are_not_found(catalogue, name):
    refusal = refused(catalogue, name)
    assert refusal.status == 404
    assert len(refusal.message) < 600


def test_a_folder_of_the_working_directory_is_no_repository(catalogue, tmp_path, monkeypatch):
    write_shape(tmp_path / "own" / "model", SHAPES[0])
    monkeypatch.chdir(tmp_path)
    assert refused(catalogue, "own/model").code == "model_not_found"


def test_an_unknown_name_lists_close_ones_and_how_to_fetch(catalogue):
    assert "did you mean lectures?" in refused(catalogue, "lecture").message
    message = refused(catalogue, "openai/whisper-small").message
    assert "voxlive models pull openai/whisper-small" in message
    assert "voxlive models pull voxtral-bf16" in refused(catalogue, "voxtral-bf16").message


def test_requirements_are_checked(catalogue):
    assert refused(catalogue, "lectures", Requirements("translate")).code == "unsupported_task"
    assert (
        catalogue.find("openai/whisper-large-v3", Requirements("translate")).backend == "mlx_audio"
    )
    assert refused(catalogue, "half/whisper").code == "model_unhealthy"
    assert refused(catalogue, "meta/llama").code == "unsupported_model"


def test_the_hub_can_be_left_out(catalogue, tmp_path):
    closed = Catalogue(CatalogueEntry("served", read_model(tmp_path / "served")), hub=False)
    assert refused(closed, "openai/whisper-large-v3").status == 404
    assert [card.id for card in closed.cards()] == ["served"]


def test_cards_list_speech_models_default_first(catalogue):
    cards = catalogue.cards()
    assert [card.id for card in cards] == [
        "served",
        "half/whisper",
        "lectures",
        "mlx-community/Voxtral-Mini-4B-Realtime-2602-4bit",
        "openai/whisper-large-v3",
    ]
    assert [card.default for card in cards] == [True, *[False] * 4]
    assert cards[3].aliases == ("voxtral",)
    assert not cards[1].inspection.health.healthy
    assert all(card.created > 0 for card in cards)
    assert catalogue.card("whisper-1").id == "served"


def test_changed_files_are_read_again(catalogue, tmp_path):
    assert catalogue.find("lectures").family == "whisper"
    weights = tmp_path / "somewhere" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert refused(catalogue, "lectures").code == "model_unhealthy"
    weights.write_bytes(whole)
    os.utime(weights, ns=(1, 1))
    assert catalogue.find("lectures").family == "whisper"


@pytest.mark.parametrize("one", ["lectures", "=x", "name=", "a=/no/such/folder"])
def test_an_invalid_registration_is_refused(one, tmp_path):
    with pytest.raises(CheckpointNotFound):
        make_catalogue(read_model(tmp_path), [one], offline=True)


def test_a_model_may_be_registered_by_its_short_name():
    served = resolve("whisper-tiny.en", offline=True)
    catalogue = make_catalogue(served, ["quick=whisper-tiny.en"], hub=False)
    spec = catalogue.find("quick", Requirements(language="en"))
    assert (spec.model, spec.backend, spec.local.folder) == (
        "quick",
        "faster_whisper",
        served.folder,
    )
    assert {card.id for card in catalogue.cards()} == {served.name, "quick"}


def test_the_docs_have_the_tables_of_the_code():
    text = (ROOT / "docs" / "batch.md").read_text()
    assert text == document.update_tables(text), "python -m voxlive.cli.document docs/batch.md"
    assert text.count("<!-- table: ") == 6


def test_the_table_of_refusals_has_every_refusal_of_runners():
    listed = {(rule.status, rule.code) for rule in REFUSAL_RULES}
    raised = set()
    for path in (ROOT / "voxlive" / "runners").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RequestRefused":
                raised |= {
                    (status_of(code.value), code.value)
                    for code in node.args[:1]
                    if isinstance(code, ast.Constant)
                }
    assert raised
    assert raised <= listed
