"""``POST /v1/audio/transcriptions`` and ``/translations``: OpenAI's file API."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from ...runners.contract import Job, JobWarning, RunnerSpec, Task
from ...runners.formats import FORMATS, Wanted
from ...runners.policy import Asked
from ...runners.refusals import TASKS
from ..errors import ApiError
from .files import Files, copied, holding, longest_s, scratch, warned, warning_headers, written
from .form import Fields, received
from .gone import unless_gone
from .transcript_events import streamed

_MAX_FIELDS = 100
_LONGEST_PROMPT = 10_000
_MOST_TOKENS = 1_000_000
_GRANULARITIES = "timestamp_granularities"
_SEPARATORS = re.compile(r"[\[\]\"',;\s]+")
_LONGEST_NAME, _MOST_NAMES = 40, 10
_STREAMED = ("json", "text")

# What the hosted models do beyond that; said to be impossible, so that nobody waits for it.
_REFUSED = {
    "url": "this server fetches nothing: send the audio itself",
    "file_url": "this server fetches nothing: send the audio itself",
    "file_id": "this server keeps no files: send the audio itself",
    "known_speaker_names": "speakers cannot be told by name here",
    "known_speaker_references": "speakers cannot be told by their voice here",
}

# What has an effect, or is done anyway: files are cut at pauses, as chunking_strategy asks for.
_FIELDS = (
    *("file", "model", "language", "languages", "prompt", "keywords", "context_bias", "task"),
    *("response_format", "temperature", "max_tokens", "stream", "diarize", "include"),
    *(_GRANULARITIES, "chunking_strategy", *_REFUSED),
)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a request asks for, of which model."""

    model: str | None
    asked: Asked
    prompt: str | None
    temperature: float
    max_tokens: int | None
    response_format: str
    wanted: Wanted
    stream: bool
    warnings: tuple[JobWarning, ...]

    def job(self, path: Path, *, words: bool, longest_s: float | None) -> Job:
        """The job for the file."""
        return Job(
            path,
            self.asked.task,
            self.asked.language,
            self.prompt,
            self.temperature,
            self.max_tokens,
            words,
            longest_s=longest_s,
        )


class Transcriptions:
    """``task`` is what the path stands for."""

    def __init__(self, files: Files, task: Task = "transcribe") -> None:
        self._files = files
        self._task = task

    async def post(self, request: Request) -> Response:
        """The file's text in the format asked for. A client that goes away cancels its job."""
        with ExitStack() as held:
            with self._files.arriving():
                wish, spec, path = await self._receive(request, held)
            words = wish.asked.words or FORMATS[wish.response_format].word_times
            job = wish.job(path, words=words, longest_s=longest_s(request))
            if wish.stream:
                told = warned(self._files.follow(spec, job), wish.warnings)
                return await streamed(holding(told, held.pop_all()))
            said = await unless_gone(request, self._files.transcribe(spec, job))
            if said is None:
                return Response(status_code=499)
            said = replace(said, warnings=(*wish.warnings, *said.warnings))
            body = written(wish.response_format, said, replace(wish.wanted, model=spec.model))
            media_type = FORMATS[wish.response_format].media_type
            return Response(body, headers=warning_headers(said), media_type=media_type)

    async def _receive(self, request: Request, held: ExitStack) -> tuple[_Wish, RunnerSpec, Path]:
        """What is asked for, of which model, and the file's copy, which ``held`` removes."""
        async with received(request, self._files.check_known, _MAX_FIELDS) as form:
            fields = Fields(form)
            _refuse(fields)
            upload = fields.upload("file")
            wish = _read(fields, self._task)
            spec = await self._files.find(wish.model, wish.asked)
            return wish, spec, await copied(upload.file, held.enter_context(scratch()))


def _read(fields: Fields, task: Task) -> _Wish:
    """The form's fields but the file. Raises ApiError."""
    asked = _task(fields, task)
    if "logprobs" in fields.many("include"):
        message = "no model here tells the probabilities of its tokens: leave out include"
        raise ApiError(422, "unsupported_option", message, "include[]")
    stream = fields.flag("stream")
    # Mistral's clients ask for times alone: their answer has one format.
    timed = fields.many(_GRANULARITIES) and not stream
    response_format = fields.choice("response_format", FORMATS, "verbose_json" if timed else "json")
    if stream and response_format not in _STREAMED:
        message = f"a streamed answer has response_format {' or '.join(_STREAMED)}"
        raise ApiError(400, "unsupported_option", message, "stream")
    listed = _granularities(fields, response_format)
    # The path for translations has no language; whoever gives one may mean the one to write.
    language = _language(fields) if task == "transcribe" else None
    speakers = response_format == "diarized_json" or fields.flag("diarize")
    return _Wish(
        fields.text("model"),
        Asked(asked, language, "word" in listed, speakers),
        _prompt(fields),
        fields.number("temperature", 0, 1) or 0.0,
        fields.whole("max_tokens", 1, _MOST_TOKENS),
        response_format,
        Wanted("", segments="segment" in listed, words="word" in listed),
        stream,
        _ignored(fields, task),
    )


def _refuse(fields: Fields) -> None:
    """Say no to what the hosted models do beyond this, before anything else."""
    for name, why in _REFUSED.items():
        if fields.many(name):
            raise ApiError(422, "unsupported_option", why, name)


def _task(fields: Fields, task: Task) -> Task:
    """A field may ask for a translation where the path does not; none takes it back."""
    asked = fields.choice("task", TASKS, task)
    if asked != task and task == "translate":
        message = "this path translates: POST to /v1/audio/transcriptions, or leave out task"
        raise ApiError(400, "bad_task", message, "task")
    return "translate" if asked == "translate" else "transcribe"


def _ignored(fields: Fields, task: Task) -> tuple[JobWarning, ...]:
    """Fields that have no effect here."""
    unused = fields.others(_FIELDS)
    if task == "translate":
        unused += [name for name in ("language", "languages") if fields.many(name)]
    if not unused:
        return ()
    shown = ", ".join(name[:_LONGEST_NAME] for name in unused[:_MOST_NAMES])
    more = f" and {len(unused) - _MOST_NAMES} more" if len(unused) > _MOST_NAMES else ""
    message = f"these fields have no effect here: {shown}{more}"
    return (JobWarning("fields_ignored", message),)


def _granularities(fields: Fields, response_format: str) -> set[str]:
    # Some clients write a list into one field, as JSON or with commas.
    listed = " ".join(fields.many(_GRANULARITIES)).lower()
    asked = set(_SEPARATORS.sub(" ", listed).split())
    if asked - {"word", "segment"}:
        message = f"{_GRANULARITIES} may hold word and segment"
        raise ApiError(400, "bad_granularity", message, f"{_GRANULARITIES}[]")
    if asked and response_format != "verbose_json":
        message = f"{_GRANULARITIES} needs response_format=verbose_json"
        raise ApiError(400, "bad_granularity", message, f"{_GRANULARITIES}[]")
    return asked or {"segment"}


def _language(fields: Fields) -> str | None:
    """One language; of several that are hinted at a model takes none."""
    return fields.language("language") or fields.language("languages", several=True)


def _prompt(fields: Fields) -> str | None:
    """The prompt and the words to expect, as one text."""
    expected = [*fields.many("keywords"), *fields.many("context_bias")]
    prompt = " ".join(filter(None, [fields.text("prompt"), ", ".join(expected)]))
    if len(prompt) > _LONGEST_PROMPT:
        message = f"prompt and keywords may have {_LONGEST_PROMPT} characters together"
        raise ApiError(400, "bad_field", message, "prompt")
    return prompt or None
