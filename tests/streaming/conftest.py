import pytest
from support.counting import CountingEngine, LoudnessModel

from voxlive.streaming.service import Service
from voxlive.vad.detector import VoiceDetector


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture
def service(engine: CountingEngine) -> Service:
    return Service(engine, VoiceDetector(LoudnessModel()))
