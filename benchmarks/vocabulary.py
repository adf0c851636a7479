"""Terms found in recordings of people, and errors: by nothing, as a prompt, matched afterwards.

    python benchmarks/vocabulary.py DIR --model whisper-tiny.en

DIR as for ``speech.py``, whose versions of each clip are taken (but for the joined one), in pieces
of at most 24 s and with the passes of a live utterance's end. ``SPOKEN`` are terms of those clips,
``OTHERS`` is as long a list of names that nobody speaks there, ten of which nearly sound like words
that somebody does. A term counts as found at most as often as it is in the reference.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from speech import errors, plain, versions

from voxlive.checkpoints.resolve import resolve
from voxlive.engines.utterances.checks import is_doubtful
from voxlive.engines.utterances.engine import AGAIN, LAST
from voxlive.recognisers import load_recogniser
from voxlive.recognisers.contract import LoadingOptions, Recogniser
from voxlive.recognisers.vocabulary import TermMatcher
from voxlive.streaming.ingest.media import read_file
from voxlive.values import SAMPLE_RATE, Samples, Word

SPOKEN = {
    "austen-0870": ("John Dashwood",),
    "austen-0890": ("ill disposed",),
    "austen-0930": ("amiable",),
    "cards-005": ("spades", "clubs"),
    "goforward": ("meters",),
    "film-45s": ("billboard", "bonfire", "diner", "encircled"),
    "libri-6930": ("Concord",),
    "lj050-0131": ("thereunder",),
    "harvard-spk1_snt4": ("stripe",),
    "arctic-a0024": ("induced",),
    "fr-uberi": ("dictée",),
    "az-de-DE": ("WER-Nummer", "Testdetails", "Dataset", "Statuswechsel"),
}
# fmt: off
OTHERS = (
    "Knightley", "Kubernetes", "PostgreSQL", "Siobhan", "Nguyen", "Voxtral", "WhisperLiveKit",
    "Deepgram", "Anne Elliot", "Marianne", "Elinor", "Willoughby", "Palantir", "Grafana", "Zürich",
    "Beethoven", "Okonkwo", "Tchaikovsky", "Fitzgerald", "Hermione", "Mercedes", "Ableton",
    "Ozempic", "Lisinopril", "Metformin", "Schrödinger", "Fourier", "Ethereum", "Raspberry Pi",
    "Ada", "Theo", "Rhys", "Wren", "Kai", "Lou", "Moya", "Cody", "Dinah", "Cole", "Hart", "Byrne",
    "Hertz", "Mende", "Norse", "Haven", "Truckee", "Thayer", "Seaver", "Elsevier", "Reporters",
)
# fmt: on
PRESENT = tuple(term for terms in SPOKEN.values() for term in terms)
_PIECE = 24 * SAMPLE_RATE
Write = Callable[[Samples, str], str]


def words(recogniser: Recogniser, audio: Samples, language: str, prompt: tuple[str, ...]):
    """The words of a clip, as last passes over its utterances have them."""
    for at in range(0, len(audio), _PIECE):
        piece = audio[at : at + _PIECE]
        found = recogniser.recognise(piece, language, vocabulary=prompt, how=LAST)
        if is_doubtful(found):
            found = recogniser.recognise(piece, language, vocabulary=prompt, how=AGAIN)
        yield from found.words


def ways(recogniser: Recogniser) -> dict[str, Write]:
    """The columns of the table."""
    lists = {"spoken": PRESENT, "spoken and others": PRESENT + OTHERS, "others": OTHERS}
    heard: dict[int, list[Word]] = {}

    def plainly(audio: Samples, language: str) -> list[Word]:
        if id(audio) not in heard:
            heard.clear()
            heard[id(audio)] = [*words(recogniser, audio, language, ())]
        return heard[id(audio)]

    def prompted(terms: tuple[str, ...]) -> Write:
        return lambda audio, language: "".join(
            word.text for word in words(recogniser, audio, language, terms)
        )

    def matched(terms: tuple[str, ...]) -> Write:
        vocabulary = TermMatcher(terms)
        return lambda audio, language: "".join(
            one.word.text for one in vocabulary.spell(plainly(audio, language))
        )

    return {
        "no vocabulary": matched(()),
        **{f"matched, {name}": matched(terms) for name, terms in lists.items()},
        **{f"as a prompt, {name}": prompted(terms) for name, terms in lists.items()},
    }


def times(text: str, term: str, language: str) -> int:
    """How often a term is in a text."""
    found = re.escape(plain(term, language, False))
    return len(re.findall(rf"(?<!\S){found}(?!\S)", plain(text, language, False)))


def measure(folder: Path, name: str) -> None:
    """Every way over every version of every clip; prints a table."""
    recogniser = load_recogniser("faster_whisper", resolve(name), LoadingOptions("cpu"))
    references = json.loads((folder / "references.json").read_text())
    spoken = {c: r for c, r in references.items() if r["lang"] in recogniser.info.languages}
    rng = np.random.default_rng(0)
    columns = ways(recogniser)
    figures = {way: [0, 0, 0, 0] for way in columns}
    total = [0, 0, 0]
    for clip, reference in spoken.items():
        original = np.concatenate(list(read_file(folder / f"{clip}.flac")))
        text, language = reference["text"], reference["lang"]
        film = reference.get("kind", "").startswith("film")
        for _, audio, copies in versions(original, rng):
            if copies > 1:
                continue
            there = {term: times(text, term, language) for term in PRESENT + OTHERS}
            count = len(plain(text, language, "zero" in text).split())
            total = [
                total[0] + count,
                total[1] + (not film) * count,
                total[2] + sum(there.values()),
            ]
            for way, write in columns.items():
                written = write(audio, language)
                wrong, _ = errors(text, written, language)
                for term, often in there.items():
                    found = times(written, term, language)
                    figures[way][2] += min(found, often)
                    figures[way][3] += max(found - often, 0)
                figures[way][0] += wrong
                figures[way][1] += 0 if film else wrong
    print(f"{name}: {total[0]} words, {total[1]} without the film, {total[2]} terms")
    print(
        "| | errors | without the film | terms found | terms nobody spoke |\n|---|---|---|---|---|"
    )
    for way, numbers in figures.items():
        print(f"| {way} | {' | '.join(map(str, numbers))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", help="default: tiny.en, and base")
    options = parser.parse_args()
    for name in options.model or ("whisper-tiny.en", "whisper-base"):
        measure(options.folder, name)


if __name__ == "__main__":
    main()
