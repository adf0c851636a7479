"""WhisperLiveKit's ``AudioProcessor`` with engines of ours under it, and no torch.

Its package loads every backend that it has. Here only the loop and the modules that it keeps its
state in are its own: the engine and the factory of online processors are ours, as in any program
that embeds one, and so is the voice detector, since the one it carries is torch code.
"""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import distribution
from types import ModuleType

import numpy as np

from voxlive.engines.contract import Engine, StreamOptions
from voxlive.streaming.processor import OnlineProcessor
from voxlive.vad.detector import Silero, VoiceDetector
from voxlive.vad.gate import WINDOW

_ENDS_AFTER = 3  # windows below: a little less than the 100 ms after which its own says so


class TranscriptionEngine:
    """What its sessions share: options and our engine."""

    def __init__(self, engine: Engine) -> None:
        config = importlib.import_module("whisperlivekit.config").WhisperLiveKitConfig
        self.args = Namespace(**asdict(config(pcm_input=True)))
        self.asr = engine
        self.translation_model = self.vac_session = None


class VoiceIterator:
    """Where speech starts and ends, as its iterator tells it: samples of the session."""

    detector: VoiceDetector

    def __init__(self, _model: None) -> None:
        self._lane = self.detector.lane()
        self._heard = self._quiet = 0
        self._speaking = False

    def __call__(self, audio: np.ndarray) -> list[dict[str, int]]:
        events = []
        for probability in self._lane.push_blocking(audio.astype(np.float32)):
            self._heard += WINDOW
            if not self._speaking and probability >= 0.5:
                self._speaking = True
                events.append({"start": self._heard - WINDOW})
            self._quiet = self._quiet + 1 if probability < 0.35 else 0
            if self._speaking and self._quiet == _ENDS_AFTER:
                self._speaking = False
                events.append({"end": self._heard - self._quiet * WINDOW})
        self._lane.audio.drop(self._lane.audio.end)
        return events


def online_factory(_args: Namespace, engine: Engine, language: str | None) -> OnlineProcessor:
    return OnlineProcessor(engine, StreamOptions(language=language))


@contextmanager
def audio_processors() -> Iterator[ModuleType]:
    """Its module ``audio_processor``, imported without the rest of its package."""
    package = ModuleType("whisperlivekit")
    package.__path__ = [str(distribution("whisperlivekit").locate_file("whisperlivekit"))]
    core = ModuleType("whisperlivekit.core")
    core.TranscriptionEngine = TranscriptionEngine
    core.online_factory = online_factory
    core.online_diarization_factory = core.online_translation_factory = None
    voice = ModuleType("whisperlivekit.silero_vad_iterator")
    voice.FixedVADIterator = VoiceIterator
    voice.OnnxWrapper = None
    voice.load_jit_vad = lambda: None
    VoiceIterator.detector = VoiceDetector(Silero())
    before = {name: sys.modules.pop(name) for name in _loaded()}
    sys.modules.update({module.__name__: module for module in (package, core, voice)})
    try:
        yield importlib.import_module("whisperlivekit.audio_processor")
    finally:
        VoiceIterator.detector.close()
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(before)


def _loaded() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "whisperlivekit"]
