"""A session's own names and terms, found in what was recognised by their spelling and sound.

A Whisper that gets such a list as its prompt makes more errors in all other words, so the list is
matched afterwards: a run of recognised words becomes a term whose letters are the same, or nearly
the same and sound alike. The sound is a key in the manner of Metaphone (Philips, Hanging on the
Metaphone, 1990): consonants in classes that are easily taken for one another, without vowels.
Letters are compared by their Damerau-Levenshtein distance (optimal string alignment). Pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voxlive.errors import CodedError
from voxlive.values import Word

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_TERMS = 200
MAX_TERM_CHARACTERS = 60
MAX_TERM_WORDS = 5

_MAX_RUN = 16
"""Words of a recogniser that one term may span: scripts without spaces have many short ones."""
_REMEMBERED = 4096
_LEAST_LETTERS = 4
"""A shorter term is only written as it is spelt, where its letters are recognised."""
_SHORT = 6
_CERTAIN = 0.7
_NEAR, _NEAR_IF_SHORT, _NEAR_IF_CERTAIN = 0.8, 0.9, 0.92
"""The likeness from which words are a term: of ``_SHORT`` letters and more, of fewer, and where the
model is certain of the words, each of which is more probable than ``_CERTAIN``."""

_PARTING = frozenset(".,;:!?\u2026\u3001\u3002")
_PARTS = re.compile(r"([\W_]*)(.*?)((?:['\u2019]s)?[^\w\u0300-\u036f\u0900-\u0dff]*)", re.S)
_SEPARATORS = re.compile(r"[,;\n\u3001\uff0c\uff1b]")
_LETTERS = str.maketrans({"ß": "ss", "æ": "ae", "ø": "o", "œ": "oe", "ð": "d", "þ": "th", "ł": "l"})
_VOWELS = frozenset("aeiouy")
_SOUNDS = [
    (re.compile(pattern), sound)
    for pattern, sound in (
        (r"^(kn|gn|pn)", "n"), (r"^wr", "r"), (r"^ps", "s"), (r"^x", "s"), (r"^wh", "w"),
        (r"tsch|sch|tch|sh|ch(?=[eiy])", "x"), (r"ch", "k"), (r"ph", "f"), (r"gh(?=[aeiouy])", "k"),
        (r"gh", ""), (r"th", "t"), (r"c(?=[eiy])", "s"), (r"ck|c|q|g(?![eiy])", "k"),
        (r"dg(?=[eiy])|g(?=[eiy])|j", "j"), (r"x", "ks"), (r"z", "s"), (r"v|w", "f"), (r"d", "t"),
        (r"b", "p"), (r"h", ""),
    )
]  # fmt: skip
# What is easily taken for one another costs half of another sound.
_ALIKE = {
    pair[::way] for pair in ("mn", "lr", "jx", "js", "sx", "kj", "pf", "ts") for way in (1, -1)
}


class BadVocabulary(CodedError):
    """A vocabulary that cannot be used; the message names the term or the bound."""

    code = "bad_parameter"


def vocabulary_of(terms: Iterable[str]) -> tuple[str, ...]:
    """Terms as a client lists them, without blanks around and repetitions.

    Raises BadVocabulary for more than MAX_TERMS and for a term that has no letter, control
    characters, or more than MAX_TERM_WORDS words or MAX_TERM_CHARACTERS characters.
    """
    kept = dict.fromkeys(filter(None, (" ".join(term.split()) for term in terms)))
    if len(kept) > MAX_TERMS:
        raise BadVocabulary(f"{len(kept)} terms are too many: up to {MAX_TERMS}", "vocabulary")
    for term in kept:
        if fault := _fault(term):
            raise BadVocabulary(f"the term {term[:MAX_TERM_CHARACTERS]!r} {fault}", "vocabulary")
    return tuple(kept)


def read_vocabulary(items: Iterable[str]) -> tuple[str, ...]:
    """An operator's terms: names of files that end in .txt, and terms with commas between.

    Raises BadVocabulary, also for a file that cannot be read.
    """
    pieces: list[str] = []
    for item in items:
        if item.endswith(".txt"):
            try:
                pieces += Path(item).read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise BadVocabulary(f"{item} cannot be read: {error}", "vocabulary") from error
        else:
            pieces += item.split(",")
    return vocabulary_of(pieces)


def vocabulary_in(text: str) -> tuple[str, ...]:
    """The terms in a prompt: what stands between commas, semicolons and line ends.

    A piece that cannot be a term, such as a sentence, is left out: a prompt is a hint.
    """
    return usable_terms(piece.strip(" .!?") for piece in _SEPARATORS.split(text))


def usable_terms(pieces: Iterable[object]) -> tuple[str, ...]:
    """The terms among a client's hints, MAX_TERMS at most; the others have no effect."""
    texts = (" ".join(piece.split()) for piece in pieces if isinstance(piece, str))
    return tuple(dict.fromkeys(text for text in texts if text and not _fault(text)))[:MAX_TERMS]


def _fault(term: str) -> str | None:
    if len(term) > MAX_TERM_CHARACTERS or len(term.split()) > MAX_TERM_WORDS:
        return f"is too long: up to {MAX_TERM_WORDS} words, {MAX_TERM_CHARACTERS} characters"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in term):
        return "has control characters"
    return None if letters_of(term) else "has no letter or digit"


def letters_of(text: str) -> str:
    """Letters and digits without case and accents, joined."""
    folded = unicodedata.normalize("NFKD", text.casefold().translate(_LETTERS))
    return "".join(c for c in folded if c.isalnum())


def sound_of(letters: str) -> str:
    """The key of letters of the Latin script; other characters stand for themselves."""
    key = letters
    for pattern, sound in _SOUNDS:
        key = pattern.sub(sound, key)
    first, rest = key[:1], key[1:]
    head = "a" if first in _VOWELS else first
    tail = "".join(character for character in rest if character not in _VOWELS)
    return re.sub(r"(.)\1+", r"\1", head + tail) or letters[:1]


def distance(one: str, other: str, alike: bool = False) -> float:
    """How many characters to put in, leave out, change or swap. ``alike``: of keys of sounds."""
    rows = [[float(j) for j in range(len(other) + 1)]]
    for i, a in enumerate(one, 1):
        above = rows[-1]
        row = [float(i)]
        for j, b in enumerate(other, 1):
            change = 0.0 if a == b else 0.5 if alike and a + b in _ALIKE else 1.0
            cost = min(above[j] + 1, row[-1] + 1, above[j - 1] + change)
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows = [above, row]
    return rows[-1][-1]


@dataclass(frozen=True, slots=True)
class Term:
    """A term in the forms that are compared."""

    text: str
    letters: str
    sound: str

    @classmethod
    def of(cls, text: str) -> Term:
        """From its spelling."""
        letters = letters_of(text)
        return cls(text, letters, sound_of(letters))

    def likeness(self, letters: str, sound: str) -> float:
        """From 0 to 1: the mean of the likeness of letters and of that of sounds."""
        spelt = distance(self.letters, letters) / max(len(self.letters), len(letters), 1)
        heard = distance(self.sound, sound, alike=True) / max(len(self.sound), len(sound), 1)
        return 1 - (spelt + heard) / 2


class _Profile:
    """Texts by their lengths, and by a bit for each letter that occurs: int64 and uint64 [n]."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.lengths = np.array([len(text) for text in texts], np.int64)
        self.masks = np.array([_mask(text) for text in texts], np.uint64)

    def least_share(self, text: str, change: float) -> NDArray[np.float64]:
        """The least distance from a text there can be, as a share of the longer one's length.

        Lengths that differ need as many edits, and a letter that one of them lacks takes part in
        one, whose cost is ``change`` or more; an edit can settle two letters.
        """
        apart = np.abs(self.lengths - len(text))
        lacking = np.bitwise_count(self.masks ^ np.uint64(_mask(text)))
        least = np.maximum(apart, lacking * (change / 2))
        shares: NDArray[np.float64] = least / np.maximum(self.lengths, len(text))
        return shares


def _mask(letters: str) -> int:
    mask = 0
    for letter in letters:
        mask |= 1 << (ord(letter) % 64)
    return mask


@dataclass(frozen=True, slots=True)
class Spelt:
    """A word as it is to be written, for ``count`` words in a row as they were recognised."""

    word: Word
    count: int = 1


class TermMatcher:
    """The terms of one session; see the module. What was compared is remembered."""

    def __init__(self, terms: Sequence[str]) -> None:
        self._terms = tuple(Term.of(text) for text in terms)
        self._exact = {term.letters: term.text for term in reversed(self._terms)}
        self._long = [term for term in self._terms if len(term.letters) >= _LEAST_LETTERS]
        self._letters = _Profile([term.letters for term in self._long])
        self._sounds = _Profile([term.sound for term in self._long])
        self._longest = max(map(len, self._exact), default=0)
        self._best = lru_cache(_REMEMBERED)(self._compare)

    def __bool__(self) -> bool:
        return bool(self._terms)

    def spell(self, words: Sequence[Word]) -> list[Spelt]:
        """The words with the terms among them, each of which takes the place of one or more."""
        found = sorted(self._matches(words), key=lambda match: -match[0])
        taken: dict[int, tuple[int, str]] = {}
        free = [True] * len(words)
        for _, at, count, text in found:
            if all(free[at : at + count]):
                free[at : at + count] = [False] * count
                taken[at] = (count, text)
        spelt: list[Spelt] = []
        at = 0
        while at < len(words):
            count, text = taken.get(at, (1, ""))
            run = words[at : at + count]
            spelt.append(Spelt(_written(run, text) if text else run[0], count))
            at += count
        return spelt

    def _matches(self, words: Sequence[Word]) -> Iterable[tuple[float, int, int, str]]:
        """Runs that are a term: how much alike they are, where, how many words, what to write."""
        if not self._terms:
            return
        longest = self._longest / (2 * _NEAR - 1)
        for at in range(len(words)):
            letters, least = "", 1.0
            for count in range(1, min(_MAX_RUN, len(words) - at) + 1):
                if count > 1 and not _PARTING.isdisjoint(words[at + count - 2].text):
                    break
                word = words[at + count - 1]
                _, core, _ = _parts(word.text)
                run = letters + letters_of(core)
                letters += letters_of(word.text)
                least = min(least, 1.0 if word.probability is None else word.probability)
                if len(letters) > longest:
                    break
                alike, text = self._best(run)
                near = _NEAR if len(run) >= _SHORT else _NEAR_IF_SHORT
                if alike >= (_NEAR_IF_CERTAIN if least > _CERTAIN else near):
                    yield alike, at, count, text

    def _compare(self, letters: str) -> tuple[float, str]:
        """How much alike these are to the nearest term, and that; 0 below ``_NEAR``."""
        if letters in self._exact:
            return 1.0, self._exact[letters]
        if len(letters) < _LEAST_LETTERS:
            return 0.0, ""
        sound = sound_of(letters)
        # Few terms can be near enough, which is known much sooner than how near they are.
        shares = self._letters.least_share(letters, 1.0) + self._sounds.least_share(sound, 0.5)
        near = (self._long[at] for at in np.flatnonzero(shares <= 2 * (1 - _NEAR)))
        return max(((term.likeness(letters, sound), term.text) for term in near), default=(0.0, ""))


def _written(run: Sequence[Word], text: str) -> Word:
    """A term for a run: its span, the least of its probabilities, the punctuation around it."""
    joined = "".join(word.text for word in run)
    before, _, after = _parts(joined)
    written = f"{before}{text}{'' if after and text.endswith(after) else after}"
    known = [word.probability for word in run if word.probability is not None]
    return replace(
        run[0],
        text=written,
        end=run[-1].end,
        probability=min(known) if len(known) == len(run) else None,
        original=run[0].original if written == joined else joined.strip(),
    )


def _parts(text: str) -> tuple[str, str, str]:
    """What stands before the first letter, the letters, and what follows: an 's as well."""
    found = _PARTS.fullmatch(text)
    return (found[1], found[2], found[3]) if found else (text, "", "")
