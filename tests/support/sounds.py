"""Sounds that are no speech, made from a seed: float32 [n] at 16 kHz."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from voxlive.values import SAMPLE_RATE, Samples

Rng = np.random.Generator
_TONIC = 220.0


def silence(length: int, _rng: Rng) -> Samples:
    """Zeros."""
    return np.zeros(length, np.float32)


def white_noise(length: int, rng: Rng) -> Samples:
    """At -20 dBFS."""
    return (0.1 * rng.standard_normal(length)).astype(np.float32)


def chords(length: int, rng: Rng) -> Samples:
    """Major and minor triads that fade, one after another."""
    sound, at = np.zeros(length), 0
    while at < length:
        count = min(length - at, int(SAMPLE_RATE * rng.uniform(0.8, 2.5)))
        root = _TONIC * 2 ** (rng.integers(-12, 8) / 12)
        third = rng.integers(3, 5)
        notes = sum(_tone(root * 2 ** (step / 12), count, rng) for step in (0, third, 7))
        sound[at : at + count] = notes * _fading(count, 1.2)
        at += count
    return _loud(sound, 0.2)


def key_clicks(length: int, rng: Rng) -> Samples:
    """Short bursts of noise, five or six a second."""
    sound, at = 1e-4 * rng.standard_normal(length), 0
    while (at := at + int(SAMPLE_RATE * max(0.05, rng.exponential(0.18)))) < length - 800:
        count = int(rng.integers(80, 600))
        burst = rng.uniform(0.05, 0.4) * rng.standard_normal(count)
        sound[at : at + count] += burst * np.exp(-np.arange(count) / (count / 5))
    return np.clip(sound, -1, 1).astype(np.float32)


def music(length: int, rng: Rng) -> Samples:
    """A melody over chords, a bass drum and a cymbal."""
    beat = int(SAMPLE_RATE * 60 / rng.integers(80, 140))
    sound = np.zeros(length + 5 * beat)
    harmony = ((0, 4, 7), (5, 9, 12), (7, 11, 14), (9, 12, 16))
    for number, at in enumerate(range(0, length, beat // 2)):
        step = rng.choice((0, 2, 4, 5, 7, 9, 11)) + 12 * rng.integers(-1, 2)
        note = _tone(1.5 * _TONIC * 2 ** (step / 12), beat, rng) * _fading(beat, 0.5)
        sound[at : at + beat] += 0.5 * note
        if number % 8 == 0:
            for step in harmony[number // 8 % 4]:
                chord = _tone(0.75 * _TONIC * 2 ** (step / 12), 4 * beat, rng)
                sound[at : at + 4 * beat] += 0.15 * chord
        if number % 2 == 0:
            drum = np.sin(2 * np.pi * 60 * np.arange(1600) / SAMPLE_RATE)
            sound[at : at + 1600] += 0.8 * drum * _fading(1600, 0.025)
        sound[at : at + 500] += 0.15 * rng.standard_normal(500) * _fading(500, 0.0075)
    return _loud(sound[:length], 0.3)


SOUNDS: dict[str, Callable[[int, Rng], Samples]] = {
    sound.__name__: sound for sound in (silence, white_noise, chords, key_clicks, music)
}


def _tone(frequency: float, length: int, rng: Rng) -> np.ndarray:
    """Six partials with phases of their own."""
    time = 2 * np.pi * frequency * np.arange(length) / SAMPLE_RATE
    partials = (np.sin(n * time + rng.uniform(0, 6.3)) / n**1.5 for n in range(1, 7))
    return np.sum(list(partials), axis=0)


def _fading(length: int, seconds: float) -> np.ndarray:
    return np.exp(-np.arange(length) / (SAMPLE_RATE * seconds))


def _loud(sound: np.ndarray, peak: float) -> Samples:
    return (peak * sound / np.abs(sound).max()).astype(np.float32)


def leaked(
    sound: Samples,
    decibels: float = -12,
    delay_ms: float = 40,
    seed: int = 9,
    decay_s: float = 0.35,
) -> Samples:
    """What a microphone has of a loudspeaker that plays this: quieter, later, through a room.

    ``decay_s``: the time in which the room's sound falls by 60 dB.
    """
    times = np.arange(int(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
    room = np.random.default_rng(seed).standard_normal(len(times)) * 10 ** (-3 * times / 0.35)
    room[0] += 3
    room *= 10 ** (decibels / 20) / np.sqrt((room**2).sum())
    size = 1 << (len(sound) + len(room)).bit_length()
    heard = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(room, size), size)
    delay = int(delay_ms * SAMPLE_RATE / 1000)
    late = np.concatenate([np.zeros(max(delay, 0)), heard])
    return late[max(-delay, 0) :][: len(sound)].astype(np.float32)
