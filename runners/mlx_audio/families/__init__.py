"""Every family of mlx-audio's models that transcribes. A new one is one description, one line."""

from __future__ import annotations

from .whisper import WHISPER

FAMILIES = {
    "whisper": WHISPER,
}
"""By the name that the probe gives them."""

NOT_FOR_FILES = {
    "qwen3_forced_aligner": "it times the words of a text that is known, and transcribes nothing",
    "lasr_ctc": "mlx-audio has only its network, not what makes text of it",
    "wav2vec": "it has no head that writes text: use a wav2vec2 with a CTC head",
}
"""Families that mlx-audio loads and that transcribe nothing, with the reason."""
