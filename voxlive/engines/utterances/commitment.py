"""When a word of a growing utterance is certain: agreement of passes, behind the newest sample.

A recogniser of whole utterances is asked again and again while somebody speaks; each pass gives
words for all of the utterance so far, and the newest of them may be wrong. A word is committed when
the last passes agree on it and on all words before it, and it ends ``lag`` before the newest
sample; less where all of those passes are sure of it, and more where the last one hardly believes
it. One on which they do not agree is committed as the last pass has it once it ends ``patience``
before that. The rest is committed at the pause, by a pass over the whole utterance.

Passes leave out unstressed words more often than they invent any, and hesitate at the next word
then. So one that two passes have, and the pass that is committed leaves out, is committed too where
the word behind it is ``surer`` with it.

LocalAgreement-n (Liu, Spanakis, Niehues: Low-Latency Sequence-to-Sequence Speech Recognition and
Translation by Partial Hypothesis Selection, 2020) is the rule without a lag. Pure.
"""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from voxlive.recognisers.vocabulary import Spelt, TermMatcher
from voxlive.values import SAMPLE_RATE, Word

_ALIGNED = 2
"""Committed words by which a pass is aligned with them."""

_NEAR = 3 * SAMPLE_RATE // 2
"""How far the same two words may lie in two passes, in samples; a single one a third of that."""

_MAX_JOINT = 6
"""The most words that are taken for a repetition of those before them."""

_HEARD, _AGREEING = 6, 2
"""Passes in which a word is looked for that the last one leaves out; so many must have it."""


@dataclass(frozen=True, slots=True)
class CommitRule:
    """``passes`` in a row that must agree (0: nothing is committed before the pause).

    ``lag_s``: seconds behind the newest sample at which a word's end must lie, ``sure_lag_s`` where
    each of the passes gives it a probability of ``sure`` or more. ``last``: whether the last word
    of a pass may be committed, although it may be half a word. ``patience_s``: seconds behind the
    newest sample at which passes need not agree any more. ``surer``: by how much the probability of
    a word must be higher in another pass, with a word before it that is left out otherwise, for
    that one to be kept; two passes must have it. ``unsure_lag_s``: seconds for a word to which the
    last pass gives a probability below ``unsure``, whatever the passes before it have.
    """

    passes: int = 2
    lag_s: float = 2.0
    last: bool = True
    patience_s: float = inf
    sure_lag_s: float = inf
    sure: float = 0.8
    surer: float = inf
    unsure: float = 0.3
    unsure_lag_s: float = 0.0


RULES = {
    "fast": CommitRule(2, 0.5, surer=0.2),
    "steady": CommitRule(2, 1.0, patience_s=2.2, sure_lag_s=0.8, surer=0.2),
    "pause": CommitRule(0),
}
"""The values of the option ``commit``."""
DEFAULT_RULE = "steady"

PATIENT_RULES = RULES | {
    "steady": replace(RULES["steady"], lag_s=1.6, unsure_lag_s=3.0),
}
"""Those of models whose passes over more audio are the better ones."""


def spelling(word: str) -> str:
    """What two passes have to agree on: letters and digits, without case."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    letters = "".join(c for c in folded if c.isalnum() or unicodedata.category(c)[0] == "M")
    return letters or folded.strip()


class Commitment:
    """The words of one utterance: those that are committed, and what the last passes made of the
    rest. Times are samples of the utterance's audio. Bound: the words of ``_HEARD`` passes.

    Passes are aligned by their words as they were recognised, and agree on them as they are spelt
    with the terms of the ``vocabulary``, so that a term takes no part of what is committed.
    """

    def __init__(self, rule: CommitRule, vocabulary: TermMatcher | None = None) -> None:
        self._rule = rule
        self._vocabulary = vocabulary or TermMatcher(())
        self._tail: deque[Word] = deque(maxlen=_MAX_JOINT)  # of what is committed, as recognised
        self._passes: deque[list[Spelt]] = deque(maxlen=max(rule.passes, 1))
        self._interrupted = False
        self._heard: deque[tuple[Word, ...]] = deque(maxlen=max(rule.passes, _HEARD))

    @property
    def end(self) -> int:
        """Where the last committed word ends; 0 if there is none."""
        return self._tail[-1].end if self._tail else 0

    @property
    def draft(self) -> str:
        """What the last pass has behind the committed words."""
        return "".join(one.word.text for one in self._passes[-1]) if self._passes else ""

    def update(self, hypothesis: Sequence[Word], newest: int) -> tuple[Word, ...]:
        """Take a pass over the audio before sample ``newest``: the words that are certain now."""
        rest = self.behind(hypothesis)
        spelt = self._vocabulary.spell(rest)
        if self._interrupted:
            self._passes.clear()
            self._interrupted = False
        self._passes.append(spelt)
        self._heard.append(tuple(hypothesis))
        if len(self._passes) < self._rule.passes or not self._rule.passes:
            return ()
        agreed = self._agreed()
        count = len(spelt) if self._rule.last else len(spelt) - 1
        certain = 0
        while certain < count:
            lag_s = self._lag_s(certain, agreed=certain < agreed)
            if newest - spelt[certain].word.end < lag_s * SAMPLE_RATE:
                break
            certain += 1
        committed = self._commit(spelt[:certain], rest)
        if certain:
            older = list(self._heard)[-len(self._passes) : -1]
            passes = [self._vocabulary.spell(self.behind(words)) for words in older]
            self._passes.clear()
            self._passes.extend([*passes, spelt[certain:]])
        return committed

    def interrupt(self) -> None:
        """A pass that counts as none: the next ones are a row of their own, as is their patience.

        The draft stays until one of them is there.
        """
        self._interrupted = True

    def _lag_s(self, at: int, *, agreed: bool) -> float:
        """For word ``at`` of the last pass; ``agreed``: the passes have it in common."""
        rule, last = self._rule, self._passes[-1][at].word.probability
        lag_s = rule.lag_s if agreed else rule.patience_s
        if agreed:
            probabilities = (spelt[at].word.probability for spelt in self._passes)
            if all(p is not None and p >= rule.sure for p in probabilities):
                lag_s = min(lag_s, rule.sure_lag_s)
        doubted = last is not None and last < rule.unsure
        return max(lag_s, rule.unsure_lag_s) if doubted else lag_s

    def finish(self, hypothesis: Sequence[Word]) -> tuple[Word, ...]:
        """Take the pass over all of the utterance: the words that are left. It begins anew then."""
        words = self._commit_all(hypothesis)
        self._tail.clear()
        self._passes.clear()
        self._heard.clear()
        self._interrupted = False
        return words

    def cut(self, hypothesis: Sequence[Word], at: int) -> tuple[Word, ...]:
        """The utterance goes on from sample ``at``: the words before it that are left.

        Times count from there afterwards.
        """
        before = [word for word in hypothesis if (word.start + word.end) // 2 < at]
        words = self._commit_all(before)
        self._passes.clear()
        self._heard.clear()
        self._interrupted = False
        moved = [replace(w, start=w.start - at, end=w.end - at) for w in self._tail]
        self._tail.clear()
        self._tail.extend(moved)
        return words

    def _agreed(self) -> int:
        """How many words the last passes have in common, from the first one on."""
        count = min(map(len, self._passes))
        for at in range(count):
            if len({spelling(spelt[at].word.text) for spelt in self._passes}) > 1:
                return at
        return count

    def _commit_all(self, hypothesis: Sequence[Word]) -> tuple[Word, ...]:
        rest = self.behind(hypothesis)
        return self._commit(self._vocabulary.spell(rest), rest)

    def _commit(self, spelt: Sequence[Spelt], rest: Sequence[Word]) -> tuple[Word, ...]:
        """``rest``: the words as they were recognised, of which ``spelt`` are the first ones."""
        count = sum(one.count for one in spelt)
        words = self._with_left_out(rest, count)
        committed = []
        at = 0
        for one in self._vocabulary.spell(words) if len(words) > count else spelt:
            run = [self._append(word) for word in words[at : at + one.count]]
            committed.append(replace(one.word, start=run[0].start, end=run[-1].end))
            at += one.count
        return tuple(committed)

    def _with_left_out(self, rest: Sequence[Word], count: int) -> list[Word]:
        """The first words of a pass, and those between them that it leaves out."""
        if not count or self._rule.surer == inf:
            return list(rest[:count])
        texts = [spelling(word.text) for word in rest[:count]]
        others = []
        for heard in self._heard:
            behind = self.behind(heard)
            others.append((behind, [spelling(word.text) for word in behind]))
        words = []
        for at, word in enumerate(rest[:count]):
            words += self._left_out(word, texts[at - 1] if at else None, texts[at], others)
            words.append(word)
        return words

    def _left_out(
        self,
        word: Word,
        before: str | None,
        text: str,
        others: Sequence[tuple[Sequence[Word], Sequence[str]]],
    ) -> list[Word]:
        """What two passes have between a word, which is ``text``, and the one ``before`` it.

        ``before`` None: the word is the first one. What is said twice is not looked for.
        """
        last = spelling(self._tail[-1].text) if before is None and self._tail else before
        found: dict[str, list[tuple[float, Word]]] = {}
        for words, texts in others:
            for at in range(1, len(words)):
                near = texts[at] == text and abs(words[at].end - word.end) <= _NEAR // 3
                between = near and before == (texts[at - 2] if at > 1 else None)
                if between and texts[at - 1] not in (text, last):
                    sure = words[at].probability or 0.0
                    found.setdefault(texts[at - 1], []).append((sure, words[at - 1]))
        most = max(found.values(), key=len, default=[])
        sure, left_out = max(most, key=lambda one: one[0], default=(0.0, word))
        if len(most) < _AGREEING or sure <= (word.probability or 0.0) + self._rule.surer:
            return []
        return [replace(left_out, end=min(left_out.end, word.end))]

    def _append(self, word: Word) -> Word:
        """A word that is committed, behind those before it."""
        start = max(word.start, self.end)
        self._tail.append(replace(word, start=start, end=max(word.end, start)))
        return self._tail[-1]

    def behind(self, hypothesis: Sequence[Word]) -> tuple[Word, ...]:
        """The words of a pass that follow the committed ones, by their text, else by their time."""
        words = tuple(hypothesis)
        if not self._tail:
            return words
        at = self._aligned(words)
        if at is not None:
            return words[at:]
        rest = tuple(word for word in words if (word.start + word.end) // 2 >= self.end)
        return rest[self._repeated(rest) :]

    def _aligned(self, words: tuple[Word, ...]) -> int | None:
        """Where the word behind the last committed one is, if those are found about there."""
        last = [spelling(word.text) for word in list(self._tail)[-_ALIGNED:]]
        near = _NEAR if len(last) == _ALIGNED else _NEAR // 3
        texts = [spelling(word.text) for word in words]
        found = [
            at + len(last)
            for at in range(len(words) - len(last) + 1)
            if texts[at : at + len(last)] == last
            and abs(words[at + len(last) - 1].end - self.end) <= near
        ]
        return min(found, key=lambda at: abs(words[at - 1].end - self.end)) if found else None

    def _repeated(self, rest: tuple[Word, ...]) -> int:
        """How many words of the rest say the last committed ones again."""
        tail = [spelling(word.text) for word in self._tail]
        texts = [spelling(word.text) for word in rest[:_MAX_JOINT]]
        for count in range(min(len(tail), len(texts)), 0, -1):
            if texts[:count] == tail[-count:] and (
                count > 1 or rest[0].start < self.end + _NEAR // 4
            ):
                return count
        return 0
