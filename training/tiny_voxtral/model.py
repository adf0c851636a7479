"""The Voxtral Realtime architecture in torch, named as mlx-audio names its tensors.

Attention takes its keys from the current call and, in streaming, from a cache of the last
`window - 1` positions, so a stream decoded in steps equals the whole row under a sliding mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLE_RATE, HOP, WINDOW, MELS = 16_000, 160, 400, 128
FRAMES_PER_TOKEN = 8
SAMPLES_PER_TOKEN = FRAMES_PER_TOKEN * HOP
LEFT_PAD = 32  # tokens of silence before the audio
LOG_MEL_MAX = 1.5

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Cache = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TinyEncoderConfig:
    dim: int = 192
    n_layers: int = 6
    n_heads: int = 3
    n_kv_heads: int = 3
    head_dim: int = 64
    hidden_dim: int = 512
    sliding_window: int = 128
    norm_eps: float = 1e-5
    rope_theta: float = 1e6
    causal: bool = True
    use_biases: bool = True
    downsample_factor: int = 4


@dataclass(frozen=True)
class TinyDecoderConfig:
    dim: int = 256
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 64
    hidden_dim: int = 768
    sliding_window: int = 128
    vocab_size: int = 2048
    norm_eps: float = 1e-5
    rope_theta: float = 1e6
    tied_embeddings: bool = True
    ada_rms_norm_t_cond: bool = True
    ada_rms_norm_t_cond_dim: int = 32


@dataclass(frozen=True)
class TinyConfig:
    encoder_args: TinyEncoderConfig = field(default_factory=TinyEncoderConfig)
    decoder: TinyDecoderConfig = field(default_factory=TinyDecoderConfig)

    def document(self) -> dict[str, object]:
        """The config.json of the checkpoint."""
        audio = {
            "sampling_rate": SAMPLE_RATE,
            "frame_rate": SAMPLE_RATE / SAMPLES_PER_TOKEN,
            "num_mel_bins": MELS,
            "hop_length": HOP,
            "window_size": WINDOW,
            "global_log_mel_max": LOG_MEL_MAX,
        }
        return {
            "model_type": "voxtral_realtime",
            "encoder_args": {**asdict(self.encoder_args), "audio_encoding_args": audio},
            "decoder": asdict(self.decoder),
            "transcription_delay_ms": 480,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "streaming_pad_token_id": 32,
            "n_left_pad_tokens": LEFT_PAD,
        }


def mel_filters() -> np.ndarray:
    """Slaney's triangular filters over 0-8000 Hz, area-normalised: [201, 128]."""
    split, step, ratio = 1000.0, 200 / 3, np.log(6.4) / 27
    top = split / step + np.log(8000 / split) / ratio
    mels = np.linspace(0, top, MELS + 2)
    linear = mels * step
    edges = np.where(linear < split, linear, split * np.exp(ratio * (mels - split / step)))
    hertz = np.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    return filters.astype(np.float32)


def log_mel(audio: Tensor, filters: Tensor, gain: Tensor | None = None) -> Tensor:
    """Audio [b, n] to log-mel frames [b, 128, n // 160]; gain [b, 128, 1] scales the power."""
    window = torch.hann_window(WINDOW, device=audio.device)
    spectrum = torch.stft(audio, WINDOW, HOP, window=window, return_complex=True)[..., :-1]
    power = filters.T @ (spectrum.real.square() + spectrum.imag.square())
    if gain is not None:
        power = power * gain
    return (power.clamp_min(1e-10).log10().clamp_min(LOG_MEL_MAX - 8) + 4) / 4


def rotate(x: Tensor, start: int, theta: float) -> Tensor:
    """Interleaved rotary embedding of x [b, t, heads, d] whose first position is `start`."""
    half = torch.arange(0, x.shape[-1], 2, device=x.device, dtype=torch.float32)
    position = torch.arange(start, start + x.shape[1], device=x.device, dtype=torch.float32)
    angle = position[:, None] * theta ** (-half / x.shape[-1])
    cos, sin = angle.cos()[None, :, None], angle.sin()[None, :, None]
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


def sliding(window: int) -> Attend:
    """Causal attention over the last `window` keys; the queries are the last of the keys."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys = torch.arange(k.shape[2], device=q.device)
        behind = keys[k.shape[2] - q.shape[2] :, None] - keys
        mask = (behind >= 0) & (behind < window)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

    return attend


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(
            x.dtype
        )


class TinyAttention(nn.Module):
    def __init__(self, config: TinyEncoderConfig | TinyDecoderConfig, biases: bool) -> None:
        super().__init__()
        inner, inner_kv = (n * config.head_dim for n in (config.n_heads, config.n_kv_heads))
        self.wq = nn.Linear(config.dim, inner, bias=biases)
        self.wk = nn.Linear(config.dim, inner_kv, bias=False)
        self.wv = nn.Linear(config.dim, inner_kv, bias=biases)
        self.wo = nn.Linear(inner, config.dim, bias=biases)
        self.config = config

    def forward(self, x: Tensor, attend: Attend, start: int, cache: Cache | None) -> Tensor:
        config = self.config
        q, k, v = (w(x).unflatten(-1, (-1, config.head_dim)) for w in (self.wq, self.wk, self.wv))
        q = rotate(q, start, config.rope_theta).transpose(1, 2)
        k = rotate(k, start, config.rope_theta).transpose(1, 2)
        v = v.transpose(1, 2)
        if cache is not None:
            if "kv" in cache:
                k, v = (torch.cat(pair, 2) for pair in zip(cache["kv"], (k, v), strict=True))
            keep = max(0, k.shape[2] - config.sliding_window + 1)
            cache["kv"] = k[:, :, keep:], v[:, :, keep:]
        return self.wo(attend(q, k, v).transpose(1, 2).flatten(2))


class AdaNorm(nn.Module):
    def __init__(self, config: TinyDecoderConfig) -> None:
        super().__init__()
        self.ada_down = nn.Linear(config.dim, config.ada_rms_norm_t_cond_dim, bias=False)
        self.ada_up = nn.Linear(config.ada_rms_norm_t_cond_dim, config.dim, bias=False)

    def forward(self, delay: Tensor) -> Tensor:
        return self.ada_up(functional.gelu(self.ada_down(delay)))


class Layer(nn.Module):
    """One pre-norm layer; the decoder's layers scale the FFN's input by the delay."""

    def __init__(self, config: TinyEncoderConfig | TinyDecoderConfig) -> None:
        super().__init__()
        encoder = isinstance(config, TinyEncoderConfig)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = TinyAttention(config, biases=encoder)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        if not encoder:
            self.ada_rms_norm_t_cond = AdaNorm(config)
        self.feed_forward_w1 = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.feed_forward_w2 = nn.Linear(config.hidden_dim, config.dim, bias=encoder)
        self.feed_forward_w3 = nn.Linear(config.dim, config.hidden_dim, bias=False)

    def forward(
        self, x: Tensor, attend: Attend, start: int, cache: Cache | None, delay: Tensor | None
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), attend, start, cache)
        h = self.ffn_norm(x)
        if delay is not None:
            h = h * (1 + self.ada_rms_norm_t_cond(delay))[:, None]
        gate = functional.silu(self.feed_forward_w1(h))
        return x + self.feed_forward_w2(gate * self.feed_forward_w3(h))


class CausalConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 3, stride=stride)


class Encoder(nn.Module):
    def __init__(self, config: TinyEncoderConfig, out: int) -> None:
        super().__init__()
        self.config = config
        self.conv_layers_0_conv = CausalConv(MELS, config.dim, 1)
        self.conv_layers_1_conv = CausalConv(config.dim, config.dim, 2)
        self.transformer_layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.transformer_norm = RMSNorm(config.dim, config.norm_eps)
        wide = config.dim * config.downsample_factor
        self.audio_language_projection_0 = nn.Linear(wide, out, bias=False)
        self.audio_language_projection_2 = nn.Linear(out, out, bias=False)

    def stem(self, mel: Tensor) -> Tensor:
        """Log-mel [b, 128, 8 t] to frames [b, 4 t, dim]."""
        for conv in (self.conv_layers_0_conv.conv, self.conv_layers_1_conv.conv):
            mel = functional.gelu(conv(functional.pad(mel, (3 - conv.stride[0], 0))))
        return mel.transpose(1, 2)

    def forward(
        self, frames: Tensor, attend: Attend, start: int = 0, caches: list[Cache] | None = None
    ) -> Tensor:
        """Frames [b, 4 t, dim] to audio embeddings [b, t, decoder width]."""
        for i, layer in enumerate(self.transformer_layers):
            frames = layer(frames, attend, start, caches[i] if caches else None, None)
        frames = self.transformer_norm(frames).unflatten(1, (-1, self.config.downsample_factor))
        h = functional.gelu(self.audio_language_projection_0(frames.flatten(2)))
        return self.audio_language_projection_2(h)


class Decoder(nn.Module):
    def __init__(self, config: TinyDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)

    def forward(
        self,
        audio: Tensor,
        tokens: Tensor,
        n_delay: Tensor,
        attend: Attend,
        start: int = 0,
        caches: list[Cache] | None = None,
    ) -> Tensor:
        """Audio embeddings [b, t, dim], tokens [b, t], delays [b] to logits [b, t, vocabulary]."""
        x = audio + self.tok_embeddings(tokens).to(audio.dtype)
        half = self.config.dim // 2
        scale = torch.arange(half, device=x.device, dtype=torch.float32) / half
        angle = n_delay.float()[:, None] * torch.exp(-math.log(10_000) * scale)
        delay = torch.cat((angle.cos(), angle.sin()), -1).to(x.dtype)
        for i, layer in enumerate(self.layers):
            x = layer(x, attend, start, caches[i] if caches else None, delay)
        return functional.linear(self.norm(x), self.tok_embeddings.weight.to(x.dtype))


class Voxtral(nn.Module):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder_args, config.decoder.dim)
        self.decoder = Decoder(config.decoder)

    def initialise(self) -> None:
        """Small normal weights; what writes to the residual stream is scaled down with depth."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "tok_embeddings" in name:
                nn.init.normal_(parameter, 0, 0.04)
            elif "ada_up" in name:
                nn.init.normal_(parameter, 0, 0.02)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, 0, 0.6 / math.sqrt(parameter.shape[1]))
            part = self.config.encoder_args if name.startswith("encoder") else self.config.decoder
            if name.endswith(("wo.weight", "w2.weight")):
                parameter.data /= math.sqrt(2 * part.n_layers)
