"""Models that take audio among other things; mlx-vlm serves them."""

from __future__ import annotations

from voxlive.checkpoints.families.family import (
    MIB,
    ModelFamily,
    Shape,
    all_of,
    keys,
    model_type,
    value,
)

_HF = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
_ROOM = 3072 * MIB
_INSTRUCTED = "it is instructed in words and may answer with other ones than were spoken"


def _gemma(
    name: str, title: str, full: tuple[str, ...], text: tuple[str, ...], refused: str
) -> ModelFamily:
    """A Gemma: with an ``audio_config`` it takes audio, without one it is refused."""
    return ModelFamily(
        name=name,
        title=title,
        kind="multimodal",
        features=frozenset({"prompt", "translate"}),
        tokenizers=_HF,
        room=_ROOM,
        not_live=_INSTRUCTED,
        note="it hears 30 seconds at a time: longer audio is cut at pauses",
        shapes=(
            Shape("transformers", (all_of(model_type(*full), keys("audio_config")),)),
            Shape("text", (model_type(*full, *text),), refused=refused, transcribes=False),
        ),
    )


_GEMMA_3N = _gemma(
    "gemma3n",
    "Gemma 3n",
    ("gemma3n",),
    ("gemma3n_text",),
    "this conversion has left the audio encoder out: take one with an audio_config",
)
_GEMMA_4 = _gemma(
    "gemma4",
    "Gemma 4",
    ("gemma4", "gemma4_unified"),
    ("gemma4_text", "gemma4_unified_text"),
    "this size of it does not hear: take one with an audio_config",
)
_QWEN3_OMNI = ModelFamily(
    name="qwen3_omni_moe",
    title="Qwen3-Omni",
    kind="multimodal",
    features=frozenset({"prompt", "translate"}),
    tokenizers=_HF,
    room=_ROOM,
    not_live=_INSTRUCTED,
    note="it degenerates on more than 30 seconds at a time: longer audio is cut at pauses",
    shapes=(
        Shape(
            "transformers",
            (
                all_of(model_type("qwen3_omni_moe"), keys("thinker_config.audio_config")),
                value("thinker_config.model_type", "qwen3_omni_moe_thinker"),
                model_type("qwen3_omni_moe_thinker"),
            ),
        ),
    ),
)

MULTIMODAL = (_GEMMA_3N, _GEMMA_4, _QWEN3_OMNI)
