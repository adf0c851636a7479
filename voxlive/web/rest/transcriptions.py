"""``POST /v1/audio/transcriptions`` and ``/translations``: OpenAI's API for files.

``received`` parses the multipart form, ``FormFields`` reads its fields; a value that is not valid
is refused with the field's name, never guessed. A streamed response is server-sent events while the
file is still being decoded. Times are seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from voxlive.checkpoints.languages import UnknownLanguage, language_of
from voxlive.errors import RequestRefused, VoxliveError
from voxlive.recognisers.contract import Task
from voxlive.runners.contract import (
    Delta,
    Job,
    JobProgress,
    RunnerSpec,
    Transcript,
    Update,
)
from voxlive.runners.outputs.formats import FORMATS, OutputOptions, usage, warnings
from voxlive.runners.refusals import TASKS, Requirements
from voxlive.speakers.tracker import SpeakerOptionError, SpeakerOptions
from voxlive.values import CodedWarning
from voxlive.web.errors import error_body, run_until_disconnect
from voxlive.web.rest.files import (
    FileService,
    Updates,
    closing_after,
    copy_upload,
    format_transcript,
    max_duration_s,
    upload_file,
    warning_headers,
    with_warnings,
)

_EVENT_STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
_BRACKETS = re.compile(r"\[[^\[\]]*\]")
_YES, _NO = ("true", "1"), ("false", "0", "")
_MAX_FIELDS = 100
_MAX_PROMPT = 10_000
_MAX_TOKENS = 1_000_000
_GRANULARITIES = "timestamp_granularities"
_SEPARATORS = re.compile(r"[\[\]\"',;\s]+")
_MAX_SHOWN_LENGTH, _MAX_SHOWN_NAMES = 40, 10
_STREAMED_FORMATS = ("json", "text")

# What the hosted models do beyond that: refused, so that nobody waits for it.
_REFUSED_FIELDS = {
    "url": "this server fetches nothing: send the audio itself",
    "file_url": "this server fetches nothing: send the audio itself",
    "file_id": "this server keeps no files: send the audio itself",
    "known_speaker_names": "speakers cannot be told by name here",
    "known_speaker_references": "speakers cannot be told by their voice here",
}

_SPEAKER_FIELDS = ("speakers", "max_speakers", "min_speech_ms")

# What has an effect, or is done anyway: files are cut at pauses, as chunking_strategy asks for.
_KNOWN_FIELDS = (
    *("file", "model", "language", "languages", "prompt", "keywords", "context_bias", "task"),
    *("response_format", "temperature", "max_tokens", "stream", "diarize", "include"),
    *(_GRANULARITIES, "chunking_strategy", *_SPEAKER_FIELDS, *_REFUSED_FIELDS),
)


@asynccontextmanager
async def received(
    request: Request, check: Callable[[str], Awaitable[None]], max_fields: int
) -> AsyncIterator[FormData]:
    """A request's form with at most one file. Raises HTTPException 400 for broken multipart.

    ``check`` is called with the field "model" as soon as that is received, and may raise: most
    clients send their fields before the file, which then need not be received.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_fields=max_fields) as form:
            yield form
        return

    async def chunks() -> AsyncGenerator[bytes, None]:
        checked = False
        async for chunk in request.stream():
            yield chunk
            models = (value for name, value in parser.items if name == "model")
            if not checked and isinstance(model := next(models, None), str):
                checked = True
                await check(model)

    parser = MultiPartParser(request.headers, chunks(), max_files=1, max_fields=max_fields)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from error
    try:
        yield form
    finally:
        await form.close()


class FormFields:
    """Typed reading of a form. Every method raises RequestRefused 400 with the field's name."""

    def __init__(self, form: FormData) -> None:
        self._form = form

    def upload(self, name: str) -> UploadFile:
        """A file, which is required."""
        value = self._form.get(name)
        if not isinstance(value, UploadFile):
            raise RequestRefused("missing_file", f'send the audio as the form field "{name}"', name)
        return value

    def text(self, name: str) -> str | None:
        """A text; None if it is missing or empty, which clients send for "not set"."""
        value = self._form.get(name)
        if isinstance(value, UploadFile):
            raise RequestRefused("bad_field", f"{name} must be a plain form field", name)
        return value or None

    def choice(self, name: str, known: Collection[str], default: str) -> str:
        """One of the known words, in any case."""
        value = (self.text(name) or default).strip().lower()
        if value not in known:
            message = f'{name} must be one of {", ".join(known)}, not "{value[:40]}"'
            raise RequestRefused("unknown_value", message, name)
        return value

    def language(self, name: str, *, several: bool = False) -> str | None:
        """A language's code; None if there is none, or if ``several`` hints name different ones."""
        try:
            if not several:
                return language_of(self.text(name))
            hinted = {language_of(name_or_code) for name_or_code in self.many(name)}
        except UnknownLanguage as error:
            raise RequestRefused("bad_language", str(error), name) from error
        return hinted.pop() if len(hinted) == 1 else None

    def others(self, known: Collection[str]) -> list[str]:
        """The names of the fields that are none of these, without their brackets."""
        every = dict.fromkeys(field_name(field) for field, _ in self._form.multi_items())
        return [name for name in every if name not in known]

    def flag(self, name: str) -> bool:
        """True or false; false if it is missing."""
        value = (self.text(name) or "").lower()
        if value not in (*_YES, *_NO):
            raise RequestRefused("bad_field", f"{name} must be true or false", name)
        return value in _YES

    def number(self, name: str, low: float, high: float) -> float | None:
        """A number within bounds."""
        value = self.text(name)
        try:
            number = None if value is None else float(value)
        except ValueError:
            number = float("nan")
        if number is not None and not low <= number <= high:
            raise RequestRefused("bad_field", f"{name} must be from {low:g} to {high:g}", name)
        return number

    def whole(self, name: str, low: int, high: int) -> int | None:
        """A whole number within bounds."""
        number = self.number(name, low, high)
        if number is not None and number != int(number):
            raise RequestRefused("bad_field", f"{name} must be a whole number", name)
        return None if number is None else int(number)

    def many(self, name: str) -> tuple[str, ...]:
        """A list: ``name``, ``name[]`` or ``name[0]``, each as often as there are values."""
        values = [value for field, value in self._form.multi_items() if field_name(field) == name]
        if any(isinstance(value, UploadFile) for value in values):
            raise RequestRefused("bad_field", f"{name} must be plain form fields", f"{name}[]")
        return tuple(str(value) for value in values if value)


def field_name(field: str) -> str:
    """A field's name without the brackets of lists and objects: ``a[0]`` and ``a[b]`` are ``a``."""
    return _BRACKETS.sub("", field)


async def streamed(updates: Updates) -> Response:
    """Server-sent events while the file is decoded. Raises a VoxliveError before the first."""
    first = await anext(updates)
    return StreamingResponse(
        _events(first, updates), media_type="text/event-stream", headers=_EVENT_STREAM_HEADERS
    )


async def _events(first: Update | Transcript, updates: Updates) -> AsyncIterator[str]:
    async with aclosing(updates):
        try:
            yield _event(first)
            async for item in updates:
                yield _event(item)
        except VoxliveError as error:
            # The status has been sent: OpenAI's clients raise for an event of this kind.
            yield f"event: error\ndata: {json.dumps(error_body(error))}\n\n"
        else:
            yield "data: [DONE]\n\n"


def _event(item: Update | Transcript) -> str:
    match item:
        case Delta(text):
            return _data({"type": "transcript.text.delta", "delta": text})
        case JobProgress(done_s, _):
            # A comment: clients skip it, and it keeps the connection alive through a long silence.
            return f": {done_s:.1f} s\n\n"
        case Transcript():
            fields = {"text": item.text, "language": item.language, "usage": usage(item)}
            more = {"warnings": warnings(item)} if item.warnings else {}
            return _data({"type": "transcript.text.done", **fields, **more})


def _data(event: dict[str, object]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


@dataclass(frozen=True, slots=True)
class _TranscriptionRequest:
    """The fields of a request, read and checked; ``model`` is None for the default."""

    model: str | None
    requirements: Requirements
    prompt: str | None
    temperature: float
    max_tokens: int | None
    response_format: str
    output: OutputOptions
    stream: bool
    warnings: tuple[CodedWarning, ...]
    speakers: SpeakerOptions | None = None

    def job(self, path: Path, *, words: bool, max_duration_s: float | None) -> Job:
        """The job for the file."""
        return Job(
            path,
            self.requirements.task,
            self.requirements.language,
            self.prompt,
            self.temperature,
            self.max_tokens,
            words or self.speakers is not None,
            longest_s=max_duration_s,
            speakers=self.speakers,
        )


class Transcriptions:
    """The endpoints for files; ``task`` is what the path does."""

    def __init__(self, files: FileService, task: Task = "transcribe") -> None:
        self._files = files
        self._task = task

    async def post(self, request: Request) -> Response:
        """The transcript in the format asked for. A client that disconnects cancels its job."""
        with ExitStack() as resources:
            with self._files.receiving():
                parsed, spec, path = await self._receive(request, resources)
            words = parsed.requirements.words or FORMATS[parsed.response_format].word_times
            job = parsed.job(path, words=words, max_duration_s=max_duration_s(request))
            if parsed.stream:
                updates = with_warnings(self._files.follow(spec, job), parsed.warnings)
                return await streamed(closing_after(updates, resources.pop_all()))
            transcript = await run_until_disconnect(request, self._files.transcribe(spec, job))
            if transcript is None:
                return Response(status_code=499)
            transcript = replace(transcript, warnings=(*parsed.warnings, *transcript.warnings))
            output = replace(parsed.output, model=spec.model)
            body = format_transcript(parsed.response_format, transcript, output)
            media_type = FORMATS[parsed.response_format].media_type
            return Response(body, headers=warning_headers(transcript), media_type=media_type)

    async def _receive(
        self, request: Request, resources: ExitStack
    ) -> tuple[_TranscriptionRequest, RunnerSpec, Path]:
        """The request's fields, its model and a copy of its file, which ``resources`` removes."""
        async with received(request, self._files.check_known, _MAX_FIELDS) as form:
            fields = FormFields(form)
            _check_refused(fields)
            upload = fields.upload("file")
            parsed = _read(fields, self._task)
            spec = await self._files.find(parsed.model, parsed.requirements)
            file = resources.enter_context(upload_file())
            return parsed, spec, await copy_upload(upload.file, file)


def _read(fields: FormFields, task: Task) -> _TranscriptionRequest:
    """The form's fields but the file. Raises RequestRefused."""
    requested_task = _task(fields, task)
    if "logprobs" in fields.many("include"):
        message = "no model here tells the probabilities of its tokens: leave out include"
        raise RequestRefused("unsupported_option", message, "include[]")
    stream = fields.flag("stream")
    # Mistral's clients ask for times alone: their response has one format.
    timed = fields.many(_GRANULARITIES) and not stream
    response_format = fields.choice("response_format", FORMATS, "verbose_json" if timed else "json")
    if stream and response_format not in _STREAMED_FORMATS:
        message = f"a streamed answer has response_format {' or '.join(_STREAMED_FORMATS)}"
        raise RequestRefused("unsupported_option", message, "stream", status=400)
    granularities = _granularities(fields, response_format)
    # The path for translations has no language; a client that sends one may mean the output's.
    language = _language(fields) if task == "transcribe" else None
    speakers = _speakers(fields, response_format)
    return _TranscriptionRequest(
        fields.text("model"),
        Requirements(requested_task, language, "word" in granularities, speakers is not None),
        _prompt(fields),
        fields.number("temperature", 0, 1) or 0.0,
        fields.whole("max_tokens", 1, _MAX_TOKENS),
        response_format,
        OutputOptions(
            "",
            segments="segment" in granularities,
            words="word" in granularities,
            voices=speakers is not None,
        ),
        stream,
        _ignored(fields, task),
        speakers,
    )


def _speakers(fields: FormFields, response_format: str) -> SpeakerOptions | None:
    """How speakers are told apart, where that is asked for."""
    if response_format != "diarized_json" and not fields.flag("diarize"):
        return None
    asked = {name: fields.whole(name, 1, 10_000) for name in _SPEAKER_FIELDS}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    try:
        return SpeakerOptions(**given)
    except SpeakerOptionError as error:
        raise RequestRefused("bad_field", error.message, error.param) from error


def _check_refused(fields: FormFields) -> None:
    """Raise RequestRefused for what only the hosted models do."""
    for name, why in _REFUSED_FIELDS.items():
        if fields.many(name):
            raise RequestRefused("unsupported_option", why, name)


def _task(fields: FormFields, task: Task) -> Task:
    """The field may ask for a translation on the path for transcriptions, not the reverse."""
    asked = fields.choice("task", TASKS, task)
    if asked != task and task == "translate":
        message = "this path translates: POST to /v1/audio/transcriptions, or leave out task"
        raise RequestRefused("bad_task", message, "task")
    return "translate" if asked == "translate" else "transcribe"


def _ignored(fields: FormFields, task: Task) -> tuple[CodedWarning, ...]:
    """A warning that names the fields without an effect here."""
    unused = fields.others(_KNOWN_FIELDS)
    if task == "translate":
        unused += [name for name in ("language", "languages") if fields.many(name)]
    if not unused:
        return ()
    shown = ", ".join(name[:_MAX_SHOWN_LENGTH] for name in unused[:_MAX_SHOWN_NAMES])
    more = f" and {len(unused) - _MAX_SHOWN_NAMES} more" if len(unused) > _MAX_SHOWN_NAMES else ""
    message = f"these fields have no effect here: {shown}{more}"
    return (CodedWarning("fields_ignored", message),)


def _granularities(fields: FormFields, response_format: str) -> set[str]:
    # Some clients write a list into one field, as JSON or with commas.
    listed = " ".join(fields.many(_GRANULARITIES)).lower()
    asked = set(_SEPARATORS.sub(" ", listed).split())
    if asked - {"word", "segment"}:
        message = f"{_GRANULARITIES} may hold word and segment"
        raise RequestRefused("bad_granularity", message, f"{_GRANULARITIES}[]")
    if asked and response_format != "verbose_json":
        message = f"{_GRANULARITIES} needs response_format=verbose_json"
        raise RequestRefused("bad_granularity", message, f"{_GRANULARITIES}[]")
    return asked or {"segment"}


def _language(fields: FormFields) -> str | None:
    """The language; None if several are hinted at, since a model takes one."""
    return fields.language("language") or fields.language("languages", several=True)


def _prompt(fields: FormFields) -> str | None:
    """The prompt and the keywords, as one text."""
    expected = [*fields.many("keywords"), *fields.many("context_bias")]
    prompt = " ".join(filter(None, [fields.text("prompt"), ", ".join(expected)]))
    if len(prompt) > _MAX_PROMPT:
        message = f"prompt and keywords may have {_MAX_PROMPT} characters together"
        raise RequestRefused("bad_field", message, "prompt")
    return prompt or None
