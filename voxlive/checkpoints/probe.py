"""What a checkpoint is and can do, told by its documents and its tensors' headers alone.

Nothing is loaded and no model code is imported; the folder's name is only ever a hint.

A Voxtral Realtime checkpoint, checked through and through and ready to be loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from voxlive.checkpoints.config import VoxtralConfig, read_json
from voxlive.checkpoints.families import hints, recognise_family
from voxlive.checkpoints.families.evidence import Evidence, read_evidence
from voxlive.checkpoints.families.family import Feature, Match, ModelFamily
from voxlive.checkpoints.files import CheckpointFiles
from voxlive.checkpoints.layouts import recognise_layout
from voxlive.checkpoints.plan import LoadPlan, make_plan
from voxlive.checkpoints.quantisation import read_quantisation
from voxlive.checkpoints.read_config import read_config
from voxlive.checkpoints.safetensors import read_headers
from voxlive.checkpoints.tekken import Tekken, check_tekken, read_tekken

_TOKENIZERS = re.compile(
    r"(.*/)?(tekken\.json|tokenizer.*\.(json|model)|vocab\.(json|txt)|merges\.txt|tokens\.(txt|json)"
    r"|dict\.txt|special_tokens_map\.json|added_tokens\.json|.*\.bpe\.model|train_bpe\d+\.model"
    r"|.*\.tiktoken)"
)
_AUDIO = ("audio_config", "thinker_config.audio_config", "audio_encoder_config")
_VISION = ("vision_config", "thinker_config.vision_config")
_TEXT = ("text_config", "thinker_config.text_config", "vocab_size", "n_vocab", "lm_config")


@dataclass(frozen=True, slots=True)
class ModelCapabilities:
    """A checkpoint's kind and abilities. ``family`` None: nobody recognised it.

    ``folder`` is None for a model that is built in, ``languages`` where nobody says which.
    ``audio_config`` and ``vision_config``: the config has a populated section for it.
    ``extractor`` is the feature extractor's class. ``bits`` None: not quantised. ``refused`` says
    why this form of the family cannot be used; ``transcribes`` is False if none could. ``signals``
    decided; ``hints`` are families that the name mentions, which decide nothing here.
    """

    name: str
    folder: Path | None = None
    family: ModelFamily | None = None
    model_type: str | None = None
    layout: str | None = None
    audio: bool = False
    text: bool = False
    audio_config: bool = False
    vision_config: bool = False
    extractor: str | None = None
    features: frozenset[Feature] = frozenset()
    languages: tuple[str, ...] | None = None
    sample_rate: int = 16_000
    weights_bytes: int = 0
    bits: int | None = None
    tokenizer: tuple[str, ...] = ()
    signals: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refused: str | None = None
    transcribes: bool = True

    @property
    def vision(self) -> bool:
        """Whether it also sees."""
        return self.vision_config


def probe_model_capabilities(folder: Path) -> ModelCapabilities:
    """Read a checkpoint's small files; raises DamagedFile when a document is unreadable."""
    return capabilities(folder, read_evidence(folder))


def capabilities(folder: Path, evidence: Evidence) -> ModelCapabilities:
    """What the evidence says."""
    found = recognise_family(evidence)
    traits = found.family.read_traits(evidence) if found else None
    kind = evidence.at("model_type")
    extractor = evidence.extractor.get("feature_extractor_type")
    audio_config = _populated(evidence, _AUDIO)
    return ModelCapabilities(
        name=evidence.name,
        folder=folder,
        family=found.family if found else None,
        model_type=kind if isinstance(kind, str) else None,
        layout=(traits and traits.layout) or (found.shape.layout if found else None),
        audio=found is not None or audio_config or _hears(evidence),
        text=_populated(evidence, _TEXT),
        audio_config=audio_config,
        vision_config=_populated(evidence, _VISION),
        extractor=extractor if isinstance(extractor, str) else None,
        features=traits.features if traits else frozenset(),
        languages=traits.languages if traits else None,
        sample_rate=traits.sample_rate if traits else 16_000,
        weights_bytes=evidence.weights_bytes,
        bits=_bits(evidence),
        tokenizer=tuple(sorted(name for name in evidence.files if _TOKENIZERS.fullmatch(name))),
        signals=found.signals if found else (),
        hints=hints(evidence.name),
        warnings=_warnings(evidence, found),
        refused=found.shape.refused if found else None,
        transcribes=found.shape.transcribes if found else True,
    )


def _populated(evidence: Evidence, paths: tuple[str, ...]) -> bool:
    return any(evidence.at(path) for path in paths)


def _hears(evidence: Evidence) -> bool:
    """Extractors of images have the same kind of name, but no sampling rate."""
    return "sampling_rate" in evidence.extractor


def _bits(evidence: Evidence) -> int | None:
    for key in ("quantization", "quantization_config"):
        section = evidence.at(key)
        if isinstance(section, Mapping) and isinstance(section.get("bits"), int):
            return int(section["bits"])
    return None


def _warnings(evidence: Evidence, found: Match | None) -> tuple[str, ...]:
    """What deserves to be known and hinders nothing."""
    said = []
    if found is not None:
        said += [text for text in (found.shape.warning, found.family.note) if text]
        named = hints(evidence.name)
        if named and not found.family.name.startswith(named):
            said.append(
                f"its name mentions {', '.join(named)}, but its files are those of "
                f"{found.family.title}"
            )
    return tuple(said)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Config, tokenizer and the plan by which to load the weights; all of it fits together."""

    files: CheckpointFiles
    config: VoxtralConfig
    tekken: Tekken
    plan: LoadPlan


def read_checkpoint(files: CheckpointFiles) -> Checkpoint:
    """Read all but the weights.

    Raises DamagedFile, UnsupportedConfig, WrongTokenizer or WeightsMismatch.
    """
    document, tensors = read_json(files.config), read_headers(files.weights)
    tekken = read_tekken(files.tekken)
    extractor = read_json(files.extractor) if files.extractor else None
    config = read_config(document, extractor, tekken.audio)
    check_tekken(tekken, config)
    announced = read_quantisation(document)
    return Checkpoint(
        files, config, tekken, make_plan(config, recognise_layout(tensors), tensors, announced)
    )
