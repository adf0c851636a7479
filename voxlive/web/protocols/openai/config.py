"""What an OpenAI realtime client may configure: parsed, and shown as it is in force.

It comes in two shapes: ``session.audio.input`` of today's API, and the flat fields of the beta.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from voxlive.checkpoints.languages import UnknownLanguage, language_of, unknown_language_message
from voxlive.engines.contract import EngineInfo, StreamOptions
from voxlive.errors import BadAudio, CodedError, RequestRefused
from voxlive.recognisers.vocabulary import usable_terms, vocabulary_in
from voxlive.streaming.ingest.formats import AudioFormat
from voxlive.streaming.intake import SessionOptions
from voxlive.turns.detector import find_model
from voxlive.turns.tracker import EAGERNESS, TurnOptions
from voxlive.vad.gate import GateOptions
from voxlive.values import PAUSE_MS
from voxlive.web.protocols.contract import FindEngine
from voxlive.web.protocols.fields import Json, quoted

_DEFAULT_AUDIO = AudioFormat("s16le", 24_000)
_RATE_OF_G711 = 8_000
_DEFAULT_GATE = GateOptions(min_silence_ms=PAUSE_MS)
_FORMATS = {"audio/pcm": "s16le", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}
_FLAT_FORMATS = {"pcm16": "s16le", "g711_ulaw": "mulaw", "g711_alaw": "alaw"}
_FLAT = {
    "input_audio_format": "format",
    "input_audio_noise_reduction": "noise_reduction",
    "input_audio_transcription": "transcription",
    "turn_detection": "turn_detection",
}
# As wide a hysteresis as the gate's own: speech may end when it is this much less certain.
_HYSTERESIS = 0.15
_MIN_THRESHOLD, _MAX_THRESHOLD = 0.01, 0.99
_MAX_SILENCE_MS = 10_000
_MAX_PROMPT = 10_000  # characters
_MAX_NAME = 200
_MAX_PADDING_MS = 2_000
# Where there is no model for the end of a turn, higher eagerness waits for less silence.
_EAGERNESS_MS = {"low": 1000, "medium": 500, "auto": 500, "high": 300}
_DELAYS_MS = {"minimal": 80, "low": 240, "medium": 480, "high": 960, "xhigh": 2400}


class BadField(CodedError, ValueError):
    """A value that cannot be in force; ``param`` is the path to it."""

    code = "invalid_value"

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message, param)


@dataclass(frozen=True, slots=True)
class Config:
    """A session as it is in force. ``turns`` None: the client takes the turns, by its commits.

    ``semantic``: a turn ends when its speaker has finished, not in any pause.
    ``prompt`` and ``keywords``: as the client has sent them, where the engine takes a vocabulary.
    ``model``: the name that the client has sent, whatever it stands for.
    """

    audio: AudioFormat = _DEFAULT_AUDIO
    turns: GateOptions | None = _DEFAULT_GATE
    semantic: TurnOptions | None = None
    noise_reduction: str | None = None
    language: str | None = None
    delay: str | None = None
    prompt: str | None = None
    keywords: tuple[str, ...] = ()
    model: str | None = None

    def options(self, info: EngineInfo) -> SessionOptions:
        """The session to open. Whoever takes the turns, the engine gets no silence."""
        delay_ms = None
        if self.delay:
            asked = _DELAYS_MS[self.delay]
            delay_ms = min(info.delays_ms, key=lambda ms: abs(ms - asked))
        stream = StreamOptions(
            self.language,
            delay_ms,
            drafts=False,
            vocabulary=usable_terms((*self.keywords, *vocabulary_in(self.prompt or ""))),
        )
        gate = self.turns or _DEFAULT_GATE
        return SessionOptions(self.audio, gate, stream, model=self.model, turns=self.semantic)

    def updated(self, session: Json, find: FindEngine) -> Config:
        """With the fields that these set. Unknown ones are ignored; raises BadField.

        ``find`` is the engine of a model's name; what it raises, this does.
        """
        audio = _section(session, "audio", "session.audio")
        audio_input = _section(audio, "input", "session.audio.input")
        config = self
        for where, fields, names in (
            ("session", session, _FLAT),
            ("session.audio.input", audio_input, {name: name for name in _PARSERS}),
        ):
            for field, name in names.items():
                if field in fields:
                    parse = _PARSERS[name]
                    config = parse(config, fields[field], f"{where}.{field}", find)
        return config

    def nested(self, session: str, info: EngineInfo) -> dict[str, object]:
        """The session in today's shape."""
        names = {encoding: name for name, encoding in _FORMATS.items()}
        rate = {"rate": self.audio.rate} if self.audio.encoding == "s16le" else {}
        fields = {"format": {"type": names[self.audio.encoding], **rate}, **self._fields(info)}
        return {**_head(session), "type": "transcription", "audio": {"input": fields}}

    def flat(self, session: str, info: EngineInfo) -> dict[str, object]:
        """The session in the beta's shape."""
        names = {encoding: name for name, encoding in _FLAT_FORMATS.items()}
        fields = {"format": names[self.audio.encoding], **self._fields(info)}
        return {**_head(session), **{field: fields[name] for field, name in _FLAT.items()}}

    def _fields(self, info: EngineInfo) -> dict[str, object]:
        """What both shapes share. A prompt is null where the engine takes no vocabulary."""
        turns = self.turns
        keywords = {"keywords": list(self.keywords)} if self.keywords else {}
        return {
            "noise_reduction": self.noise_reduction and {"type": self.noise_reduction},
            "transcription": {
                "model": info.model,
                "language": self.language,
                "prompt": self.prompt,
                **keywords,
                "delay": self.delay,
            },
            "turn_detection": turns and self._turn_detection(turns),
        }

    def _turn_detection(self, turns: GateOptions) -> dict[str, object]:
        if self.semantic:
            return {"type": "semantic_vad", "eagerness": self.semantic.eagerness}
        return {
            "type": "server_vad",
            "threshold": turns.threshold,
            "prefix_padding_ms": turns.pre_roll_ms,
            "silence_duration_ms": turns.pause_ms,
            "idle_timeout_ms": None,
        }


def is_flat(session: Json) -> bool:
    """Whether a client uses the beta's dialect."""
    return not _FLAT.keys().isdisjoint(session)


def _head(session: str) -> dict[str, object]:
    # A session does not expire, and there are no log probabilities to include.
    return {
        "id": session,
        "object": "realtime.transcription_session",
        "expires_at": None,
        "include": [],
    }


def _audio(config: Config, value: object, param: str, _find: FindEngine) -> Config:
    if value is None:
        return replace(config, audio=_DEFAULT_AUDIO)
    fields = value if isinstance(value, Mapping) else {"type": value}
    formats = _FORMATS | _FLAT_FORMATS
    encoding = formats[_one_of(formats, fields.get("type"), param)]
    if encoding != "s16le":
        return replace(config, audio=AudioFormat(encoding, _RATE_OF_G711))
    rate = round(_number(fields, "rate", param, _DEFAULT_AUDIO.rate))
    try:
        return replace(config, audio=AudioFormat(encoding, rate))
    except BadAudio as error:
        raise BadField(f"{param}.rate", str(error)) from error


def _noise_reduction(config: Config, value: object, param: str, _find: FindEngine) -> Config:
    """Accepted and returned, without effect: the voice detector copes with near and far."""
    if value is None:
        return replace(config, noise_reduction=None)
    kind = _one_of(("near_field", "far_field"), _object(value, param).get("type"), param)
    return replace(config, noise_reduction=kind)


def _transcription(config: Config, value: object, param: str, find: FindEngine) -> Config:
    """The model, and what else there is to say to its engine."""
    if value is None:
        return replace(config, language=None, delay=None, prompt=None, keywords=(), model=None)
    fields = _object(value, param)
    model = fields.get("model")
    if isinstance(model, str):
        config = replace(config, model=model[:_MAX_NAME])
    try:
        info = find(config.model)
    except RequestRefused as error:
        error.param = f"{param}.model"
        raise
    if "languages" in fields:
        hints = fields["languages"] or []
        if not isinstance(hints, list):
            raise BadField(f"{param}.languages", "languages must be a list of codes")
        config = replace(config, language=_single_language(hints, f"{param}.languages", info))
    if "language" in fields:
        known = _language_code(fields["language"], f"{param}.language", info)
        config = replace(config, language=known)
    if info.vocabulary is not None:
        config = _hinted(config, fields, param)
    if "delay" in fields and info.delays_ms:
        delay = fields["delay"]
        known = _one_of(_DELAYS_MS, delay, f"{param}.delay") if delay else None
        config = replace(config, delay=known)
    return config


def _hinted(config: Config, fields: Json, param: str) -> Config:
    """With the names and terms to expect. Raises BadField for values of a wrong type."""
    if "prompt" in fields:
        prompt = fields["prompt"]
        if prompt is not None and (not isinstance(prompt, str) or len(prompt) > _MAX_PROMPT):
            message = f"prompt must be a string of at most {_MAX_PROMPT} characters"
            raise BadField(f"{param}.prompt", message)
        config = replace(config, prompt=prompt or None)
    if "keywords" in fields:
        keywords = fields["keywords"] or []
        if not isinstance(keywords, list):
            raise BadField(f"{param}.keywords", "keywords must be a list of terms")
        config = replace(config, keywords=usable_terms(keywords))
    return config


def _turn_detection(config: Config, value: object, param: str, _find: FindEngine) -> Config:
    """Always whole: what is left out has its default, and what goes too far is held back."""
    if value is None:
        return replace(config, turns=None, semantic=None)
    fields = _object(value, param)
    kind = _one_of(("server_vad", "semantic_vad"), fields.get("type", "server_vad"), param)
    if kind == "semantic_vad":
        eagerness = _one_of(_EAGERNESS_MS, fields.get("eagerness") or "auto", param)
        if find_model():
            return replace(config, turns=_DEFAULT_GATE, semantic=EAGERNESS[eagerness])
        gate = GateOptions(min_silence_ms=_EAGERNESS_MS[eagerness])
        return replace(config, turns=gate, semantic=None)
    asked = _number(fields, "threshold", param, _DEFAULT_GATE.threshold)
    threshold = min(max(asked, _MIN_THRESHOLD), _MAX_THRESHOLD)
    silence = _number(fields, "silence_duration_ms", param, PAUSE_MS)
    padding = _number(fields, "prefix_padding_ms", param, _DEFAULT_GATE.pre_roll_ms)
    gate = GateOptions(
        threshold=threshold,
        exit_threshold=max(_MIN_THRESHOLD, round(threshold - _HYSTERESIS, 4)),
        min_silence_ms=min(round(silence), _MAX_SILENCE_MS),
        pre_roll_ms=min(round(padding), _MAX_PADDING_MS),
    )
    return replace(config, turns=gate, semantic=None)


_PARSERS: dict[str, Callable[[Config, object, str, FindEngine], Config]] = {
    "format": _audio,
    "noise_reduction": _noise_reduction,
    "transcription": _transcription,
    "turn_detection": _turn_detection,
}


def _single_language(hints: list[object], param: str, info: EngineInfo) -> str | None:
    """One language is a choice; among several the model chooses."""
    known = [_language_code(hint, param, info) for hint in hints]
    return known[0] if len(set(known)) == 1 else None


def _language_code(language: object, param: str, info: EngineInfo) -> str | None:
    """A language's code, if the engine knows it; None leaves the choice to it."""
    if language is not None and not isinstance(language, str):
        raise BadField(param, f"a language must be a string, not {quoted(language)}")
    try:
        code = language_of(language)
    except UnknownLanguage as error:
        raise BadField(param, str(error)) from error
    if code and info.languages and code not in info.languages:
        raise BadField(param, unknown_language_message(info.model, code, info.languages))
    return code


def _section(fields: Json, name: str, param: str) -> Json:
    value = fields.get(name)
    return {} if value is None else _object(value, param)


def _object(value: object, param: str) -> Json:
    if not isinstance(value, Mapping):
        raise BadField(param, f"{param} must be an object, not {quoted(value)}")
    return value


def _one_of(known: Collection[str], value: object, param: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise BadField(param, f"{param} must be one of {', '.join(known)}, not {quoted(value)}")
    return value


def _number(fields: Mapping[str, Any], name: str, param: str, default: float) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise BadField(f"{param}.{name}", f"{name} must be a number from 0 up, not {quoted(value)}")
    return value
