"""What the families' generate gives back, as one type. What a model does not know becomes None.

Their seconds become samples here: no model's times are finer than that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from voxlive.checkpoints.languages import code_of
from voxlive.recognisers.contract import Recognition
from voxlive.values import Segment, Word, samples, split_words

if TYPE_CHECKING:
    from voxlive.recognisers.mlx_audio.family import FamilyRequest, Output

_DETAILS = ("tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob")


def whole(output: Output, request: FamilyRequest) -> Recognition:
    """Text without times of its own: they are the stretch's bounds, which are true.

    Some families give 0.0 or the time that the work took as the times of segments.
    """
    return _recognition(
        [Segment(0, output.text.strip(), 0, samples(request.seconds))], output, request
    )


def aligned(output: Output, request: FamilyRequest) -> Recognition:
    """NeMo's sentences of timed tokens: a segment each, the tokens gathered into words."""
    segments = []
    for sentence in output.sentences:
        words = tuple(_join_tokens(sentence.tokens, request))
        if words:
            text = "".join(word.text for word in words)
            segments.append(Segment(0, text, words[0].start, words[-1].end, words))
    return Recognition(tuple(segments))


def whisper(output: Output, request: FamilyRequest) -> Recognition:
    """Whisper's segments with their figures under OpenAI's names, and words if asked for."""
    segments = []
    written = 0
    cut_short = False
    for segment in output.segments:
        tokens = segment["tokens"]
        written += len(tokens)
        cut_short |= request.max_tokens is not None and len(tokens) >= request.max_tokens
        if segment["text"].strip():
            segments.append(_whisper_segment(segment, request))
    no_speech, logprobs, compression, temperature = (
        [x for segment in output.segments if (x := _finite(segment.get(name))) is not None]
        for name in ("no_speech_prob", "avg_logprob", "compression_ratio", "temperature")
    )
    return Recognition(
        tuple(segments),
        _first_code(output.language),
        no_speech=max(no_speech, default=None),
        mean_logprob=min(logprobs, default=None),
        compression=max(compression, default=None),
        temperature=max(temperature, default=None),
        tokens=written,
        cut_short=cut_short,
    )


def diarised(output: Output, request: FamilyRequest) -> Recognition:
    """Segments with times and the label of the one who speaks.

    Text that should be JSON and is not was broken off, or is no transcript at all.
    """
    known = [segment for segment in output.segments or () if "start" in segment]
    if not known:
        found = whole(output, request)
        broken = output.text.lstrip()[:1] in ("[", "{") and not _is_json(output.text)
        return replace(found, segments=(), cut_short=True) if broken else found
    return _recognition([_diarised_segment(segment, request) for segment in known], output, request)


def spread_words(segment: Segment, length: int) -> Segment:
    """The segment, part of ``length`` samples of audio, with words that have no times of their own.

    Their times are shares of the segment's by their characters: right in order and about right in
    place, for what needs some order in time. Probabilities stay unknown.
    """
    start = 0 if segment.start is None else segment.start
    end = max(start, length if segment.end is None else segment.end)
    text = segment.text.strip()
    if len(split_words(text[:2])) < 2:
        text = f" {text}"  # a script with spaces, or a single character
    pieces = split_words(text)
    total = sum(map(len, pieces))
    words, before = [], 0
    for piece in pieces:
        after = before + len(piece)
        begin, stop = (start + (end - start) * at // total for at in (before, after))
        words.append(Word(piece, begin, stop))
        before = after
    return replace(segment, text=text, start=start, end=end, words=tuple(words))


def _recognition(found: Iterable[Segment], output: Output, request: FamilyRequest) -> Recognition:
    segments = tuple(segment for segment in found if segment.text.strip())
    language = _first_code(getattr(output, "language", None))
    if request.max_tokens is None:
        return Recognition(segments, language)
    written = output.generation_tokens
    return Recognition(
        segments,
        language,
        prompt_tokens=output.prompt_tokens,
        tokens=written,
        cut_short=written >= request.max_tokens,
    )


def _join_tokens(tokens: Iterable[Any], request: FamilyRequest) -> Iterator[Word]:
    """Tokens that go on without a space are one word; a script without spaces is left as it is."""
    word: Word | None = None
    for token in tokens:
        end = within(token.end, request)
        if word and token.text and not token.text[0].isspace():
            word = Word(word.text + token.text, word.start, max(end, word.end))
            continue
        if word:
            yield word
        word = Word(token.text, within(token.start, request), end)
    if word:
        yield word


def _whisper_segment(segment: Mapping[str, Any], request: FamilyRequest) -> Segment:
    words = tuple(
        Word(
            word["word"],
            within(word["start"], request),
            within(word["end"], request),
            _finite(word.get("probability")),
        )
        for word in segment.get("words") or ()
    )
    details = ((name, segment[name]) for name in _DETAILS)
    return Segment(
        0,
        segment["text"],
        within(segment["start"], request),
        within(segment["end"], request),
        words if request.options.words else None,
        details=tuple((name, value) for name, value in details if _is_figure(value)),
    )


def _diarised_segment(segment: Mapping[str, Any], request: FamilyRequest) -> Segment:
    speaker = segment.get("speaker_id")
    text = str(segment.get("text") or "")
    if speaker is not None:
        text = text.removeprefix(f"[{speaker}]")
    start, end = _time(segment.get("start"), request), _time(segment.get("end"), request)
    return Segment(0, text.strip(), start, end, speaker=None if speaker is None else str(speaker))


def _first_code(language: object) -> str | None:
    """Qwen3 gives a list of names, one for each piece of the audio; here it is one piece."""
    names = language if isinstance(language, list) else [language]
    codes = (code_of(name) for name in names if isinstance(name, str))
    return next((code for code in codes if code), None)


def within(seconds: float, request: FamilyRequest) -> int:
    """A model's time as samples, no later than the end of its audio."""
    return samples(min(seconds, request.seconds))


def _time(value: object, request: FamilyRequest) -> int | None:
    """What a model wrote as seconds; None for what lies outside the audio or is no number."""
    try:
        time = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return samples(time) if 0 <= time <= request.seconds else None


def _is_figure(value: object) -> bool:
    return isinstance(value, list) or _finite(value) is not None


def _finite(value: object) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
