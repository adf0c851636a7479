"""``POST /v1/chat/completions`` with ``input_audio``: a transcript as OpenAI's chat completion.

The last user's message must have one audio; earlier messages are ignored. The completion is one
JSON object or, with ``stream``, server-sent events while the audio is being decoded.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from voxlive.checkpoints.languages import UnknownLanguage
from voxlive.errors import RequestRefused, VoxliveError
from voxlive.runners.contract import Delta, Job, JobProgress, Transcript, Update
from voxlive.runners.outputs.formats import warnings
from voxlive.runners.refusals import Requirements
from voxlive.runners.routing import BACKENDS
from voxlive.streaming.ingest.sniff import ENDINGS
from voxlive.web.errors import error_body, run_until_disconnect
from voxlive.web.protocols.fields import (
    Json,
    decode_base64,
    flag,
    integer,
    language,
    number,
    quoted,
    string,
)
from voxlive.web.rest.files import (
    FileService,
    Updates,
    closing_after,
    copy_upload,
    max_duration_s,
    upload_file,
    warning_headers,
)
from voxlive.web.rest.grants import json_body

_MAX_BODY = 70_000_000  # 50 MB of audio in base64
_MAX_TOKENS = 1_000_000
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


@dataclass(frozen=True, slots=True)
class _ChatRequest:
    """The fields of a request, read and checked. ``text``: the text of the audio's message."""

    model: str | None
    audio: bytes
    text: str
    language: str | None
    temperature: float
    max_tokens: int | None
    stream: bool
    usage: bool


class ChatCompletions:
    """``POST /v1/chat/completions``."""

    def __init__(self, files: FileService) -> None:
        self._files = files

    async def post(self, request: Request) -> Response:
        """The completion, whole or streamed. A client that disconnects cancels its job."""
        with ExitStack() as resources:
            with self._files.receiving():
                parsed = _read(await json_body(request, _MAX_BODY))
                spec = await self._files.find(parsed.model, Requirements(language=parsed.language))
                file = resources.enter_context(upload_file())
                path = await copy_upload(BytesIO(parsed.audio), file)
            job = Job(
                path,
                language=parsed.language,
                # Other models transcribe: an instruction, taken for context, would mislead them.
                instruction=(parsed.text if BACKENDS[spec.backend].instructed else "") or None,
                temperature=parsed.temperature,
                max_tokens=parsed.max_tokens,
                longest_s=max_duration_s(request),
            )
            completion = _Completion(spec.model)
            if parsed.stream:
                updates = closing_after(self._files.follow(spec, job), resources.pop_all())
                body = completion.chunks(await anext(updates), updates, usage=parsed.usage)
                return StreamingResponse(body, media_type="text/event-stream", headers=_HEADERS)
            transcript = await run_until_disconnect(request, self._files.transcribe(spec, job))
        if transcript is None:
            return Response(status_code=499)
        return JSONResponse(completion.whole(transcript), headers=warning_headers(transcript))


class _Completion:
    """One completion, as a JSON object or as events."""

    def __init__(self, model: str) -> None:
        self._fields = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, transcript: Transcript) -> dict[str, object]:
        """The completion of a whole transcript."""
        message = {"role": "assistant", "content": transcript.text.strip(), "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": _finish_reason(transcript),
        }
        fields = {"object": "chat.completion", **self._fields}
        return {**fields, "choices": [choice], "usage": _usage(transcript)}

    async def chunks(
        self, first: Update | Transcript, updates: Updates, *, usage: bool
    ) -> AsyncIterator[str]:
        """Server-sent events while the audio is decoded; ``first`` is the first update."""
        async with aclosing(updates):
            try:
                yield self._chunk({"role": "assistant", "content": ""})
                for line in self._events(first, usage):
                    yield line
                async for item in updates:
                    for line in self._events(item, usage):
                        yield line
            except VoxliveError as error:
                yield f"data: {json.dumps(error_body(error))}\n\n"
            else:
                yield "data: [DONE]\n\n"

    def _events(self, item: Update | Transcript, usage: bool) -> list[str]:
        match item:
            case Delta(text):
                return [self._chunk({"content": text})]
            case JobProgress(done_s, _):
                return [f": {done_s:.1f} s\n\n"]
            case Transcript():
                more = {"warnings": warnings(item)} if item.warnings else {}
                last = [self._chunk({}, _finish_reason(item), **more)]
                return [*last, self._event([], usage=_usage(item))] if usage else last

    def _chunk(
        self, delta: dict[str, str], finish_reason: str | None = None, **more: object
    ) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._event([choice], **more)

    def _event(self, choices: list[dict[str, object]], **more: object) -> str:
        event = {"object": "chat.completion.chunk", **self._fields, "choices": choices, **more}
        return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def _finish_reason(transcript: Transcript) -> str:
    return "length" if transcript.truncated else "stop"


def _usage(transcript: Transcript) -> dict[str, int] | None:
    """OpenAI's usage; None where the model does not count its tokens."""
    prompt, completion = transcript.prompt_tokens, transcript.completion_tokens
    if prompt is None or completion is None:
        return None
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def _read(body: Json) -> _ChatRequest:
    """The request's body. Raises RequestRefused 400 with the field's name."""
    try:
        if integer(body, "n", 1, 1, 1) != 1 or "audio" in _list(body, "modalities"):
            raise ValueError("one answer, as text, is all that this server gives")
        options = body.get("stream_options")
        limit = integer(body, "max_tokens", 1, _MAX_TOKENS, None)
        audio, text = _user_content(_list(body, "messages"))
        return _ChatRequest(
            string(body, "model", 200),
            audio,
            text,
            language(body),
            number(body, "temperature", 0, 2, 0.0),
            integer(body, "max_completion_tokens", 1, _MAX_TOKENS, limit),
            flag(body, "stream", False),
            isinstance(options, Mapping) and flag(options, "include_usage", False),
        )
    except UnknownLanguage:
        raise
    except ValueError as error:
        raise RequestRefused("bad_request", str(error), "messages") from error


def _user_content(messages: list[Any]) -> tuple[bytes, str]:
    """The audio and the text of the last message of a user."""
    user = [m for m in messages if isinstance(m, Mapping) and m.get("role") == "user"]
    content = user[-1].get("content") if user else None
    parts = [p for p in content if isinstance(p, Mapping)] if isinstance(content, list) else []
    audio = [part.get("input_audio") for part in parts if part.get("type") == "input_audio"]
    others = {str(part.get("type")) for part in parts} - {"input_audio", "text"}
    if others:
        raise ValueError(f"content of type {quoted(min(others))} is not heard here")
    if len(audio) != 1:
        raise ValueError("the last message must hold one input_audio with data and format")
    text = " ".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")
    return _decode_audio(audio[0]), text.strip()


def _decode_audio(audio: Any) -> bytes:
    if not isinstance(audio, Mapping) or audio.get("format") not in ENDINGS:
        raise ValueError(f"input_audio.format must be one of {', '.join(sorted(ENDINGS))}")
    return decode_base64(audio, "data")


def _list(body: Json, name: str) -> list[Any]:
    value = body.get(name) or []
    if not isinstance(value, list):
        raise ValueError(f'"{name}" must be a list')
    return value
