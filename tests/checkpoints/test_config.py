from dataclasses import replace

import pytest

from training.golden.layouts import (
    mistral_config,
    mlx_audio_config,
    transformers_config,
    transformers_preprocessor,
)
from training.golden.weights import TINY
from voxlive.checkpoints.config import Section, read_config
from voxlive.checkpoints.tekken import TekkenAudio
from voxlive.errors import UnsupportedConfig

SHAPES = {
    "mistral": mistral_config,
    "mlx-audio": mlx_audio_config,
    "transformers": transformers_config,
}
TOKENIZER = TekkenAudio(16000, 12.5, 128, 160, 400, 480.0, 32)
ENCODER = "multimodal.whisper_model_args.encoder_args"


def read(document, preprocessor=None, tokenizer=None):
    extractor = preprocessor and Section(preprocessor, "preprocessor_config.json")
    return read_config(Section(document, "config.json"), extractor, tokenizer)


def changed(document, where, value):
    *way, key = where.split(".")
    part = document
    for step in way:
        part = part[step]
    if value is None:
        del part[key]
    else:
        part[key] = value
    return document


@pytest.mark.parametrize("shape", SHAPES)
def test_every_form_gives_the_same_config(shape):
    other = replace(
        TINY,
        audio=replace(TINY.audio, hop=80, n_fft=512, mel_bins=80, log_mel_max=2.0),
        encoder=replace(TINY.encoder, layers=5, heads=3, rope_theta=5e5),
        decoder=replace(TINY.decoder, kv_heads=3, norm_eps=1e-4, vocab_size=4096),
        downsample=8,
    )
    for config in (TINY, other):
        document = SHAPES[shape](config)
        preprocessor = transformers_preprocessor(config) if shape == "transformers" else None
        assert read(document, preprocessor) == config


def test_the_extractor_may_stand_inside_the_processors_document():
    processor = {"feature_extractor": transformers_preprocessor(TINY), "processor_class": "x"}
    assert read(transformers_config(TINY), processor) == TINY


def test_without_an_extractor_the_tokenizers_audio_section_serves():
    assert read(transformers_config(TINY), None, TOKENIZER) == TINY
    with pytest.raises(UnsupportedConfig, match="nothing says how to make mel frames"):
        read(transformers_config(TINY))


def test_older_spellings():
    document = transformers_config(TINY)
    for part in ("audio_config", "text_config"):
        document[part]["rope_theta"] = document[part].pop("rope_parameters")["rope_theta"]
    assert read(document, transformers_preprocessor(TINY)) == TINY
    assert read(changed(mistral_config(TINY), "sliding_window", "64")) == TINY
    document = mlx_audio_config(TINY)
    document["audio_encoding_args"] = document["encoder_args"].pop("audio_encoding_args")
    assert read(document) == TINY


@pytest.mark.parametrize("shape", ["mistral", "mlx-audio"])
def test_delay_and_left_padding_are_the_configs_then_the_tokenizers(shape):
    document = changed(mlx_audio_config(TINY), "transcription_delay_ms", None)
    document = document if shape == "mlx-audio" else mistral_config(TINY)
    tokenizer = replace(TOKENIZER, delay_ms=960.0, left_pad_tokens=16)
    assert read(document, tokenizer=tokenizer) == replace(TINY, delay_tokens=12, left_pad_tokens=16)
    assert read(document) == TINY
    declared = document | {"transcription_delay_ms": 240, "n_left_pad_tokens": 8}
    assert read(declared, tokenizer=tokenizer) == replace(TINY, delay_tokens=3, left_pad_tokens=8)


def test_ada_width_may_be_left_out():
    assert read(changed(mistral_config(TINY), "ada_rms_norm_t_cond_dim", None)) == TINY


@pytest.mark.parametrize(
    ("shape", "where", "value", "message"),
    [
        ("mistral", "n_layers", None, "config.json: n_layers is missing"),
        ("mistral", "dim", "wide", "dim must be a whole number"),
        ("mistral", "dim", True, "dim must be a whole number"),
        ("mistral", "dim", 1.5, "dim must be a whole number"),
        ("mistral", "n_heads", -6, "decoder.heads must be positive"),
        ("mistral", "head_dim", 31, "decoder.head_dim must be even"),
        ("mistral", "n_kv_heads", 4, "6 query heads cannot share 4"),
        ("mistral", "sliding_window", None, "sliding_window is missing"),
        ("mistral", "tied_embeddings", False, "tied_embeddings is false"),
        ("mistral", "use_biases", True, "use_biases is true"),
        ("mistral", "ada_rms_norm_t_cond", False, "ada_rms_norm_t_cond is false"),
        ("mistral", "yarn", {"factor": 8}, "yarn is"),
        ("mistral", "moe", {"num_experts": 8}, "moe is"),
        ("mistral", "multimodal", [], "multimodal must be an object"),
        ("mistral", f"{ENCODER}.causal", False, "encoder_args.causal is false"),
        ("mistral", f"{ENCODER}.use_biases", False, "encoder_args.use_biases is false"),
        ("mistral", f"{ENCODER}.n_kv_heads", 2, "encoder_args.n_kv_heads is 2"),
        ("mistral", f"{ENCODER}.pos_embed", "sinusoidal", "encoder_args.pos_embed is"),
        ("mistral", f"{ENCODER}.ffn_type", "gelu", "encoder_args.ffn_type is"),
        ("mistral", f"{ENCODER}.norm_type", "layer", "encoder_args.norm_type is"),
        ("mistral", f"{ENCODER}.audio_encoding_args.frame_rate", 25, "frame_rate is 25.0"),
        ("mlx-audio", "model_type", "voxtral", 'model_type is "voxtral"'),
        ("mlx-audio", "decoder", None, "decoder is missing"),
        ("mlx-audio", "encoder_args.downsample_factor", None, "downsample_factor is missing"),
        ("mlx-audio", "transcription_delay_ms", 500, "500.0, no multiple of 80"),
        ("mlx-audio", "transcription_delay_ms", 0, "delay_tokens must be positive"),
        ("transformers", "model_type", "voxtral", 'model_type is "voxtral"'),
        ("transformers", "text_config", None, "text_config is missing"),
        ("transformers", "text_config.hidden_act", "gelu", "text_config.hidden_act is"),
        ("transformers", "text_config.tie_word_embeddings", False, "tie_word_embeddings is false"),
        ("transformers", "text_config.rope_parameters.rope_type", "yarn", 'rope_type is "yarn"'),
        ("transformers", "text_config.rope_scaling", {"factor": 2}, "rope_scaling is"),
        ("transformers", "audio_config.rope_parameters.rope_theta", None, "rope_theta is missing"),
        ("transformers", "audio_config.activation_function", "relu", "activation_function is"),
        ("transformers", "audio_config.num_mel_bins", 80, "num_mel_bins is 80"),
        ("transformers", "audio_length_per_tok", 4, "audio_length_per_tok is 4"),
        ("transformers", "projector_hidden_act", "silu", "projector_hidden_act is"),
        ("transformers", "audio_config", "none", "audio_config must be an object"),
    ],
)
def test_an_unsupported_value_is_refused_by_its_key(shape, where, value, message):
    document = changed(SHAPES[shape](TINY), where, value)
    preprocessor = transformers_preprocessor(TINY) if shape == "transformers" else None
    with pytest.raises(UnsupportedConfig) as refused:
        read(document, preprocessor)
    assert message in refused.value.message


def test_another_models_config_is_refused():
    with pytest.raises(UnsupportedConfig, match="describes no Voxtral Realtime model"):
        read({"model_type": "whisper", "d_model": 384})


def test_extractor_with_padded_windows_is_refused():
    preprocessor = transformers_preprocessor(TINY) | {"win_length": 320}
    with pytest.raises(UnsupportedConfig, match="win_length is 320"):
        read(transformers_config(TINY), preprocessor)


def test_framing_is_derived_from_the_config():
    assert (TINY.mel_per_token, TINY.samples_per_token, TINY.token_seconds) == (8, 1280, 0.08)
