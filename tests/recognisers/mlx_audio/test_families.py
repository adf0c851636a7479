"""Every family against the installed mlx-audio: its class, its signature, its results."""

import importlib
import inspect
from types import SimpleNamespace

import numpy as np
import pytest

from voxlive.checkpoints.families import FAMILIES as PROBED
from voxlive.errors import RequestRefused
from voxlive.recognisers.mlx_audio.families import FAMILIES, NOT_FOR_FILES
from voxlive.recognisers.mlx_audio.family import CallOptions, FamilyRequest
from voxlive.runners.contract import Job
from voxlive.runners.mlx_audio import check_job

# Where ``Model`` hands ``generate`` on to another class.
_GENERATES = {
    "qwen3_asr": ("qwen3_asr.qwen3_asr", "Qwen3ASRModel"),
    "mega_asr": ("qwen3_asr.qwen3_asr", "Qwen3ASRModel"),
    "phonon": ("phonon.phonon", "PhononASRModel"),
}
# Parameters that reach the model although generate does not name them.
_ELSEWHERE = {"whisper": {"sample_len"}}

anywhere = pytest.mark.parametrize("name", FAMILIES)


def request_for(family, language=None, temperature=0.0, **options):
    if temperature:
        options["temperatures"] = (temperature,)
    samples = np.zeros(16_000, np.float32)
    asked = CallOptions(**options)
    return FamilyRequest(asked, samples, 1.0, language, language, 100 if family.tokens else None)


def generate_of(family):
    from mlx_audio.stt.utils import MODEL_REMAPPING

    package = MODEL_REMAPPING.get(family.model_type, family.model_type)
    module, name = _GENERATES.get(package, (package, "Model"))
    model = getattr(importlib.import_module(f"mlx_audio.stt.models.{module}"), name)
    return model.generate


@anywhere
@pytest.mark.parametrize("task", ["transcribe", "translate"])
@pytest.mark.parametrize("words", [False, True])
def test_generate_names_every_argument_that_it_is_given(name, task, words):
    family = FAMILIES[name]
    given = request_for(
        family, language="en", prompt="names", temperature=0.5, task=task, words=words
    )
    generate = generate_of(family)
    arguments = family.arguments(given)
    inspect.signature(generate).bind(None, "audio", **arguments)
    assert (
        arguments.keys() - _ELSEWHERE.get(name, set())
        <= inspect.signature(generate).parameters.keys()
    )


def test_whispers_limit_is_an_option_of_its_decoding():
    from mlx_audio.stt.models.whisper.decoding import DecodingOptions

    assert "sample_len" in DecodingOptions.__dataclass_fields__


@anywhere
def test_options_that_are_not_set_are_no_arguments(name):
    arguments = FAMILIES[name].arguments(request_for(FAMILIES[name]))
    assert "" not in arguments.values()
    for prompt in ("prompt", "initial_prompt", "system_prompt", "context", "hotwords"):
        assert prompt not in arguments


def test_every_recognised_family_runs_or_has_a_reason():
    served = {name for name, family in PROBED.items() if family.kind in ("speech", "voxtral")}
    served.discard("voxtral_realtime")
    assert served <= FAMILIES.keys() | NOT_FOR_FILES.keys()
    assert not FAMILIES.keys() & NOT_FOR_FILES.keys()


@anywhere
def test_probed_features_are_the_adapters(name):
    family, promised = FAMILIES[name], PROBED[name].features
    assert (family.prompt is not None, family.words, family.speakers) == (
        "prompt" in promised,
        "words" in promised,
        "speakers" in promised,
    )
    assert family.rate == PROBED[name].sample_rate


# Whatever a family looks at for the languages of a loaded model.
ENGLISH = SimpleNamespace(
    is_multilingual=True,
    num_languages=99,
    prompt_dictionary={"en-US": 0},
    _tokenizer=SimpleNamespace(token2id={"<|en|>": 1}),
    config=SimpleNamespace(supported_languages=["en"], support_languages=["English"]),
)


@anywhere
@pytest.mark.parametrize(
    ("given", "field"),
    [({"prompt": "a"}, "prompt"), ({"temperature": 1.0}, "temperature")],
)
def test_a_hint_that_a_family_cannot_use_is_a_warning(name, given, field):
    family = FAMILIES[name]
    needed = {"language": "en"} if family.languages.required else {}
    job = Job(None, **given, **needed)
    warned = [warning.code for warning in check_job(family, ENGLISH, job)]
    assert warned == ([] if getattr(family, field) is not None else [f"{field}_ignored"])


@anywhere
def test_a_limit_that_a_family_cannot_keep_is_refused(name):
    family = FAMILIES[name]
    job = Job(None, max_tokens=5, language="en" if family.languages.required else None)
    if family.tokens:
        assert check_job(family, ENGLISH, job) == ()
    else:
        with pytest.raises(RequestRefused, match="leave it out") as refused:
            check_job(family, ENGLISH, job)
        assert (refused.value.status, refused.value.param) == (422, "max_tokens")


def canary_like(*codes):
    return SimpleNamespace(
        _tokenizer=SimpleNamespace(token2id={f"<|{code}|>": at for at, code in enumerate(codes)}),
        config=SimpleNamespace(supported_languages=["en", "de", "fr"]),
    )


def test_a_required_language_is_refused_when_missing():
    with pytest.raises(RequestRefused, match="one of de, en") as refused:
        check_job(FAMILIES["canary"], canary_like("en", "de"), Job(None))
    assert (refused.value.status, refused.value.param) == (400, "language")
    with pytest.raises(RequestRefused, match="French") as refused:
        check_job(FAMILIES["canary"], canary_like("en", "de"), Job(None, language="fr"))
    assert (refused.value.status, refused.value.code) == (422, "unsupported_language")


def test_language_names_by_code():
    qwen = SimpleNamespace(config=SimpleNamespace(support_languages=["Chinese", "English"]))
    assert FAMILIES["qwen3_asr"].languages.names(qwen) == {"zh": "Chinese", "en": "English"}
    nemotron = SimpleNamespace(prompt_dictionary={"auto": 0, "en-GB": 1, "en-US": 2, "de-DE": 3})
    assert FAMILIES["nemotron_asr"].languages.names(nemotron) == {"de": "de-DE", "en": "en-GB"}


def test_canary_translates_into_english():
    canary = FAMILIES["canary"]
    arguments = canary.arguments(request_for(canary, language="de", task="translate"))
    assert (arguments["source_lang"], arguments["target_lang"]) == ("de", "en")
    arguments = canary.arguments(request_for(canary, language="de"))
    assert (arguments["source_lang"], arguments["target_lang"]) == ("de", "de")


def test_granites_language_is_the_source_unless_it_translates():
    granite = FAMILIES["granite_speech"]
    assert "language" not in granite.arguments(request_for(granite, language="de"))
    arguments = granite.arguments(request_for(granite, language="de", task="translate"))
    assert arguments["language"] == "en"
    assert "source_language" not in arguments


def test_whisper_raises_the_temperature_only_from_zero():
    whisper = FAMILIES["whisper"]
    assert whisper.arguments(request_for(whisper))["temperature"][0] == 0.0
    assert whisper.arguments(request_for(whisper, temperature=0.4))["temperature"] == 0.4


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].tokens])
def test_token_limits_grow_with_the_audio_up_to_the_jobs(name):
    tokens = FAMILIES[name].tokens
    assert tokens.limit(1, 7) == 7
    assert tokens.limit(1, 10**9) == tokens.limit(1, None)
    assert 0 < tokens.limit(1, None) <= tokens.limit(10_000, None) <= tokens.most
