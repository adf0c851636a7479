"""Words and segments whose times are written in seconds."""

from voxlive.values import Segment, Word, samples


def timed_word(text, start, end, p=None):
    return Word(text, samples(start), samples(end), p)


def timed_segment(ident, text, start=None, end=None, words=None, **more):
    return Segment(ident, text, _samples(start), _samples(end), words, **more)


def _samples(time):
    return None if time is None else samples(time)
