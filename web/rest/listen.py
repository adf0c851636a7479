"""``POST /v1/listen``: Deepgram's transcription of a file, which is the body of the request."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import uuid
from pathlib import Path
from typing import IO

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ...streaming.engine import StreamOptions
from ...streaming.ingest import CONTAINER
from ...streaming.service import Service
from ...streaming.transcribe import Transcription
from ..errors import ApiError
from ..protocols import deepgram_json as shapes
from ..protocols.contract import ProtocolError
from ..protocols.deepgram_query import Query, read
from .upload import transcribed, unless_gone
from .words import as_deepgram


class Listen:
    """Query and answer are Deepgram's, and so are the errors."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def post(self, request: Request) -> Response:
        """The transcript of the body. A client that goes away frees its slot."""
        ident = str(uuid.uuid4())
        try:
            answer = await self._answer(request, ident)
        except ApiError as error:
            return as_deepgram(error, ident)
        except ProtocolError as error:
            return as_deepgram(ApiError(400, error.code, error.message), ident)
        except ClientDisconnect:
            answer = None
        if answer is None:
            return Response(status_code=499)
        return JSONResponse(answer, headers={"dg-request-id": ident})

    async def _answer(self, request: Request, ident: str) -> dict[str, object] | None:
        query = read(request.query_params)
        if request.headers.get("content-type", "").startswith("application/json"):
            message = "this server fetches nothing: send the audio itself, not its URL"
            raise ApiError(400, "unsupported_option", message)
        created = shapes.now()
        with tempfile.NamedTemporaryFile(prefix="voxlive-") as file:
            sha256 = await _save(request, file)
            raw = None if query.audio.encoding == CONTAINER else query.audio
            work = transcribed(
                self._service,
                Path(file.name),
                query.gate,
                StreamOptions(query.language, drafts=False),
                raw,
            )
            said = await unless_gone(request, work)
        if said is None:
            return None
        info = self._service.engine.info
        facts = shapes.metadata(ident, created, sha256, said.duration, query.audio.channels, info)
        return {"metadata": facts, "results": _results(said, query)}


def _results(said: Transcription, query: Query) -> dict[str, object]:
    words = [word for segment in said.segments for word in segment.words]
    results: dict[str, object] = {
        "channels": [{"alternatives": [shapes.alternative(said.text, words)]}]
    }
    if query.utterances:
        results["utterances"] = [
            shapes.utterance(segment.text, segment.words, segment.start, segment.end)
            for segment in said.segments
        ]
    return results


async def _save(request: Request, file: IO[bytes]) -> str:
    """Write the body to the file; its SHA-256."""
    digest = hashlib.sha256()
    async for piece in request.stream():
        digest.update(piece)
        await asyncio.to_thread(file.write, piece)
    await asyncio.to_thread(file.flush)
    return digest.hexdigest()
