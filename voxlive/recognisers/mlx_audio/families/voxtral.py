"""Voxtral 3B and 24B, the ones for files. Their text is handled here.

mlx-audio leaves that to a processor of transformers that needs torch and takes only paths.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from voxlive.checkpoints.families.voxtral import VOXTRAL as VOXTRAL_FAMILY
from voxlive.checkpoints.languages import by_code
from voxlive.recognisers.mlx_audio import outputs
from voxlive.recognisers.mlx_audio.family import (
    Arguments,
    FamilyAdapter,
    FamilyRequest,
    Languages,
    Model,
    Tokens,
    numpy_audio,
)
from voxlive.values import SAMPLE_RATE

_WINDOW_S = 30
_WINDOW_TOKENS = 375  # 3000 frames of mel, halved by the encoder, four to a token
_SPECIAL = ("<s>", "</s>", "[INST]", "[/INST]", "[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]")
_WORDS = re.compile(r"\W?\w+|\W")  # as the tokenizer divides "lang:en"


class VoxtralText:
    """tekken.json as far as a transcription needs it. Raises ValueError for another model's."""

    def __init__(self, folder: Path) -> None:
        document = json.loads((folder / "tekken.json").read_text(encoding="utf-8"))
        config = document["config"]
        self._specials: int = config["default_num_special_tokens"]
        size = config["default_vocab_size"] - self._specials
        self._vocab = [base64.b64decode(token["token_bytes"]) for token in document["vocab"][:size]]
        self._ranks = {piece: rank for rank, piece in enumerate(self._vocab)}
        known = {token["token_str"]: token["rank"] for token in document["special_tokens"]}
        if missing := [name for name in _SPECIAL if name not in known]:
            raise ValueError(f"tekken.json has no {', '.join(missing)}: it is not Voxtral's")
        self._special = known
        ends = ("</s>", "[/INST]", "<pad>")
        self.eos_token_ids = [known[name] for name in ends if name in known]

    def prompt(self, language: str | None) -> list[int]:
        """Tokens that ask for the text of one window, in a language or in the detected one."""
        begin, instruction, end, sound, first, transcribe = (
            self._special[name]
            for name in ("<s>", "[INST]", "[/INST]", "[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]")
        )
        language_tokens = self.encode(f"lang:{language}") if language else []
        return [
            begin,
            instruction,
            first,
            *[sound] * _WINDOW_TOKENS,
            end,
            *language_tokens,
            transcribe,
        ]

    def encode(self, text: str) -> list[int]:
        """Byte pair encoding: the pair of the lowest rank is joined until there is none."""
        tokens = []
        for word in _WORDS.findall(text):
            pieces = [bytes([byte]) for byte in word.encode()]
            while len(pieces) > 1:
                ranks = [self._ranks.get(a + b, len(self._vocab)) for a, b in pairwise(pieces)]
                at = min(range(len(ranks)), key=ranks.__getitem__)
                if ranks[at] == len(self._vocab):
                    break
                pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
            tokens += [self._specials + self._ranks[piece] for piece in pieces]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ordinary tokens; others have none."""
        ranks = (token - self._specials for token in tokens)
        text = b"".join(self._vocab[rank] for rank in ranks if 0 <= rank < len(self._vocab))
        return text.decode("utf-8", "ignore")


class _Processor:
    """What mlx-audio's Voxtral asks of its processor."""

    def __init__(self, folder: Path) -> None:
        from transformers import WhisperFeatureExtractor

        self.tokenizer = VoxtralText(folder)
        self.decode = self.tokenizer.decode
        self._features = WhisperFeatureExtractor.from_pretrained(str(folder))

    def apply_transcription_request(
        self, *, language: str | None, audio: Any, model_id: object
    ) -> Mapping[str, Any]:
        """Token ids [1, n] and mel features [1, bins, 3000] for one window."""
        del model_id
        samples = np.zeros(_WINDOW_S * SAMPLE_RATE, np.float32)
        samples[: len(audio)] = audio
        mel = self._features(samples, sampling_rate=SAMPLE_RATE, return_tensors="np")
        return {
            "input_ids": np.array([self.tokenizer.prompt(language)]),
            "input_features": mel["input_features"],
        }


def _use_processor() -> None:
    from mlx_audio.stt.models.voxtral import Model as Voxtral

    def finish(model: Model, folder: Path) -> Model:
        model._processor = _Processor(Path(folder))
        return model

    Voxtral.post_load_hook = staticmethod(finish)


def _language_names(_model: Model) -> Mapping[str, str]:
    return by_code(VOXTRAL_FAMILY.languages or ())


def _adapt(arguments: Arguments, _request: FamilyRequest) -> Arguments:
    """Without a language it detects it; mlx-audio's default would be English."""
    import mlx.core as mx

    stream = mx.default_stream(mx.default_device())
    return {"language": None, "generation_stream": stream} | arguments


VOXTRAL = FamilyAdapter(
    "voxtral",
    _WINDOW_S,
    outputs.whole,
    languages=Languages(_language_names, ("language",)),
    tokens=Tokens(),
    temperature="temperature",
    adapt=_adapt,
    audio=numpy_audio,
    before_load=_use_processor,
)
