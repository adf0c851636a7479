"""Whisper: windows of 30 s, so that a stretch is one window and no seam lies inside it.

Each stretch is read on its own: text carried over from window to window is what makes Whisper
repeat itself for minutes. The language that the first one is found to be in holds for the file.

A call with a margin looks at one window, which is encoded for as many frames as there is audio and
margin: most of a short call's cost would be the silence that fills the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxlive.checkpoints.languages import by_code
from voxlive.recognisers.contract import (
    CLOSING,
    FRAMES_PER_S,
    IMPROBABLE,
    NO_SPEECH,
    OPENING,
    REPETITIVE,
    WINDOW,
    split_tokens,
)
from voxlive.recognisers.mlx_audio import outputs
from voxlive.recognisers.mlx_audio.family import (
    Arguments,
    FamilyAdapter,
    FamilyRequest,
    Languages,
    Model,
    Output,
    Tokens,
)

_WINDOW_TOKENS = 224  # half its context; the other half is for the prompt
_SHORT_TOKENS, _TOKENS_PER_S = 32, 12  # more than are spoken: a short call at this limit repeats


def _language_names(model: Model) -> Mapping[str, str]:
    from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES

    if not model.is_multilingual:
        return {"en": "en"}
    return by_code(list(LANGUAGES)[: model.num_languages])


def _likeliest(model: Model, request: FamilyRequest) -> tuple[tuple[str, float], ...]:
    if not model.is_multilingual:
        return (("en", 1.0),)
    mel, _ = _mel(model, request.samples, request.options.margin_s, request.options.least_s)
    _, found = model.detect_language(mel)
    codes = {name: code for code, name in _language_names(model).items()}
    known = [(codes[name], float(p)) for name, p in found.items() if name in codes]
    return tuple(sorted(known, key=lambda one: -one[1]))


def _translation_refusal(model: Model) -> str | None:
    """The turbo and distilled models, with fewer decoder layers, were not taught to translate."""
    if not model.is_multilingual:
        return "this Whisper knows only English: choose a multilingual one, such as large-v3"
    if model.dims.n_text_layer < model.dims.n_audio_layer:
        return "a turbo or distilled Whisper does not translate: choose one such as large-v3"
    return None


def _prepare(model: Model, _folder: Path) -> None:
    processor = model._processor
    if processor is None or "<|0.00|>" not in processor.tokenizer.get_vocab():
        raise ValueError(
            "the tokenizer's files are missing (vocab.json, merges.txt or tokenizer.json, and"
            " preprocessor_config.json): take them from the same size of openai's repositories"
        )
    model.encoder = _WindowEncoder(model.encoder)


class _WindowEncoder:
    """A Whisper's encoder, for a part of the window if need be.

    It remembers the last window: mlx-audio encodes it anew to find the language, to decode at each
    temperature, and to time the words.
    """

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._positions = encoder._positional_embedding
        self._mel: Any = None
        self._encoded: Any = None
        self.frames = WINDOW

    def __call__(self, mel: Any) -> Any:
        """Encode log-mel features [1, frames, bands], of which the first ``frames`` count."""
        import mlx.core as mx

        mel = mel[:, : self.frames]
        known = self._mel is not None and mel.shape == self._mel.shape
        if not known or not mx.array_equal(mel, self._mel).item():
            self._encoder._positional_embedding = self._positions[: mel.shape[1] // 2]
            self._mel, self._encoded = mel, self._encoder(mel)
        return self._encoded


def _mel(model: Model, samples: Any, margin_s: float | None, least_s: float) -> tuple[Any, int]:
    """Log-mel features of the first window, [3000, bands], and how many of the frames are audio.

    Zeros fill the window. Behind them, a noise in the mel, a call with a margin loops: it gets the
    silence that it has itself.
    """
    import mlx.core as mx

    mel, frames = model._prepare_audio(samples)
    frames = min(frames, WINDOW)
    audio = mel[:frames].astype(model.dtype)
    width = WINDOW
    level = mx.array(0, model.dtype)
    if margin_s is not None:  # the encoder halves the frames: it takes even numbers
        wanted_s = max(frames / FRAMES_PER_S + margin_s, least_s)
        width = min(WINDOW, (round(wanted_s * FRAMES_PER_S) + 1) // 2 * 2)
        level = audio.min()
    model.encoder.frames = width
    return mx.pad(audio, [(0, WINDOW - frames), (0, 0)], constant_values=level), frames


@dataclass(frozen=True, slots=True)
class _WindowOutput:
    """What generate gives of one window, as far as it is read."""

    segments: list[dict[str, Any]]
    language: str | None


def _call(model: Model, audio: Any, arguments: Arguments) -> Output:
    margin_s = arguments.pop("margin_s", None)
    if margin_s is not None:
        return _first_window(model, audio, margin_s, arguments)
    model.encoder.frames = WINDOW
    return model.generate(audio, **arguments)


def _first_window(model: Model, audio: Any, margin_s: float, arguments: Arguments) -> Output:
    """One window as ``generate`` does it, over fewer frames."""
    from mlx_audio.stt.models.whisper.timing import add_word_timestamps

    mel, frames = _mel(model, audio, margin_s, arguments["least_s"])
    language, task = arguments.get("language"), arguments["task"]
    if language is None:
        language = model._detect_language(mel)
    tokenizer = model.get_tokenizer(language=language, task=task)
    found = _decode(model, mel, tokenizer, language, arguments)
    if found.no_speech_prob > NO_SPEECH and found.avg_logprob <= IMPROBABLE:
        return _WindowOutput([], language)
    pieces, _ = split_tokens(found.tokens, tokenizer.timestamp_begin, 0, frames)
    if arguments["word_timestamps"]:
        add_word_timestamps(
            segments=pieces,
            model=model,
            tokenizer=tokenizer,
            mel=mel,
            num_frames=frames,
            prepend_punctuations=OPENING,
            append_punctuations=CLOSING,
            last_speech_timestamp=0.0,
        )
    figures = {
        "temperature": found.temperature,
        "avg_logprob": found.avg_logprob,
        "compression_ratio": found.compression_ratio,
        "no_speech_prob": found.no_speech_prob,
    }
    segments = [piece | figures | {"text": tokenizer.decode(piece["tokens"])} for piece in pieces]
    return _WindowOutput([one for one in segments if one["start"] < one["end"]], language)


def _decode(model: Model, mel: Any, tokenizer: Any, language: str, arguments: Arguments) -> Any:
    """The text at the first temperature at which it is neither repetitive nor improbable."""
    from mlx_audio.stt.models.whisper.decoding import DecodingOptions

    prompt = arguments.get("initial_prompt")
    temperatures = arguments["temperature"]
    found = None
    for temperature in temperatures if isinstance(temperatures, tuple) else (temperatures,):
        options = DecodingOptions(
            task=arguments["task"],
            language=language,
            temperature=temperature,
            sample_len=arguments["sample_len"],
            prompt=tokenizer.encode(f" {prompt.strip()}") if prompt else None,
        )
        found = model.decode(mel, options)
        if found.compression_ratio <= REPETITIVE and found.avg_logprob >= IMPROBABLE:
            break
    return found


def _adapt(arguments: Arguments, request: FamilyRequest) -> Arguments:
    options = request.options
    arguments |= {"task": options.task, "word_timestamps": options.words}
    if len(options.temperatures) > 1:
        arguments["temperature"] = options.temperatures
    if options.margin_s is not None:
        arguments |= {"margin_s": options.margin_s, "least_s": options.least_s}
        most = _SHORT_TOKENS + round(_TOKENS_PER_S * request.seconds)
        arguments["sample_len"] = min(request.max_tokens or most, most)
    return arguments


WHISPER = FamilyAdapter(
    "whisper",
    30.0,
    outputs.whisper,
    languages=Languages(_language_names, ("language",), detect_once=True, likeliest=_likeliest),
    tokens=Tokens("sample_len", per_second=0, least=_WINDOW_TOKENS, most=_WINDOW_TOKENS),
    prompt="initial_prompt",
    temperature="temperature",
    fixed={"verbose": None, "condition_on_previous_text": False},
    adapt=_adapt,
    call=_call,
    after_load=_prepare,
    translation_refusal=_translation_refusal,
    words=True,
    warms=True,
)
