"""``POST /v1/audio/transcriptions``: OpenAI's file API on the live engine."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from ...streaming.engine import StreamOptions
from ...streaming.formats import WRITERS, plain_json, verbose_json
from ...streaming.service import Service
from ...streaming.transcribe import Transcription
from ...vad.gate import GateOptions
from ..errors import ApiError
from .upload import transcribed, unless_gone

_MAX_FIELDS = 100
_MEDIA_TYPES = {
    "text": "text/plain",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "json": "application/json",
    "verbose_json": "application/json",
}
_GRANULARITIES = ("timestamp_granularities[]", "timestamp_granularities")


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
        async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
            wish = _read(form, self._service.engine.info.model)
            said = await unless_gone(request, self._transcribe(wish))
        if said is None:
            return Response(status_code=499)
        return Response(wish.write(said), media_type=_MEDIA_TYPES[wish.response_format])

    async def _transcribe(self, wish: _Wish) -> Transcription:
        with tempfile.NamedTemporaryFile(prefix="voxlive-") as file:
            await asyncio.to_thread(_copy, wish.upload.file, file)
            return await transcribed(self._service, Path(file.name), GateOptions(), wish.stream)


def _read(form: FormData, model: str) -> _Wish:
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
    if response_format == "json":
        write = partial(plain_json, model=model)
    elif listed:
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


def _copy(upload: BinaryIO, file: Any) -> None:
    shutil.copyfileobj(upload, file)
    file.flush()
