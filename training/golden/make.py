"""Runs transformers' Voxtral Realtime over the tiny model and writes tests/golden.

    PYTHONPATH=. python -m training.golden.make

See README.md beside this file for the environment and tests/golden/README.md for the contents.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import VoxtralRealtimeFeatureExtractor, VoxtralRealtimeForConditionalGeneration

from training.golden.audio import synthetic_audio
from training.golden.layouts import transformers_preprocessor, write_checkpoint
from training.golden.sample import BOS, RIGHT_PAD_TOKENS, STREAMING_PAD, rotating_sample
from training.golden.weights import SEED, TINY, random_weights

DELAYS = (6, 12)
SAMPLED = {"mel": 4, "encoder": 4, "embeddings": 16, "logits": 16}
FULL_MEL_FRAMES = 24
MIN_MARGIN = 1e-3
TOLERANCE = 2e-4
OUT = Path(__file__).parents[2] / "tests" / "golden"

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Run:
    """All that one delay gives; the audio side is the same for all delays but for its length."""

    mel: Array
    encoder: Array
    embeddings: Array
    logits: Array
    tokens: NDArray[np.int64]


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = load_model()
    runs = {delay: run(model, delay) for delay in DELAYS}
    check(model, runs)
    longest = runs[max(DELAYS)]
    audio_side = {
        "mel_first": longest.mel[:FULL_MEL_FRAMES],
        "mel_last": longest.mel[-FULL_MEL_FRAMES:],
        "mel": rotating_sample(longest.mel, SAMPLED["mel"]),
        "encoder": rotating_sample(longest.encoder, SAMPLED["encoder"]),
        "embeddings": rotating_sample(longest.embeddings, SAMPLED["embeddings"]),
    }
    np.savez_compressed(OUT / "audio.npz", **audio_side)
    for delay, result in runs.items():
        text_side = {
            "tokens": result.tokens.astype(np.int16),
            "top": np.sort(result.logits, axis=1)[:, :-3:-1],
            "logits": rotating_sample(result.logits, SAMPLED["logits"]),
        }
        np.savez_compressed(OUT / f"delay_{delay}.npz", **text_side)


def load_model() -> VoxtralRealtimeForConditionalGeneration:
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), "transformers", TINY, random_weights(TINY, SEED))
        model, report = VoxtralRealtimeForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    wrong = {what: names for what, names in report.items() if names}
    if wrong:
        raise SystemExit(f"the checkpoint does not fit transformers: {wrong}")
    return model.eval()


@torch.no_grad()
def run(model: VoxtralRealtimeForConditionalGeneration, delay: int) -> Run:
    prompt = [BOS] + [STREAMING_PAD] * (TINY.left_pad_tokens + delay)
    mel = log_mel(delay)
    states = model.model.audio_tower(input_features=mel, use_cache=False).last_hidden_state
    embeddings = model.get_audio_features(input_features=mel).pooler_output
    tokens, logits = list(prompt), []
    cache, fed = None, 0
    while fed < embeddings.shape[1]:
        step = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(torch.tensor([tokens[fed:]]))
            + embeddings[:, fed : len(tokens)],
            past_key_values=cache,
            use_cache=True,
            t_cond=condition(model, delay),
        )
        cache, fed = step.past_key_values, len(tokens)
        logits.append(model.lm_head(step.last_hidden_state)[0])
        tokens.append(int(logits[-1][-1].argmax()))
    return Run(
        mel[0].T.numpy(),
        states[0].numpy(),
        embeddings[0].numpy(),
        torch.cat(logits).numpy(),
        np.array(tokens),
    )


def log_mel(delay: int) -> torch.Tensor:
    """Log-mel [1, bins, frames] of zeros | audio | zeros, padded as a file is."""
    audio, unit = synthetic_audio(), TINY.samples_per_token
    left = TINY.left_pad_tokens * unit
    right = -len(audio) % unit + (delay + 1 + RIGHT_PAD_TOKENS) * unit
    options = transformers_preprocessor(TINY)
    del options["feature_extractor_type"]
    extractor = VoxtralRealtimeFeatureExtractor(**options)
    padded = np.pad(audio, (left, right))
    return extractor(padded, sampling_rate=TINY.audio.sample_rate, return_tensors="pt")[
        "input_features"
    ]


def condition(model: VoxtralRealtimeForConditionalGeneration, delay: int) -> torch.Tensor:
    return model.model.time_embedding(torch.full((1,), float(delay)))[None]


@torch.no_grad()
def check(model: VoxtralRealtimeForConditionalGeneration, runs: dict[int, Run]) -> None:
    """Refuse goldens that would not tell a right implementation from a wrong one."""
    for part in (model.config.audio_config, model.config.text_config):
        check_window(model, part, runs[DELAYS[0]])
    for delay, result in runs.items():
        prompt = 1 + TINY.left_pad_tokens + delay
        drift = float(np.abs(at_once(model, result, delay) - result.logits).max())
        best = np.sort(result.logits[prompt - 1 :], axis=1)
        margin = float((best[:, -1] - best[:, -2]).min())
        text = result.tokens[prompt:]
        kinds, most = len(set(text.tolist())), int(np.bincount(text).max())
        print(
            f"delay {delay}: {len(result.logits)} positions, cached against whole {drift:.1e}, "
            f"least margin {margin:.2e}, {kinds} different tokens, most frequent {most} times"
        )
        if drift > TOLERANCE or margin < MIN_MARGIN or kinds < 40 or most > len(text) // 4:
            raise SystemExit("these weights make poor goldens: choose another seed")


def check_window(model: VoxtralRealtimeForConditionalGeneration, part: Any, result: Run) -> None:
    """A window one too long must show."""
    part.sliding_window += 1
    change = float(np.abs(at_once(model, result, DELAYS[0]) - result.logits).max(axis=1).mean())
    part.sliding_window -= 1
    print(f"{part.model_type}: window + 1 changes logits by {change:.1e}, averaged over positions")
    if change < 100 * TOLERANCE:
        raise SystemExit("these weights do not look as far as the window: choose other gains")


@torch.no_grad()
def at_once(model: VoxtralRealtimeForConditionalGeneration, result: Run, delay: int) -> Array:
    """Logits [n, vocab] of the same tokens in one pass without caches."""
    return (
        model(
            input_ids=torch.from_numpy(result.tokens[None, :-1]),
            input_features=torch.from_numpy(result.mel.T[None].copy()),
            num_delay_tokens=delay,
            use_cache=False,
        )
        .logits[0]
        .numpy()
    )


if __name__ == "__main__":
    main()
