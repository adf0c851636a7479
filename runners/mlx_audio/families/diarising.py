"""Models that write who said what and when, over audio as long as can be: labels hold within it."""

from __future__ import annotations

from ...cutting import CutOptions
from .. import outputs
from ..family import Arguments, Ask, Family, Tokens

_HALF_HOUR = CutOptions(longest_s=1800, pause_s=60)
_WRITTEN = Tokens(most=32_768)


def _after_instruction(arguments: Arguments, _ask: Ask) -> Arguments:
    """Its prompt is the instruction: what is asked for comes after the one it was trained on."""
    from mlx_audio.stt.models.moss_transcribe_diarize.moss_transcribe_diarize import DEFAULT_PROMPT

    if prompt := arguments.get("prompt"):
        arguments["prompt"] = f"{DEFAULT_PROMPT}\n{prompt}"
    return arguments


VIBEVOICE = Family(
    "vibevoice_asr",
    _HALF_HOUR,
    outputs.diarised,
    tokens=_WRITTEN,
    prompt="context",
    temperature="temperature",
    fixed={"sampling_rate": 24_000},
    rate=24_000,
    speakers=True,
)
MOSS_TRANSCRIBE = Family(
    "moss_transcribe_diarize",
    _HALF_HOUR,
    outputs.diarised,
    tokens=_WRITTEN,
    prompt="prompt",
    temperature="temperature",
    adapt=_after_instruction,
    speakers=True,
)
