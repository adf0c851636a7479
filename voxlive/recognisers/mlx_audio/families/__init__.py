"""Every family of mlx-audio's models that transcribes. A new one is one description, one line."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from voxlive.errors import RequestRefused
from voxlive.recognisers.mlx_audio.families import speech, voxtral, whisper

if TYPE_CHECKING:
    from voxlive.recognisers.mlx_audio.family import FamilyAdapter

FAMILIES = {
    "canary": speech.CANARY,
    "cohere_asr": speech.COHERE,
    "fireredasr2": speech.FIRERED,
    "fun_asr_nano": speech.FUN_ASR,
    "glmasr": speech.GLM_ASR,
    "granite_speech": speech.GRANITE,
    "granite_speech_plus": speech.GRANITE_PLUS,
    "granite_speech5_ctc": speech.GRANITE_CTC,
    "granite_speech_nar": speech.GRANITE_NAR,
    "higgs_audio_3": speech.HIGGS,
    "mega_asr": replace(speech.QWEN3_ASR, model_type="mega_asr"),
    "mimo_v2_asr": speech.MIMO,
    "ming_v3_asr": speech.MING,
    "mms": speech.MMS,
    "moonshine": speech.MOONSHINE,
    "moss_transcribe_diarize": speech.MOSS_TRANSCRIBE,
    "nemotron_asr": speech.NEMOTRON,
    "parakeet": speech.PARAKEET,
    "phonon": replace(speech.QWEN3_ASR, model_type="phonon"),
    "phonon2": speech.PHONON2,
    "qwen2_audio": speech.QWEN2_AUDIO,
    "qwen3_asr": speech.QWEN3_ASR,
    "sensevoice": speech.SENSEVOICE,
    "vibevoice_asr": speech.VIBEVOICE,
    "voxtral": voxtral.VOXTRAL,
    "whisper": whisper.WHISPER,
}
"""By the name of their family in ``checkpoints.families``."""

NOT_FOR_FILES = {
    "qwen3_forced_aligner": "it times the words of a text that is known, and transcribes nothing",
    "lasr_ctc": "mlx-audio has only its network, not what makes text of it",
    "moss_music": "it describes music, and transcribes nothing",
    "wav2vec": "it has no head that writes text: use a wav2vec2 with a CTC head",
}
"""Families that mlx-audio loads and that transcribe nothing, with the reason."""


def find_family(model: str, name: str) -> FamilyAdapter:
    """The description of a model's family; RequestRefused for one that transcribes nothing."""
    if why := NOT_FOR_FILES.get(name):
        raise RequestRefused("unsupported_model", f"{model}: {why}", "model")
    if family := FAMILIES.get(name):
        return family
    known = ", ".join(sorted(FAMILIES))
    message = f"{model} is a {name!r}, and mlx-audio runs no such files: use {known}"
    raise RequestRefused("unsupported_model", message, "model")
