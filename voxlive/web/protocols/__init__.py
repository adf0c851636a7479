"""Wire formats, one file each: pure translators between frames, actions and events."""

from __future__ import annotations

from voxlive.web.protocols.asr import AsrProtocol
from voxlive.web.protocols.contract import Protocol
from voxlive.web.protocols.deepgram import DeepgramProtocol
from voxlive.web.protocols.deepgram.flux import FluxProtocol
from voxlive.web.protocols.echopanel import EchoPanelProtocol
from voxlive.web.protocols.live import LiveProtocol
from voxlive.web.protocols.mistral import MistralProtocol
from voxlive.web.protocols.realtime import RealtimeProtocol
from voxlive.web.protocols.whisper_live import WhisperLiveProtocol

__all__ = ["PROTOCOLS", "Protocol", "WhisperLiveProtocol"]

# A new protocol is one file and one line here.
PROTOCOLS: dict[str, type[Protocol]] = {
    "/v1/live": LiveProtocol,
    "/asr": AsrProtocol,
    "/v1/realtime": RealtimeProtocol,
    "/v1/audio/transcriptions/realtime": MistralProtocol,
    "/v1/listen": DeepgramProtocol,
    "/v2/listen": FluxProtocol,
    "/ws/live-listener": EchoPanelProtocol,
}
