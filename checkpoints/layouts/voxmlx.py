"""voxmlx's converted files: model.safetensors beside a config.json shaped like params.json."""

from .layout import Layout

_ENCODER = "encoder.layers.{}."
_DECODER = "language_model.layers.{}."

VOXMLX = Layout(
    name="voxmlx",
    modules={
        "encoder.conv1": "encoder.conv1",
        "encoder.conv2": "encoder.conv2",
        "encoder.layers.{}.attn_norm": f"{_ENCODER}attn_norm",
        "encoder.layers.{}.q": f"{_ENCODER}attention.q_proj",
        "encoder.layers.{}.k": f"{_ENCODER}attention.k_proj",
        "encoder.layers.{}.v": f"{_ENCODER}attention.v_proj",
        "encoder.layers.{}.o": f"{_ENCODER}attention.o_proj",
        "encoder.layers.{}.ffn_norm": f"{_ENCODER}ffn_norm",
        "encoder.layers.{}.gate": f"{_ENCODER}mlp.gate_proj",
        "encoder.layers.{}.up": f"{_ENCODER}mlp.up_proj",
        "encoder.layers.{}.down": f"{_ENCODER}mlp.down_proj",
        "encoder.norm": "encoder.norm",
        "adapter.linear1": "adapter.w_in",
        "adapter.linear2": "adapter.w_out",
        "decoder.embed": "language_model.embed_tokens",
        "decoder.layers.{}.attn_norm": f"{_DECODER}attn_norm",
        "decoder.layers.{}.q": f"{_DECODER}attention.q_proj",
        "decoder.layers.{}.k": f"{_DECODER}attention.k_proj",
        "decoder.layers.{}.v": f"{_DECODER}attention.v_proj",
        "decoder.layers.{}.o": f"{_DECODER}attention.o_proj",
        "decoder.layers.{}.ffn_norm": f"{_DECODER}ffn_norm",
        "decoder.layers.{}.gate": f"{_DECODER}mlp.gate_proj",
        "decoder.layers.{}.up": f"{_DECODER}mlp.up_proj",
        "decoder.layers.{}.down": f"{_DECODER}mlp.down_proj",
        "decoder.layers.{}.ada.linear1": f"{_DECODER}ada_norm.linear_in",
        "decoder.layers.{}.ada.linear2": f"{_DECODER}ada_norm.linear_out",
        "decoder.norm": "language_model.norm",
    },
)
