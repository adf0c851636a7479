"""Milliseconds per 80 ms step of the Voxtral model, every session's windows full.

    python benchmarks/engine_step.py --batch 1 8 64 --window 1024 8192 --weights bf16 q4
    python benchmarks/engine_step.py --shape small --weights f32 --device cpu

A step is what the engine does for B sessions that each bring one token of audio: plan, encode,
queue, decode, read the tokens back. Weights are random, of the real shape, drawn on the device.
The limit is the bytes that a step must read (weights once, live keys and values) at the bandwidth
of a large copy, measured first.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from training.golden.weights import shapes
from voxlive.checkpoints.config import AudioConfig, DecoderConfig, EncoderConfig, VoxtralConfig
from voxlive.engines.voxtral import set_graph_size
from voxlive.engines.voxtral.model import CHUNK, VoxtralModel
from voxlive.layers.linear import Weights
from voxlive.layers.rings import Rings

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
DTYPES = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16, "q4": mx.bfloat16}
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
        if kind == "q4" and len(shape) == 2 and shape[1] % GROUP == 0:
            quantised[module] = GROUP, BITS
            parts = mx.quantize(values, group_size=GROUP, bits=BITS)
            new = dict(zip((name, f"{module}.scales", f"{module}.biases"), parts, strict=True))
        else:
            new = {name: 1 + values if name.endswith("norm.weight") else values}
        tensors |= new
        if ".ada." not in name:
            nbytes += sum(array.nbytes for array in new.values())
    return Weights(tensors, quantised, dtype), nbytes


def age(rings: Rings, slots: list[int]) -> None:
    """As if every slot had heard more than its window: all blocks held, numbers in all of them."""
    while rings.position(slots[0]) <= rings.ring:
        n = min(rings.chunk, rings.block + 3)
        view = rings.view(slots, mx.array(slots), n, all_blocks=True)
        rings.advance(slots, n, view.moved(n))
    for index, pool in enumerate(rings.pools):
        rings.pools[index] = mx.random.normal(pool.shape, pool.dtype)
        mx.eval(rings.pools[index])
        del pool


def started(config: VoxtralConfig, weights: Weights, batch: int) -> VoxtralModel:
    """A model with ``batch`` running sessions past their windows."""
    model = VoxtralModel(config, weights, slots=batch, bos=1, pad=32)
    slots = list(range(batch))
    for slot in slots:
        model.join(slot, config.delay_tokens)
    for _ in range(-(-model.decoder.prompt_length(0) // CHUNK)):
        model.encode(slots, model.silence(batch, CHUNK))
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


def measure(model: VoxtralModel, batch: int, steps: int, warm: int) -> tuple[Timing, float, float]:
    """The whole step, and the medians of encoder and decoder each awaited by itself."""
    slots = list(range(batch))
    random = np.random.default_rng(0)
    shape = model.front_end.frames, model.config.audio.mel_bins
    mel = random.normal(size=(batch, *shape)).astype(np.float32)
    audio = mx.random.normal((batch, model.config.decoder.dim), model.decoder.dtype)

    def step() -> None:
        model.encode(slots, mel)
        for _ in model.decode({}):
            pass

    whole = timed(step, steps, warm)
    encoder = timed(lambda: mx.eval(model.encoder.step(slots, mel)), steps // 2, 3)
    decoder = timed(lambda: mx.eval(model.decoder.step(slots, audio)), steps // 2, 3)
    return whole, encoder.median, decoder.median


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


def rows(args: argparse.Namespace) -> Iterator[str]:
    bandwidth = copy_bandwidth()
    yield f"{mx.default_device()}, copy {bandwidth / 1e9:.0f} GB/s, median ms of {args.steps} steps"
    yield (
        "| weights | window | B | step | p95 | encoder | decoder | limit | step/limit "
        "| of 80 ms | GB held |\n|---|---|---|---|---|---|---|---|---|---|---|"
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
                model = started(config, weights, batch)
                whole, encoder, decoder = measure(model, batch, args.steps, args.warm)
                limit = 1000 * (nbytes + state) / bandwidth
                yield (
                    f"| {kind} | {window} | {batch} | {whole.median:.2f} | {whole.p95:.2f} "
                    f"| {encoder:.2f} | {decoder:.2f} | {limit:.2f} | {whole.median / limit:.1f} "
                    f"| {whole.median / 0.8:.0f} % | {mx.get_active_memory() / 1e9:.1f} |"
                )
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
    parser.add_argument("--device", choices=("cpu", "gpu"))
    args = parser.parse_args()
    set_graph_size()
    if args.device:
        mx.set_default_device(mx.Device(mx.cpu if args.device == "cpu" else mx.gpu))
    for line in rows(args):
        print(line, flush=True)


if __name__ == "__main__":
    main()
