"""Why someone is not let in."""

from __future__ import annotations

import math

_STATUS = {
    "invalid_api_key": 401,
    "forbidden": 403,
    "rate_limit_exceeded": 429,
    "too_many_sessions": 429,
    "name_in_use": 409,
}


class Refusal(Exception):
    """``code`` is one of the table above; ``retry_after_s``: when it may be tried again.

    ``tried``: after too many wrong keys; its answer may be kept back for a while.
    """

    def __init__(
        self, code: str, message: str, retry_after_s: float | None = None, *, tried: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.tried = tried

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _STATUS[self.code]

    @property
    def headers(self) -> dict[str, str]:
        """What HTTP says besides: how to log in, when to come back."""
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        return headers
