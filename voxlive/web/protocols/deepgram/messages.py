"""The JSON that Deepgram's clients read, live or with a file.

Its types have no null for a confidence: 0.0 stands for one that the engine does not know.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from voxlive.values import Word, seconds
from voxlive.web.protocols.contract import Denial

_RETRY_AFTER_S = 5
_EDGES = re.compile(r"^\W+|\W+$")
_NAMES = {
    400: "Bad Request",
    401: "INVALID_AUTH",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    408: "SLOW_UPLOAD",
    409: "CONFLICT",
    413: "PAYLOAD_TOO_LARGE",
    429: "TOO_MANY_REQUESTS",
    503: "SERVICE_UNAVAILABLE",
}


def now() -> str:
    """The time as the protocol writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def alternative(text: str, words: Sequence[Word], language: str | None = None) -> dict[str, object]:
    """One alternative: a text and those of its words whose times are known.

    ``language``: what the model has found out is spoken.
    """
    languages = {"languages": [language]} if language else {}
    return {"transcript": text.strip(), **_rated(words), **languages}


def utterance(text: str, words: Sequence[Word], start: int, end: int) -> dict[str, object]:
    """One entry of ``utterances``."""
    return {
        "id": str(uuid.uuid4()),
        "start": seconds(start),
        "end": seconds(end),
        "channel": 0,
        **alternative(text, words),
    }


def _rated(words: Sequence[Word]) -> dict[str, object]:
    return {"confidence": confidence(words), "words": [_word(word) for word in words]}


def confidence(words: Iterable[Word]) -> float:
    """The mean of the confidences that are known."""
    known = [word.probability for word in words if word.probability is not None]
    return round(sum(known) / len(known), 4) if known else 0.0


def _word(word: Word) -> dict[str, object]:
    text = word.text.strip()
    return {
        "word": _EDGES.sub("", text).lower() or text,
        "start": seconds(word.start),
        "end": seconds(word.end),
        "confidence": round(word.probability, 4) if word.probability is not None else 0.0,
        "punctuated_word": text,
    }


def model(name: str, kind: str) -> tuple[str, dict[str, str]]:
    """The served model's identifier and what it is; engines tell no version."""
    ident = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    return ident, {"name": name, "version": "", "arch": kind}


def metadata(
    request_id: str,
    created: str,
    sha256: str,
    duration: float,
    channels: int,
    model_info: tuple[str, dict[str, str]],
) -> dict[str, object]:
    """What a transcript was made from: ``sha256`` of the audio as sent, ``duration`` in seconds.

    ``model_info`` is what ``model`` says of its model.
    """
    ident, description = model_info
    return {
        "transaction_key": "deprecated",
        "request_id": request_id,
        "sha256": sha256,
        "created": created,
        "duration": duration,
        "channels": channels,
        "models": [ident],
        "model_info": {ident: description},
    }


def refusal(status: int, message: str, request_id: str) -> Denial:
    """An error over HTTP. A full server is a 503: clients take any 4xx for final."""
    status = 400 if status == 422 else status  # Deepgram has no 422
    headers = {
        "dg-request-id": request_id,
        "dg-error": message.encode("ascii", "replace").decode(),
        **({"retry-after": str(_RETRY_AFTER_S)} if status == 503 else {}),
    }
    name = _NAMES.get(status, "INTERNAL_SERVER_ERROR")
    return Denial(status, {"err_code": name, "err_msg": message, "request_id": request_id}, headers)
