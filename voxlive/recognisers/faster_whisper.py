"""Whisper by faster-whisper: any checkpoint in CTranslate2's layout, on a CPU or an NVIDIA GPU.

A pass runs the model window by window as OpenAI's reference does
(https://github.com/openai/whisper, ``transcribe.py``): where a window's text ends with an open
segment, the next one begins there. The mel, the tokenizer, the ladder of temperatures and the
alignment of words are the library's; the loop stands here, since the library always encodes 30 s,
and nine tenths of the cost of a short pass are that padding.

Nothing here goes online: the checkpoint's files are all that is read.
"""

from __future__ import annotations

import ctypes
import os
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxlive.checkpoints.languages import by_code, unknown_language_message
from voxlive.errors import RequestRefused
from voxlive.recognisers.contract import (
    CLOSING,
    FRAMES_PER_S,
    IMPROBABLE,
    NO_SPEECH,
    OPENING,
    PADDED,
    REPETITIVE,
    WINDOW,
    PassOptions,
    RecogniserInfo,
    Recognition,
    Task,
    split_tokens,
)
from voxlive.values import SAMPLE_RATE, Segment, Word, samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.recognisers.contract import LoadingOptions
    from voxlive.values import Samples

    Mel = NDArray[np.float32]

CUBLAS_EXTRA = "voxlive[cuda12]"
_CUBLAS = ("libcublasLt.so.12", "libcublas.so.12")
_LONGEST_REASON = 600

_CONTEXT = 448  # tokens, with the prompt
_BEST_OF = 5
_TIMES_PER_S = 50

_PADDING = 520  # samples of silence: every window of 400 that has some of the audio is whole


def load(local: LocalModel, options: LoadingOptions) -> FasterWhisper:
    """Load a checkpoint in CTranslate2's layout. Blocks.

    Raises RequestRefused where the library or cuBLAS is missing, and for files that do not fit.
    """
    folder = local.folder
    if folder is None:
        raise RequestRefused("model_not_found", f"{local.name} has no files", "model")
    if not (folder / "tokenizer.json").is_file():
        # Without it the library would ask the hub for one.
        message = f"{local.name} has no tokenizer.json: fetch the model again"
        raise RequestRefused("unusable_model", message, "model")
    try:
        import ctranslate2
        from faster_whisper import WhisperModel
    except ImportError as error:
        message = f"{local.name} needs faster-whisper, which does not load: {error}"
        raise RequestRefused("missing_dependency", message, "model") from error
    device = _device(options, ctranslate2.get_cuda_device_count())
    try:
        model = WhisperModel(
            str(folder),
            device=device,
            compute_type=options.compute or _compute(ctranslate2, device),
            cpu_threads=options.threads,
            num_workers=options.parallel,
            local_files_only=True,
        )
    except (ValueError, RuntimeError, OSError, KeyError, TypeError) as error:
        # The library has no types of its own for what is wrong with files or a device.
        reason = str(error).strip()[:_LONGEST_REASON]
        message = f"{local.name} cannot be loaded by faster-whisper: {reason}"
        raise RequestRefused("unusable_model", message, "model") from error
    return FasterWhisper(model, local, options.parallel)


def _device(options: LoadingOptions, cards: int) -> str:
    """The device's name in CTranslate2. Raises RequestRefused for a GPU that cannot be used."""
    if options.device == "cpu" or (options.device is None and not cards):
        return "cpu"
    if not cards:
        message = "CTranslate2 finds no NVIDIA GPU here: choose the CPU"
        raise RequestRefused("missing_dependency", message, "device")
    open_cublas()
    return "cuda"


def open_cublas(package: str = "nvidia.cublas", libraries: Sequence[str] = _CUBLAS) -> None:
    """Open cuBLAS 12 in this process: a package's, else the system's.

    CTranslate2 opens it by its name alone in the first pass, finds what is open already, and would
    not find the package's by itself. Raises RequestRefused, which names the extra that has it.
    """
    try:
        found = find_spec(package)
    except ModuleNotFoundError:
        found = None
    places = found.submodule_search_locations if found else None
    folders = [Path(place) / "lib" for place in places or ()]
    try:
        for name in libraries:
            files = (folder / name for folder in folders)
            there = next((str(file) for file in files if file.is_file()), name)
            ctypes.CDLL(there, mode=os.RTLD_GLOBAL | os.RTLD_NOW)
    except OSError as error:
        raise RequestRefused(
            "missing_dependency",
            f"there is an NVIDIA GPU here, for which faster-whisper needs cuBLAS 12 ({error}): "
            f"install {CUBLAS_EXTRA}, or choose the CPU (--device cpu)",
            "device",
        ) from error


def _compute(ctranslate2: Any, device: str) -> str:
    """int8 on a CPU; on a GPU 16 bits, which it multiplies faster than it unpacks int8."""
    wanted = ("int8",) if device == "cpu" else ("float16", "int8_float16")
    known = ctranslate2.get_supported_compute_types(device)
    return next((one for one in wanted if one in known), "default")


class FasterWhisper:
    """One loaded Whisper; see ``contract.Recogniser``."""

    def __init__(self, model: Any, local: LocalModel, parallel: int) -> None:
        self._model = model
        known = [name for name in model.supported_languages if self._token(name) is not None]
        multilingual = model.model.is_multilingual
        self._languages = by_code(known) if multilingual else {"en": "en"}
        self._codes = {name: code for code, name in self._languages.items()}
        self._tokenizers: dict[tuple[str, Task], _Tokenizing] = {}
        self._lock = threading.Lock()
        self._info = RecogniserInfo(
            local.name,
            tuple(self._languages),
            WINDOW / FRAMES_PER_S,
            "gpu" if model.model.device == "cuda" else "cpu",
            model.model.compute_type,
            _no_translation(local, multilingual),
            parallel,
            continues=True,
        )

    @property
    def info(self) -> RecogniserInfo:
        """What was loaded."""
        return self._info

    def recognise(
        self,
        samples: Samples,
        language: str | None = None,
        task: Task = "transcribe",
        vocabulary: tuple[str, ...] = (),
        how: PassOptions = PADDED,
    ) -> Recognition:
        """The words in ``samples``; see ``contract.Recogniser``."""
        self._check(language, task)
        features = self._mel(samples)
        if not features.shape[1]:
            return Recognition()
        encoded = self._encode(features[:, :WINDOW], how)
        found: tuple[str, float] | None = None
        if language is None and self._model.model.is_multilingual:
            found = self._likeliest(encoded)[0]
        called = found[0] if found else language or "en"
        passing = _Pass(self._tokenizing(called, task), how, vocabulary)
        seek, last_word_s = 0, 0.0
        while True:
            window = features[:, seek : seek + WINDOW]
            step, last_word_s = self._window(passing, window, encoded, seek, last_word_s)
            seek += step
            if how.margin_s is not None or seek >= features.shape[1] or passing.left == 0:
                return passing.recognition(found)
            encoded = self._encode(features[:, seek : seek + WINDOW], how)

    def languages_of(self, samples: Samples) -> tuple[tuple[str, float], ...]:
        """The languages that may be spoken; see ``contract.Recogniser``."""
        if not self._model.model.is_multilingual:
            return (("en", 1.0),)
        features = self._mel(samples)
        return tuple(self._likeliest(self._encode(features[:, :WINDOW], PADDED)))

    def close(self) -> None:
        """Free the weights."""
        self._model.model.unload_model()

    def _check(self, language: str | None, task: Task) -> None:
        if language is not None and language not in self._languages:
            message = unknown_language_message(self._info.model, language, self._languages)
            raise RequestRefused("unsupported_language", message, "language")
        if task == "translate" and self._info.no_translation:
            raise RequestRefused("unsupported_task", self._info.no_translation, "task")

    def _mel(self, samples: Samples) -> Mel:
        """Log-mel features [bands, frames], a frame for every 10 ms, up to the last with a sound.

        A window is recognised a little differently with each number of frames, so digital silence
        at the end is left out: how much of it the client or the gate leaves there changes nothing.
        It is before the mel is made, whose last bits depend on its length on some processors.
        """
        heard = np.flatnonzero(samples)
        if not len(heard):
            return np.zeros((self._model.model.n_mels, 0), np.float32)
        mel: Mel = self._model.feature_extractor(samples[: heard[-1] + 1], _PADDING)
        [sounding] = np.nonzero((mel > mel.min()).any(axis=0))
        return mel[:, : sounding[-1] + 1] if len(sounding) else mel[:, :0]

    def _encode(self, window: Mel, how: PassOptions) -> Any:
        """What the encoder makes of a window and the silence behind it.

        The library's zeros fill a whole window; behind them, a noise in the mel, short passes loop.
        """
        frames = window.shape[1]
        width = WINDOW
        if how.margin_s is not None:  # the encoder halves the frames: it takes even numbers
            wanted_s = max(frames / FRAMES_PER_S + how.margin_s, how.least_s)
            width = min(WINDOW, (round(wanted_s * FRAMES_PER_S) + 1) // 2 * 2)
        level = 0.0 if how.margin_s is None else float(window.min())
        padded = np.pad(window, ((0, 0), (0, width - frames)), constant_values=level)
        return self._model.encode(padded)

    def _likeliest(self, encoded: Any) -> list[tuple[str, float]]:
        [tokens] = self._model.model.detect_language(encoded)
        return [(self._codes[t[2:-2]], float(p)) for t, p in tokens if t[2:-2] in self._codes]

    def _token(self, language: str) -> int | None:
        token: int | None = self._model.hf_tokenizer.token_to_id(f"<|{language}|>")
        return token

    def _tokenizing(self, language: str, task: Task) -> _Tokenizing:
        """What depends on language and task alone is made once: it takes longer than a mel."""
        with self._lock:
            if (language, task) not in self._tokenizers:
                made = _make_tokenizing(self._model, self._languages[language], task)
                self._tokenizers[language, task] = made
            return self._tokenizers[language, task]

    def _window(
        self, passing: _Pass, window: Mel, encoded: Any, seek: int, last_word_s: float
    ) -> tuple[int, float]:
        """Recognise one window: how many frames it settles, and where its last word ends."""
        model, tokenizer = self._model, passing.tokenizing.tokenizer
        frames = window.shape[1]
        prompt, known = passing.prompt(model), passing.known()
        options = passing.options(len(prompt), len(known))
        written, logprob, temperature, compression = model.generate_with_fallback(
            encoded, prompt + known, tokenizer, options
        )
        tokens: list[int] = written.sequences_ids[0]
        if known:
            # The library gives them back, and counts them in its figures.
            logprob *= (len(tokens) + 1) / (len(tokens) - len(known) + 1)
            tokens = tokens[len(known) - 1 :]
            compression = _compression(tokenizer.decode(tokens).strip())
        figures = {
            "temperature": temperature,
            "avg_logprob": logprob,
            "compression_ratio": compression,
            "no_speech_prob": written.no_speech_prob,
        }
        passing.count(tokens, figures)
        if written.no_speech_prob > NO_SPEECH and logprob <= IMPROBABLE:
            return frames, last_word_s
        pieces, settled = split_tokens(tokens, tokenizer.timestamp_begin, seek, frames)
        if passing.how.words and any(token < tokenizer.eot for token in tokens):
            aligned = [*passing.piece_before(known), *pieces]
            last_word_s = model.add_word_timestamps(
                [aligned], tokenizer, encoded, frames, OPENING, CLOSING, last_word_s
            )
            if settled < frames and (
                ends := [word["end"] for piece in pieces for word in piece["words"]]
            ):
                # Words are placed better than the model's own times.
                settled = max(1, round(ends[-1] * FRAMES_PER_S) - seek)
        passing.add(pieces, figures, seek + frames)
        return min(settled, frames), last_word_s


@dataclass(frozen=True, slots=True)
class _Tokenizing:
    """The library's tokenizer for a language and a task, and the tokens that are never written."""

    tokenizer: Any
    suppressed: Sequence[int]


def _make_tokenizing(model: Any, language: str, task: Task) -> _Tokenizing:
    from faster_whisper.tokenizer import Tokenizer
    from faster_whisper.transcribe import get_suppressed_tokens

    multilingual = model.model.is_multilingual
    tokenizer = Tokenizer(model.hf_tokenizer, multilingual, task=task, language=language)
    return _Tokenizing(tokenizer, get_suppressed_tokens(tokenizer, [-1]))


class _Pass:
    """One pass in the making: what it asks of each window, and what came of them."""

    def __init__(
        self, tokenizing: _Tokenizing, how: PassOptions, vocabulary: tuple[str, ...]
    ) -> None:
        self.tokenizing = tokenizing
        self.how = how
        self.left = how.max_tokens
        self._vocabulary = ", ".join(vocabulary) or None
        self._before = how.prompt
        self._segments: list[Segment] = []
        self._tokens = 0
        self._cut_short = False
        self._figures: list[dict[str, float]] = []

    def prompt(self, model: Any) -> list[int]:
        """The tokens before those that are written. The text before counts for the first window."""
        tokenizer = self.tokenizing.tokenizer
        before = tokenizer.encode(f" {self._before.strip()}") if self._before else []
        self._before = None
        prompt: list[int] = model.get_prompt(tokenizer, before, hotwords=self._vocabulary)
        return prompt[-_CONTEXT + 1 :]

    def known(self) -> list[int]:
        """The tokens of what is known of the window, with the times around it."""
        before, tokenizer = self.how.before, self.tokenizing.tokenizer
        if before is None:
            return []
        end, start = (round(_TIMES_PER_S * at / SAMPLE_RATE) for at in (before.end, before.start))
        begin: int = tokenizer.timestamp_begin
        text: list[int] = tokenizer.encode(f" {before.text.strip()}")
        return [begin, *text[-_CONTEXT // 4 :], begin + end, begin + start]

    def piece_before(self, known: Sequence[int]) -> list[dict[str, Any]]:
        """What is known, as the library aligns words, so that others are not laid over it."""
        before = self.how.before
        if before is None:
            return []
        end_s = before.end / SAMPLE_RATE
        return [{"seek": 0, "start": 0.0, "end": end_s, "tokens": list(known)}]

    def options(self, prompt: int, known: int) -> Any:
        """The library's options for a window with so many tokens of a prompt, and known ones."""
        from faster_whisper.transcribe import TranscriptionOptions

        most = min(_CONTEXT // 2, _CONTEXT - prompt)
        wanted = most if self.left is None else min(self.left + known, most)
        return TranscriptionOptions(
            beam_size=self.how.beam,
            best_of=_BEST_OF,
            patience=1,
            length_penalty=1,
            repetition_penalty=1,
            no_repeat_ngram_size=0,
            log_prob_threshold=IMPROBABLE,
            no_speech_threshold=NO_SPEECH,
            compression_ratio_threshold=REPETITIVE,
            condition_on_previous_text=False,
            prompt_reset_on_temperature=0.5,
            temperatures=list(self.how.temperatures),
            initial_prompt=None,
            prefix=None,
            suppress_blank=True,
            suppress_tokens=self.tokenizing.suppressed,
            without_timestamps=False,
            max_initial_timestamp=1.0,
            word_timestamps=self.how.words,
            prepend_punctuations=OPENING,
            append_punctuations=CLOSING,
            multilingual=False,
            # CTranslate2 writes half of what is left to prompt and text, or what the prompt leaves.
            max_new_tokens=min(max(2 * wanted - prompt, wanted), _CONTEXT - prompt - known),
            clip_timestamps="0",
            hallucination_silence_threshold=None,
            hotwords=self._vocabulary,
        )

    def count(self, tokens: Sequence[int], figures: dict[str, float]) -> None:
        """A window was recognised: what was written, and its figures under OpenAI's names."""
        self._figures.append(figures)
        self._tokens += len(tokens)
        if self.left is not None:
            self._cut_short |= len(tokens) >= self.left
            self.left = max(0, self.left - len(tokens))

    def add(self, pieces: Sequence[dict[str, Any]], figures: dict[str, float], end: int) -> None:
        """A window's text, no part of which lies behind frame ``end``."""
        for piece in pieces:
            text = self.tokenizing.tokenizer.decode(piece["tokens"])
            if text.strip() and piece["start"] < piece["end"]:
                self._segments.append(self._segment(text, piece, figures, end / FRAMES_PER_S))

    def _segment(
        self, text: str, piece: dict[str, Any], figures: dict[str, float], end_s: float
    ) -> Segment:
        words = tuple(
            Word(
                word["word"],
                samples(min(word["start"], end_s)),
                samples(min(word["end"], end_s)),
                round(float(word["probability"]), 4),
            )
            for word in piece.get("words", ())
        )
        return Segment(
            len(self._segments),
            text,
            samples(min(piece["start"], end_s)),
            samples(min(piece["end"], end_s)),
            words if self.how.words else None,
            details=(("tokens", list(piece["tokens"])), *figures.items()),
        )

    def recognition(self, found: tuple[str, float] | None) -> Recognition:
        """What the pass made of its audio."""
        language, p = found or (None, None)
        return Recognition(
            tuple(self._segments),
            language,
            p,
            max(one["no_speech_prob"] for one in self._figures),
            min(one["avg_logprob"] for one in self._figures),
            max(one["compression_ratio"] for one in self._figures),
            max(one["temperature"] for one in self._figures),
            self._tokens,
            cut_short=self._cut_short,
        )


def _compression(text: str) -> float:
    """How many times smaller deflate makes a text."""
    return len(text.encode()) / len(zlib.compress(text.encode()))


def _no_translation(local: LocalModel, multilingual: bool) -> str | None:
    if not multilingual:
        return f"{local.name} knows only English: choose a multilingual Whisper, such as large-v3"
    if "translate" not in local.capabilities.features:
        return f"{local.name} is turbo or distilled and does not translate: choose large-v3"
    return None
