"""``POST /v1/chat/completions`` with ``input_audio``: the transcript as a chat model's answer."""

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
from voxlive.runners.registry import BACKENDS
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
    Told,
    copied,
    holding,
    longest_s,
    scratch,
    warning_headers,
)
from voxlive.web.rest.grants import json_body

_MAX_BODY = 70_000_000  # 50 MB of audio in base64
_MOST_TOKENS = 1_000_000
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


@dataclass(frozen=True, slots=True)
class _ChatRequest:
    """One question: what is said in this audio? ``text`` is what stands beside it."""

    model: str | None
    audio: bytes
    text: str
    language: str | None
    temperature: float
    max_tokens: int | None
    stream: bool
    usage: bool


class Chat:
    """The last user's message must hold one audio; earlier messages are not read."""

    def __init__(self, files: FileService) -> None:
        self._files = files

    async def post(self, request: Request) -> Response:
        """The answer in OpenAI's shape, whole or streamed."""
        with ExitStack() as held:
            with self._files.arriving():
                wish = _read(await json_body(request, _MAX_BODY))
                spec = await self._files.find(wish.model, Requirements(language=wish.language))
                path = await copied(BytesIO(wish.audio), held.enter_context(scratch()))
            job = Job(
                path,
                language=wish.language,
                # Others write down what is said: taken for context, a wish would mislead them.
                instruction=(wish.text if BACKENDS[spec.backend].instructed else "") or None,
                temperature=wish.temperature,
                max_tokens=wish.max_tokens,
                longest_s=longest_s(request),
            )
            answer = _Answer(spec.model)
            if wish.stream:
                told = holding(self._files.follow(spec, job), held.pop_all())
                body = answer.chunks(await anext(told), told, usage=wish.usage)
                return StreamingResponse(body, media_type="text/event-stream", headers=_HEADERS)
            said = await run_until_disconnect(request, self._files.transcribe(spec, job))
        if said is None:
            return Response(status_code=499)
        return JSONResponse(answer.whole(said), headers=warning_headers(said))


class _Answer:
    """One completion's shapes."""

    def __init__(self, model: str) -> None:
        self._about = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, said: Transcript) -> dict[str, object]:
        """Everything at once."""
        message = {"role": "assistant", "content": said.text.strip(), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _end(said)}
        about = {"object": "chat.completion", **self._about}
        return {**about, "choices": [choice], "usage": _tokens(said)}

    async def chunks(
        self, first: Update | Transcript, told: Told, *, usage: bool
    ) -> AsyncIterator[str]:
        """Server-sent events while the audio is being decoded."""
        async with aclosing(told):
            try:
                yield self._chunk({"role": "assistant", "content": ""})
                for line in self._lines(first, usage):
                    yield line
                async for item in told:
                    for line in self._lines(item, usage):
                        yield line
            except VoxliveError as error:
                yield f"data: {json.dumps(error_body(error))}\n\n"
            else:
                yield "data: [DONE]\n\n"

    def _lines(self, item: Update | Transcript, usage: bool) -> list[str]:
        match item:
            case Delta(text):
                return [self._chunk({"content": text})]
            case JobProgress(done_s, _):
                return [f": {done_s:.1f} s\n\n"]
            case Transcript():
                more = {"warnings": warnings(item)} if item.warnings else {}
                last = [self._chunk({}, _end(item), **more)]
                return [*last, self._event([], usage=_tokens(item))] if usage else last

    def _chunk(self, delta: dict[str, str], end: str | None = None, **more: object) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}
        return self._event([choice], **more)

    def _event(self, choices: list[dict[str, object]], **more: object) -> str:
        event = {"object": "chat.completion.chunk", **self._about, "choices": choices, **more}
        return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def _end(said: Transcript) -> str:
    return "length" if said.truncated else "stop"


def _tokens(said: Transcript) -> dict[str, int] | None:
    """Null where the model does not count."""
    asked, answered = said.prompt_tokens, said.completion_tokens
    if asked is None or answered is None:
        return None
    total = asked + answered
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": total}


def _read(body: Json) -> _ChatRequest:
    """The request's body. Raises RequestRefused 400 that names the field."""
    try:
        if integer(body, "n", 1, 1, 1) != 1 or "audio" in _list(body, "modalities"):
            raise ValueError("one answer, as text, is all that this server gives")
        options = body.get("stream_options")
        most = integer(body, "max_tokens", 1, _MOST_TOKENS, None)
        audio, text = _question(_list(body, "messages"))
        return _ChatRequest(
            string(body, "model", 200),
            audio,
            text,
            language(body),
            number(body, "temperature", 0, 2, 0.0),
            integer(body, "max_completion_tokens", 1, _MOST_TOKENS, most),
            flag(body, "stream", False),
            isinstance(options, Mapping) and flag(options, "include_usage", False),
        )
    except UnknownLanguage:
        raise
    except ValueError as error:
        raise RequestRefused("bad_request", str(error), "messages") from error


def _question(messages: list[Any]) -> tuple[bytes, str]:
    """The audio and the text of the last message of a user."""
    asked = [m for m in messages if isinstance(m, Mapping) and m.get("role") == "user"]
    content = asked[-1].get("content") if asked else None
    parts = [p for p in content if isinstance(p, Mapping)] if isinstance(content, list) else []
    audio = [part.get("input_audio") for part in parts if part.get("type") == "input_audio"]
    others = {str(part.get("type")) for part in parts} - {"input_audio", "text"}
    if others:
        raise ValueError(f"content of type {quoted(min(others))} is not heard here")
    if len(audio) != 1:
        raise ValueError("the last message must hold one input_audio with data and format")
    text = " ".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")
    return _decoded(audio[0]), text.strip()


def _decoded(audio: Any) -> bytes:
    if not isinstance(audio, Mapping) or audio.get("format") not in ENDINGS:
        raise ValueError(f"input_audio.format must be one of {', '.join(sorted(ENDINGS))}")
    return decode_base64(audio, "data")


def _list(body: Json, name: str) -> list[Any]:
    value = body.get(name) or []
    if not isinstance(value, list):
        raise ValueError(f'"{name}" must be a list')
    return value
