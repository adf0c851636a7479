"""Captions of live sessions for those who only read: server-sent events, WebVTT and an overlay."""

from __future__ import annotations

from .endpoints import Captions
from .feed import Feed, Feeds

__all__ = ["Captions", "Feed", "Feeds"]
