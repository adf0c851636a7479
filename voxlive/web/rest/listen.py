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
from voxlive.web.protocols.deepgram import wire
from voxlive.web.protocols.deepgram.wire import DeepgramQuery, read_query
from voxlive.web.rest.files import FileService, max_duration_s, upload_file, warning_headers


class ListenEndpoint:
    """``POST /v1/listen``, with Deepgram's query, response and errors."""

    def __init__(self, files: FileService) -> None:
        self._files = files

    async def post(self, request: Request) -> Response:
        """The transcript of the body. A client that disconnects cancels its job."""
        request_id = str(uuid.uuid4())
        try:
            result = await self._transcribe(request, request_id)
        except VoxliveError as error:
            return deepgram_error(error, request_id)
        except ClientDisconnect:
            result = None
        if result is None:
            return Response(status_code=499)
        transcript, body = result
        return JSONResponse(
            body, headers={"dg-request-id": request_id, **warning_headers(transcript)}
        )

    async def _transcribe(
        self, request: Request, request_id: str
    ) -> tuple[Transcript, dict[str, object]] | None:
        query = read_query(request.query_params)
        if query.replacements:
            message = "this server does not replace words in files: leave out replace"
            raise RequestRefused("unsupported_option", message, "replace")
        if query.sources:
            message = "channels of files are mixed, not told apart: leave out multichannel"
            raise RequestRefused("unsupported_option", message, "multichannel")
        if request.headers.get("content-type", "").startswith("application/json"):
            message = "this server fetches nothing: send the audio itself, not its URL"
            raise RequestRefused("unsupported_option", message)
        spec = await self._files.find(
            request.query_params.get("model"),
            Requirements(language=query.language, speakers=query.diarize),
        )
        created = wire.now()
        with upload_file() as file:
            with self._files.receiving():
                sha256 = await _save(request, file)
            job = Job(
                Path(file.name),
                language=query.language,
                words=True,
                raw=None if query.audio.encoding == CONTAINER else query.audio,
                longest_s=max_duration_s(request),
                speakers=query.speakers,
            )
            transcript = await run_until_disconnect(request, self._files.transcribe(spec, job))
        if transcript is None:
            return None
        described = wire.model(spec.model, spec.backend)
        facts = wire.metadata(
            request_id, created, sha256, transcript.duration, query.audio.channels, described
        )
        return transcript, {"metadata": facts, "results": _results(transcript, query)}


def _results(transcript: Transcript, query: DeepgramQuery) -> dict[str, object]:
    words = [word for segment in transcript.segments for word in segment.words or ()]
    labels = dict.fromkeys(segment.speaker for segment in transcript.segments)
    numbers = {label: number for number, label in enumerate(labels)} if query.diarize else {}
    speakers = [
        numbers.get(segment.speaker) for segment in transcript.segments for _ in segment.words or ()
    ]
    found = None if query.language else transcript.language
    channel: dict[str, object] = {"detected_language": found} if found else {}
    channel["alternatives"] = [wire.alternative(transcript.text, words, found, speakers)]
    results: dict[str, object] = {"channels": [channel]}
    if query.utterances:
        results["utterances"] = [
            wire.utterance(segment, numbers.get(segment.speaker))
            for segment in transcript.segments
            if segment.start is not None and segment.end is not None
        ]
    return results


async def _save(request: Request, file: IO[bytes]) -> str:
    """Write the body to the file. Returns its SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    async for chunk in request.stream():
        digest.update(chunk)
        await asyncio.to_thread(file.write, chunk)
    await asyncio.to_thread(file.flush)
    return digest.hexdigest()
