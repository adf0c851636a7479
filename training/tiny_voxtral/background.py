"""What is heard besides speech: noise of every colour, tones like music, knocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.tiny_voxtral.model import SAMPLE_RATE

LENGTH = 1 << 19  # samples of one background, 32.8 s, used cyclically


def _unit(x: Tensor) -> Tensor:
    return x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)


def _uniform(count: int, low: float, high: float, device: str) -> Tensor:
    return torch.rand(count, 1, device=device) * (high - low) + low


def noise(count: int, device: str) -> Tensor:
    """Stationary and slowly swelling noise, white to brown: [count, LENGTH] of unit power."""
    hertz = torch.linspace(0, SAMPLE_RATE / 2, LENGTH // 2 + 1, device=device).clamp_min(30)
    shape = (hertz / 1000) ** -_uniform(count, -0.3, 1.2, device)
    centre = 2 ** _uniform(count, 6.5, 12.8, device)
    width = _uniform(count, 0.5, 6, device)
    band = torch.exp(-((hertz / centre).log2() / width).square())
    shape = shape * (0.01 + band)
    phase = torch.exp(2j * math.pi * torch.rand_like(shape))
    wave = torch.fft.irfft(shape * torch.randn_like(shape) * phase, n=LENGTH)
    swell = torch.randn(count, 1, 64, device=device) * 0.7
    swell = torch.nn.functional.interpolate(swell, size=LENGTH, mode="linear")[:, 0].exp()
    return _unit(torch.where(torch.rand(count, 1, device=device) < 0.35, wave * swell, wave))


def _voice(count: int, device: str) -> Tensor:
    """One line of notes a row, from steady tones to plucked runs: [count, LENGTH]."""
    notes = 256
    mean = 2 ** _uniform(count, -3.5, 2, device)
    steady = torch.rand(count, 1, device=device) < 0.2
    lengths = torch.where(steady, 40.0, mean * (0.5 + torch.rand(count, notes, device=device)))
    starts = (lengths.cumsum(1) - lengths) * SAMPLE_RATE
    now = torch.arange(LENGTH, device=device, dtype=torch.float32).expand(count, -1).contiguous()
    index = (torch.searchsorted(starts, now, right=True) - 1).clamp(0, notes - 1)
    semitones = _uniform(count, 0, 50, device) + torch.randn(count, notes, device=device) * 5
    tuned = torch.rand(count, 1, device=device) < 0.8
    semitones = torch.where(tuned, semitones.round(), semitones).clamp(0, 64)
    pitch = 55 * 2 ** (semitones / 12)
    age = (now - starts.gather(1, index)) / SAMPLE_RATE
    glide = _uniform(count, -0.3, 0.3, device) * (torch.rand(count, 1, device=device) < 0.15)
    hertz = pitch.gather(1, index) * 2 ** (glide * age.clamp_max(4))
    vibrato = torch.sin(2 * math.pi * 5.5 * now / SAMPLE_RATE) * 0.006
    hertz = hertz * (1 + vibrato * (torch.rand(count, 1, device=device) < 0.3))
    turns = (hertz.double() / SAMPLE_RATE).cumsum(1).frac().float()
    wave = torch.zeros_like(now)
    rolloff = _uniform(count, 0.3, 2.5, device)
    overtones = (torch.rand(count, 1, device=device) < 0.75).float()
    for k in range(1, 9):
        level = k**-rolloff * (1.0 if k == 1 else overtones)
        wave += level * torch.sin(2 * math.pi * k * turns) * (hertz * k < 7600)
    held = torch.rand(count, 1, device=device) < 0.4
    decay = torch.exp(-age / 2 ** _uniform(count, -4, 1, device))
    return wave * (age / 0.01).clamp_max(1) * torch.where(held, 1.0, decay)


def music(count: int, device: str) -> Tensor:
    """Tones, chords and tunes of one to four voices: [count, LENGTH] of unit power."""
    wave = _voice(count, device)
    for _ in range(3):
        wave += _voice(count, device) * (torch.rand(count, 1, device=device) < 0.6)
    return _unit(wave)


def knocks(count: int, device: str) -> Tensor:
    """Clicks, taps and bursts at random times: [count, LENGTH] of unit power."""
    rate = 2 ** _uniform(count, -1, 4, device) / SAMPLE_RATE
    hits = (torch.rand(count, LENGTH, device=device) < rate).float()
    hits[:, 0] = 1
    hits *= torch.rand_like(hits)
    size = 8192
    age = torch.arange(size, device=device) / SAMPLE_RATE
    decay = torch.exp(-age / 2 ** _uniform(count, -9, -4, device))
    tone = torch.sin(2 * math.pi * age * 2 ** _uniform(count, 7, 12, device))
    rough = _uniform(count, 0, 1, device)
    body = decay * (rough * torch.randn(count, size, device=device) + (1 - rough) * tone)
    spectrum = torch.fft.rfft(hits) * torch.fft.rfft(body, n=LENGTH)
    return _unit(torch.fft.irfft(spectrum, n=LENGTH))


def bank(count: int, device: str) -> Tensor:
    """Backgrounds [2 * count, LENGTH], half precision: noise, then tones and knocks."""
    rows = []
    for kind, share in ((noise, count), (music, count - count // 5), (knocks, count // 5)):
        for first in range(0, share, 16):
            made = kind(min(16, share - first), device)
            rows.append(made.clamp(-60, 60).half())
    return torch.cat(rows)
