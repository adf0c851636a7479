"""May this model do what is asked? Allow or a typed refusal, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoints.probe import ModelCapabilities
from .contract import Refusal, RunnerSpec
from .health import Health
from .refusals import RULES, Asked, Case, LoadOptions
from .routing import Routing

__all__ = ["Allowed", "Asked", "LoadOptions", "select_backend_policy"]

_ROOM = 3 << 30
"""What a model of no known family may work in."""
_LEAST_ROOM = 256 << 20


@dataclass(frozen=True, slots=True)
class Allowed:
    """``notes`` are worth telling: a tie-break, a limit of the model."""

    spec: RunnerSpec
    notes: tuple[str, ...] = ()


def select_backend_policy(
    model: str,
    capabilities: ModelCapabilities,
    routing: Routing,
    health: Health,
    asked: Asked | None = None,
    load: LoadOptions | None = None,
) -> Allowed | Refusal:
    """Allow, or the first refusal of the table that holds."""
    case = Case(model, capabilities, routing, health, asked or Asked(), load or LoadOptions())
    for rule in RULES:
        message = rule.says(case) if rule.says else None
        if message is not None:
            return Refusal(rule.status, rule.code, message, rule.param)
    notes = (routing.tie_break, *capabilities.warnings)
    return Allowed(_spec(case), tuple(note for note in notes if note))


def _spec(case: Case) -> RunnerSpec:
    """``needed_bytes``: the weights as they are loaded, and what the family works in."""
    backend, family, load = case.routing.backend, case.routing.family, case.load
    assert backend is not None
    live = backend == "voxtral_realtime"
    return RunnerSpec(
        model=case.model,
        backend=backend,
        family=family.name if family else case.capabilities.model_type or "",
        folder=case.capabilities.folder,
        needed_bytes=_needed_bytes(case),
        device=load.device,
        quantize=load.quantize if live else None,
        delay_ms=load.delay_ms if live else None,
    )


def _needed_bytes(case: Case) -> int:
    family, stored = case.routing.family, case.capabilities.weights_bytes
    shrunk = case.load.quantize is not None and case.capabilities.bits is None
    # Weights come as 16 bits; a group's scale and bias add half a bit per value.
    loaded = stored * (case.load.quantize + 0.5) / 16 if shrunk and case.load.quantize else stored
    # Caches and activations grow with the model: a small one of a large family needs less.
    return int(loaded) + min(family.room if family else _ROOM, int(loaded) + _LEAST_ROOM)
