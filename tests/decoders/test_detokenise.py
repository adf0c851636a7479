import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxlive.decoders.decoder import Detokeniser, TokenWord

PAD, WORD, EOS = 32, 33, 2


class TokenScript:
    """Gives every distinct piece of bytes a token and plays them through a detokeniser."""

    def __init__(self):
        self.pieces = {}
        self.detokeniser = Detokeniser(self.piece, pad=PAD, word=WORD)

    def piece(self, token):
        return self.pieces.get(token, b"")

    def play(self, *items):
        return [word for item in items for word in self.detokeniser.push(self.token(item))]

    def token(self, item):
        if isinstance(item, int):
            return item
        data = item.encode() if isinstance(item, str) else item
        token = 1000 + len(self.pieces)
        self.pieces[token] = data
        return token


@pytest.fixture
def script():
    return TokenScript()


def texts(words):
    return [word.text for word in words]


def test_a_marker_completes_the_word_before_it_and_dates_the_next(script):
    assert script.play(PAD, WORD, " Hel", "lo") == []
    assert script.detokeniser.draft == " Hello"
    assert script.play(WORD) == [TokenWord(" Hello", first=1, last=3)]
    assert script.play(" you") == []
    assert script.detokeniser.finish() == [TokenWord(" you", first=4, last=5)]


def test_words_that_share_a_marker_part_at_the_leading_space(script):
    words = script.play(WORD, " in", " the", " end") + script.detokeniser.finish()
    assert words == [TokenWord(" in", 0, 1), TokenWord(" the", 2, 2), TokenWord(" end", 3, 3)]


def test_pads_complete_a_word_but_a_single_one_does_not(script):
    assert script.play(WORD, " so", PAD) == []
    assert script.play("me", PAD) == []
    assert script.play(PAD) == [TokenWord(" some", 0, 3)]
    assert script.detokeniser.draft == ""
    assert script.play(PAD, PAD) == []
    assert script.detokeniser.pad_run == 4


def test_a_marker_left_alone_by_pads_dates_nothing(script):
    words = script.play(WORD, PAD, PAD, PAD, " late") + script.detokeniser.finish()
    assert words == [TokenWord(" late", 4, 4)]


def test_text_after_a_completed_word_still_comes_out(script):
    words = script.play(" end", PAD, PAD, ".", PAD, PAD)
    assert "".join(texts(words)) == " end."


def test_characters_split_over_tokens_are_held_until_whole(script):
    smile = "😀".encode()
    assert script.play(WORD, " ", smile[:1], smile[1:2], PAD, PAD) == []
    assert script.detokeniser.draft == ""
    assert script.play(smile[2:3], smile[3:]) == []
    assert script.detokeniser.draft == " 😀"
    assert script.play(PAD, PAD) == [TokenWord(" 😀", 0, 7)]


def test_a_split_character_at_the_start_of_a_word_dates_it(script):
    first, second = "é".encode()[:1], "é".encode()[1:]
    script.play(PAD, PAD, first, second, "t", "é")
    assert script.detokeniser.finish() == [TokenWord("été", 2, 5)]


def test_broken_bytes_become_the_replacement_character(script):
    words = script.play(" a", b"\xe2\x82", " b") + script.detokeniser.finish()
    assert texts(words) == [" a\ufffd", " b"]
    script.play(b"\xe2\x82")
    assert texts(script.detokeniser.finish()) == ["\ufffd"]


def test_scripts_without_spaces_come_out_piece_by_piece(script):
    words = script.play("今天", "天气", "。", "我", "用", "i", "Phone", "吗", "。", PAD, PAD)
    assert texts(words) == ["今天", "天气。", "我", "用", "iPhone", "吗。"]
    assert [(w.first, w.last) for w in words][:2] == [(0, 0), (1, 2)]


def test_combining_marks_stay_with_their_character(script):
    words = script.play("ท", "ี่", "น", "ี่", PAD, PAD)
    assert texts(words) == ["ที่", "นี่"]


def test_korean_and_latin_are_parted_by_spaces_alone(script):
    words = script.play("안녕", "하세", "요", " 세계", PAD, PAD)
    assert texts(words) == ["안녕하세요", " 세계"]


def test_control_tokens_count_as_time_and_nothing_else(script):
    words = script.play(" a", EOS, "b", EOS, EOS, EOS, PAD, PAD)
    assert words == [TokenWord(" ab", 0, 2)]


def test_blank_text_is_no_word_and_leads_the_next(script):
    assert script.play(" ", PAD, PAD, "\n", WORD) == []
    words = script.play("x", PAD, PAD)
    assert words == [TokenWord(" \nx", 4, 5)]
    assert script.play(" ") + script.detokeniser.finish() == []


def test_a_run_without_boundary_is_cut(script):
    words = script.play(*["abcdefgh"] * 40)
    assert {len(text) for text in texts(words)} == {64}
    assert "".join(texts(words)) + script.detokeniser.draft == "abcdefgh" * 40


def test_blanks_without_end_are_bounded(script):
    script.play(*[" " * 10] * 1000)
    assert len(texts(script.play("x", PAD, PAD))[0]) <= 75


@pytest.mark.parametrize(
    ("before", "after", "joined"),
    [
        (" one.", "Two", " one. Two"),
        (" one", " two", " one two"),
        (" one", ", two", " one, two"),
        ("好", "的", "好的"),
        ("好。", "Two", "好。Two"),
        (" one", "好", " one好"),
        (" one", "(two)", " one (two)"),
    ],
)
def test_words_do_not_run_together_at_a_restart(script, before, after, joined):
    words = script.play(before) + script.detokeniser.restart()
    words += script.play(after)
    assert "".join(texts(words)) + script.detokeniser.draft == joined
    words += script.detokeniser.finish()
    assert "".join(texts(words)) == joined


def test_a_restart_starts_time_over_and_keeps_nothing(script):
    script.play(PAD, PAD, " a", b"\xe2")
    assert texts(script.detokeniser.restart()) == [" a\ufffd"]
    assert script.detokeniser.draft == ""
    assert script.play(" b", PAD, PAD) == [TokenWord(" b", 0, 0)]


def test_times_take_the_delay_off_once():
    # Output 0 ends one token into the real audio, whatever the delay.
    assert TokenWord("x", first=0, last=0).end(1280) == 1280
    assert TokenWord("x", first=5, last=7).end(1280) == 7680


PIECES = st.one_of(
    st.sampled_from([PAD, PAD, PAD, WORD, EOS]),
    st.text(max_size=6).map(str.encode),
    st.binary(max_size=3),
)


@given(st.lists(PIECES, max_size=80))
def test_words_are_the_text_in_order_and_in_time(items):
    script = TokenScript()
    words = script.play(*items) + script.detokeniser.finish()
    # A marker ends a character too: the text is that of the stretches between markers.
    stretches = [b""]
    for item in items:
        if item == WORD:
            stretches.append(b"")
        elif isinstance(item, bytes):
            stretches[-1] += item
    text = "".join(stretch.decode("utf-8", "replace") for stretch in stretches)
    said = "".join(texts(words))
    assert text.startswith(said)
    assert not text[len(said) :].strip()
    ends = [-1]
    for word in words:
        assert ends[-1] <= word.first <= word.last < len(items)
        assert word.text.strip()
        ends.append(word.last)
