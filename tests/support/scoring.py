"""The words of a text, and errors in them between what was spoken and what was written."""

import re

import jiwer

_PLAIN = jiwer.Compose(
    [
        jiwer.ToLowerCase(),
        jiwer.RemovePunctuation(),
        jiwer.RemoveMultipleSpaces(),
        jiwer.Strip(),
        jiwer.ReduceToListOfListOfWords(),
    ]
)


def spelt(text: str) -> list[str]:
    """Its words and numbers, whatever their case and punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def word_errors(reference: str, text: str) -> int:
    """Words substituted, left out or put in, whatever their case and punctuation."""
    found = jiwer.process_words(
        reference, text, reference_transform=_PLAIN, hypothesis_transform=_PLAIN
    )
    return found.substitutions + found.deletions + found.insertions
