"""A Voxtral Realtime checkpoint, checked through and through and ready to be loaded."""

from __future__ import annotations

from dataclasses import dataclass

from .config import VoxtralConfig
from .documents import read_json
from .files import Files
from .layouts import recognise
from .plan import Plan, make_plan
from .quantisation import read_quantisation
from .read_config import read_config
from .safetensors import read_headers
from .tekken import Tekken, check_tekken, read_tekken


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Config, tokenizer and the plan by which to load the weights; all of it fits together."""

    files: Files
    config: VoxtralConfig
    tekken: Tekken
    plan: Plan


def read_checkpoint(files: Files) -> Checkpoint:
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
        files, config, tekken, make_plan(config, recognise(tensors), tensors, announced)
    )
