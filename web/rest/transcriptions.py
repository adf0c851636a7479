"""``POST /v1/audio/transcriptions`` and ``/translations``: OpenAI's file API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from ...runners.contract import Job, RunnerSpec, Task, Transcript, Update
from ...runners.formats import FORMATS, Wanted
from ...runners.policy import Asked
from ..errors import ApiError
from .files import Files, copied, scratch, written
from .form import Fields
from .gone import unless_gone
from .transcript_events import streamed

_MAX_FIELDS = 100
_LONGEST_PROMPT = 10_000
_MOST_TOKENS = 1_000_000
_GRANULARITIES = "timestamp_granularities"
_STREAMED = ("json", "text")

# What the hosted models do beyond that; said to be impossible, so that nobody waits for it.
_REFUSED = {
    "file_url": "this server fetches nothing: send the audio itself",
    "file_id": "this server keeps no files: send the audio itself",
    "known_speaker_names": "speakers cannot be told by name here",
    "known_speaker_references": "speakers cannot be told by their voice here",
}


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a request asks for, of which model. ``job`` has no file yet."""

    model: str | None
    asked: Asked
    job: Job
    response_format: str
    wanted: Wanted
    stream: bool


class Transcriptions:
    """``task`` is what the path stands for."""

    def __init__(self, files: Files, task: Task = "transcribe") -> None:
        self._files = files
        self._task = task

    async def post(self, request: Request) -> Response:
        """The file's text in the format asked for. A client that goes away cancels its job."""
        with ExitStack() as held:
            async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
                fields = Fields(form)
                upload = fields.upload("file")
                wish = _read(fields, self._task)
                asked = wish.asked
                if FORMATS[wish.response_format].word_times:
                    asked = replace(asked, words=self._files.times_words(wish.model))
                spec = await self._files.find(wish.model, asked)
                path = await copied(upload.file, held.enter_context(scratch()))
            job = replace(
                wish.job, path=path, words=asked.words, longest_s=self._files.longest_s
            )
            if wish.stream:
                return await streamed(_holding(self._files.follow(spec, job), held.pop_all()))
            return await self._whole(request, spec, job, wish)

    async def _whole(
        self, request: Request, spec: RunnerSpec, job: Job, wish: _Wish
    ) -> Response:
        said = await unless_gone(request, self._files.transcribe(spec, job))
        if said is None:
            return Response(status_code=499)
        wanted = replace(wish.wanted, model=spec.model)
        media_type = FORMATS[wish.response_format].media_type
        return Response(written(wish.response_format, said, wanted), media_type=media_type)


async def _holding(
    told: AsyncGenerator[Update | Transcript, None], held: ExitStack
) -> AsyncGenerator[Update | Transcript, None]:
    """What is told, with its file kept for as long."""
    with held:
        async for item in told:
            yield item


def _read(fields: Fields, task: Task) -> _Wish:
    """The form's fields but the file. Raises ApiError."""
    for name, why in _REFUSED.items():
        if fields.many(name):
            raise ApiError(422, "unsupported_option", why, name)
    response_format = fields.choice("response_format", FORMATS, "json")
    listed = _granularities(fields, response_format)
    stream = fields.flag("stream")
    if stream and response_format not in _STREAMED:
        message = f"a streamed answer is {' or '.join(_STREAMED)}: leave out response_format"
        raise ApiError(400, "unsupported_option", message, "stream")
    if "logprobs" in fields.many("include"):
        message = "no model here tells the probabilities of its tokens: leave out include"
        raise ApiError(422, "unsupported_option", message, "include[]")
    speakers = response_format == "diarized_json" or fields.flag("diarize")
    language = _language(fields) if task == "transcribe" else None
    job = Job(
        path=_NOWHERE,
        task=task,
        language=language,
        prompt=_prompt(fields),
        temperature=fields.number("temperature", 0, 1) or 0.0,
        max_tokens=fields.whole("max_tokens", 1, _MOST_TOKENS),
    )
    return _Wish(
        model=fields.text("model"),
        asked=Asked(task, language, words="word" in listed, speakers=speakers),
        job=job,
        response_format=response_format,
        wanted=Wanted("", segments="segment" in listed, words="word" in listed),
        stream=stream,
    )
