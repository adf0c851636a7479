"""``POST /v1/audio/transcriptions``: OpenAI's file API on the live engine."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from ...streaming.engine import EngineError, EngineFull, StreamOptions, UnsupportedOption
from ...streaming.formats import WRITERS, verbose_json
from ...streaming.ingest import BadAudio
from ...streaming.service import Service
from ...streaming.transcribe import Transcription, transcribe
from ...vad.gate import GateOptions
from ..errors import ApiError

log = logging.getLogger(__name__)

MAX_UPLOAD = 50_000_000
_MAX_FIELDS = 100
_RETRY_AFTER_S = 5
_MEDIA_TYPES = {
    "text": "text/plain",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "json": "application/json",
    "verbose_json": "application/json",
}
_GRANULARITIES = ("timestamp_granularities[]", "timestamp_granularities")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a request asks for."""

    upload: UploadFile
    response_format: str
    write: Callable[[Transcription], str]
    stream: StreamOptions


class Transcriptions:
    """Any model's name is taken for the served one. Hints to a model (prompt, temperature) are
    taken too, and have no effect on engines that know no such thing.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def post(self, request: Request) -> Response:
        """The file's text in the format asked for. A client that goes away frees its slot."""
        limited = Request(request.scope, _limited(request, MAX_UPLOAD))
        async with limited.form(max_files=1, max_fields=_MAX_FIELDS) as form:
            wish = _read(form)
            said = await _unless_gone(limited, self._transcribe(wish))
        if said is None:
            log.info("the client left during its transcription")
            return Response(status_code=499)
        return Response(wish.write(said), media_type=_MEDIA_TYPES[wish.response_format])

    async def _transcribe(self, wish: _Wish) -> Transcription:
        with tempfile.NamedTemporaryFile(prefix="voxlive-") as file:
            await asyncio.to_thread(_copy, wish.upload.file, file)
            try:
                return await transcribe(self._service, Path(file.name), GateOptions(), wish.stream)
            except BadAudio as error:
                raise ApiError(400, error.code, str(error), "file") from error
            except UnsupportedOption as error:
                raise ApiError(400, error.code, error.message, "language") from error
            except EngineFull as error:
                retry = {"retry-after": str(_RETRY_AFTER_S)}
                raise ApiError(503, error.code, error.message, headers=retry) from error
            except EngineError as error:
                status = 503 if self._service.closing else 500
                raise ApiError(status, error.code, error.message) from error


def _read(form: FormData) -> _Wish:
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise ApiError(400, "missing_file", 'send the audio as the form field "file"', "file")
    response_format = _field(form, "response_format") or "json"
    if response_format not in WRITERS:
        known = ", ".join(WRITERS)
        message = f'response_format must be one of {known}, not "{response_format[:40]}"'
        raise ApiError(400, "unknown_format", message, "response_format")
    if (_field(form, "stream") or "false").lower() not in ("false", "0"):
        message = "streamed answers are not served here; use the WebSocket at /v1/live"
        raise ApiError(400, "unsupported_option", message, "stream")
    listed = _granularities(form, response_format)
    write = WRITERS[response_format]
    if listed:
        write = partial(verbose_json, segments="segment" in listed, words="word" in listed)
    language = _field(form, "language")
    return _Wish(
        upload,
        response_format,
        write,
        stream=StreamOptions(language=language or None, drafts=False),
    )


def _granularities(form: FormData, response_format: str) -> set[str]:
    asked = {str(value) for name in _GRANULARITIES for value in form.getlist(name)}
    if asked - {"word", "segment"}:
        message = "timestamp_granularities may hold word and segment"
        raise ApiError(400, "bad_granularity", message, _GRANULARITIES[0])
    if asked and response_format != "verbose_json":
        message = "timestamp_granularities needs response_format=verbose_json"
        raise ApiError(400, "bad_granularity", message, _GRANULARITIES[0])
    return asked or ({"segment"} if response_format == "verbose_json" else set())


def _field(form: FormData, name: str) -> str | None:
    value = form.get(name)
    if isinstance(value, UploadFile):
        raise ApiError(400, "bad_field", f"{name} must be a plain form field", name)
    return value


def _limited(request: Request, limit: int) -> Receive:
    """The request's body, refused as soon as it is known to be too long."""
    refusal = ApiError(
        413,
        "too_big",
        f"an upload may have {limit // 1_000_000} MB; send a shorter or a compressed file",
        "file",
    )
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise refusal
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise refusal
        return message

    return receive


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T | None:
    """The work's result; None if the client goes away first, which cancels the work."""
    tasks = working, leaving = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _copy(upload: BinaryIO, file: Any) -> None:
    shutil.copyfileobj(upload, file)
    file.flush()
