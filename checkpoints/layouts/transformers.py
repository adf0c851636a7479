"""transformers' files: model*.safetensors beside config.json with audio_config and text_config."""

from .layout import Layout

_ENCODER = "audio_tower.layers.{}."
_DECODER = "language_model.layers.{}."

TRANSFORMERS = Layout(
    name="transformers",
    modules={
        "encoder.conv1": "audio_tower.embedder.conv1",
        "encoder.conv2": "audio_tower.embedder.conv2",
        "encoder.layers.{}.attn_norm": f"{_ENCODER}self_attn_layer_norm",
        "encoder.layers.{}.q": f"{_ENCODER}self_attn.q_proj",
        "encoder.layers.{}.k": f"{_ENCODER}self_attn.k_proj",
        "encoder.layers.{}.v": f"{_ENCODER}self_attn.v_proj",
        "encoder.layers.{}.o": f"{_ENCODER}self_attn.o_proj",
        "encoder.layers.{}.ffn_norm": f"{_ENCODER}final_layer_norm",
        "encoder.layers.{}.gate": f"{_ENCODER}mlp.gate_proj",
        "encoder.layers.{}.up": f"{_ENCODER}mlp.up_proj",
        "encoder.layers.{}.down": f"{_ENCODER}mlp.down_proj",
        "encoder.norm": "audio_tower.norm",
        "adapter.linear1": "multi_modal_projector.linear_1",
        "adapter.linear2": "multi_modal_projector.linear_2",
        "decoder.embed": "language_model.embed_tokens",
        "decoder.layers.{}.attn_norm": f"{_DECODER}input_layernorm",
        "decoder.layers.{}.q": f"{_DECODER}self_attn.q_proj",
        "decoder.layers.{}.k": f"{_DECODER}self_attn.k_proj",
        "decoder.layers.{}.v": f"{_DECODER}self_attn.v_proj",
        "decoder.layers.{}.o": f"{_DECODER}self_attn.o_proj",
        "decoder.layers.{}.ffn_norm": f"{_DECODER}post_attention_layernorm",
        "decoder.layers.{}.gate": f"{_DECODER}mlp.gate_proj",
        "decoder.layers.{}.up": f"{_DECODER}mlp.up_proj",
        "decoder.layers.{}.down": f"{_DECODER}mlp.down_proj",
        "decoder.layers.{}.ada.linear1": f"{_DECODER}ada_rms_norm.linear1",
        "decoder.layers.{}.ada.linear2": f"{_DECODER}ada_rms_norm.linear2",
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
