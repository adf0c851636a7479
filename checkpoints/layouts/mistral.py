"""Mistral's own files: consolidated.safetensors beside params.json."""

from .layout import Layout

_AUDIO = "mm_streams_embeddings.embedding_module."
_ENCODER = f"{_AUDIO}whisper_encoder."
_LAYER = f"{_ENCODER}transformer.layers.{{}}."

MISTRAL = Layout(
    name="mistral",
    modules={
        "encoder.conv1": f"{_ENCODER}conv_layers.0.conv",
        "encoder.conv2": f"{_ENCODER}conv_layers.1.conv",
        "encoder.layers.{}.attn_norm": f"{_LAYER}attention_norm",
        "encoder.layers.{}.q": f"{_LAYER}attention.wq",
        "encoder.layers.{}.k": f"{_LAYER}attention.wk",
        "encoder.layers.{}.v": f"{_LAYER}attention.wv",
        "encoder.layers.{}.o": f"{_LAYER}attention.wo",
        "encoder.layers.{}.ffn_norm": f"{_LAYER}ffn_norm",
        "encoder.layers.{}.gate": f"{_LAYER}feed_forward.w1",
        "encoder.layers.{}.down": f"{_LAYER}feed_forward.w2",
        "encoder.layers.{}.up": f"{_LAYER}feed_forward.w3",
        "encoder.norm": f"{_ENCODER}transformer.norm",
        "adapter.linear1": f"{_AUDIO}audio_language_projection.0",
        "adapter.linear2": f"{_AUDIO}audio_language_projection.2",
        "decoder.embed": f"{_AUDIO}tok_embeddings",
        "decoder.layers.{}.attn_norm": "layers.{}.attention_norm",
        "decoder.layers.{}.q": "layers.{}.attention.wq",
        "decoder.layers.{}.k": "layers.{}.attention.wk",
        "decoder.layers.{}.v": "layers.{}.attention.wv",
        "decoder.layers.{}.o": "layers.{}.attention.wo",
        "decoder.layers.{}.ffn_norm": "layers.{}.ffn_norm",
        "decoder.layers.{}.gate": "layers.{}.feed_forward.w1",
        "decoder.layers.{}.down": "layers.{}.feed_forward.w2",
        "decoder.layers.{}.up": "layers.{}.feed_forward.w3",
        "decoder.layers.{}.ada.linear1": "layers.{}.ada_rms_norm_t_cond.0",
        "decoder.layers.{}.ada.linear2": "layers.{}.ada_rms_norm_t_cond.2",
        "decoder.norm": "norm",
    },
    torch_convolutions=True,
    renames=(("mm_whisper_embeddings.", _AUDIO),),
    heads=("output",),
)
