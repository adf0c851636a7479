"""A model on this machine: its files, its family and what it can do, found out once.

Small documents and the headers of tensors decide. Nothing is loaded and no model code is imported;
the folder's name is only ever a hint. A ``LocalModel`` is passed to whatever loads the model, in
whichever process, so that its files are not searched for and its documents not read again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from voxlive.checkpoints.config import VoxtralConfig, read_config
from voxlive.checkpoints.contents import Contents, display_name, read_contents
from voxlive.checkpoints.families import hints, recognise_family
from voxlive.checkpoints.families.family import Evidence, Feature, Match, ModelFamily, read_evidence
from voxlive.checkpoints.families.voxtral import recognise_layout
from voxlive.checkpoints.files import Problem, check_files, find_files
from voxlive.checkpoints.plan import LoadPlan, make_plan, read_quantisation
from voxlive.checkpoints.tekken import Tekken, check_tekken, read_tekken
from voxlive.errors import CheckpointError, DamagedFile, IncompleteCheckpoint

_REMEMBERED = 128
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

    ``languages`` is None where nobody says which.
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


def probe_model_capabilities(contents: Contents) -> ModelCapabilities:
    """The capabilities by a folder's contents; raises DamagedFile when a document is unreadable."""
    evidence = read_evidence(contents)
    found = recognise_family(evidence)
    traits = found.family.read_traits(evidence) if found else None
    kind = evidence.at("model_type")
    extractor = evidence.extractor.get("feature_extractor_type")
    audio_config = _populated(evidence, _AUDIO)
    return ModelCapabilities(
        name=evidence.name,
        folder=contents.folder,
        family=found.family if found else None,
        model_type=kind if isinstance(kind, str) else None,
        layout=(traits and traits.layout) or (found.shape.layout if found else None),
        audio=found is not None or audio_config or _has_audio_extractor(evidence),
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


def _has_audio_extractor(evidence: Evidence) -> bool:
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
    warnings = []
    if found is not None:
        warnings += [text for text in (found.shape.warning, found.family.note) if text]
        named = hints(evidence.name)
        if named and not found.family.name.startswith(named):
            warnings.append(
                f"its name mentions {', '.join(named)}, but its files are those of "
                f"{found.family.title}"
            )
    return tuple(warnings)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """``name`` is what people call it; ``folder`` is absolute.

    ``problems`` are what is wrong with its files; ``error`` is why nothing is known of it.
    ``contents`` has what was read of its files, for what loads it. Two are equal that are the same
    folder under the same name.
    """

    name: str
    folder: Path
    capabilities: ModelCapabilities = field(compare=False)
    contents: Contents | None = field(default=None, compare=False, repr=False)
    problems: tuple[Problem, ...] = field(default=(), compare=False)
    error: CheckpointError | None = field(default=None, compare=False)

    @property
    def family(self) -> ModelFamily | None:
        """What kind of model it is; None if nobody recognised it."""
        return self.capabilities.family

    def read(self) -> Contents:
        """Its contents. Raises ``error`` if there is one."""
        if self.error is not None:
            raise self.error
        if self.contents is None:
            raise DamagedFile(f"{self.name} has no files")
        return self.contents


def read_model(folder: Path, name: str | None = None) -> LocalModel:
    """The model in a folder, whatever its state; ``name`` is the folder's if none is given.

    The last ones are remembered, for as long as their files stay the same.
    """
    folder = folder.resolve()
    found = _read_model(folder, _stamp(folder))
    return replace(found, name=name) if name else found


def reread(model: LocalModel) -> LocalModel:
    """The same model as its files are now."""
    return read_model(model.folder, model.name)


@lru_cache(_REMEMBERED)
def _read_model(folder: Path, _stamp: object) -> LocalModel:
    name = display_name(folder)
    try:
        contents = read_contents(folder)
        found = probe_model_capabilities(contents)
        problems = check_files(contents)
    except (CheckpointError, OSError) as problem:
        unknown = ModelCapabilities(name, folder, audio=True)
        error = problem if isinstance(problem, CheckpointError) else DamagedFile(str(problem))
        damaged = Problem(str(problem), "fetch it again")
        return LocalModel(name, folder, unknown, None, (damaged,), error)
    if "live" not in found.features:
        # Libraries read the weights of all other families by themselves.
        contents = replace(contents, headers={})
    return LocalModel(name, folder, found, contents, problems)


def _stamp(folder: Path) -> object:
    """Changes whenever a file of the checkpoint does."""
    try:
        stats = [path.stat() if path.exists() else path.lstat() for path in folder.iterdir()]
        return (folder.stat().st_mtime_ns, *((one.st_mtime_ns, one.st_size) for one in stats))
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Config, tokenizer and the plan by which to load the weights; all of it fits together."""

    config: VoxtralConfig
    tekken: Tekken
    plan: LoadPlan


def read_checkpoint(contents: Contents) -> Checkpoint:
    """A Voxtral Realtime checkpoint, checked through and through; only its tokenizer is read.

    Raises IncompleteCheckpoint, DamagedFile, UnsupportedConfig, WrongTokenizer or WeightsMismatch.
    """
    files = find_files(contents)
    if not files.tekken.is_file():
        raise IncompleteCheckpoint(f"{files.tekken} is there no more: fetch the model again")
    document = contents.document(files.config.name)
    tensors = contents.tensors(path.name for path in files.weights)
    tekken = read_tekken(files.tekken)
    extractor = contents.document(files.extractor.name) if files.extractor else None
    config = read_config(document, extractor, tekken.audio)
    check_tekken(tekken, config)
    plan = make_plan(config, recognise_layout(tensors), tensors, read_quantisation(document))
    return Checkpoint(config, tekken, plan)
