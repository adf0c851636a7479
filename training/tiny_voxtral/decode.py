"""Greedy streaming decoding in torch: what every other engine must reproduce in float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.tiny_voxtral.bpe import BOS, PAD, SPECIAL, WORD, Tokenizer
from training.tiny_voxtral.model import (
    LEFT_PAD,
    SAMPLES_PER_TOKEN,
    Voxtral,
    log_mel,
    mel_filters,
    sliding,
)

BUFFER = 10  # tokens of padding after the delay, for the last word's pieces
CHUNK = 16  # tokens encoded at once
SECONDS_PER_TOKEN = 0.08


@dataclass(frozen=True)
class DecodedWord:
    """A word and the second at which it ended."""

    text: str
    end: float


def tokens_in(samples: int, delay: int) -> int:
    """Positions of a clip: silence, audio, then padding for the delay and the last word."""
    return LEFT_PAD + -(-samples // SAMPLES_PER_TOKEN) + delay + 1 + BUFFER


@torch.no_grad()
def transcribe(
    net: Voxtral, clips: list[np.ndarray], delay: int, device: str = "cpu"
) -> list[list[int]]:
    """Tokens after the prompt for each clip (float32 [n] at 16 kHz), decoded as one batch."""
    sizes = [tokens_in(len(clip), delay) for clip in clips]
    audio = torch.zeros(len(clips), max(sizes) * SAMPLES_PER_TOKEN, device=device)
    for row, clip in zip(audio, clips, strict=True):
        start = LEFT_PAD * SAMPLES_PER_TOKEN
        row[start : start + len(clip)] = torch.as_tensor(clip)
    frames = net.encoder.stem(log_mel(audio, torch.tensor(mel_filters(), device=device)))
    embeddings = encode(net, frames)
    prompt = LEFT_PAD + delay + 1
    tokens = torch.full((len(clips), max(sizes) + 1), PAD, device=device)
    tokens[:, 0] = BOS
    attend = sliding(net.config.decoder.sliding_window)
    delays = torch.full((len(clips),), delay, device=device)
    caches: list[dict] = [{} for _ in net.decoder.layers]
    start = 0
    for stop in range(prompt, max(sizes) + 1):
        span = slice(start, stop)
        logits = net.decoder(embeddings[:, span], tokens[:, span], delays, attend, start, caches)
        tokens[:, stop] = logits[:, -1].argmax(-1)
        start = stop
    rows = tokens[:, prompt:].tolist()
    return [row[: size + 1 - prompt] for row, size in zip(rows, sizes, strict=True)]


def encode(net: Voxtral, frames: Tensor) -> Tensor:
    """Convolved frames [b, 4 t, dim] to audio embeddings [b, t, width], a chunk at a time."""
    attend = sliding(net.config.encoder_args.sliding_window)
    caches: list[dict] = [{} for _ in net.encoder.transformer_layers]
    step = CHUNK * net.config.encoder_args.downsample_factor
    starts = range(0, frames.shape[1], step)
    return torch.cat([net.encoder(frames[:, i : i + step], attend, i, caches) for i in starts], 1)


def words(tokens: list[int], tokenizer: Tokenizer) -> list[DecodedWord]:
    """Words with their ends: a word begins at [STREAMING_WORD] or at a leading space."""
    found: list[tuple[list[int], int]] = []
    marked: int | None = None
    for place, token in enumerate(tokens):
        if token == WORD:
            marked = place
        elif token >= SPECIAL:
            if tokenizer.entries[token - SPECIAL].startswith(b" ") or not found:
                found.append(([], place if marked is None else marked))
            found[-1][0].append(token)
            marked = None
    return [
        DecodedWord(tokenizer.decode(ids), (place + 1) * SECONDS_PER_TOKEN) for ids, place in found
    ]


def align(reference: list[str], heard: list[str]) -> tuple[int, list[tuple[int, int]]]:
    """Word errors, and the (reference, heard) indices of the words that are the same."""
    cost = np.zeros((len(reference) + 1, len(heard) + 1), int)
    cost[:, 0], cost[0] = np.arange(len(reference) + 1), np.arange(len(heard) + 1)
    for i, word in enumerate(reference, 1):
        for j, other in enumerate(heard, 1):
            swapped = cost[i - 1, j - 1] + (word != other)
            cost[i, j] = min(swapped, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    same, (i, j) = [], (len(reference), len(heard))
    while i and j:
        if cost[i, j] == cost[i - 1, j - 1] + (reference[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            if reference[i] == heard[j]:
                same.append((i, j))
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return int(cost[-1, -1]), same[::-1]
