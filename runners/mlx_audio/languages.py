"""Languages by code and by the English name that some families want or give."""

from __future__ import annotations

NAMES = {
    "ar": "Arabic",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fa": "Persian",
    "fi": "Finnish",
    "fil": "Filipino",
    "fr": "French",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "mk": "Macedonian",
    "ms": "Malay",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "vi": "Vietnamese",
    "yue": "Cantonese",
    "zh": "Chinese",
}
_CODES = {name.casefold(): code for code, name in NAMES.items()} | {
    "mandarin": "zh",
    "canton": "yue",
}
_UNKNOWN = ("", "none", "auto", "unknown", "nospeech")


def code_of(name: object) -> str | None:
    """The code for what a model calls a language, by name or by code; None where it says nothing.

    Qwen3's lists hold one name per piece; the first that says something counts.
    """
    if isinstance(name, list | tuple):
        return next((code for each in name if (code := code_of(each))), None)
    if not isinstance(name, str) or name.casefold() in _UNKNOWN:
        return None
    # A code may carry a region: "en-US". Names that are not in the table stay as they are.
    return _CODES.get(name.casefold()) or (
        name.partition("-")[0].lower() if len(name) < 6 else name
    )
