"""What MLX's settings of its CUDA graphs are worth to a step, each beside the product's own.

    python benchmarks/graph_settings.py off:MLX_USE_CUDA_GRAPHS=0 long:MLX_MAX_OPS_PER_BUFFER=100

MLX reads them once, so each setting is a process. All of a group hold the same model with full
windows and take turns: a few steps of one, then of the next, again and again, while the others
wait. The first line of a group is the product's setting. *Mixed* is a step of each batch size in
turn, as the rounds of a server have them. In place of a variable, ``rows`` is the number of rows up
to which products are the project's own kernels, and ``sums=0`` leaves a sum and its norm two
operations (``layers/linear.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

PRODUCT = "product"
OWN = ("rows", "sums")
MIXED = 0


@dataclass
class SettingWorker:
    """A process with one setting."""

    label: str
    process: subprocess.Popen[str]

    @classmethod
    def started(cls, setting: str, args: argparse.Namespace) -> SettingWorker:
        """``setting`` is ``label`` or ``label:NAME=VALUE,NAME=VALUE``."""
        label, _, listed = setting.partition(":")
        values = dict(one.split("=", 1) for one in listed.split(",") if one)
        own = [part for key in OWN if key in values for part in (f"--{key}", values.pop(key))]
        command = [sys.executable, __file__, "--worker", *own, "--most", str(max(args.batch))]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **values}
        )
        return cls(label, process)

    def wait(self) -> bool:
        """Until it is ready; False if it ended instead."""
        assert self.process.stdout
        return self.process.stdout.readline() == "ready\n"

    def steps(self, batch: int, steps: int) -> list[float]:
        """Milliseconds of each."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{batch} {steps}\n")
        self.process.stdin.flush()
        found: list[float] = json.loads(self.process.stdout.readline())
        return found

    def end(self) -> None:
        """Close its input, which is its end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


def work(most: int, rows: int | None, sums: int) -> None:
    """Serve steps to a driver on stdin and stdout."""
    from voxlive.engines.voxtral import set_graph_size

    set_graph_size()
    import numpy as np
    from engine_step import SHAPES, random_weights, started

    from voxlive.layers import linear
    from voxlive.layers.transformer import SIZES

    if rows:
        linear._MOST_ROWS = rows
    if not sums:
        del linear.CudaProjections._norm
    config = SHAPES["full"]
    config = replace(config, decoder=replace(config.decoder, window=1024))
    model = started(config, random_weights(config, "bf16")[0], most)
    shape = most, model.front_end.frames, config.audio.mel_bins
    mel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    sizes = [size for size in SIZES if size <= most]

    def step(batch: int) -> float:
        began = time.perf_counter()
        model.encode(list(range(batch)), mel[:batch])
        for _ in model.decode({}):
            pass
        return 1000 * (time.perf_counter() - began)

    for size in sizes * 2:
        step(size)
    print("ready", flush=True)
    for line in sys.stdin:
        batch, steps = map(int, line.split())
        turn = [batch] if batch else sizes
        print(json.dumps([step(turn[i % len(turn)]) for i in range(steps)]), flush=True)


def compare(settings: list[str], args: argparse.Namespace) -> None:
    """Print a line for each setting of a group."""
    workers = [SettingWorker.started(setting, args) for setting in [PRODUCT, *settings]]
    ready = [worker for worker in workers if worker.wait()]
    found: dict[tuple[str, int], list[float]] = {}
    for turn in range(args.turns):
        for batch in [*args.batch, MIXED]:
            order = ready if turn % 2 == 0 else ready[::-1]
            for worker in order:
                # The first steps of a turn find the caches as another process left them.
                times = worker.steps(batch, args.steps)[2 if batch else 0 :]
                found.setdefault((worker.label, batch), []).extend(times)
    for worker in ready:
        row: list[Any] = [worker.label]
        row += [f"{statistics.median(found[worker.label, batch]):.2f}" for batch in args.batch]
        row.append(f"{statistics.fmean(found[worker.label, MIXED]):.2f}")
        print(f"| {' | '.join(row)} |", flush=True)
    for worker in workers:
        worker.end()


def main() -> None:
    """The driver, or a worker of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="label:NAME=VALUE,NAME=VALUE")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--steps", type=int, default=22, help="of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--together", type=int, default=1, help="settings beside the product's")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sums", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--most", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.most, args.rows, args.sums)
        return
    print(f"| setting | {' | '.join(f'B = {batch}' for batch in args.batch)} | mixed |", flush=True)
    print("|" + "---|" * (len(args.batch) + 2), flush=True)
    for at in range(0, len(args.settings), args.together):
        compare(args.settings[at : at + args.together], args)


if __name__ == "__main__":
    main()
