"""Models that write their text token by token, from short windows."""

from __future__ import annotations

from collections.abc import Mapping

from ....checkpoints.languages import by_code
from ...cutting import CutOptions
from .. import outputs
from ..family import Arguments, Ask, Family, Languages, Model, Tokens
from .ctc import only

_WINDOW = CutOptions(longest_s=30)


def _cohere(model: Model) -> Mapping[str, str]:
    return by_code(model.config.supported_languages)


def _fun(_model: Model) -> Mapping[str, str]:
    from mlx_audio.stt.models.fun_asr_nano.fun_asr_nano import ISO_TO_PROMPT_LANGUAGE

    return by_code(ISO_TO_PROMPT_LANGUAGE)


def _hotwords(arguments: Arguments, _ask: Ask) -> Arguments:
    """One list of words that it may hear."""
    if prompt := arguments.get("hotwords"):
        arguments["hotwords"] = [prompt]
    return arguments


GLM_ASR = Family("glmasr", _WINDOW, outputs.whole, tokens=Tokens(), temperature="temperature")
MOONSHINE = Family(
    "moonshine",
    _WINDOW,
    outputs.whole,
    languages=only("en"),
    tokens=Tokens(most=192),  # the places that it was trained for
    temperature="temperature",
)
COHERE = Family(
    "cohere_asr",
    _WINDOW,
    outputs.whole,
    languages=Languages(_cohere, ("language",), needed=True),
    tokens=Tokens(most=1000),  # of the 1024 places of its decoder
    fixed={"batch_size": 1},
)
FUN_ASR = Family(
    "fun_asr_nano",
    _WINDOW,
    outputs.whole,
    languages=Languages(_fun, ("language",)),
    tokens=Tokens(),
    prompt="context",
    temperature="temperature",
)
MIMO = Family(
    "mimo_v2_asr",
    _WINDOW,
    outputs.whole,
    languages=only("en", "zh", told="language"),
    tokens=Tokens(),
    temperature="temperature",
)
MING = Family(
    "ming_v3_asr",
    _WINDOW,
    outputs.whole,
    languages=only("en", "zh", told="language"),
    tokens=Tokens(),
    prompt="hotwords",
    temperature="temperature",
    adapt=_hotwords,
)
QWEN2_AUDIO = Family(
    "qwen2_audio", _WINDOW, outputs.whole, tokens=Tokens(), temperature="temperature"
)
HIGGS = Family("higgs_audio_3", _WINDOW, outputs.whole, tokens=Tokens(), temperature="temperature")
