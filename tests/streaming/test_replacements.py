"""The dictionary: phrases and patterns replaced in a stream of words."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxlive.streaming.replacements import (
    MAX_HOLD,
    MAX_WORDS,
    BadReplacement,
    Replacements,
    Replacer,
)
from voxlive.values import Word

STEP = 8000


def words_of(text: str, first: int = 0) -> list[Word]:
    pieces = re.findall(r"\s*\S+", text)
    return [
        Word(piece, (first + i) * STEP, (first + i + 1) * STEP, 0.5 + i / 100)
        for i, piece in enumerate(pieces)
    ]


def replaced(entries: dict[str, str], text: str) -> str:
    """In one go, to the end of the utterance."""
    replacer = Replacer(Replacements.of(entries))
    return "".join(word.text for word in (*replacer.push(words_of(text)), *replacer.flush()))


@pytest.mark.parametrize(
    ("entries", "spoken", "written"),
    [
        ({"vox live": "voxlive"}, "we use vox live here", "we use voxlive here"),
        ({"vox live": "voxlive"}, "We use Vox Live.", "We use voxlive."),
        ({"vox live": "voxlive"}, "(vox live) and vox, live", "(voxlive) and vox, live"),
        ({"Vox": "V", "vox live": "VL"}, "vox live vox lives", "VL V lives"),
        ({"a b c": "X", "b": "Y"}, "a b d", "a Y d"),
        ({"a b": "1", "b c": "2"}, "a b c", "1 c"),
        ({"um": ""}, "well um yes", "well yes"),
        ({"don't": "do not"}, "I don\u2019t", "I do not"),
        ({"i c u": "ICU"}, "the I. C. U. of", "the I. C. U. of"),
        ({"example": "e.g."}, "an example.", "an e.g."),
        ({"café": "coffee"}, "CAFÉ", "coffee"),
        ({"one two three four five": "5"}, "one two three four five", "5"),
        ({"東京 都": "Tokyo"}, "東京 都 です。", "Tokyo です。"),
        ({"東京 都": "Tokyo"}, "東京、 都", "東京、 都"),
    ],
)
def test_phrases(entries, spoken, written):
    assert replaced(entries, spoken) == written


def test_scripts_without_spaces_are_words_of_a_few_characters():
    replacer = Replacer(Replacements.of({"北京大学": "Peking University"}))
    words = [Word(c, i, i + 1) for i, c in enumerate("在北京大学")]
    assert "".join(w.text for w in replacer.push(words)) == "在Peking University"
    assert replacer.held == ()


def test_a_replacement_spans_its_words_and_keeps_what_was_recognised():
    [first, new] = Replacer(Replacements.of({"vox live": "voxlive"})).push(words_of("use vox live"))
    assert first.original is None
    assert new == Word(" voxlive", STEP, 3 * STEP, 0.51, "vox live")


def test_a_word_waits_for_its_phrase_a_second_of_progress_at_most():
    replacer = Replacer(Replacements.of({"vox live server": "it"}))
    assert [w.text for w in replacer.push(words_of("a vox"))] == ["a"]
    assert replacer.draft(" li") == " vox li"
    end = 2 * STEP
    assert replacer.progress(end + MAX_HOLD - 1) == ()
    assert [w.text for w in replacer.progress(end + MAX_HOLD)] == [" vox"]
    assert replacer.held == ()


def test_no_word_waits_that_begins_nothing_or_beyond_its_utterance():
    replacer = Replacer(Replacements.of({"apple pie": "dessert"}))
    assert [w.text for w in replacer.push(words_of("a app appl"))] == ["a", " app", " appl"]
    assert replacer.push(words_of(" apple")) == ()
    assert [w.text for w in replacer.flush()] == [" apple"]


def test_drafts_are_replaced_too_and_show_what_waits():
    replacer = Replacer(Replacements.of({"vox live": "voxlive"}))
    replacer.push(words_of("use vox"))
    assert replacer.draft(" live now") == " voxlive now"
    assert replacer.draft("") == " vox"


def test_patterns_match_whole_runs_of_words():
    replacements = Replacements.of({}, {r"(\d+) percent": r"\1 %", "x{1,3}": "y"})
    replacer = Replacer(replacements)
    words = (*replacer.push(words_of("about 20 percent, xx xxxx")), *replacer.flush())
    assert "".join(w.text for w in words) == "about 20 %, y xxxx"


def test_a_pattern_takes_linear_time():
    replacer = Replacer(Replacements.of({}, {"(a*)*b": "c"}))
    words = words_of("a" * 200)
    assert (*replacer.push(words), *replacer.flush()) == tuple(words)


@pytest.mark.parametrize(
    ("entries", "patterns", "message"),
    [
        ({"...": "x"}, None, "no word"),
        ({"a b c d e f": "x"}, None, f"up to {MAX_WORDS} words"),
        ({"a": "x" * 201}, None, "up to 200 characters"),
        ({"a": "x\ny"}, None, "one line"),
        ({str(i): "x" for i in range(1001)}, None, "up to 1000"),
        ({}, {"(": "x"}, "pattern"),
    ],
)
def test_what_cannot_be_used_is_named(entries, patterns, message):
    with pytest.raises(BadReplacement, match=message) as raised:
        Replacements.of(entries, patterns)
    assert raised.value.code == "bad_parameter"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words = 3", "each line"),
        ("[words]\na = 1", "each line"),
        ("[word]\na = 'b'", "not word"),
        ("[words\n", "cannot be read"),
        ("[patterns]\n'(' = 'b'", "pattern"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, text, message):
    path = tmp_path / "words.toml"
    path.write_text(text)
    with pytest.raises(BadReplacement, match=f"words.toml.*{message}"):
        Replacements.read(path)
    with pytest.raises(BadReplacement, match=r"missing.toml.*No such file"):
        Replacements.read(tmp_path / "missing.toml")


def test_a_file_has_words_and_patterns(tmp_path):
    path = tmp_path / "words.toml"
    path.write_text("[words]\n'vox live' = 'voxlive'\n[patterns]\n'x+' = 'y'\n")
    replacements = Replacements.read(path) | Replacements.of({"VOX LIVE": "it"})
    replacer = Replacer(replacements)
    words = (*replacer.push(words_of("vox live xx")), *replacer.flush())
    assert "".join(w.text for w in words) == "it y"


_WORDS = st.lists(st.sampled_from(["a", "b", "c", "a.", "B", "d"]), max_size=30)
_PHRASES = st.dictionaries(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=5).map(" ".join),
    st.sampled_from(["X", "Y Z", ""]),
    max_size=6,
)


@given(_WORDS, _PHRASES, st.data())
def test_the_result_does_not_depend_on_when_words_come(spoken, entries, data):
    words = words_of(" ".join(spoken))
    replacements = Replacements.of(entries)
    whole = Replacer(replacements)
    expected = (*whole.push(words), *whole.flush())
    replacer = Replacer(replacements)
    given: list[Word] = []
    rest = list(words)
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        given += replacer.push(rest[:count])
        del rest[:count]
    waiting = replacer.draft("")
    last = replacer.flush()
    assert waiting == "".join(word.text for word in last)
    given += last
    assert tuple(given) == expected


@given(_WORDS, _PHRASES)
def test_words_keep_their_order_and_none_waits_for_long(spoken, entries):
    replacer = Replacer(Replacements.of(entries))
    out: list[Word] = []
    for word in words_of(" ".join(spoken)):
        out += (*replacer.push([word]), *replacer.progress(word.end))
        assert all(word.end - held.end < MAX_HOLD for held in replacer.held)
    out += replacer.flush()
    assert all(one.end <= two.start for one, two in pairwise(out))
    assert replacer.held == ()
