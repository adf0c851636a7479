from collections.abc import Callable, Iterator

import pytest

from voxlive.checkpoints.local_model import BUILT_IN
from voxlive.engines.contract import EngineOptions
from voxlive.engines.pocketsphinx import load
from voxlive.engines.pocketsphinx.decode import Recognizer
from voxlive.engines.pocketsphinx.engine import PocketSphinxEngine


@pytest.fixture(scope="session")
def recognizer() -> Recognizer:
    return Recognizer()


@pytest.fixture(scope="session")
def _engines() -> Iterator[Callable[[int], PocketSphinxEngine]]:
    loaded: dict[int, PocketSphinxEngine] = {}

    def of(slots: int) -> PocketSphinxEngine:
        if slots not in loaded:
            loaded[slots] = load(BUILT_IN["pocketsphinx"], EngineOptions(max_sessions=slots))
        return loaded[slots]

    yield of
    for engine in loaded.values():
        engine.shutdown()


@pytest.fixture
def engine(_engines: Callable[[int], PocketSphinxEngine]) -> Iterator[PocketSphinxEngine]:
    """Two slots, free before and after the test."""
    yield _engines(2)
    assert _engines(2).in_use == 0


@pytest.fixture
def single(_engines: Callable[[int], PocketSphinxEngine]) -> Iterator[PocketSphinxEngine]:
    """One slot, free before and after the test."""
    yield _engines(1)
    assert _engines(1).in_use == 0
