"""Train on rows drawn from the shards as they come in; see README.md.

python -m tiny_voxtral.train --shards DIR --tokenizer DIR/tekken.json --out DIR --seconds 1000
"""

from __future__ import annotations

import argparse
import queue
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from training.tiny_voxtral.augment import Augment
from training.tiny_voxtral.bpe import BOS, PAD, Tokenizer
from training.tiny_voxtral.model import (
    LEFT_PAD,
    Attend,
    TinyConfig,
    TinyEncoderConfig,
    Voxtral,
    sliding,
)
from training.tiny_voxtral.rows import AUDIO_TOKENS, SAMPLES, TOKENS, Pool, corrupt

WARM_UP, DECAY = 400, 0.3  # steps, share of the time
EMA, WEIGHT_DECAY = 0.9995, 0.05
FIRST_SPEECH_HOURS = 2.0
SAVE_EVERY = 100.0  # seconds
PAD_WEIGHT = 0.5


def load_shards(pool: Pool, folder: Path, end: threading.Event) -> None:
    """Move shards into the pool until it is full or training ends."""
    full = False
    while not end.is_set() and not full:
        for table in sorted(folder.glob("[0-9]*.tsv")):
            full = not pool.load(table)
            if full:
                break
            table.unlink()
            table.with_suffix(".pcm").unlink()
        time.sleep(0.2)
    (folder / "STOP").touch()


def feed(pool: Pool, batch: int, seed: int, ready: queue.Queue, end: threading.Event) -> None:
    """Keep batches ready."""
    while not end.is_set():
        rows = pool.rows(batch, seed)
        seed += 2
        while not end.is_set():
            try:
                ready.put(rows, timeout=0.5)
                break
            except queue.Full:
                continue


def attention(window: int, length: int, device: str) -> Attend:
    """Sliding-window attention: block-sparse on a GPU, a plain mask elsewhere."""
    if device == "cpu":
        return sliding(window)

    def visible(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < window)

    blocks = create_block_mask(visible, None, None, length, length, device=device)
    return lambda q, k, v: flex_attention(q, k, v, block_mask=blocks, enable_gqa=True)


def loss_function(net: Voxtral, device: str):
    """(frames, tokens, heard tokens, delay) to the loss, tokens right and tokens that count."""
    config = net.config
    encode = attention(config.encoder_args.sliding_window, 4 * TOKENS, device)
    decode = attention(config.decoder.sliding_window, TOKENS, device)
    index = torch.arange(TOKENS, device=device)

    def loss(mel: Tensor, target: Tensor, heard: Tensor, delay: Tensor) -> tuple[Tensor, ...]:
        prompt = index <= LEFT_PAD + delay[:, None]
        heard = torch.where(prompt, PAD, heard[:, :-1])
        heard = torch.where(index == 0, BOS, heard)
        target = target[:, 1:]
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            embeddings = net.encoder(net.encoder.stem(mel), encode)
            logits = net.decoder(embeddings, heard, delay, decode)
        each = functional.cross_entropy(
            logits.float().flatten(0, 1), target.flatten(), reduction="none"
        )
        counts = index >= LEFT_PAD + delay[:, None]
        weight = torch.where(target == PAD, PAD_WEIGHT, 1.0) * counts
        text = counts & (target != PAD)
        right = ((logits.argmax(-1) == target) & text).sum()
        return (each.view_as(target) * weight).sum() / weight.sum(), right, text.sum()

    return loss if device == "cpu" else torch.compile(loss)


def learning_rate(peak: float, step: int, done: float) -> float:
    """Warm-up over steps, constant, then down to 1 % over the last DECAY of the time."""
    return peak * min(1, (step + 1) / WARM_UP) * max(0.01, min(1, (1 - done) / DECAY))


class Trainer:
    """The network, its optimiser and the running average of its weights, which is what is kept."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.net = Voxtral(TinyConfig(encoder_args=TinyEncoderConfig(n_layers=args.encoder_layers)))
        self.net.initialise()
        if args.init:
            self.net.load_state_dict({k: v.float() for k, v in load_file(args.init).items()})
        self.net.to(args.device)
        parameters = list(self.net.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=args.device != "cpu")
        self.average = [p.detach().clone() for p in parameters]
        self.loss = loss_function(self.net, args.device)

    def step(self, mel: Tensor, tokens: Tensor, delay: Tensor, rate: float, keep: float) -> tuple:
        """One update; returns loss, tokens right, tokens that count (on the device)."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss, right, text = self.loss(mel, tokens, corrupt(tokens), delay)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=False)
        torch._foreach_lerp_(self.average, [p.detach() for p in self.net.parameters()], 1 - keep)
        return loss.detach(), right, text

    def save(self) -> None:
        """Write the averaged weights as checkpoint.safetensors, whole or not at all."""
        names = (name for name, _ in self.net.named_parameters())
        weights = {n: p.half().cpu() for n, p in zip(names, self.average, strict=True)}
        part = self.args.out / "part.safetensors"
        save_file(weights, part)
        part.replace(self.args.out / "checkpoint.safetensors")


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    began = time.monotonic()
    pool = Pool(int(args.pool_hours * 3600 * 16_000), args.device, Tokenizer(args.tokenizer))
    end, ready = threading.Event(), queue.Queue(6)
    threads = [threading.Thread(target=load_shards, args=(pool, args.shards, end))]
    threads[0].start()
    trainer = Trainer(args)
    augment = Augment(pool.audio, args.backgrounds, args.device)
    while pool.hours < min(FIRST_SPEECH_HOURS, args.pool_hours / 2):
        time.sleep(0.2)
    print(f"{pool.hours:.1f} h of speech after {time.monotonic() - began:.0f} s", flush=True)
    for k in range(2):
        feeder = threading.Thread(
            target=feed, args=(pool, args.batch, args.seed * 1000 + k, ready, end)
        )
        threads.append(feeder)
        feeder.start()
    loop(args, trainer, augment, pool, ready)
    trainer.save()
    end.set()
    for thread in threads:
        thread.join()


def loop(
    args: argparse.Namespace, trainer: Trainer, augment: Augment, pool: Pool, ready: queue.Queue
) -> None:
    """Step until the time or the number of steps is up."""
    began = saved = logged = time.monotonic()
    step = 0
    while step < args.steps and (done := (time.monotonic() - began) / args.seconds) < 1:
        rows = ready.get().to(args.device)
        rate = learning_rate(args.rate, step, done)
        keep = min(EMA, (1 + step) / (10 + step))
        loss, right, text = trainer.step(augment(rows), rows.tokens, rows.delay, rate, keep)
        step += 1
        if step % args.log_every == 0:
            took, logged = time.monotonic() - logged, time.monotonic()
            print(
                f"{step} {logged - began:.0f} s loss {loss.item():.4f} "
                f"accuracy {right.item() / max(1, text.item()):.4f} rate {rate:.1e} "
                f"{1000 * took / args.log_every:.0f} ms/step {pool.hours:.0f} h of speech",
                flush=True,
            )
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            trainer.save()
        if step % args.log_every == 0 and (changed := args.out / "seconds").exists():
            args.seconds = float(changed.read_text())
    heard = step * args.batch * SAMPLES / 16_000 / 3600
    print(f"{step} steps, {heard:.0f} h heard, rows of {AUDIO_TOKENS} tokens", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="weights to start from")
    parser.add_argument(
        "--seconds", type=float, default=1000, help="a file OUT/seconds changes it on the way"
    )
    parser.add_argument("--steps", type=int, default=1 << 30)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--encoder-layers", type=int, default=TinyEncoderConfig.n_layers)
    parser.add_argument("--pool-hours", type=float, default=500)
    parser.add_argument("--backgrounds", type=int, default=192)
    parser.add_argument("--log-every", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train(args)


if __name__ == "__main__":
    main()
