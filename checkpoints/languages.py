"""Languages by code and by English name: configs and models use either."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

NAMES = MappingProxyType(
    {
        "af": "afrikaans", "am": "amharic", "ar": "arabic", "as": "assamese", "az": "azerbaijani",
        "ba": "bashkir", "be": "belarusian", "bg": "bulgarian", "bn": "bengali", "bo": "tibetan",
        "br": "breton", "bs": "bosnian", "ca": "catalan", "cs": "czech", "cy": "welsh",
        "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish",
        "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish", "fil": "filipino",
        "fo": "faroese", "fr": "french", "gl": "galician", "gu": "gujarati", "ha": "hausa",
        "haw": "hawaiian", "he": "hebrew", "hi": "hindi", "hr": "croatian",
        "ht": "haitian creole", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
        "is": "icelandic", "it": "italian", "ja": "japanese", "jw": "javanese", "ka": "georgian",
        "kk": "kazakh", "km": "khmer", "kn": "kannada", "ko": "korean", "la": "latin",
        "lb": "luxembourgish", "ln": "lingala", "lo": "lao", "lt": "lithuanian", "lv": "latvian",
        "mg": "malagasy", "mi": "maori", "mk": "macedonian", "ml": "malayalam",
        "mn": "mongolian", "mr": "marathi", "ms": "malay", "mt": "maltese", "my": "myanmar",
        "ne": "nepali", "nl": "dutch", "nn": "nynorsk", "no": "norwegian", "oc": "occitan",
        "pa": "punjabi", "pl": "polish", "ps": "pashto", "pt": "portuguese", "ro": "romanian",
        "ru": "russian", "sa": "sanskrit", "sd": "sindhi", "si": "sinhala", "sk": "slovak",
        "sl": "slovenian", "sn": "shona", "so": "somali", "sq": "albanian", "sr": "serbian",
        "su": "sundanese", "sv": "swedish", "sw": "swahili", "ta": "tamil", "te": "telugu",
        "tg": "tajik", "th": "thai", "tk": "turkmen", "tl": "tagalog", "tr": "turkish",
        "tt": "tatar", "uk": "ukrainian", "ur": "urdu", "uz": "uzbek", "vi": "vietnamese",
        "yi": "yiddish", "yo": "yoruba", "yue": "cantonese", "zh": "chinese",
    }
)  # fmt: skip
"""Codes as speech models use them, with their English names in lower case."""

WHISPER = tuple(code for code in NAMES if code != "fil")
"""What a multilingual Whisper knows."""

_CODES = {name: code for code, name in NAMES.items()} | {
    "burmese": "my", "canton": "yue", "castilian": "es", "farsi": "fa", "flemish": "nl",
    "haitian": "ht", "javanese": "jw", "mandarin": "zh", "moldavian": "ro", "pushto": "ps",
    "sinhalese": "si", "valencian": "ca", "macedonian": "mk", "jv": "jw", "nb": "no", "iw": "he",
}  # fmt: skip


def code_of(language: str) -> str | None:
    """The code of a code, a tag such as ``en-US`` or a name; None if it is no language known."""
    said = language.strip().lower().replace("_", "-")
    code = said if said in NAMES else _CODES.get(said)
    if code is None and "-" in said:
        return code_of(said.partition("-")[0])
    return code


def codes_of(languages: Iterable[object]) -> tuple[str, ...]:
    """The codes of a config's list of codes or names, in its order, without the unknown ones."""
    codes = (code_of(language) for language in languages if isinstance(language, str))
    return tuple(dict.fromkeys(code for code in codes if code))
