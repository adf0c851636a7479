"""Voxtral Realtime in its four layouts, and Voxtral 3B and 24B."""

from __future__ import annotations

from voxlive.checkpoints.families.family import (
    MIB,
    Evidence,
    ModelFamily,
    Shape,
    Traits,
    all_of,
    architecture,
    model_type,
    params,
    value,
)
from voxlive.checkpoints.layouts import LAYOUTS, recognise_layout
from voxlive.errors import WeightsMismatch

_REALTIME = model_type("voxtral_realtime")
VOXTRAL_LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "zh")
"""What the released realtime model was trained for; it finds out by itself which is spoken."""


def _delay_condition(evidence: Evidence) -> str | None:
    """The norm that is conditioned on the delay, under any layout's name: no other model has it."""
    names = (f"{layout.source('decoder.layers.0.ada.linear1')}.weight" for layout in LAYOUTS)
    return next((f"tensor {name}" for name in names if name in evidence.shapes), None)


def _voxtral_traits(evidence: Evidence, family: ModelFamily) -> Traits:
    """The layout is the tensors', whatever converter wrote the config."""
    try:
        layout = recognise_layout(evidence.shapes).name
    except WeightsMismatch:
        layout = None
    return Traits(family.features, family.languages, family.sample_rate, layout)


VOXTRAL_REALTIME = ModelFamily(
    name="voxtral_realtime",
    title="Voxtral Realtime",
    kind="voxtral",
    features=frozenset({"words", "live"}),
    languages=VOXTRAL_LANGUAGES,
    tokenizers=(("tekken.json",),),
    room=1024 * MIB,
    traits=_voxtral_traits,
    shapes=(
        Shape(
            "transformers",
            (
                all_of(_REALTIME, value("audio_config.model_type", "voxtral_realtime_encoder")),
                architecture("VoxtralRealtimeForConditionalGeneration"),
            ),
        ),
        Shape("mlx-audio", (all_of(_REALTIME, value("encoder_args"), value("decoder")),)),
        # Mistral's document, as params.json or (voxmlx) as config.json: a causal encoder is the
        # realtime model's; the other Voxtrals have a document of the same form.
        Shape(
            "mistral",
            (
                params("multimodal.whisper_model_args.encoder_args.causal", True),
                all_of(params("multimodal"), params("ada_rms_norm_t_cond", True)),
                _delay_condition,
            ),
        ),
    ),
)

VOXTRAL = ModelFamily(
    name="voxtral",
    title="Voxtral",
    kind="voxtral",
    languages=("de", "en", "es", "fr", "hi", "it", "nl", "pt"),
    tokenizers=(("tekken.json",),),
    room=2048 * MIB,
    shapes=(
        Shape(
            "transformers",
            (
                model_type("voxtral"),
                value("audio_config.model_type", "voxtral_encoder"),
                architecture("VoxtralForConditionalGeneration"),
            ),
        ),
        Shape(
            "mistral",
            (params("multimodal.whisper_model_args"),),
            refused="it has Mistral's file layout, which mlx-audio does not load: take a "
            "checkpoint with a config.json, as the hub's repositories also have",
        ),
    ),
)
