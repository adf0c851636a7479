"""Errors in words between what was spoken and what was written."""

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


def word_errors(reference: str, text: str) -> int:
    """Words substituted, left out or put in, whatever their case and punctuation."""
    found = jiwer.process_words(
        reference, text, reference_transform=_PLAIN, hypothesis_transform=_PLAIN
    )
    return found.substitutions + found.deletions + found.insertions
