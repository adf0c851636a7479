"""Wire formats, one file each: pure translators between frames, actions and events."""

from __future__ import annotations

from .asr import AsrProtocol
from .contract import Protocol
from .deepgram import DeepgramProtocol
from .echopanel import EchoPanelProtocol
from .live import LiveProtocol
from .mistral import MistralProtocol
from .realtime import RealtimeProtocol
from .whisper_live import WhisperLiveProtocol

# A new protocol is one file and one line here.
PROTOCOLS: dict[str, type[Protocol]] = {
    "/v1/live": LiveProtocol,
    "/asr": AsrProtocol,
    "/v1/realtime": RealtimeProtocol,
    "/v1/audio/transcriptions/realtime": MistralProtocol,
    "/v1/listen": DeepgramProtocol,
    "/ws/live-listener": EchoPanelProtocol,
}

__all__ = ["PROTOCOLS", "Protocol", "WhisperLiveProtocol"]
