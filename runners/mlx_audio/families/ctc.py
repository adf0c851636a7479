"""Models that read their text off the frames in one pass: no tokens to limit, nothing to sample."""

from __future__ import annotations

from collections.abc import Mapping

from ...cutting import CutOptions
from .. import outputs
from ..family import Family, Languages, Model

_WINDOW = CutOptions(longest_s=30)


def only(*codes: str, told: str | None = None) -> Languages:
    """A model that knows these; without a parameter to be told by it finds out by itself."""

    def known(_model: Model) -> Mapping[str, str]:
        return {code: code for code in codes}

    return Languages(known, (told,) if told else ())


MMS = Family("mms", _WINDOW, outputs.whole)
GRANITE_CTC = Family("granite_speech5_ctc", _WINDOW, outputs.whole, languages=only("en"))
GRANITE_NAR = Family("granite_speech_nar", _WINDOW, outputs.whole)
SENSEVOICE = Family(
    "sensevoice",
    _WINDOW,
    outputs.whole,
    languages=only("en", "ja", "ko", "yue", "zh", told="language"),
    fixed={"use_itn": True},  # with punctuation and figures
)
FIRERED = Family("fireredasr2", _WINDOW, outputs.whole, languages=only("en", "zh"))
