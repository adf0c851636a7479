"""The caches' memory: what is reserved and bounded."""

from pathlib import Path
from typing import Any

import pytest
from support.held_out import TINY_VOXTRAL
from support.listening import StreamRecorder
from support.tiny_checkpoint import write_tiny
from support.tiny_voxtral import tiny_weights

from training.golden.audio import synthetic_audio
from training.golden.weights import TINY
from voxlive.checkpoints.local_model import read_model
from voxlive.engines.contract import EngineOptions, Failed, Progressed, StreamOptions
from voxlive.engines.voxtral import load
from voxlive.engines.voxtral.loading import settle_capacity, unpacks
from voxlive.engines.voxtral.model import StreamCaches, VoxtralModel
from voxlive.errors import EngineError
from voxlive.layers import rings

AUDIO = synthetic_audio()
PLENTY = 1 << 40


def model(slots=9):
    return VoxtralModel(TINY, tiny_weights(), slots=slots, bos=1, pad=32)


def test_positions_are_moved_back_once_before_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU compiles the kernels for it the first time, and every session would wait."""
    moved, reanchor = [], rings.Rings.reanchor

    def spy(self: rings.Rings, slot: int, shift: int) -> None:
        moved.append((self, self.slot_nbytes(slot) > 0))
        reanchor(self, slot, shift)

    monkeypatch.setattr(rings.Rings, "reanchor", spy)
    served = model()
    served.bound(1, PLENTY, reserve=1)
    served.compile_steps(1)
    assert moved == [(served.encoder.rings, True), (served.decoder.rings, True)]


def test_the_reserve_is_what_the_admitted_streams_hold_at_full_age() -> None:
    served = model()
    served.bound(8, PLENTY, reserve=float("inf"))
    spare = served.nbytes - 8 * served.stream_nbytes
    assert 0 <= spare < 2 * served.stream_nbytes
    held = served.nbytes
    served.age(range(8))
    assert served.nbytes == held
    assert served.missing_nbytes(8) is None
    served.leave(3)
    assert served.missing_nbytes(7) == 0
    served.clear()
    assert served.nbytes == held


def test_without_a_reserve_memory_is_given_back() -> None:
    served = model()
    served.bound(8, PLENTY, reserve=0)
    young = served.nbytes
    served.age(range(8))
    assert served.nbytes > 1.5 * young
    for slot in range(8):
        served.leave(slot)
    assert served.nbytes == young


def test_more_streams_than_grow_old_share_what_there_is() -> None:
    """Encoders at full age for all, and decoders first come, first served."""
    served = model()
    encoder, decoder = served.encoder.rings, served.decoder.rings
    served.bound(8, 8 * encoder.full_nbytes + 3 * decoder.full_nbytes, reserve=float("inf"))
    for slot in range(8):
        served.join(slot, TINY.delay_tokens)
    served.encoder.rings.fill(range(8))
    assert served.short([(slot, 1) for slot in range(8)]) == [False] * 8
    served.decoder.rings.fill(range(3))
    assert served.missing_nbytes(8) is None
    assert served.missing_nbytes(2) is not None
    spare = decoder.blocks(served._queue.capacity)
    lacking = served.short([(slot, 1) for slot in range(8)])
    assert lacking == [False] * min(8, 3 + spare) + [True] * max(0, 5 - spare)
    served.leave(1)
    assert not any(served.short([(slot, 1) for slot in (0, 2, 3)]))


def test_more_sessions_than_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    served = model(33)
    free = 10 * served.stream_nbytes
    monkeypatch.setattr("voxlive.engines.voxtral.loading.free_bytes", lambda: free)
    assert settle_capacity(served, 4) == 4
    with pytest.raises(EngineError, match=r"at most \d+, of which 9 can last") as refused:
        settle_capacity(served, 33)
    assert refused.value.code == "no_memory"
    free = served.stream_nbytes
    with pytest.raises(EngineError, match="--quantize 4"):
        settle_capacity(served, None)


def test_a_machine_that_is_slower_than_speech_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loading = "voxlive.engines.voxtral.loading"
    monkeypatch.setattr(f"{loading}._step_seconds", lambda *_: 2 * TINY.token_seconds)
    assert settle_capacity(model(8), None) == 1
    assert "speech take this model 160 ms here" in caplog.text
    caplog.clear()
    monkeypatch.setattr(f"{loading}._step_seconds", lambda *_: 0.9 * TINY.token_seconds)
    assert settle_capacity(model(8), None) == 1
    assert caplog.text == ""


def test_the_caches_of_a_stream_are_known_before_there_is_a_model() -> None:
    assert StreamCaches.of(TINY, 4) == model().stream_caches


GIB = 1 << 30
CACHES = StreamCaches(GIB // 4, GIB * 3 // 4)


@pytest.mark.parametrize(
    ("free", "asked", "want"),
    [
        (139, None, True),  # 122 sessions last beside packed weights, 117 beside unpacked ones
        (80, None, True),
        (48, None, True),
        (24, None, False),  # 19 and 13: too many would be lost
        (24, 13, True),
        (24, 14, False),
        (8, 1, False),  # does not fit
        (8, None, False),
        (80, 256, False),  # not even their encoders fit: to be refused either way
        (139, 400, True),  # more than last in either form: a share of those that last
        (139, 470, False),  # fits beside packed weights alone
        (40, 100, True),
        (24, 40, False),
    ],
)
def test_weights_are_unpacked_where_their_sessions_keep_their_memory(
    free: int, asked: int | None, want: bool
) -> None:
    assert unpacks(3 * GIB, 9 * GIB, CACHES, asked, free * GIB) is want


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, "8-bit weights, unpacked to float32 on loading"),
        ({"keep_quantized": True}, "8-bit weights"),
        pytest.param({"quantize": 8}, "8-bit weights", marks=pytest.mark.endurance),
    ],
)
def test_an_nvidia_gpu_unpacks_weights_unless_it_is_refused(
    options: dict[str, Any], weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxlive.engines.voxtral.loading.on_cuda", lambda: True)
    local = read_model(TINY_VOXTRAL)
    engine = load(local, EngineOptions(max_sessions=1, device="cpu", **options))
    try:
        assert engine.info.weights == weights
    finally:
        engine.shutdown()


def test_a_cpu_leaves_weights_as_they_are_stored() -> None:
    engine = load(read_model(TINY_VOXTRAL), EngineOptions(max_sessions=1, device="cpu"))
    try:
        assert engine.info.weights == "8-bit weights"
    finally:
        engine.shutdown()


def test_a_session_that_finds_no_memory_fails_and_the_others_go_on(tmp_path: Path) -> None:
    engine = load(read_model(write_tiny(tmp_path)), EngineOptions(max_sessions=2, device="cpu"))
    try:
        old, young = StreamRecorder(), StreamRecorder()
        first = engine.open(StreamOptions(), old.sink)
        second = engine.open(StreamOptions(), young.sink)
        rings = engine._model.decoder.rings
        engine._thread.submit(rings.bound, rings.per_ring + 1).result(60)
        first.feed(AUDIO[:200_000], 0)
        old.until(lambda message: isinstance(message, Progressed) and message.upto > 190_000)
        second.feed(AUDIO[:40_000], 0)
        failure = young.until(lambda message: isinstance(message, Failed))
        assert failure.code == "server_full"
        with pytest.raises(EngineError, match="no memory for one more"):
            engine.open(StreamOptions(), young.sink)
        first.feed(AUDIO[200_000:300_000], 200_000)
        first.flush(2)
        old.reached(2)
        assert engine.in_use == 1
    finally:
        engine.shutdown()
