"""Everyday sentences from a small grammar: what the books of the corpus hardly contain.

Productions, in grammar.txt, are written ``name = alternative | alternative``; ``<name>`` in one is
replaced by a random expansion of that name.
"""

from __future__ import annotations

import random
import re
from pathlib import Path


def _parse(rules: str) -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for line in rules.strip().splitlines():
        name, _, alternatives = line.partition(" = ")
        table.setdefault(name, []).extend(part.strip() for part in alternatives.split("|"))
    return table


_TABLE = _parse(Path(__file__).with_name("grammar.txt").read_text())


def sentence(rng: random.Random) -> str:
    """One random sentence, lower-case, with commas where a speaker would pause."""
    text = "<sentence>"
    while "<" in text:
        text = re.sub(r"<([^<>]+)>", lambda match: rng.choice(_TABLE[match[1]]), text)
    return re.sub(r"\ba (?=[aeiou])", "an ", " ".join(text.split()))
