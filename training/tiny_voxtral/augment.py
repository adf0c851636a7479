"""From rows to log-mel frames on the device: gather, mix, level, colour, mask."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from training.tiny_voxtral import background
from training.tiny_voxtral.model import (
    LEFT_PAD,
    MELS,
    SAMPLE_RATE,
    SAMPLES_PER_TOKEN,
    log_mel,
    mel_filters,
)
from training.tiny_voxtral.rows import NEVER, SAMPLES, Rows


def _uniform(low: float, high: float, *shape: int, device: str) -> Tensor:
    return torch.rand(*shape, device=device) * (high - low) + low


def _decibels(x: Tensor) -> Tensor:
    return 10 ** (x / 20)


class Augment:
    """The filters and the background bank; calling it makes a batch of log-mel frames."""

    def __init__(self, pool: Tensor, backgrounds: int, device: str) -> None:
        self.pool, self.device = pool, device
        self.bank = background.bank(backgrounds, device)
        self.filters = torch.tensor(mel_filters(), device=device)
        hertz = torch.linspace(0, SAMPLE_RATE / 2, len(self.filters), device=device)[:, None]
        self.centres = (self.filters * hertz).sum(0) / self.filters.sum(0)
        self.sample = torch.arange(SAMPLES, device=device, dtype=torch.int32)
        self._frames = self.frames if device == "cpu" else torch.compile(self.frames)

    @torch.no_grad()
    def __call__(self, rows: Rows) -> Tensor:
        """Log-mel frames [b, 128, 8 * TOKENS] of the rows."""
        return self._frames(rows)

    def frames(self, rows: Rows) -> Tensor:
        """What __call__ does, before it is compiled."""
        speech, heard = self.speech(rows)
        audio = self.mix(speech, heard, rows)
        audio = functional.pad(audio, (LEFT_PAD * SAMPLES_PER_TOKEN, 0))
        return self.mask(log_mel(audio, self.filters, self.colour(len(audio))))

    def speech(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The utterances at their places, unit power while someone speaks, and where that is."""
        count = len(rows.at)
        now = self.sample.expand(count, -1).contiguous()
        segment = torch.searchsorted(rows.at, now, right=True) - 1
        inside = segment >= 0
        segment = segment.clamp_min(0)
        offset = now - rows.at.gather(1, segment)
        inside &= offset < rows.length.gather(1, segment)
        index = (rows.start.gather(1, segment) + offset) * inside
        audio = self.pool[index].float() * rows.gain.gather(1, segment) * inside
        power = audio.square().sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp_min(1)
        return audio / power.sqrt().clamp_min(1e-3), inside

    def background(self, count: int) -> tuple[Tensor, Tensor]:
        """A background for each row, and whether it is music rather than noise."""
        half = len(self.bank) // 2
        tonal = torch.rand(count, 1, device=self.device) < 0.3
        which = torch.randint(half, (count, 1), device=self.device) + half * tonal
        shift = torch.randint(background.LENGTH, (count, 1), device=self.device)
        index = which * background.LENGTH + ((shift + self.sample) & (background.LENGTH - 1))
        return self.bank.view(-1)[index].float(), tonal

    def mix(self, speech: Tensor, heard: Tensor, rows: Rows) -> Tensor:
        """Speech at -36..-12 dBFS; under it nothing, noise or a little music, or both in turns."""
        count, device = len(speech), self.device
        other, tonal = self.background(count)
        below = _uniform(8, 45, count, 1, device=device) + 8 * tonal
        kind = torch.rand(count, 1, device=device)
        below = torch.where(kind < 0.35, torch.inf, below)
        in_turns = kind > 0.88
        gaps = functional.avg_pool1d(functional.avg_pool1d(heard[:, None].float(), 320), 13, 1, 6)
        gaps = functional.interpolate(gaps, size=SAMPLES, mode="linear")[:, 0]
        gaps = torch.where(in_turns, (1 - gaps) ** 2 * (gaps < 0.5), 1.0)
        below = torch.where(in_turns, _uniform(-10, 15, count, 1, device=device), below)
        audio = speech + other * gaps * _decibels(-below)
        silent = rows.at[:, :1] == NEVER
        nothing = silent & (kind < 0.15)
        audio = torch.where(silent, torch.where(nothing, 0.0, other), audio)
        level = torch.where(
            silent,
            _uniform(-80, -10, count, 1, device=device),
            _uniform(-36, -12, count, 1, device=device),
        )
        audio = (audio * _decibels(level)).clamp(-1, 1)
        whole = (audio * 32768).round() / 32768
        audio = torch.where(torch.rand(count, 1, device=device) < 0.5, whole, audio)
        return audio * (self.sample < rows.mute[:, None])

    def colour(self, count: int) -> Tensor:
        """Power gain of each mel bin [count, 128, 1]: a smooth curve, sometimes a low-pass."""
        knots = torch.randn(count, 1, 9, device=self.device) * 3
        knots *= torch.rand(count, 1, 1, device=self.device) < 0.7
        curve = functional.interpolate(knots, size=MELS, mode="linear", align_corners=True)[:, 0]
        top = _uniform(3300, 7500, count, 1, device=self.device)
        narrow = torch.rand(count, 1, device=self.device) < 0.12
        curve = curve - 90 * (narrow & (self.centres > top))
        return (10 ** (curve / 10))[..., None]

    def mask(self, mel: Tensor) -> Tensor:
        """Hide a few bands and moments behind the row's mean."""
        mean = mel.mean((1, 2), keepdim=True)
        bins = torch.arange(MELS, device=self.device)[:, None]
        frames = torch.arange(mel.shape[-1], device=self.device)
        for axis, length, widest in (*[(bins, MELS, 10)] * 2, *[(frames, mel.shape[-1], 8)] * 3):
            width = torch.rand(len(mel), 1, 1, device=self.device) * widest
            width *= torch.rand(len(mel), 1, 1, device=self.device) < 0.4
            first = torch.rand(len(mel), 1, 1, device=self.device) * (length - widest)
            mel = torch.where((axis >= first) & (axis < first + width), mean, mel)
        return mel
