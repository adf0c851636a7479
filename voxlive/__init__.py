"""voxlive: a real-time transcription server, and its Python API.

    import voxlive
    print(voxlive.transcribe("speech.wav").text)

Python runs this module before any other of the package, in a command, in every child process and in
a program that embeds a part: what has to be set before a dependency is imported stands here. Public
names are imported when they are first used: an engine's process never loads the web server.
"""

import os

_TELEMETRY_OFF = {
    # onnxruntime reads it as it is imported; its own function to turn it off comes too late.
    "ORT_DISABLE_TELEMETRY": "1",
    # Of huggingface_hub, and with it of transformers and mlx-audio.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
# Overrides the environment; child processes inherit it.
os.environ.update(_TELEMETRY_OFF)

import importlib  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

__version__ = "0.1.0"

# Public names and their modules; type checkers read the imports below.
_PUBLIC = {
    "Engine": "voxlive.engines.contract",
    "EngineInfo": "voxlive.engines.contract",
    "EngineOptions": "voxlive.engines.contract",
    "StreamOptions": "voxlive.engines.contract",
    "load_engine": "voxlive.engines",
    "VoxliveError": "voxlive.errors",
    "transcribe": "voxlive.runners.batch",
    "Transcript": "voxlive.runners.contract",
    "Draft": "voxlive.streaming.events",
    "Event": "voxlive.streaming.events",
    "Flushed": "voxlive.streaming.events",
    "Lag": "voxlive.streaming.events",
    "SegmentClosed": "voxlive.streaming.events",
    "SessionClosed": "voxlive.streaming.events",
    "SessionError": "voxlive.streaming.events",
    "SessionWarning": "voxlive.streaming.events",
    "SpeechStarted": "voxlive.streaming.events",
    "SpeechStopped": "voxlive.streaming.events",
    "UtteranceEnded": "voxlive.streaming.events",
    "Words": "voxlive.streaming.events",
    "OnlineProcessor": "voxlive.streaming.processor",
    "Token": "voxlive.streaming.processor",
    "Segment": "voxlive.values",
    "Word": "voxlive.values",
    "create_app": "voxlive.web.app",
    "ServeConfig": "voxlive.web.config",
    "serve": "voxlive.web.server",
}

if TYPE_CHECKING:
    from voxlive.engines import load_engine
    from voxlive.engines.contract import Engine, EngineInfo, EngineOptions, StreamOptions
    from voxlive.errors import VoxliveError
    from voxlive.runners.batch import transcribe
    from voxlive.runners.contract import Transcript
    from voxlive.streaming.events import (
        Draft,
        Event,
        Flushed,
        Lag,
        SegmentClosed,
        SessionClosed,
        SessionError,
        SessionWarning,
        SpeechStarted,
        SpeechStopped,
        UtteranceEnded,
        Words,
    )
    from voxlive.streaming.processor import OnlineProcessor, Token
    from voxlive.values import Segment, Word
    from voxlive.web.app import create_app
    from voxlive.web.config import ServeConfig
    from voxlive.web.server import serve
else:

    def __getattr__(name: str) -> object:
        """A public name, imported from its module on first use."""
        if name not in _PUBLIC:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        value = globals()[name] = getattr(importlib.import_module(_PUBLIC[name]), name)
        return value


def __dir__() -> list[str]:
    """All names, those not imported yet among them."""
    return sorted({*globals(), *_PUBLIC})


__all__ = [
    "Draft",
    "Engine",
    "EngineInfo",
    "EngineOptions",
    "Event",
    "Flushed",
    "Lag",
    "OnlineProcessor",
    "Segment",
    "SegmentClosed",
    "ServeConfig",
    "SessionClosed",
    "SessionError",
    "SessionWarning",
    "SpeechStarted",
    "SpeechStopped",
    "StreamOptions",
    "Token",
    "Transcript",
    "UtteranceEnded",
    "VoxliveError",
    "Word",
    "Words",
    "__version__",
    "create_app",
    "load_engine",
    "serve",
    "transcribe",
]
