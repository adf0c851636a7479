"""The families of speech models: one entry each, in the order in which they are matched."""

from __future__ import annotations

from types import MappingProxyType

from voxlive.checkpoints.families.family import Evidence, Match, ModelFamily, match
from voxlive.checkpoints.families.multimodal import MULTIMODAL
from voxlive.checkpoints.families.nemo import CANARY, NEMOTRON, PARAKEET
from voxlive.checkpoints.families.speech import SPEECH, WHISPER_FAMILY
from voxlive.checkpoints.families.voxtral import VOXTRAL, VOXTRAL_REALTIME

FAMILIES = MappingProxyType(
    {
        family.name: family
        for family in (
            VOXTRAL_REALTIME,
            VOXTRAL,
            *MULTIMODAL,
            *SPEECH,
            CANARY,
            NEMOTRON,
            PARAKEET,
            WHISPER_FAMILY,
        )
    }
)


def family_named(name: str) -> ModelFamily:
    """Raises KeyError."""
    return FAMILIES[name]


def recognise_family(evidence: Evidence) -> Match | None:
    """The first family that documents or tensors match; the name does not count."""
    found = (match(family, evidence) for family in FAMILIES.values())
    return next((one for one in found if one is not None), None)


def hints(name: str) -> tuple[str, ...]:
    """The families that a folder's or repository's name mentions. A name proves nothing."""
    lowered = name.lower().replace("-", "_")
    return tuple(
        family for family, words in _HINTS.items() if any(word in lowered for word in words)
    )


_HINTS = {
    "voxtral_realtime": ("voxtral_mini_4b_realtime", "voxtral_realtime"),
    "voxtral": ("voxtral",),
    "whisper": ("whisper",),
    "parakeet": ("parakeet",),
    "canary": ("canary",),
    "qwen3_asr": ("qwen3_asr",),
    "vibevoice_asr": ("vibevoice",),
    "glmasr": ("glm_asr", "glmasr"),
    "moonshine": ("moonshine",),
    "nemotron_asr": ("nemotron",),
    "sensevoice": ("sensevoice",),
    "fun_asr_nano": ("fun_asr",),
}
