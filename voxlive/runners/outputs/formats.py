"""A transcript as text, JSON, subtitles or a document: one line in a table per format. Pure.

``FORMATS`` are those of answers, by their names in OpenAI's API. ``EXPORTS`` are those of files
that people download, by the ending of the file's name; ``export`` writes a stored session as one.
The ``…_json`` functions are what answers and commands have of stored sessions.
"""

from __future__ import annotations

import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any
from urllib.parse import quote

from voxlive.errors import RequestRefused
from voxlive.runners.contract import Transcript
from voxlive.runners.outputs import subtitles
from voxlive.runners.outputs.subtitles import CueStyle
from voxlive.speakers.labels import speaker_name
from voxlive.store.contract import (
    Layer,
    Refinement,
    SearchHit,
    StoredSegment,
    StoredSession,
    StoredTranscript,
    StoredWord,
)
from voxlive.values import Segment, Word, seconds, seconds_or_none

_encode = json.JSONEncoder(ensure_ascii=False).encode
_SPACE = re.compile(r"\s+")
# What is markup in CommonMark or in its dialects; HTML is escaped as HTML.
_MARKDOWN = re.compile(r"[\\`*_\[\]#|~$]|^[-+=]|^\d+(?=[.)])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Separators, what other systems have no file names with, and what turns the direction of text.
_MADE_NAME = re.compile("page-[0-9a-f]{16}")  # a captions name that is nobody's choice
_NOT_IN_NAMES = re.compile(
    r'["*/:<>?\\|\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+'
)
_NOT_PLAIN = re.compile(r"[^\w .-]+", re.ASCII)
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST_NAME = 200  # bytes: file systems have 255, with the ending
# What OpenAI's verbose segments hold beside times and text; null where a model has no such figure.
_DETAILS = ("tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob")


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What a writer is to list: ``model`` is the name that answers carry.

    ``title`` and ``began``, the moment of the first sample, are for documents. ``voices``: speakers
    are named in plain text and in subtitles, where they may overlap.
    """

    model: str
    segments: bool = True
    words: bool = False
    cues: CueStyle = field(default_factory=CueStyle)
    title: str = ""
    began: datetime | None = None
    voices: bool = False


def text(transcript: Transcript, options: OutputOptions) -> str:
    """The words alone; with ``voices`` a line for each speaker's."""
    if options.voices and any(segment.speaker for segment in transcript.segments):
        spoken = groupby(transcript.segments, key=lambda segment: segment.speaker)
        lines = ((name, "".join(segment.text for segment in said)) for name, said in spoken)
        return "".join(f"{name}: {line.strip()}\n" for name, line in lines)
    return f"{transcript.text.strip()}\n"


def plain_json(transcript: Transcript, options: OutputOptions) -> str:
    """OpenAI's and Mistral's short answer in one: the text, its model and what was used."""
    answer = {
        "text": transcript.text.strip(),
        "model": options.model,
        "language": transcript.language,
    }
    return dump_json({**answer, "usage": usage(transcript)})


def verbose_json(transcript: Transcript, options: OutputOptions) -> str:
    """Everything that is known, times in seconds; segments and words are listed if wanted.

    ``warnings`` is there only if there are some. Raises RequestRefused if words are wanted of a
    model that cannot time them.
    """
    answer: dict[str, Any] = {
        "task": transcript.task,
        "language": transcript.language,
        "duration": transcript.duration,
        "text": transcript.text.strip(),
        "model": options.model,
    }
    if options.segments:
        answer["segments"] = [_segment(segment) for segment in transcript.segments]
    if options.words:
        answer["words"] = [word for segment in transcript.segments for word in _words(segment)]
    if transcript.warnings:
        answer["warnings"] = warnings(transcript)
    return dump_json({**answer, "usage": usage(transcript)})


def diarized_json(transcript: Transcript, options: OutputOptions) -> str:
    """Who said what. Raises RequestRefused unless the model labelled every speaker."""
    if any(segment.speaker is None or segment.start is None for segment in transcript.segments):
        message = f"{options.model} does not tell speakers apart; use another format"
        raise RequestRefused("no_speakers", message, "response_format")
    listed = [
        {
            "type": "transcript.text.segment",
            "id": str(segment.id),
            "start": seconds_or_none(segment.start),
            "end": seconds_or_none(segment.end),
            "text": segment.text.strip(),
            "speaker": segment.speaker,
        }
        for segment in transcript.segments
    ]
    answer = {
        "task": transcript.task,
        "duration": transcript.duration,
        "text": transcript.text.strip(),
    }
    return dump_json({**answer, "segments": listed, "usage": usage(transcript)})


def srt(transcript: Transcript, options: OutputOptions) -> str:
    """SubRip subtitles."""
    return subtitles.srt(_cues(transcript, options))


def vtt(transcript: Transcript, options: OutputOptions) -> str:
    """WebVTT subtitles."""
    return subtitles.vtt(_cues(transcript, options))


@dataclass(frozen=True, slots=True)
class TranscriptFormat:
    """A way to write a transcript. ``word_times``: it is better for words with times."""

    write: Callable[[Transcript, OutputOptions], str]
    media_type: str
    suffix: str
    word_times: bool = False


# Names as in OpenAI's API.
FORMATS: dict[str, TranscriptFormat] = {
    "json": TranscriptFormat(plain_json, "application/json", "json"),
    "text": TranscriptFormat(text, "text/plain", "txt"),
    "srt": TranscriptFormat(srt, "application/x-subrip", "srt", word_times=True),
    "verbose_json": TranscriptFormat(verbose_json, "application/json", "verbose.json"),
    "vtt": TranscriptFormat(vtt, "text/vtt", "vtt", word_times=True),
    "diarized_json": TranscriptFormat(diarized_json, "application/json", "diarized.json"),
}


def paragraphs(transcript: Transcript, _options: OutputOptions) -> str:
    """The words alone, a paragraph for each segment."""
    return "".join(f"{text}\n\n" for _, text in _paragraphs(transcript)).rstrip("\n") + "\n"


def markdown(transcript: Transcript, options: OutputOptions) -> str:
    """A document in CommonMark: title, facts, a paragraph with its time for each segment.

    Nothing in the texts is markup: what could be is escaped.
    """
    lines = [f"# {_escape(options.title)}"] if options.title else []
    lines.append(
        "\n".join(f"- {name}: {_escape(value)}" for name, value in _facts(transcript, options))
    )
    for label, text in _paragraphs(transcript):
        lines.append(f"**{_escape(label)}** {_escape(text)}" if label else _escape(text))
    return "\n\n".join(lines) + "\n"


def docx(transcript: Transcript, options: OutputOptions) -> bytes:
    """A document of Office Open XML with the same parts as ``markdown``."""
    from docx import Document
    from docx.oxml import OxmlElement
    from docx.text.paragraph import Paragraph

    document = Document()
    about = document.core_properties
    about.author, about.title = "voxlive", _xml(options.title)[:255]
    about.created = about.modified = (options.began or datetime.now(UTC)).replace(tzinfo=None)
    if options.title:
        document.add_heading(_xml(options.title), 1)
    for name, value in _facts(transcript, options):
        document.add_paragraph(_xml(f"{name}: {value}"), "List Bullet")
    for label, text in _paragraphs(transcript):
        # In front of the section's properties: ``add_paragraph`` looks for those from the start.
        element = OxmlElement("w:p")
        document.element.body.insert(-1, element)
        paragraph = Paragraph(element, document._body)
        if label:
            paragraph.add_run(f"{_xml(label)} ").bold = True
        paragraph.add_run(_xml(text))
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """A way to write a transcript as a file for people."""

    write: Callable[[Transcript, OutputOptions], str | bytes]
    media_type: str


EXPORTS: dict[str, ExportFormat] = {
    "txt": ExportFormat(paragraphs, "text/plain"),
    "srt": ExportFormat(srt, FORMATS["srt"].media_type),
    "vtt": ExportFormat(vtt, FORMATS["vtt"].media_type),
    "json": ExportFormat(verbose_json, "application/json"),
    "md": ExportFormat(markdown, "text/markdown"),
    "docx": ExportFormat(
        docx, "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    ),
}


# Stored sessions.


def session_json(session: StoredSession) -> dict[str, Any]:
    """A session as it is listed; times of its clock are in seconds, moments are in UTC."""
    return {
        "id": session.id,
        "owner": session.owner,
        "title": session.title,
        "name": session.name,
        "source": session.source or None,
        "state": session.state,
        "started_at": session.started_at.isoformat(),
        "ended_at": session.ended_at and session.ended_at.isoformat(),
        "duration": seconds(session.samples),
        "protocol": session.protocol,
        "path": session.path,
        "model": session.model,
        "languages": list(session.languages),
        "error": session.error,
        "word_count": session.words,
        "preview": session.preview,
        "audio": session.audio,
    }


def hit_json(hit: SearchHit) -> dict[str, Any]:
    """A session that a search has found, with ``snippets``."""
    snippets = [
        {**asdict(one), "start": seconds(one.start), "end": seconds(one.end)}
        for one in hit.snippets
    ]
    return {**session_json(hit.session), "snippets": snippets}


def word_json(word: StoredWord) -> dict[str, Any]:
    """A word of a session; ``number`` is its place there."""
    return {
        "number": word.number,
        "segment": word.segment,
        "text": word.text,
        "start": seconds(word.start),
        "end": seconds(word.end),
        "probability": word.probability,
        "original": word.original,
        "source": word.source or None,
        "layer": word.layer,
        "speaker": word.speaker,
    }


def segment_json(segment: StoredSegment) -> dict[str, Any]:
    """A closed segment: words from number ``first`` to before ``stop``."""
    return {**asdict(segment), "start": seconds(segment.start), "end": seconds(segment.end)}


def refinement_json(made: Refinement) -> dict[str, Any]:
    """How far a refinement is."""
    return {**asdict(made), "requested_at": made.requested_at.isoformat()}


def transcript_json(found: StoredTranscript, layer: Layer = "best") -> dict[str, Any]:
    """A session whole: its words in a layer, and all that was noted. Raises RequestRefused."""
    words = found.shown(layer)
    return {
        **session_json(found.session),
        "layer": layer,
        "refinement": found.refinement and refinement_json(found.refinement),
        "text": _joined(_segments_of(found, words)).strip(),
        "words": [word_json(word) for word in words],
        "segments": [segment_json(one) for one in found.segments],
        "corrections": [
            {**asdict(one), "made_at": one.made_at.isoformat()} for one in found.corrections
        ],
        "marks": [
            {**asdict(one), "at": seconds(one.at), "made_at": one.made_at.isoformat()}
            for one in found.marks
        ],
        "speakers": [{**asdict(one), "source": one.source or None} for one in found.names],
        "turns": [
            {
                **asdict(one),
                "start": seconds(one.start),
                "end": seconds(one.end),
                "source": one.source or None,
            }
            for one in found.turns
        ],
    }


def export(found: StoredTranscript, suffix: str, layer: Layer = "best") -> bytes:
    """A session as a file of ``EXPORTS``: its words in a layer. Raises RequestRefused."""
    about = found.session
    words = found.shown(layer)
    segments = _segments_of(found, words)
    transcript = Transcript(
        _joined(segments),
        tuple(segments),
        seconds(max((about.samples, *(word.end for word in words)))),
        next(iter(about.languages), None),
    )
    options = OutputOptions(
        about.model,
        words=True,
        title=about.title or about.name or "",
        began=about.started_at,
        voices=True,
    )
    written = EXPORTS[suffix].write(transcript, options)
    return written if isinstance(written, bytes) else written.encode(errors="replace")


def _segments_of(found: StoredTranscript, words: Sequence[StoredWord]) -> list[Segment]:
    """The segments that these words are, in the order of their starts.

    Those of several sources overlap, and so do the numbers of their words.
    """
    closed = {one.id: one for one in found.segments}
    names = {(one.source, one.speaker): one.name for one in found.names}
    segments = []
    if any(word.source for word in words):
        words = sorted(words, key=lambda word: word.segment)
    spoken_by = [(word, *key) for word, key in zip(words, _spoken_by(found, words), strict=True)]
    parts = groupby(spoken_by, key=lambda one: one[1:])
    for (ident, source, speaker), group in parts:
        spoken = tuple(Word(w.text, w.start, w.end, w.probability, w.original) for w, *_ in group)
        text = "".join(word.text for word in spoken)
        known = closed.get(ident) if speaker is None else None
        start, end = (known.start, known.end) if known else (spoken[0].start, spoken[-1].end)
        name = speaker_name(source, speaker, names) or None
        segments.append(Segment(ident, text, start, end, spoken, name))
    if any(one.speaker for one in segments):
        segments.sort(key=lambda one: one.start or 0)
    return segments


def _spoken_by(
    found: StoredTranscript, words: Sequence[StoredWord]
) -> Iterator[tuple[int, str, int | None]]:
    """Segment, source and speaker of each word.

    One of which that is not known, as of those that were recognised again, has the speaker of the
    word that was heard nearest to it in its segment.
    """
    heard: dict[int, list[tuple[int, int]]] = {}
    for word in found.words:
        if word.speaker is not None:
            middle = (word.start + word.end) // 2
            heard.setdefault(word.segment, []).append((middle, word.speaker))
    for word in words:
        speaker, known = word.speaker, heard.get(word.segment)
        if speaker is None and known:
            at = (word.start + word.end) // 2
            _, speaker = min(known, key=lambda one: abs(one[0] - at))
        yield word.segment, word.source, speaker


def _joined(segments: Sequence[Segment]) -> str:
    """Their texts joined; those of several sources are a line each, with the source."""
    if any(one.speaker for one in segments):
        return "\n".join(f"{one.speaker}: {one.text.strip()}" for one in segments)
    return "".join(one.text for one in segments)


def file_name(session: StoredSession) -> str:
    """A name for a session's file, without its ending, that is one on every system."""
    named = "" if _MADE_NAME.fullmatch(session.name or "") else session.name
    name = safe_name(session.title or named or "")
    return name or f"session {session.started_at.astimezone(UTC):%Y-%m-%d %H.%M}"


def safe_name(name: str) -> str:
    """What of a name may be a file's on every system; "" if that is nothing."""
    name = _SPACE.sub(" ", _NOT_IN_NAMES.sub(" ", unicodedata.normalize("NFC", name)))
    name = name.encode(errors="replace")[:_LONGEST_NAME].decode(errors="ignore").strip(" .")
    return f"_{name}" if _DEVICE.fullmatch(name) else name


def attachment(name: str) -> str:
    """The Content-Disposition of a file (RFC 6266): its name, and one in ASCII before that."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = _NOT_PLAIN.sub("_", plain)
    plain = f"transcript{plain}" if plain.startswith(".") else plain
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def usage(transcript: Transcript) -> dict[str, object]:
    """The seconds of audio, and tokens where the model counts them."""
    used: dict[str, object] = {"type": "duration", "seconds": math.ceil(transcript.duration)}
    if transcript.prompt_tokens is not None and transcript.completion_tokens is not None:
        used["prompt_tokens"] = transcript.prompt_tokens
        used["completion_tokens"] = transcript.completion_tokens
        used["total_tokens"] = transcript.prompt_tokens + transcript.completion_tokens
    return used


def warnings(transcript: Transcript) -> list[dict[str, str]]:
    """The warnings as JSON: ``{code, message}`` each."""
    return [{"code": one.code, "message": one.message} for one in transcript.warnings]


def _segment(segment: Segment) -> dict[str, Any]:
    """A segment in OpenAI's shape; ``seek`` is its start in hundredths, as Whisper counts."""
    known = dict(segment.details)
    seek = None if segment.start is None else round(seconds(segment.start) * 100)
    shown = {
        "id": segment.id,
        "seek": known.get("seek", seek),
        "start": seconds_or_none(segment.start),
        "end": seconds_or_none(segment.end),
        "text": segment.text.strip(),
        **{name: known.get(name) for name in _DETAILS},
    }
    return {**shown, "speaker": segment.speaker} if segment.speaker is not None else shown


def _words(segment: Segment) -> list[dict[str, Any]]:
    if segment.words is None:
        message = "this model knows no word times; ask for those of segments"
        raise RequestRefused("no_word_times", message, "timestamp_granularities[]")
    speaker = {} if segment.speaker is None else {"speaker": segment.speaker}
    return [
        {"word": word.text.strip(), "start": seconds(word.start), "end": seconds(word.end)}
        | speaker
        for word in segment.words
    ]


def _cues(transcript: Transcript, options: OutputOptions) -> list[subtitles.Cue]:
    try:
        cues = subtitles.voiced_cues if options.voices else subtitles.cues
        return cues(transcript.segments, options.cues, transcript.duration)
    except ValueError as error:
        message = f"{options.model} knows no times, so it makes no subtitles; use text or json"
        raise RequestRefused("no_times", message, "response_format") from error


def dump_json(answer: dict[str, Any]) -> str:
    """An object as JSON. Of its lists each element is encoded by itself.

    No other thread runs during a call of the encoder, and a list may have a day's words.
    """
    fields = (
        f"[{', '.join(map(_encode, value))}]" if isinstance(value, list) else _encode(value)
        for value in answer.values()
    )
    pairs = (f"{_encode(name)}: {field}" for name, field in zip(answer, fields, strict=True))
    return f"{{{', '.join(pairs)}}}"


def _paragraphs(transcript: Transcript) -> Iterator[tuple[str, str]]:
    """For each segment with text its time and speaker, as far as they are known, and its text."""
    for segment in transcript.segments:
        line = _SPACE.sub(" ", segment.text).strip()
        known = segment.start is not None
        time = subtitles.stamp(1000 * int(seconds(segment.start or 0)), ".")[:8] if known else ""
        if line:
            yield f"{time} {segment.speaker or ''}".strip(), line


def _facts(transcript: Transcript, options: OutputOptions) -> Iterator[tuple[str, str]]:
    if options.began:
        yield "Began", f"{options.began.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    yield "Length", subtitles.stamp(1000 * int(transcript.duration), ".")[:8]
    if transcript.language:
        yield "Language", transcript.language
    yield "Model", options.model


def _escape(text: str) -> str:
    """Text on one line of Markdown."""
    line = _SPACE.sub(" ", text).strip()
    line = _MARKDOWN.sub(_escape_mark, line)
    return "".join(_HTML.get(char, char) for char in line)


def _escape_mark(found: re.Match[str]) -> str:
    # Of what begins a list the mark behind the number is escaped: "1\\. ".
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"


def _xml(text: str) -> str:
    """Text on one line, without the characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", _SPACE.sub(" ", text).strip(" "))
