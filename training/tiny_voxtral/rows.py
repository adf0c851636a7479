"""Training rows: utterances set into a stream of audio, and the tokens it should give.

A row is 32 tokens of silence and AUDIO_TOKENS of audio. A word that ends at sample e belongs at
index `32 + e // 1280 + n_delay + 1` of the token row, or in the next free place; [STREAMING_WORD]
stands before it unless text stands there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import torch
from torch import Tensor

from training.tiny_voxtral.bpe import PAD, SPECIAL, WORD, Tokenizer
from training.tiny_voxtral.model import LEFT_PAD, SAMPLE_RATE, SAMPLES_PER_TOKEN

AUDIO_TOKENS = 352
TOKENS = LEFT_PAD + AUDIO_TOKENS
SAMPLES = AUDIO_TOKENS * SAMPLES_PER_TOKEN
SEGMENTS = 24  # most utterances in a row
NEVER = 1 << 30
DELAYS, USUAL_DELAY = (3, 12), 6
AUDIBLE = 60  # s16; quieter ends of an utterance are cut off, so that pauses are drawn, not given


@dataclass
class Rows:
    """A batch on the host; audio is still positions in the pool.

    at, length, gain: [b, SEGMENTS] where an utterance starts in the row (NEVER if none), its
    samples and its level; start: [b, SEGMENTS] in the pool; tokens: [b, TOKENS + 1];
    delay: [b]; mute: [b] the sample from which the row is digital silence.
    """

    at: Tensor
    start: Tensor
    length: Tensor
    gain: Tensor
    tokens: Tensor
    delay: Tensor
    mute: Tensor

    def to(self, device: str) -> Rows:
        """The same batch on a device."""
        return Rows(*(x.to(device, non_blocking=True) for x in vars(self).values()))


class Pool:
    """Spoken utterances: samples on the device, positions and tokens on the host."""

    def __init__(self, samples: int, device: str, tokenizer: Tokenizer) -> None:
        self.audio = torch.zeros(samples, dtype=torch.int16, device=device)
        self.filled = 0
        # An utterance: first sample, samples, first word, words. A word: end, first token, tokens.
        self.utterances = np.zeros((samples // 8_000, 4), np.int64)
        self.words = np.zeros((samples // 3_000, 3), np.int64)
        self.tokens = np.zeros(samples // 1_000, np.int16)
        self.counts = [0, 0, 0]
        self._tokenizer = tokenizer

    @property
    def hours(self) -> float:
        """Speech held."""
        return self.filled / SAMPLE_RATE / 3600

    def load(self, table: Path) -> bool:
        """Take a shard in; False if it does not fit any more."""
        audio = np.fromfile(table.with_suffix(".pcm"), np.int16)
        if self.filled + len(audio) > len(self.audio):
            return False
        utterance, word, token = self.counts
        at = 0
        for line in table.read_text().splitlines():
            _, _, samples, words = line.split("\t")
            heard = np.flatnonzero(np.abs(audio[at : at + int(samples)]) > AUDIBLE)
            lead, end = (int(heard[0]), int(heard[-1]) + 1) if len(heard) else (0, int(samples))
            first = word
            for part in words.split(" "):
                text, _, word_end = part.rpartition(":")
                ids = self._tokenizer.encode_word(text)
                self.words[word] = max(0, int(word_end) - lead), token, len(ids)
                self.tokens[token : token + len(ids)] = ids
                word, token = word + 1, token + len(ids)
            self.utterances[utterance] = self.filled + at + lead, end - lead, first, word - first
            utterance, at = utterance + 1, at + int(samples)
        self.audio[self.filled : self.filled + len(audio)].copy_(torch.from_numpy(audio))
        self.filled += len(audio)
        self.counts = [utterance, word, token]
        return True

    def rows(self, count: int, seed: int) -> Rows:
        """A random batch."""
        at = np.full((count, SEGMENTS), NEVER, np.int32)
        start, length = np.zeros((count, SEGMENTS), np.int64), np.zeros_like(at)
        gain = np.ones((count, SEGMENTS), np.float32)
        tokens = np.full((count, TOKENS + 1), PAD, np.int64)
        delay, mute = np.zeros(count, np.int64), np.full(count, NEVER, np.int32)
        utterances = self.utterances[: self.counts[0]]
        _fill(
            seed, utterances, self.words, self.tokens, at, start, length, gain, tokens, delay, mute
        )
        arrays = (at, start, length, gain, tokens, delay, mute)
        return Rows(*(torch.from_numpy(array) for array in arrays))


@numba.njit(nogil=True)
def _between(low: float, high: float) -> float:
    return low + (high - low) * np.random.rand()


@numba.njit(nogil=True)
def _first_pause() -> float:
    kind = np.random.rand()
    if kind < 0.25:
        return 0.0
    if kind < 0.6:
        return _between(0.0, 0.5)
    return _between(0.5, 3.0) if kind < 0.85 else _between(3.0, 10.0)


@numba.njit(nogil=True)
def _pause() -> float:
    kind = np.random.rand()
    if kind < 0.3:
        return _between(0.02, 0.25)
    if kind < 0.65:
        return _between(0.25, 0.8)
    return _between(0.8, 2.5) if kind < 0.9 else _between(2.5, 8.0)


@numba.njit(nogil=True)
def _write_word(row, place, free, ids):
    """Put a word at `place` or the first free index after it; returns the new first free index."""
    place = max(place, free)
    if place < len(row) and row[place - 1] == PAD:
        row[place] = WORD
        place += 1
    for i in ids:
        if place < len(row):
            row[place] = i
        place += 1
    return place


@numba.njit(nogil=True)
def _fill(seed, utterances, words, ids, at, start, length, gain, tokens, delay, mute):
    """Fill the rows; 8 % hold no speech, 25 % end early, half of these in digital silence."""
    np.random.seed(seed)
    for row in range(len(at)):
        delay[row] = USUAL_DELAY
        if np.random.rand() < 0.5:
            delay[row] = np.random.randint(DELAYS[0], DELAYS[1] + 1)
        if np.random.rand() < 0.08:
            continue
        most = SEGMENTS
        if np.random.rand() < 0.25:
            most = np.random.randint(1, 5)
        position = int(SAMPLE_RATE * _first_pause())
        utterance, level, free = np.random.randint(len(utterances)), 1.0, 0
        for segment in range(most):
            if position >= SAMPLES:
                break
            first, samples, word, count = utterances[utterance]
            at[row, segment], start[row, segment] = position, first
            length[row, segment], gain[row, segment] = samples, level
            for w in range(word, word + count):
                frame = (position + words[w, 0]) // SAMPLES_PER_TOKEN
                place = LEFT_PAD + frame + delay[row] + 1
                spelling = ids[words[w, 1] : words[w, 1] + words[w, 2]]
                free = _write_word(tokens[row], place, free, spelling)
            position += samples
            if segment == most - 1 and most < SEGMENTS and np.random.rand() < 0.5:
                mute[row] = position + int(SAMPLE_RATE * _between(0.0, 0.6))
            position += int(SAMPLE_RATE * _pause())
            if np.random.rand() < 0.85 and utterance + 1 < len(utterances):
                utterance += 1
            else:
                utterance = np.random.randint(len(utterances))
                level = 10 ** (np.random.randn() * 0.15)


def corrupt(tokens: Tensor) -> Tensor:
    """The tokens a model with errors might have written: up to 12 % of a row's text is wrong."""
    rate = torch.rand(len(tokens), 1, device=tokens.device) * 0.12
    chance = torch.rand(tokens.shape, device=tokens.device)
    other = torch.randint_like(tokens, SPECIAL, 2048)
    coin = torch.rand(tokens.shape, device=tokens.device)
    said = tokens != PAD
    wrong = torch.where(coin < 0.3, torch.full_like(tokens, PAD), other)
    tokens = torch.where(said & (chance < rate), wrong, tokens)
    invented = torch.where(coin < 0.5, other, torch.full_like(tokens, WORD))
    return torch.where(~said & (chance < 0.1 * rate), invented, tokens)
