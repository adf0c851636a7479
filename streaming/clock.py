"""The sample clock: every time in a session is a count of 16 kHz samples since its first sample."""

from __future__ import annotations

SAMPLE_RATE = 16_000


def seconds(samples: int) -> float:
    """Samples on the session's clock as seconds, rounded to the millisecond."""
    return round(samples / SAMPLE_RATE, 3)


def samples(seconds: float) -> int:
    """Seconds as a whole number of samples."""
    return round(seconds * SAMPLE_RATE)
