"""A dictionary of replacements, applied to words before they are committed to a transcript.

Clients send whole words and phrases; regular expressions come from the operator alone and run in
linear time (RE2). A phrase is compared without its case and without punctuation around it, which
the replacement keeps. The first word of a longer phrase waits for the others: at most a second of
the engine's progress, and never beyond the end of the utterance. Pure.
"""

from __future__ import annotations

import tomllib
import unicodedata
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from voxlive.errors import CodedError
from voxlive.values import SAMPLE_RATE, Word

if TYPE_CHECKING:
    from pathlib import Path

MAX_ENTRIES = 1000
MAX_WORDS = 5
"""Words of a phrase, as separated by white space."""
MAX_CHARACTERS = 200
MAX_HOLD = SAMPLE_RATE
"""Samples of the engine's progress that a word waits for those that would complete a phrase."""

# Words of an engine that one phrase may span: scripts without spaces have one for a few characters.
_MAX_SPAN = 16
_APOSTROPHES = str.maketrans("\u2019\u02bc", "''")
_SEPARATING = frozenset(".,;:!?\u3001\u3002")  # of NFKC, with the ideographic comma and full stop


class BadReplacement(CodedError):
    """A dictionary of replacements that cannot be used; the message names the entry."""

    code = "bad_parameter"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression of the operator's, in RE2's syntax, and its template (``\\1``)."""

    compiled: Any
    template: str

    @classmethod
    def compile(cls, expression: str, template: str) -> Self:
        """Raises BadReplacement."""
        import re2  # a library of 10 MB, for operators that have patterns

        try:
            options = re2.Options()
            options.case_sensitive = False
            options.log_errors = False
            return cls(re2.compile(expression, options), template)
        except re2.error as error:
            reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error
            raise BadReplacement(f"the pattern {expression!r} is wrong: {reason}") from error

    def apply(self, text: str) -> str | None:
        """The replacement where all of the text matches, else None."""
        match = self.compiled.fullmatch(text)
        return match.expand(self.template) if match else None


@dataclass(frozen=True)
class Replacements:
    """Phrases, in the form of ``normalised``, with what to write for them; and patterns.

    An empty replacement leaves the phrase out.
    """

    phrases: Mapping[str, str] = field(default_factory=dict)
    patterns: tuple[Pattern, ...] = ()

    @classmethod
    def of(cls, entries: Mapping[str, str], patterns: Mapping[str, str] | None = None) -> Self:
        """From phrases and regular expressions as people write them. Raises BadReplacement."""
        if len(entries) > MAX_ENTRIES:
            raise BadReplacement(f"{len(entries)} replacements are too many: up to {MAX_ENTRIES}")
        phrases = {_checked(phrase, text): text for phrase, text in entries.items()}
        return cls(phrases, tuple(Pattern.compile(*pair) for pair in (patterns or {}).items()))

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a TOML file with the tables ``words`` and ``patterns``. Raises BadReplacement."""
        try:
            tables = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BadReplacement(f"{path} cannot be read: {error}") from error
        words, patterns = tables.pop("words", {}), tables.pop("patterns", {})
        if tables:
            unknown = ", ".join(tables)
            raise BadReplacement(f"{path}: write tables [words] and [patterns], not {unknown}")
        for table in (words, patterns):
            if not isinstance(table, dict) or not all(isinstance(t, str) for t in table.values()):
                raise BadReplacement(f'{path}: each line must be "phrase" = "what to write"')
        try:
            return cls.of(words, patterns)
        except BadReplacement as error:
            raise BadReplacement(f"{path}: {error.message}") from error

    def __bool__(self) -> bool:
        return bool(self.phrases or self.patterns)

    def __or__(self, other: Replacements) -> Replacements:
        """Both; where both have a phrase, the other's replacement."""
        return Replacements({**self.phrases, **other.phrases}, self.patterns + other.patterns)

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.phrases)

    def find(self, text: str, spelling: str) -> str | None:
        """What replaces a run of words: ``text`` normalised, ``spelling`` as it was recognised."""
        found = self.phrases.get(text)
        if found is None:
            found = next(filter(None, (one.apply(spelling) for one in self.patterns)), None)
        return found

    def may_grow(self, text: str, words: int) -> bool:
        """Whether more words could make this run one that is replaced."""
        if self.patterns and words < MAX_WORDS:
            return True
        separator = "" if text and unicodedata.east_asian_width(text[-1]) in "WF" else " "
        begin = text + separator
        at = bisect_left(self._sorted, begin)
        following = self._sorted[at : at + 2]
        return any(one.startswith(begin) and one != text for one in following)


def _checked(phrase: str, text: str) -> str:
    normal = normalised(phrase)
    if not normal:
        raise BadReplacement(f"{phrase!r} has no word that could be replaced")
    if len(normal.split()) > MAX_WORDS or len(phrase) > MAX_CHARACTERS:
        raise BadReplacement(
            f"{phrase[:50]!r} is too long: up to {MAX_WORDS} words, {MAX_CHARACTERS} characters"
        )
    if len(text) > MAX_CHARACTERS or any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        raise BadReplacement(
            f"the replacement of {phrase!r} is too long or has control characters: up to "
            f"{MAX_CHARACTERS} characters of one line"
        )
    return normal


def normalised(text: str) -> str:
    """Words without case and outer punctuation, a space between them."""
    words = (_core(word)[1] for word in text.split())
    return " ".join(filter(None, map(_folded, words)))


def _folded(core: str) -> str:
    return unicodedata.normalize("NFKC", core).translate(_APOSTROPHES).casefold()


def _core(word: str) -> tuple[str, str, str]:
    """A word's leading punctuation, the word, its trailing punctuation."""
    start, end = 0, len(word)
    while start < end and not word[start].isalnum():
        start += 1
    while end > start and not word[end - 1].isalnum() and not _is_mark(word[end - 1]):
        end -= 1
    return word[:start], word[start:end], word[end:]


def _is_mark(character: str) -> bool:
    """A vowel sign, for example: it belongs to the letter before it."""
    return unicodedata.category(character)[0] == "M"


class Replacer:
    """Replaces in one stream of words.

    Bound: MAX_HOLD of progress, and the words of one phrase.
    """

    def __init__(self, replacements: Replacements) -> None:
        self._replacements = replacements
        self._held: deque[Word] = deque()

    @property
    def held(self) -> tuple[Word, ...]:
        """Words that wait: they may be the beginning of a phrase."""
        return tuple(self._held)

    def push(self, words: Iterable[Word]) -> tuple[Word, ...]:
        """Take committed words in order; those that are final."""
        self._held.extend(words)
        return tuple(self._release(None))

    def progress(self, upto: int) -> tuple[Word, ...]:
        """The engine has processed all audio before ``upto``: those that wait no longer."""
        return tuple(self._release(upto - MAX_HOLD))

    def flush(self) -> tuple[Word, ...]:
        """The utterance has ended: all that are left."""
        last = self._held[-1].end if self._held else 0
        return tuple(self._release(last))

    def draft(self, text: str) -> str:
        """A draft with its replacements, the words that wait before it."""
        drafted = (Word(piece, 0, 0) for piece in _pieces(text))
        other = Replacer(self._replacements)
        words = (*other.push((*self._held, *drafted)), *other.flush())
        return "".join(word.text for word in words)

    def _release(self, due: int | None) -> Iterator[Word]:
        """``due``: words that end before it, or at it, wait no longer."""
        while self._held:
            waits = due is None or self._held[0].end > due
            if waits and self._may_grow():
                return
            yield from self._next()

    def _may_grow(self) -> bool:
        """Whether all that is held could be the beginning of a phrase."""
        if len(self._held) >= _MAX_SPAN or self._parted(len(self._held)):
            return False
        return self._replacements.may_grow(self._text(len(self._held)), len(self._held))

    def _next(self) -> Iterator[Word]:
        """The longest run that is replaced, else the first word."""
        for count in range(min(len(self._held), _MAX_SPAN), 0, -1):
            if self._parted(count - 1):
                continue
            found = self._replacements.find(self._text(count), self._spelling(count))
            if found is not None:
                run = [self._held.popleft() for _ in range(count)]
                if found:
                    yield _joined(run, found)
                return
        yield self._held.popleft()

    def _parted(self, count: int) -> bool:
        """Whether punctuation parts one of the first words from the next one."""
        behind = (unicodedata.normalize("NFKC", _core(word.text)[2]) for word in self._run(count))
        return any(not _SEPARATING.isdisjoint(one) for one in behind)

    def _text(self, count: int) -> str:
        return normalised(self._spelling(count))

    def _spelling(self, count: int) -> str:
        text = "".join(word.text for word in self._run(count)).strip()
        return _core(text)[1]

    def _run(self, count: int) -> Iterator[Word]:
        return (self._held[i] for i in range(count))


def _joined(run: list[Word], text: str) -> Word:
    """One word for those of a phrase: their span, the least of their probabilities."""
    original = "".join(word.text for word in run)
    stripped = original.strip()
    space = original[: len(original) - len(original.lstrip())]
    before, _, after = _core(stripped)
    known = [word.probability for word in run if word.probability is not None]
    return replace(
        run[0],
        text=f"{space}{before}{text}{'' if after and text.endswith(after) else after}",
        end=run[-1].end,
        probability=min(known) if len(known) == len(run) else None,
        original=stripped,
    )


def _pieces(text: str) -> Iterator[str]:
    """Words with the white space before each."""
    start = 0
    for at in range(1, len(text)):
        if text[at].isspace() and not text[at - 1].isspace():
            yield text[start:at]
            start = at
    if start < len(text):
        yield text[start:]
