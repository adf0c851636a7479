"""Every family of mlx-audio's models that transcribes. A new one is one description, one line."""

from __future__ import annotations

from dataclasses import replace

from voxlive.runners.mlx_audio.families import text as ctc
from voxlive.runners.mlx_audio.families import text as diarising
from voxlive.runners.mlx_audio.families import text as granite
from voxlive.runners.mlx_audio.families import text as nemo
from voxlive.runners.mlx_audio.families import text as qwen
from voxlive.runners.mlx_audio.families import text as written
from voxlive.runners.mlx_audio.families import voxtral, whisper

FAMILIES = {
    "canary": nemo.CANARY,
    "cohere_asr": written.COHERE,
    "fireredasr2": ctc.FIRERED,
    "fun_asr_nano": written.FUN_ASR,
    "glmasr": written.GLM_ASR,
    "granite_speech": granite.GRANITE,
    "granite_speech_plus": granite.GRANITE_PLUS,
    "granite_speech5_ctc": ctc.GRANITE_CTC,
    "granite_speech_nar": ctc.GRANITE_NAR,
    "higgs_audio_3": written.HIGGS,
    "mega_asr": replace(qwen.QWEN3_ASR, model_type="mega_asr"),
    "mimo_v2_asr": written.MIMO,
    "ming_v3_asr": written.MING,
    "mms": ctc.MMS,
    "moonshine": written.MOONSHINE,
    "moss_transcribe_diarize": diarising.MOSS_TRANSCRIBE,
    "nemotron_asr": nemo.NEMOTRON,
    "parakeet": nemo.PARAKEET,
    "phonon": replace(qwen.QWEN3_ASR, model_type="phonon"),
    "phonon2": nemo.PHONON2,
    "qwen2_audio": written.QWEN2_AUDIO,
    "qwen3_asr": qwen.QWEN3_ASR,
    "sensevoice": ctc.SENSEVOICE,
    "vibevoice_asr": diarising.VIBEVOICE,
    "voxtral": voxtral.VOXTRAL,
    "whisper": whisper.WHISPER,
}
"""By the name that the probe gives them."""

NOT_FOR_FILES = {
    "qwen3_forced_aligner": "it times the words of a text that is known, and transcribes nothing",
    "lasr_ctc": "mlx-audio has only its network, not what makes text of it",
    "moss_music": "it describes music, and transcribes nothing",
    "wav2vec": "it has no head that writes text: use a wav2vec2 with a CTC head",
}
"""Families that mlx-audio loads and that transcribe nothing, with the reason."""
