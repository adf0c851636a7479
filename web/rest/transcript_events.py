"""A transcript as OpenAI's server-sent events, while the file is still being decoded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing

from starlette.responses import Response, StreamingResponse

from ...runners.contract import Delta, Progress, Transcript, Update
from ...runners.formats import usage, warnings
from ..errors import ApiError, error_body
from .files import Told

_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def streamed(told: Told) -> Response:
    """Events as they come. What is refused before there is any is raised: an ApiError."""
    first = await anext(told)
    return StreamingResponse(_events(first, told), media_type="text/event-stream", headers=_HEADERS)


async def _events(first: Update | Transcript, told: Told) -> AsyncIterator[str]:
    async with aclosing(told):
        try:
            yield _event(first)
            async for item in told:
                yield _event(item)
        except ApiError as error:
            # The status has been sent: OpenAI's clients raise for an event of this kind.
            yield f"event: error\ndata: {json.dumps(error_body(error))}\n\n"
        else:
            yield "data: [DONE]\n\n"


def _event(item: Update | Transcript) -> str:
    match item:
        case Delta(text):
            return _data({"type": "transcript.text.delta", "delta": text})
        case Progress(done_s, _):
            # A comment: clients skip it, and whoever waits for a long silence is kept.
            return f": {done_s:.1f} s\n\n"
        case Transcript():
            said = {"text": item.text, "language": item.language, "usage": usage(item)}
            more = {"warnings": warnings(item)} if item.warnings else {}
            return _data({"type": "transcript.text.done", **said, **more})


def _data(event: dict[str, object]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
