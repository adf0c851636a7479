"""What a language may be called, against ISO's own tables and those of the models."""

import pycountry
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxlive.checkpoints.families.speech import WHISPER_LANGUAGES
from voxlive.checkpoints.languages import (
    NAMES,
    UnknownLanguage,
    by_code,
    code_of,
    codes_of,
    language_of,
    unknown_language_message,
)

# Bokmål and Norwegian are one language to every model here.
TOGETHER = {"nb": "no"}
ISO = [one for one in pycountry.languages if hasattr(one, "alpha_2")]


@pytest.mark.parametrize("iso", ISO, ids=lambda iso: iso.alpha_2)
def test_all_codes_of_iso_639_1_and_2_are_known(iso):
    code = TOGETHER.get(iso.alpha_2, iso.alpha_2)
    called = [iso.alpha_2, iso.alpha_3, getattr(iso, "bibliographic", iso.alpha_3), iso.name]
    for name in called:
        for spelled in (name, name.upper(), f" {name.title()}\t", f"{iso.alpha_2}_XX"):
            assert language_of(spelled) == code


def test_codes_without_two_letters_are_those_of_iso_639_3():
    for code, name in NAMES.items():
        assert code_of(name) == code
        found = pycountry.languages.get(**{"alpha_2" if len(code) == 2 else "alpha_3": code})
        assert found is not None


def test_whispers_names_and_codes_are_known():
    # Here because it imports all of its package's models and transformers with them.
    from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

    for name, code_of_whisper in TO_LANGUAGE_CODE.items():
        assert code_of(name) == code_of(code_of_whisper)
    assert {"jv": "jw"}.items() <= by_code(LANGUAGES).items()
    assert set(by_code(LANGUAGES)) == set(WHISPER_LANGUAGES)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("zh-Hans", "zh"),
        ("zh_Hant_TW", "zh"),
        ("cmn-Hans-CN", "zh"),
        ("zh-yue-HK", "yue"),
        ("de_DE.UTF-8", "de"),
        ("ca@valencia", "ca"),
        ("Chinese (Simplified)", "zh"),
        ("English (US)", "en"),
        ("haitian  CREOLE", "ht"),
        ("haitian_creole", "ht"),
        ("Norwegian Bokmål", "no"),
        ("iw", "he"),
        ("jw", "jv"),
        ("english-us", "en"),
    ],
)
def test_locales_and_names_as_programs_write_them(name, code):
    assert language_of(name) == code


@pytest.mark.parametrize("name", [None, "", " ", "auto", "AUTO ", "und", "mul"])
def test_an_open_language_is_none(name):
    assert language_of(name) is None


@pytest.mark.parametrize(
    "name", ["xx", "klingon", "french toast", "en-", "en US", "-", "(en)" * 99, "中", "\ud800", "C"]
)
def test_an_unknown_language_is_refused_with_the_accepted_forms(name):
    with pytest.raises(UnknownLanguage, match=r"en-US.*English") as refused:
        language_of(name)
    assert len(str(refused.value).encode()) < 250


@given(st.text(max_size=200))
def test_any_text_is_a_code_or_none_or_refused(name):
    try:
        code = language_of(name)
    except UnknownLanguage:
        return
    assert code is None or code in NAMES
    assert code is None or language_of(code) == code


def test_lists_of_languages_keep_their_order_without_the_unknown():
    assert codes_of(["English", 5, "zho", "martian", "en-GB", "de"]) == ("en", "zh", "de")
    assert (
        unknown_language_message("m", "fr", ("en", "de"))
        == "m does not know French (fr): use de, en"
    )
