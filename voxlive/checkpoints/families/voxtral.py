"""Voxtral 3B and 24B; Voxtral Realtime, and the four layouts in which its tensors are found.

A layout has the name of each module and the storage of convolutions and rotary pairs; it is
recognised by the names of the tensors. Mistral's own files are consolidated.safetensors beside
params.json; mlx-audio's and transformers' are model*.safetensors beside config.json; voxmlx's are
model.safetensors beside a config.json that is like params.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
from voxlive.errors import WeightsMismatch, listed

_LAYER = re.compile(r"(^|\.)layers\.(\d+)\.")
_SUFFIX = re.compile(r"\.(weight|bias|scales|biases)$")


@dataclass(frozen=True, eq=False)
class Layout:
    """``modules`` maps canonical module names to the layout's, with ``{}`` for a layer's number.

    ``torch_convolutions``: kernels are [out, in, k] instead of [out, k, in]. ``half_split_rotary``:
    rows of queries and keys pair i with i + head_dim / 2 instead of 2i with 2i + 1. ``renames``
    are beginnings of names that other versions use; ``heads`` are names under which the tied
    embedding may stand a second time.
    """

    name: str
    modules: Mapping[str, str]
    torch_convolutions: bool = False
    half_split_rotary: bool = False
    renames: tuple[tuple[str, str], ...] = ()
    heads: tuple[str, ...] = ()

    def source(self, module: str) -> str:
        """The layout's name of a canonical module such as ``encoder.layers.3.q``."""
        layer = _LAYER.search(module)
        if layer is None:
            return self.modules[module]
        return self.modules[_any_layer(module)].format(layer[2])

    def normalised(self, tensor: str) -> str:
        """A tensor's name as this version of the layout would spell it."""
        for old, new in self.renames:
            if tensor.startswith(old):
                return new + tensor[len(old) :]
        return tensor

    def knows(self, tensor: str) -> bool:
        """Whether the layout has a place for a tensor of this name, whatever the layer."""
        module = _SUFFIX.sub("", self.normalised(tensor))
        return _any_layer(module) in self.modules.values()


def _any_layer(name: str) -> str:
    return _LAYER.sub(r"\1layers.{}.", name, count=1)


def _layers(part: str, prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    """Modules of every layer of encoder or decoder: theirs stand below ``prefix``."""
    return {f"{part}.layers.{{}}.{ours}": f"{prefix}{theirs}" for ours, theirs in names.items()}


_MISTRAL_NAMES = {
    "attn_norm": "attention_norm",
    "q": "attention.wq",
    "k": "attention.wk",
    "v": "attention.wv",
    "o": "attention.wo",
    "ffn_norm": "ffn_norm",
    "gate": "feed_forward.w1",
    "down": "feed_forward.w2",
    "up": "feed_forward.w3",
}
_MISTRAL_AUDIO = "mm_streams_embeddings.embedding_module."
_MISTRAL_ENCODER = f"{_MISTRAL_AUDIO}whisper_encoder."

MISTRAL = Layout(
    name="mistral",
    modules={
        "encoder.conv1": f"{_MISTRAL_ENCODER}conv_layers.0.conv",
        "encoder.conv2": f"{_MISTRAL_ENCODER}conv_layers.1.conv",
        **_layers("encoder", f"{_MISTRAL_ENCODER}transformer.layers.{{}}.", _MISTRAL_NAMES),
        "encoder.norm": f"{_MISTRAL_ENCODER}transformer.norm",
        "adapter.linear1": f"{_MISTRAL_AUDIO}audio_language_projection.0",
        "adapter.linear2": f"{_MISTRAL_AUDIO}audio_language_projection.2",
        "decoder.embed": f"{_MISTRAL_AUDIO}tok_embeddings",
        **_layers("decoder", "layers.{}.", _MISTRAL_NAMES),
        "decoder.layers.{}.ada.linear1": "layers.{}.ada_rms_norm_t_cond.0",
        "decoder.layers.{}.ada.linear2": "layers.{}.ada_rms_norm_t_cond.2",
        "decoder.norm": "norm",
    },
    torch_convolutions=True,
    renames=(("mm_whisper_embeddings.", _MISTRAL_AUDIO),),
    heads=("output",),
)

_MLX_AUDIO_NAMES = {
    ours: theirs.replace("feed_forward.", "feed_forward_")
    for ours, theirs in _MISTRAL_NAMES.items()
}

MLX_AUDIO = Layout(
    name="mlx-audio",
    modules={
        "encoder.conv1": "encoder.conv_layers_0_conv.conv",
        "encoder.conv2": "encoder.conv_layers_1_conv.conv",
        **_layers("encoder", "encoder.transformer_layers.{}.", _MLX_AUDIO_NAMES),
        "encoder.norm": "encoder.transformer_norm",
        "adapter.linear1": "encoder.audio_language_projection_0",
        "adapter.linear2": "encoder.audio_language_projection_2",
        "decoder.embed": "decoder.tok_embeddings",
        **_layers("decoder", "decoder.layers.{}.", _MLX_AUDIO_NAMES),
        "decoder.layers.{}.ada.linear1": "decoder.layers.{}.ada_rms_norm_t_cond.ada_down",
        "decoder.layers.{}.ada.linear2": "decoder.layers.{}.ada_rms_norm_t_cond.ada_up",
        "decoder.norm": "decoder.norm",
    },
)

_MLP_NAMES = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
_ATTENTION_NAMES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
_TRANSFORMERS_NAMES = {
    **{ours: f"self_attn.{theirs}" for ours, theirs in _ATTENTION_NAMES.items()},
    **_MLP_NAMES,
}
_TRANSFORMERS_ENCODER = "audio_tower.layers.{}."
_TRANSFORMERS_DECODER = "language_model.layers.{}."

TRANSFORMERS = Layout(
    name="transformers",
    modules={
        "encoder.conv1": "audio_tower.embedder.conv1",
        "encoder.conv2": "audio_tower.embedder.conv2",
        "encoder.layers.{}.attn_norm": f"{_TRANSFORMERS_ENCODER}self_attn_layer_norm",
        "encoder.layers.{}.ffn_norm": f"{_TRANSFORMERS_ENCODER}final_layer_norm",
        **_layers("encoder", _TRANSFORMERS_ENCODER, _TRANSFORMERS_NAMES),
        "encoder.norm": "audio_tower.norm",
        "adapter.linear1": "multi_modal_projector.linear_1",
        "adapter.linear2": "multi_modal_projector.linear_2",
        "decoder.embed": "language_model.embed_tokens",
        "decoder.layers.{}.attn_norm": f"{_TRANSFORMERS_DECODER}input_layernorm",
        "decoder.layers.{}.ffn_norm": f"{_TRANSFORMERS_DECODER}post_attention_layernorm",
        **_layers("decoder", _TRANSFORMERS_DECODER, _TRANSFORMERS_NAMES),
        "decoder.layers.{}.ada.linear1": f"{_TRANSFORMERS_DECODER}ada_rms_norm.linear1",
        "decoder.layers.{}.ada.linear2": f"{_TRANSFORMERS_DECODER}ada_rms_norm.linear2",
        "decoder.norm": "language_model.norm",
    },
    torch_convolutions=True,
    half_split_rotary=True,
    renames=(
        ("model.", ""),
        ("language_model.model.", "language_model."),
        ("language_model.lm_head.", "lm_head."),
    ),
    heads=("lm_head",),
)

_VOXMLX_NAMES = {
    "attn_norm": "attn_norm",
    **{ours: f"attention.{theirs}" for ours, theirs in _ATTENTION_NAMES.items()},
    "ffn_norm": "ffn_norm",
    **_MLP_NAMES,
}

VOXMLX = Layout(
    name="voxmlx",
    modules={
        "encoder.conv1": "encoder.conv1",
        "encoder.conv2": "encoder.conv2",
        **_layers("encoder", "encoder.layers.{}.", _VOXMLX_NAMES),
        "encoder.norm": "encoder.norm",
        "adapter.linear1": "adapter.w_in",
        "adapter.linear2": "adapter.w_out",
        "decoder.embed": "language_model.embed_tokens",
        **_layers("decoder", "language_model.layers.{}.", _VOXMLX_NAMES),
        "decoder.layers.{}.ada.linear1": "language_model.layers.{}.ada_norm.linear_in",
        "decoder.layers.{}.ada.linear2": "language_model.layers.{}.ada_norm.linear_out",
        "decoder.norm": "language_model.norm",
    },
)


LAYOUTS = (MISTRAL, MLX_AUDIO, VOXMLX, TRANSFORMERS)


def recognise_layout(names: Iterable[str]) -> Layout:
    """The layout that knows most of these tensor names; raises WeightsMismatch if none does."""
    tensors = list(names)
    known = {layout: sum(map(layout.knows, tensors)) for layout in LAYOUTS}
    best = max(LAYOUTS, key=known.__getitem__)
    if not known[best]:
        raise WeightsMismatch(
            f"these are no tensors of a Voxtral Realtime model: {listed(tensors) or 'none at all'}"
        )
    return best


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
