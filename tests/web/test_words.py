"""The texts of the page, a file per language: each is used, with the same places for values."""

import html
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

STATIC = Path(__file__).parents[2] / "voxlive" / "web" / "static"
FOLDER = STATIC / "languages"
TEXTS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.iterdir())}
ENGLISH = TEXTS["en"]
FORMS = {
    "en": {"one", "other"},
    "de": {"one", "other"},
    "fr": {"one", "many", "other"},
    "es": {"one", "many", "other"},
    "zh": {"other"},
    "ar": {"zero", "one", "two", "few", "many", "other"},
}
"""What Unicode's plural rules (CLDR) have for whole numbers."""


def forms(text: str | dict[str, str]) -> dict[str, str]:
    return {"other": text} if isinstance(text, str) else text


def places(text: str) -> list[str]:
    """Values, and what is to be typed."""
    return sorted(re.findall(r"\{[a-z]+\}|`[^`]*`", text))


class _Texts(HTMLParser):
    """The text of each element that names one, with its elements' slots as places."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, str]] = []
        self._open: list[list[str]] = []  # key and text
        self._slots: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        for name in ("aria-label", "title", "placeholder", "alt"):
            if key := named.get(f"data-say-{name}"):
                self.found.append((key, named[name] or ""))
        if tag in ("meta", "link", "input", "img", "br") or self.get_starttag_text().endswith("/>"):
            return
        if slot := named.get("data-slot"):
            self._open[-1][1] += f"{{{slot}}}"
        self._open.append([named.get("data-say") or "", ""])

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "link", "input", "img", "br"):
            key, text = self._open.pop()
            if key:
                self.found.append((key, " ".join(text.split()) if text == text.strip() else text))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][1] += data


def in_markup() -> Iterator[tuple[str, str]]:
    for page in STATIC.glob("*.html"):
        parser = _Texts()
        parser.feed(page.read_text())
        yield from parser.found


def in_scripts() -> tuple[set[str], set[str]]:
    """Texts in quotes, which may be keys, and beginnings of keys that end with a code."""
    whole, beginnings = set(), set()
    for script in STATIC.glob("*.js"):
        source = script.read_text()
        whole |= set(re.findall(r'"([a-z][\w.-]*)"', source))
        beginnings |= set(re.findall(r"`([a-z]+(?:\.[a-z-]+)*\.)\$\{", source))
    return whole, beginnings


def test_english_in_the_page_is_that_of_the_file():
    found = list(in_markup())
    assert len(found) > 100
    for key, text in found:
        assert ENGLISH.get(key) == text, key


def test_every_text_is_used_and_none_is_missing():
    whole, beginnings = in_scripts()
    named = {key for key, _ in in_markup()} | whole
    unused = [key for key in ENGLISH if key not in named and not key.startswith(tuple(beginnings))]
    # The steps of an advice and the code that has none are numbered in the script.
    families = ("live.", "capture.", "wordless.")
    assert [key for key in unused if not key.startswith(families)] == []
    asked = set()
    for script in STATIC.glob("*.js"):
        asked |= set(re.findall(r'\bsay\(\s*"([^"]+)"', script.read_text()))
    assert asked - set(ENGLISH) == set()


@pytest.mark.parametrize("language", sorted(set(FORMS) - {"en"}))
def test_a_language_has_the_texts_of_english(language):
    texts = TEXTS[language]
    assert set(texts) == set(ENGLISH)
    for key, text in texts.items():
        english = ENGLISH[key]
        assert isinstance(text, str) == isinstance(english, str), key
        if not isinstance(text, str):
            assert set(text) == FORMS[language], key
        wanted = places(forms(english)["other"])
        for form, content in forms(text).items():
            assert content.strip(), key
            assert html.unescape(content) == content, key
            # "One word" and "two words" need no number beside them.
            free = ["{count}"] if form in ("one", "two") else []
            found = [place for place in places(content) if place not in free]
            assert found == [place for place in wanted if place not in free], (key, form)


def test_in_french_no_line_begins_with_a_colon():
    broken = re.compile(r" [:;?!»]|« ")
    texts = ((key, text) for key, text in TEXTS["fr"].items())
    assert [
        key for key, text in texts for form in forms(text).values() if broken.search(form)
    ] == []


@pytest.mark.endurance
def test_the_page_offers_the_languages_that_are_here():
    source = (STATIC / "language.js").read_text()
    assert (
        set(re.findall(r"^  ([a-z]+): \{ tag:", source, re.MULTILINE)) == set(TEXTS) == set(FORMS)
    )
