"""Names of other services' models: their clients ask for these, and get the default here."""

from __future__ import annotations

from fnmatch import fnmatchcase

HOSTED = {
    "OpenAI": ("whisper-1", "gpt-4o*transcribe*", "gpt-realtime*", "gpt-4o*audio*", "gpt-audio*"),
    "Deepgram": ("nova", "nova-*", "enhanced*", "base", "base-*", "flux-*", "whisper-cloud"),
    "Mistral": ("voxtral-mini-*", "voxtral-small-*"),
    "Groq": ("whisper-large-v3", "whisper-large-v3-turbo", "distil-whisper-large-v3-en"),
    "ElevenLabs": ("scribe_v*",),
    "AssemblyAI": ("universal*", "slam-*"),
}
"""Patterns of names by service."""


def is_hosted(name: str) -> bool:
    """Whether another service has a model of this name, or of this kind of name."""
    return any(fnmatchcase(name, pattern) for names in HOSTED.values() for pattern in names)
