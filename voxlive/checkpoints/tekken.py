"""Reads tekken.json, Mistral's tokenizer file: the bytes of every token and the special ones.

Ids 0 to ``num_special - 1`` are special tokens; id ``num_special + r`` is the vocabulary's token of
rank r. The file may hold more tokens than the model uses.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from voxlive.checkpoints.config import Section, VoxtralConfig, read_json
from voxlive.errors import WrongTokenizer

BOS = "<s>"
EOS = "</s>"
STREAMING_PAD = "[STREAMING_PAD]"
STREAMING_WORD = "[STREAMING_WORD]"


@dataclass(frozen=True, slots=True)
class TekkenAudio:
    """The tokenizer's audio section. What it does not say is None."""

    sample_rate: int
    frame_rate: float
    mel_bins: int
    hop: int
    n_fft: int
    delay_ms: float | None
    left_pad_tokens: int | None


@dataclass(frozen=True, slots=True)
class Tekken:
    """Bytes of every ordinary token, ids of the special ones, and the audio section if any."""

    vocab: tuple[bytes, ...]
    num_special: int
    special: Mapping[str, int]
    audio: TekkenAudio | None

    @property
    def vocab_size(self) -> int:
        """Ordinary and special tokens."""
        return self.num_special + len(self.vocab)

    @property
    def bos(self) -> int:
        """The id that a prompt begins with."""
        return self.special[BOS]

    @property
    def eos(self) -> int:
        """The id that ends a text; live streams ignore it."""
        return self.special[EOS]

    @property
    def streaming_pad(self) -> int:
        """The id that says: nothing yet."""
        return self.special[STREAMING_PAD]

    @property
    def streaming_word(self) -> int:
        """The id that says: a word starts."""
        return self.special[STREAMING_WORD]


def read_tekken(path: Path) -> Tekken:
    """Read a tokenizer file; raises WrongTokenizer unless it is a streaming transcriber's."""
    document = read_json(path, WrongTokenizer)
    config = document.section("config")
    num_special = config.integer("default_num_special_tokens")
    size = config.integer("default_vocab_size") - num_special
    special = _special(document, num_special)
    missing = {BOS, EOS, STREAMING_PAD, STREAMING_WORD} - special.keys()
    if missing:
        raise WrongTokenizer(
            f"{path} has no {' and no '.join(sorted(missing))}: it is not the tokenizer of a "
            "streaming Voxtral model"
        )
    return Tekken(
        vocab=_vocab(document, size),
        num_special=num_special,
        special=MappingProxyType(special),
        audio=_audio(document.section("audio")) if "audio" in document else None,
    )


def check_tekken(tekken: Tekken, config: VoxtralConfig) -> None:
    """Raise WrongTokenizer unless tokenizer and model agree on vocabulary and audio framing."""
    if tekken.vocab_size != config.decoder.vocab_size:
        raise WrongTokenizer(
            f"tekken.json has {tekken.vocab_size} tokens, the model {config.decoder.vocab_size}: "
            "it belongs to another model"
        )
    if tekken.audio is None:
        return
    audio_section = tekken.audio
    for what, declared, expected in (
        ("sampling_rate", audio_section.sample_rate, config.audio.sample_rate),
        (
            "frame_rate",
            audio_section.frame_rate,
            config.audio.sample_rate / config.samples_per_token,
        ),
        ("num_mel_bins", audio_section.mel_bins, config.audio.mel_bins),
        ("hop_length", audio_section.hop, config.audio.hop),
        ("window_size", audio_section.n_fft, config.audio.n_fft),
    ):
        if declared != expected:
            raise WrongTokenizer(
                f"tekken.json: audio {what} is {declared}, the model's is {expected}"
            )


def _special(document: Section, num_special: int) -> dict[str, int]:
    special: dict[str, int] = {}
    for position, entry in enumerate(document.list("special_tokens")):
        token = Section(
            entry if isinstance(entry, dict) else {},
            f"{document.path}: special_tokens[{position}]",
            WrongTokenizer,
        )
        text, rank = token.text("token_str"), token.integer("rank")
        if not 0 <= rank < num_special or text in special:
            raise WrongTokenizer(f"{token.path}: {text} stands at an impossible or second place")
        special[text] = rank
    return special


def _vocab(document: Section, size: int) -> tuple[bytes, ...]:
    entries = document.list("vocab")
    if not 0 < size <= len(entries):
        raise WrongTokenizer(f"{document.path}: {len(entries)} tokens, but {size} are announced")
    vocab = []
    for position, entry in enumerate(entries[:size]):
        try:
            if entry["rank"] != position:
                raise ValueError(f"rank {entry['rank']} out of order")
            vocab.append(base64.b64decode(entry["token_bytes"], validate=True))
        except (KeyError, TypeError, ValueError, binascii.Error) as problem:
            raise WrongTokenizer(f"{document.path}: vocab[{position}]: {problem}") from problem
    return tuple(vocab)


def _audio(audio: Section) -> TekkenAudio:
    encoding = audio.section("audio_encoding_config")
    left_pad = "streaming_n_left_pad_tokens"
    return TekkenAudio(
        sample_rate=audio.integer("sampling_rate"),
        frame_rate=audio.number("frame_rate"),
        mel_bins=encoding.integer("num_mel_bins"),
        hop=encoding.integer("hop_length"),
        n_fft=encoding.integer("window_size"),
        delay_ms=audio.number("transcription_delay_ms")
        if "transcription_delay_ms" in audio
        else None,
        left_pad_tokens=audio.integer(left_pad) if left_pad in audio else None,
    )
