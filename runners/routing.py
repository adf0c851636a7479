"""Which backend serves a checkpoint: the first rule that holds, never the folder's name alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..checkpoints.families import FAMILIES, Family
from ..checkpoints.probe import ModelCapabilities

Capabilities = ModelCapabilities


@dataclass(frozen=True, slots=True)
class Routing:
    """``backend`` is a name of ``runners.registry``, None where no backend could serve the model.

    ``rule`` decided. ``tie_break`` tells when the name had to speak, because the config does not.
    """

    backend: str | None
    rule: str
    family: Family | None = None
    tie_break: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """``when`` is for people."""

    name: str
    when: str
    backend: Callable[[Capabilities], str | None]


def detect_audio_backend(capabilities: Capabilities) -> Routing:
    """The backend for a checkpoint, and why."""
    for rule in RULES:
        backend = rule.backend(capabilities)
        if backend is not None:
            return _routed(capabilities, backend, rule.name)
    return Routing(None, "no audio", capabilities.family)


def _routed(capabilities: Capabilities, backend: str, rule: str) -> Routing:
    if capabilities.family is not None or backend != "mlx_audio":
        return Routing(backend, rule, capabilities.family)
    hinted = _hinted(capabilities)
    if hinted is None:
        return Routing(backend, rule)
    said = f"no family is told by its config; its name mentions {hinted.title}"
    return Routing(backend, rule, hinted, said)


def _hinted(capabilities: Capabilities) -> Family | None:
    """The one speech family that the name mentions; two prove nothing at all."""
    families = [FAMILIES[name] for name in capabilities.hints if FAMILIES[name].kind == "speech"]
    return families[0] if len(families) == 1 else None


def _built_in(capabilities: Capabilities) -> str | None:
    family = capabilities.family
    return family.name if family and family.kind == "built-in" else None


def _voxtral(capabilities: Capabilities) -> str | None:
    family = capabilities.family
    if family is None or family.kind != "voxtral":
        return None
    return family.name if "live" in family.features else "mlx_audio"


def _sees(capabilities: Capabilities) -> str | None:
    return "mlx_vlm" if capabilities.audio_config and capabilities.vision_config else None


def _speech(capabilities: Capabilities) -> str | None:
    return "mlx_audio" if capabilities.family and capabilities.family.kind == "speech" else None


def _whisper_like(capabilities: Capabilities) -> str | None:
    said = f"{capabilities.model_type} {capabilities.extractor}".lower()
    return "mlx_audio" if capabilities.family is None and "whisper" in said else None


def _by_name(capabilities: Capabilities) -> str | None:
    unknown = capabilities.family is None and capabilities.audio
    return "mlx_audio" if unknown and _hinted(capabilities) else None


def _multimodal(capabilities: Capabilities) -> str | None:
    known = capabilities.family is not None and capabilities.family.kind == "multimodal"
    return "mlx_vlm" if known or capabilities.audio_config else None


RULES = (
    Rule("built in", "the model comes with voxlive", _built_in),
    Rule("voxtral", "a Voxtral, whatever sections its config has", _voxtral),
    Rule("audio and vision", "`audio_config` and a populated `vision_config`", _sees),
    Rule("speech model", "a family of speech models, told by its config or tensors", _speech),
    Rule(
        "whisper-like",
        "a model type or feature extractor with `whisper` in its name, of no known family",
        _whisper_like,
    ),
    Rule(
        "name",
        "an audio model of no known family whose name mentions exactly one; reported as a "
        "tie-break, and loaded strictly, so that a wrong guess fails",
        _by_name,
    ),
    Rule("audio alone", "`audio_config` without `vision_config`", _multimodal),
)
"""In this order; the first one decides."""
