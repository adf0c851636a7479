"""The words of a text, and errors in them between what was spoken and what was written."""

import re
from functools import cache

import jiwer


@cache
def _plain() -> jiwer.Compose:
    """Made where it is used: its table of all punctuation takes half a second."""
    return jiwer.Compose(
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
    found = _compared(reference, text)
    return found.substitutions + found.deletions + found.insertions


def word_error_rate(reference: str, text: str) -> float:
    """The same, of each word of the reference."""
    return _compared(reference, text).wer


def _compared(reference: str, text: str) -> jiwer.WordOutput:
    return jiwer.process_words(
        reference, text, reference_transform=_plain(), hypothesis_transform=_plain()
    )
