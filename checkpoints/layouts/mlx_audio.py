"""mlx-audio's converted files: model*.safetensors beside config.json."""

from .layout import Layout

_LAYER = "encoder.transformer_layers.{}."

MLX_AUDIO = Layout(
    name="mlx-audio",
    modules={
        "encoder.conv1": "encoder.conv_layers_0_conv.conv",
        "encoder.conv2": "encoder.conv_layers_1_conv.conv",
        "encoder.layers.{}.attn_norm": f"{_LAYER}attention_norm",
        "encoder.layers.{}.q": f"{_LAYER}attention.wq",
        "encoder.layers.{}.k": f"{_LAYER}attention.wk",
        "encoder.layers.{}.v": f"{_LAYER}attention.wv",
        "encoder.layers.{}.o": f"{_LAYER}attention.wo",
        "encoder.layers.{}.ffn_norm": f"{_LAYER}ffn_norm",
        "encoder.layers.{}.gate": f"{_LAYER}feed_forward_w1",
        "encoder.layers.{}.down": f"{_LAYER}feed_forward_w2",
        "encoder.layers.{}.up": f"{_LAYER}feed_forward_w3",
        "encoder.norm": "encoder.transformer_norm",
        "adapter.linear1": "encoder.audio_language_projection_0",
        "adapter.linear2": "encoder.audio_language_projection_2",
        "decoder.embed": "decoder.tok_embeddings",
        "decoder.layers.{}.attn_norm": "decoder.layers.{}.attention_norm",
        "decoder.layers.{}.q": "decoder.layers.{}.attention.wq",
        "decoder.layers.{}.k": "decoder.layers.{}.attention.wk",
        "decoder.layers.{}.v": "decoder.layers.{}.attention.wv",
        "decoder.layers.{}.o": "decoder.layers.{}.attention.wo",
        "decoder.layers.{}.ffn_norm": "decoder.layers.{}.ffn_norm",
        "decoder.layers.{}.gate": "decoder.layers.{}.feed_forward_w1",
        "decoder.layers.{}.down": "decoder.layers.{}.feed_forward_w2",
        "decoder.layers.{}.up": "decoder.layers.{}.feed_forward_w3",
        "decoder.layers.{}.ada.linear1": "decoder.layers.{}.ada_rms_norm_t_cond.ada_down",
        "decoder.layers.{}.ada.linear2": "decoder.layers.{}.ada_rms_norm_t_cond.ada_up",
        "decoder.norm": "decoder.norm",
    },
)
