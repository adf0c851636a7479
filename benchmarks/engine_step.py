"""Milliseconds per 80 ms step of the Voxtral model, every session's windows full.

    python benchmarks/engine_step.py --batch 1 8 64 --window 1024 8192 --weights bf16 q4
    python benchmarks/engine_step.py --shape small --weights f32 --device cpu

A step is what the engine does for B sessions that each bring one token of audio: plan, encode,
queue, decode, read the tokens back. Weights are random, of the real shape, drawn on the device.
The limit is the bytes that a step must read (weights once, live keys and values) at the bandwidth
of a large copy, measured first. *Host* is from the start of a step until its last part is sent:
what Python, and MLX where it takes part, need for that, waits for a full queue included. Kernels,
copies among them, and the time in which any of them runs are counted in steps of their own
(``gpu_activity.py``); ``--calls`` lists what they and CUDA's calls took. *Ready* is from the
weights to the first step's end.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
from gpu_activity import Activity, traced

from training.golden.weights import shapes
from voxlive.checkpoints.config import AudioConfig, DecoderConfig, EncoderConfig, VoxtralConfig
from voxlive.engines.voxtral.model import CHUNK, VoxtralModel, most_rows
from voxlive.engines.voxtral.nvidia import takes
from voxlive.layers.cuda import Gpu
from voxlive.layers.cuda_layers import HALVES, CudaRings
from voxlive.layers.rings import Rings
from voxlive.layers.transformer import Weights, on_cuda
from voxlive.processes.process import user_cache

_AUDIO = AudioConfig(sample_rate=16000, n_fft=400, hop=160, mel_bins=128, log_mel_max=1.5)
SHAPES = {
    "full": VoxtralConfig(
        audio=_AUDIO,
        encoder=EncoderConfig(
            dim=1280,
            layers=32,
            heads=32,
            head_dim=64,
            ffn_dim=5120,
            window=750,
            rope_theta=1e6,
            norm_eps=1e-5,
        ),
        decoder=DecoderConfig(
            dim=3072,
            layers=26,
            heads=32,
            kv_heads=8,
            head_dim=128,
            ffn_dim=9216,
            vocab_size=131072,
            window=8192,
            rope_theta=1e6,
            norm_eps=1e-5,
            ada_dim=32,
        ),
        downsample=4,
        delay_tokens=6,
        left_pad_tokens=32,
    ),
    "small": VoxtralConfig(
        audio=_AUDIO,
        encoder=EncoderConfig(
            dim=256,
            layers=6,
            heads=4,
            head_dim=64,
            ffn_dim=1024,
            window=750,
            rope_theta=1e6,
            norm_eps=1e-5,
        ),
        decoder=DecoderConfig(
            dim=512,
            layers=6,
            heads=8,
            kv_heads=2,
            head_dim=128,
            ffn_dim=1536,
            vocab_size=16384,
            window=8192,
            rope_theta=1e6,
            norm_eps=1e-5,
            ada_dim=32,
        ),
        downsample=4,
        delay_tokens=6,
        left_pad_tokens=32,
    ),
}
DTYPES = {
    "f32": mx.float32,
    "f16": mx.float16,
    "bf16": mx.bfloat16,
    "q4": mx.bfloat16,
    "q4-unpacked": mx.bfloat16,
}
GROUP, BITS = 64, 4


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the middle step and of the slowest but one in twenty."""

    median: float
    p95: float


def random_weights(config: VoxtralConfig, kind: str) -> tuple[Weights, int]:
    """Weights that are drawn as they are taken, and the bytes that a step reads of them."""
    dtype, tensors, quantised, nbytes = DTYPES[kind], {}, {}, 0
    for name, shape in shapes(config).items():
        values = mx.random.normal(shape, dtype, scale=float(np.prod(shape[1:])) ** -0.5)
        module = name.removesuffix(".weight")
        if kind.startswith("q4") and len(shape) == 2 and shape[1] % GROUP == 0:
            quantised[module] = GROUP, BITS
            parts = mx.quantize(values, group_size=GROUP, bits=BITS)
            new = dict(zip((name, f"{module}.scales", f"{module}.biases"), parts, strict=True))
        else:
            new = {name: 1 + values if name.endswith("norm.weight") else values}
        tensors |= new
        if ".ada." not in name:
            nbytes += sum(array.nbytes for array in new.values())
    unpack = kind == "q4-unpacked" and not on_cuda()
    return Weights(tensors, quantised, dtype, unpack=unpack), nbytes


@dataclass(frozen=True)
class Part:
    """Of the device's memory."""

    pointer: int
    nbytes: int


def age(rings: Rings, slots: list[int]) -> None:
    """As if every slot had heard more than its window: all blocks held, numbers in all of them."""
    rings.fill(slots)
    if isinstance(rings, CudaRings):
        some = np.random.default_rng(0).normal(size=1 << 20).astype(np.float32)
        bits = (some.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16
        for pool in rings.pools:
            for at in range(0, pool.nbytes, bits.nbytes):
                part = Part(pool.pointer + at, min(bits.nbytes, pool.nbytes - at))
                rings.gpu.put_from(part, bits.ctypes.data)
        return
    for index, pool in enumerate(rings.pools):
        rings.pools[index] = mx.random.normal(pool.shape, pool.dtype)
        mx.eval(rings.pools[index])
        del pool


def started(
    config: VoxtralConfig, weights: Weights, batch: int, kernels: Path | None, *, unpack: bool
) -> VoxtralModel:
    """A model with ``batch`` running sessions past their windows."""
    gpu = None
    if on_cuda() and takes(config, weights.dtype):
        gpu = Gpu(kernels or user_cache("kernels"), HALVES[weights.dtype])
    model = VoxtralModel(config, weights, slots=batch + 1, bos=1, pad=32, gpu=gpu, unpack=unpack)
    slots = list(range(batch))
    for slot in slots:
        model.join(slot, config.delay_tokens)
    for _ in range(-(-model.decoder.prompt_length(0) // CHUNK)):
        for at in range(0, batch, most_rows(CHUNK)):
            some = slots[at : at + most_rows(CHUNK)]
            model.encode(some, model.silence(len(some), CHUNK))
    for _ in model.decode({}):
        pass
    age(model.encoder.rings, slots)
    age(model.decoder.rings, slots)
    return model


def timed(run: Callable[[], object], steps: int, warm: int) -> Timing:
    times = []
    for _ in range(warm + steps):
        began = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - began))
    kept = sorted(times[warm:])
    return Timing(statistics.median(kept), kept[int(0.95 * (len(kept) - 1))])


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of a step, of its host's part, and of both halves each awaited by itself."""

    whole: Timing
    host: float
    encoder: float
    decoder: float
    activity: Activity | None


class SendClock:
    """Knows when the last part of a step was sent, while it is entered."""

    def __init__(self) -> None:
        self.at = 0.0
        self._send, self._download = mx.async_eval, Gpu.download

    def __enter__(self) -> SendClock:
        mx.async_eval = self._timed(self._send)
        Gpu.download = self._timed(self._download)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        mx.async_eval = self._send
        Gpu.download = self._download  # type: ignore[method-assign]

    def _timed(self, send: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: object) -> None:
            send(*arguments)
            self.at = time.perf_counter()

        return timed


def host_ms(run: Callable[[], object], steps: int, warm: int) -> float:
    """The median of what the host takes until all of ``run`` is sent."""
    times = []
    with SendClock() as sent:
        for _ in range(warm + steps):
            began = time.perf_counter()
            run()
            times.append(1000 * (sent.at - began))
    return statistics.median(times[warm:])


def measure(model: VoxtralModel, batch: int, steps: int, warm: int) -> StepTimes:
    """See ``StepTimes``."""
    slots = list(range(batch))
    random = np.random.default_rng(0)
    shape = model.front_end.frames, model.config.audio.mel_bins
    mel = random.normal(size=(batch, *shape)).astype(np.float32)
    audio = model._queue.blank(batch, 1)[:, 0]

    def step() -> None:
        model.encode(slots, mel)
        for _ in model.decode({}):
            pass

    whole = timed(step, steps, warm)
    host = host_ms(step, steps, 3)

    def encode() -> None:
        embeddings = model.encoder.step(slots, mel)
        if isinstance(embeddings, mx.array):
            mx.eval(embeddings)
        else:
            model.encoder.rings.gpu.wait()

    encoder = timed(encode, steps // 2, 3)
    decoder = timed(lambda: np.array(model.decoder.step(slots, audio)), steps // 2, 3)
    activity = traced(step, 10)
    return StepTimes(whole, host, encoder.median, decoder.median, activity)


def live_nbytes(config: VoxtralConfig, batch: int, itemsize: int) -> int:
    """Keys and values that a step must read when every window is full."""
    encoder, decoder = config.encoder, config.decoder
    per_session = encoder.layers * encoder.window * encoder.heads * encoder.head_dim
    per_session += decoder.layers * decoder.window * decoder.kv_heads * decoder.head_dim
    return 2 * itemsize * batch * per_session


def copy_bandwidth() -> float:
    """Bytes per second, read plus written, of a large elementwise operation."""
    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    source = mx.random.normal((1 << (30 if on_gpu else 26),), mx.float32)
    mx.eval(source)
    best = timed(lambda: mx.eval(-source), 10, 3).median
    return 2 * source.nbytes / best * 1000


def counted(activity: Activity | None) -> str:
    """The columns of kernels and of milliseconds in which any ran."""
    return f"{activity.kernels:.0f} | {activity.busy_ms:.2f}" if activity else "| "


def listed(what: str, found: dict[str, tuple[float, float]], most: int) -> Iterator[str]:
    """A line for each name: how many a step, and their milliseconds."""
    for name, (count, ms) in list(found.items())[:most]:
        yield f"  {what} {count:8.1f} {ms:8.3f} ms  {name[:90]}"


def rows(args: argparse.Namespace) -> Iterator[str]:
    bandwidth = copy_bandwidth()
    yield f"{mx.default_device()}, copy {bandwidth / 1e9:.0f} GB/s, median ms of {args.steps} steps"
    yield (
        "| weights | window | B | step | p95 | host | encoder | decoder | kernels | GPU busy "
        "| limit | step/limit | of 80 ms | ready, s |\n|" + "---|" * 14
    )
    for kind in args.weights:
        for window in args.window:
            config = SHAPES[args.shape]
            config = replace(config, decoder=replace(config.decoder, window=window))
            for batch in args.batch:
                weights, nbytes = random_weights(config, kind)
                state = live_nbytes(config, batch, DTYPES[kind].size)
                if args.memory and nbytes + state > args.memory * 1e9:
                    yield f"| {kind} | {window} | {batch} | does not fit {args.memory} GB |"
                    continue
                began = time.perf_counter()
                model = started(config, weights, batch, args.kernels, unpack=kind == "q4-unpacked")
                ready = time.perf_counter() - began
                got = measure(model, batch, args.steps, args.warm)
                limit, step = 1000 * (nbytes + state) / bandwidth, got.whole.median
                yield (
                    f"| {kind} | {window} | {batch} | {step:.2f} | {got.whole.p95:.2f} "
                    f"| {got.host:.2f} | {got.encoder:.2f} | {got.decoder:.2f} "
                    f"| {counted(got.activity)} | {limit:.2f} | {step / limit:.1f} "
                    f"| {step / 0.8:.0f} % | {ready:.1f} |"
                )
                if args.calls and got.activity:
                    yield from listed("kernel", got.activity.kinds, args.calls)
                    yield from listed("call", got.activity.calls, args.calls)
                del model, weights
                gc.collect()
                mx.clear_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--shape", choices=SHAPES, default="full")
    parser.add_argument("--weights", choices=DTYPES, nargs="+", default=["bf16"])
    parser.add_argument("--window", type=int, nargs="+", default=[1024], help="of the decoder")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--memory", type=float, help="GB; what needs more is left out")
    parser.add_argument("--calls", type=int, default=0, help="kernels and CUDA calls to list")
    parser.add_argument("--kernels", type=Path, help="where compiled kernels are kept")
    parser.add_argument("--device", choices=("cpu", "gpu"))
    args = parser.parse_args()
    if args.device:
        mx.set_default_device(mx.Device(mx.cpu if args.device == "cpu" else mx.gpu))
    for line in rows(args):
        print(line, flush=True)


if __name__ == "__main__":
    main()
