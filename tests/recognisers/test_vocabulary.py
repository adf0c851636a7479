"""Names and terms among recognised words, without a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxlive.recognisers.vocabulary import (
    MAX_TERM_CHARACTERS,
    MAX_TERMS,
    BadVocabulary,
    TermMatcher,
    distance,
    letters_of,
    read_vocabulary,
    sound_of,
    vocabulary_in,
    vocabulary_of,
)
from voxlive.values import Word


def words(text: str, probability: float | None = 0.5) -> list[Word]:
    return [
        Word(f" {word}", at * 100, at * 100 + 90, probability)
        for at, word in enumerate(text.split())
    ]


def spelt(terms: str, text: str, probability: float | None = 0.5) -> str:
    found = TermMatcher(terms.split(";")).spell(words(text, probability))
    return "".join(one.word.text for one in found).strip()


@pytest.mark.parametrize(
    ("term", "recognised", "written"),
    [
        ("thereunder", "activities there under.", "activities thereunder."),
        ("Concord", "Concorde returned", "Concord returned"),
        ("bonfire", "a moving bon fire, then", "a moving bonfire, then"),
        ("Kubernetes", "we run cuber nettis here", "we run Kubernetes here"),
        ("Siobhan", "ask Shiobhan?", "ask Siobhan?"),
        ("WER-Nummer", "eine Wernummer für", "eine WER-Nummer für"),
        ("dictée", "la dictee numéro", "la dictée numéro"),
        ("Anne Elliot", "miss Ann Eliott's aunt", "miss Anne Elliot's aunt"),
        ("voxlive", "(vox live)", "(voxlive)"),
        ("自己的脚", "砸 自己 的 脚", "砸 自己的脚"),
    ],
)
def test_a_term_is_found_by_letters_and_sound(term, recognised, written):
    assert spelt(term, recognised) == written


@pytest.mark.parametrize(
    ("term", "recognised"),
    [
        ("Theo", "they went"),
        ("Ada", "add a line"),
        ("Byrne", "let it burst"),
        ("Fourier", "four of them"),
        ("bonfire", "a bon. Fire there"),
        ("Dashwood", "a dashboard"),
    ],
)
def test_other_words_are_left_alone(term, recognised):
    assert spelt(term, recognised) == recognised


def test_words_that_the_model_is_certain_of_change_only_where_they_are_nearly_the_same():
    assert spelt("bonfire", "bar on fire", 0.95) == "bar on fire"
    assert spelt("encircled", "in circles", 0.6) == "encircled"
    assert spelt("encircled", "in circles", 0.95) == "in circles"
    assert spelt("Concord", "concord", 0.99) == "Concord"


def test_a_term_has_the_span_of_its_words_and_keeps_what_was_recognised():
    one, two = TermMatcher(["voxlive"]).spell(words("vox live now", 0.5))
    assert (one.count, two.count) == (2, 1)
    assert one.word == Word(" voxlive", 0, 190, 0.5, "vox live")
    assert two.word.original is None
    [same] = TermMatcher(["voxlive"]).spell(words("voxlive"))
    assert same.word == words("voxlive")[0]


def test_the_nearest_run_wins_and_nothing_is_used_twice():
    assert spelt("diner;Dinah", "a diner at Dinah's") == "a diner at Dinah's"
    assert spelt("stripe;striped pipe", "a striped pipe") == "a striped pipe"


@given(st.lists(st.text(max_size=12), max_size=8), st.lists(st.text(max_size=8), max_size=12))
def test_every_word_is_written_once(terms, recognised):
    given_words = [Word(text, at, at + 1) for at, text in enumerate(recognised)]
    kept = [term for term in terms if letters_of(term)]
    found = TermMatcher(kept).spell(given_words)
    assert sum(one.count for one in found) == len(given_words)
    at = 0
    for one in found:
        assert one.word.start == at
        at += one.count
        assert one.word.end == at
        changed = one.word.text != "".join(recognised[at - one.count : at])
        assert not changed or one.word.original is not None


@given(st.text("abcdeghkn", max_size=8), st.text("abcdeghkn", max_size=8))
def test_the_distance_is_one_of_edits(one, other):
    assert distance(one, other) == distance(other, one)
    assert (distance(one, other) == 0) == (one == other)
    assert abs(len(one) - len(other)) <= distance(one, other) <= max(len(one), len(other))


def test_a_swap_is_one_edit_and_alike_sounds_are_half_of_one():
    assert distance("dinre", "diner") == 1
    assert (distance("mt", "nt"), distance("mt", "nt", alike=True)) == (1, 0.5)


def test_what_sounds_alike_has_the_same_key():
    for one, other in (
        *(("Philip", "filip"), ("knight", "nite"), ("Schmidt", "shmit"), ("Zoe", "soi")),
        *(("Catherine", "kathrin"), ("Wright", "rite"), ("Bach", "pack")),
    ):
        assert sound_of(letters_of(one)) == sound_of(letters_of(other))
    assert sound_of("diner") != sound_of("liner")


def test_terms_are_bounded_and_the_message_names_what_is_wrong():
    assert vocabulary_of([" John   Dashwood ", "", "John Dashwood"]) == ("John Dashwood",)
    for wrong, hint in (
        (["x" * (MAX_TERM_CHARACTERS + 1)], "too long"),
        (["one two three four five six"], "too long"),
        (["\N{EM DASH}"], "no letter"),
        (["a\x07b"], "control"),
        ([f"term{n}" for n in range(MAX_TERMS + 1)], f"up to {MAX_TERMS}"),
    ):
        with pytest.raises(BadVocabulary, match=hint):
            vocabulary_of(wrong)


def test_a_prompt_has_the_terms_between_its_commas_and_is_never_refused():
    prompt = "Anne Elliot, Kellynch Hall;\nThis is a talk about the sea and ships. , \N{EM DASH}"
    assert vocabulary_in(prompt) == ("Anne Elliot", "Kellynch Hall")
    assert len(vocabulary_in(",".join(f"term{n}" for n in range(MAX_TERMS + 9)))) == MAX_TERMS
    assert vocabulary_in("") == ()


def test_an_operator_has_terms_and_files_of_terms(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("Anne Elliot\n\nUppercross\n", "utf-8")
    assert read_vocabulary([str(path), "Bath, Lyme"]) == (
        *("Anne Elliot", "Uppercross"),
        *("Bath", "Lyme"),
    )
    with pytest.raises(BadVocabulary, match="cannot be read"):
        read_vocabulary([str(tmp_path / "none.txt")])
