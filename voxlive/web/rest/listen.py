"""``POST /v1/listen``: Deepgram's transcription of a file, which is the body of the request."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from pathlib import Path
from typing import IO

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from voxlive.errors import RequestRefused, VoxliveError
from voxlive.runners.contract import Job, Transcript
from voxlive.runners.refusals import Requirements
from voxlive.streaming.ingest.formats import CONTAINER
from voxlive.web.errors import deepgram_error, run_until_disconnect
from voxlive.web.protocols.deepgram import messages as shapes
from voxlive.web.protocols.deepgram.query import DeepgramQuery, read_query
from voxlive.web.rest.files import FileService, longest_s, scratch, warning_headers


class Listen:
    """Query and answer are Deepgram's, and so are the errors."""

    def __init__(self, files: FileService) -> None:
        self._files = files

    async def post(self, request: Request) -> Response:
        """The transcript of the body. A client that goes away frees its slot."""
        ident = str(uuid.uuid4())
        try:
            answer = await self._answer(request, ident)
        except VoxliveError as error:
            return deepgram_error(error, ident)
        except ClientDisconnect:
            answer = None
        if answer is None:
            return Response(status_code=499)
        said, body = answer
        return JSONResponse(body, headers={"dg-request-id": ident, **warning_headers(said)})

    async def _answer(
        self, request: Request, ident: str
    ) -> tuple[Transcript, dict[str, object]] | None:
        query = read_query(request.query_params)
        if request.headers.get("content-type", "").startswith("application/json"):
            message = "this server fetches nothing: send the audio itself, not its URL"
            raise RequestRefused("unsupported_option", message)
        spec = await self._files.find(
            request.query_params.get("model"), Requirements(language=query.language)
        )
        created = shapes.now()
        with scratch() as file:
            with self._files.arriving():
                sha256 = await _save(request, file)
            job = Job(
                Path(file.name),
                language=query.language,
                words=True,
                raw=None if query.audio.encoding == CONTAINER else query.audio,
                longest_s=longest_s(request),
            )
            said = await run_until_disconnect(request, self._files.transcribe(spec, job))
        if said is None:
            return None
        described = shapes.model(spec.model, spec.backend)
        facts = shapes.metadata(
            ident, created, sha256, said.duration, query.audio.channels, described
        )
        return said, {"metadata": facts, "results": _results(said, query)}


def _results(said: Transcript, query: DeepgramQuery) -> dict[str, object]:
    words = [word for segment in said.segments for word in segment.words or ()]
    results: dict[str, object] = {
        "channels": [{"alternatives": [shapes.alternative(said.text, words)]}]
    }
    if query.utterances:
        results["utterances"] = [
            shapes.utterance(segment.text, segment.words or (), segment.start, segment.end)
            for segment in said.segments
            if segment.start is not None and segment.end is not None
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
