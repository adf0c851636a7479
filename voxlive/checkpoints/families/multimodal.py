"""Models that take audio among other things; mlx-vlm serves them."""

from __future__ import annotations

from voxlive.checkpoints.families.evidence import (
    all_of,
    keys,
    model_type,
    value,
)
from voxlive.checkpoints.families.family import MIB, ModelFamily, Shape

_HF = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
_ROOM = 3072 * MIB

_GEMMA_3N = ModelFamily(
    name="gemma3n",
    title="Gemma 3n",
    kind="multimodal",
    features=frozenset({"prompt", "translate"}),
    tokenizers=_HF,
    room=_ROOM,
    note="it hears 30 seconds at a time: longer audio is cut at pauses",
    shapes=(
        Shape("transformers", (all_of(model_type("gemma3n"), keys("audio_config")),)),
        Shape(
            "text",
            (model_type("gemma3n", "gemma3n_text"),),
            refused="this conversion has left the audio encoder out: take one with an audio_config",
            transcribes=False,
        ),
    ),
)

_GEMMA_4 = ModelFamily(
    name="gemma4",
    title="Gemma 4",
    kind="multimodal",
    features=frozenset({"prompt", "translate"}),
    tokenizers=_HF,
    room=_ROOM,
    note="it hears 30 seconds at a time: longer audio is cut at pauses",
    shapes=(
        Shape(
            "transformers",
            (all_of(model_type("gemma4", "gemma4_unified"), keys("audio_config")),),
        ),
        Shape(
            "text",
            (model_type("gemma4", "gemma4_unified", "gemma4_text", "gemma4_unified_text"),),
            refused="this size of it does not hear: take one with an audio_config",
            transcribes=False,
        ),
    ),
)

_QWEN3_OMNI = ModelFamily(
    name="qwen3_omni_moe",
    title="Qwen3-Omni",
    kind="multimodal",
    features=frozenset({"prompt", "translate"}),
    tokenizers=_HF,
    room=_ROOM,
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
