"""``GET /metrics``: what happened is counted where it happens, the rest is read when asked."""

from __future__ import annotations

from .collector import State
from .endpoint import Metrics
from .requests import CountRequests, Requests
from .tally import Meter, Tally

__all__ = ["CountRequests", "Meter", "Metrics", "Requests", "State", "Tally"]
