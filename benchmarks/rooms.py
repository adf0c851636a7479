"""Who speaks, live, in rooms made of recordings: how much of the speech has a wrong speaker.

    PYTHONPATH=tests python benchmarks/rooms.py DIR

DIR holds ``NAME.flac`` of the people in ``PEOPLE``, as for ``speech.py``. In a room up to three of
them take 20 turns: a clip of at most 8 s, or 0.8 to 3 s of one, 0.1 to 1 s after the one before, or
over its end. All are equally loud. What is speech in a clip is told by how loud it is. Errors are
in per cent of the speech, leaving out 0.25 s around where anybody begins or ends: missed, where
nobody speaks, of another speaker, by the best assignment of numbers to people; their sum is the
diarisation error rate. ``known``: the number of people is given. ``afterwards``: as in a file,
where the same vectors are clustered when all are there; ``afterwards known`` with the number given.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from pathlib import Path

import numpy as np

from voxlive.speakers.clustering import cluster
from voxlive.speakers.encoder import SpeakerEncoder
from voxlive.speakers.tracker import SpeakerOptions, SpeakerPart, SpeakerTracker
from voxlive.streaming.ingest.media import read_file
from voxlive.vad.detector import CONTEXT, FRAME, STATE, Silero
from voxlive.vad.gate import WINDOW, GateOptions
from voxlive.values import SAMPLE_RATE, Samples

PEOPLE = {
    "austen": ("austen-0870", "austen-0890", "austen-0930"),
    "cards": ("cards-005",),
    "forward": ("goforward",),
    "digits": ("vosk-digits",),
    "libri": ("libri-6930",),
    "lj": ("lj050-0131",),
    "spk1": ("harvard-spk1_snt1", "harvard-spk1_snt4"),
    "spk2": ("harvard-spk2_snt4",),
    "arctic": ("arctic-a0024",),
    "french": ("fr-uberi",),
    "german": ("az-de-DE",),
}
_CELL = SAMPLE_RATE // 100
_COLLAR = 25  # cells
_BRIDGE = 30  # cells: shorter pauses within a turn are speech
_LEVEL = 0.05


def speech_of(audio: Samples) -> np.ndarray:
    """Cells of 10 ms in which a clip has speech."""
    power = (audio[: len(audio) // _CELL * _CELL].reshape(-1, _CELL) ** 2).mean(1)
    # Some recordings have noise all the time: speech is 9 dB louder.
    loud = np.flatnonzero(power > max(power.max() * 10**-3.5, np.percentile(power, 10) * 8))
    cells = np.zeros(len(power), bool)
    for one, after in itertools.pairwise(loud):
        cells[one : after if after - one <= _BRIDGE else one + 1] = True
    cells[loud[-1]] = True
    return cells


def clips(folder: Path) -> dict[str, list[tuple[Samples, np.ndarray]]]:
    found = {}
    for person, names in PEOPLE.items():
        found[person] = []
        for name in names:
            audio = np.concatenate(list(read_file(folder / f"{name}.flac")))
            audio = (audio * (_LEVEL / np.sqrt((audio**2).mean()))).astype(np.float32)
            for at in range(0, max(1, len(audio) - 3 * SAMPLE_RATE), 8 * SAMPLE_RATE):
                piece = audio[at : at + 8 * SAMPLE_RATE]
                found[person].append((piece, speech_of(piece)))
    return found


def room(
    everybody: dict[str, list[tuple[Samples, np.ndarray]]],
    people: int,
    overlap: float,
    noise_db: float | None,
    seed: int,
    turns: int = 20,
) -> tuple[Samples, np.ndarray]:
    """Audio, and by cell and person whether they speak."""
    rng = random.Random(seed)
    names = rng.sample(sorted(everybody), people)
    pieces, at, last = [], SAMPLE_RATE // 2, None
    for _ in range(turns):
        person = rng.choice([name for name in names if name != last or people == 1])
        last = person
        audio, cells = rng.choice(everybody[person])
        if rng.random() < 0.4:
            count = min(len(cells), round(rng.uniform(0.8, 3) * 100))
            first = rng.randrange(len(cells) - count + 1)
            cells = cells[first : first + count]
            audio = audio[first * _CELL : (first + count) * _CELL]
        if pieces and rng.random() < 2 * overlap:
            at -= min(round(rng.uniform(0.3, 1.5) * SAMPLE_RATE), len(pieces[-1][1]) // 2)
        at = at // _CELL * _CELL
        pieces.append((at, audio, cells, names.index(person)))
        at += len(audio) + round(rng.uniform(0.1, 1) * SAMPLE_RATE)
    length = max(start + len(audio) for start, audio, _, _ in pieces) + 2 * SAMPLE_RATE
    noise = np.random.default_rng(seed).standard_normal(length)
    level = 3e-4 if noise_db is None else _LEVEL * 10 ** (-noise_db / 20)
    whole = (noise * level).astype(np.float32)
    truth = np.zeros((length // _CELL + 1, people), bool)
    for start, audio, cells, person in pieces:
        whole[start : start + len(audio)] += audio
        cell = start // _CELL
        truth[cell : cell + len(cells), person] |= cells
    return whole, truth


class Pipeline:
    def __init__(self) -> None:
        self.silero, self.encoder = Silero(), SpeakerEncoder()
        self.spent = 0.0
        self.asked = 0
        self.delays: list[float] = []

    def follow(self, audio: Samples, options: SpeakerOptions) -> SpeakerTracker:
        tracker = SpeakerTracker(options, GateOptions())
        padded = np.concatenate([np.zeros(CONTEXT, np.float32), audio])
        state = np.zeros((2, 1, STATE), np.float32)
        for at in range(0, len(audio) - WINDOW + 1, WINDOW):
            probability, state = self.silero.step(padded[None, at : at + FRAME], state)
            tracker.push(float(probability[0]))
            self._answer(tracker, audio)
        tracker.finish()
        self._answer(tracker, audio)
        return tracker

    def _answer(self, tracker: SpeakerTracker, audio: Samples) -> None:
        if asked := tracker.ask:
            began = time.process_time()
            vector = self.encoder.embed(audio[asked.start : asked.end])
            self.spent += time.process_time() - began
            self.asked += 1
            tracker.hear(vector)
            part = tracker.parts[-1]
            self.delays.append((tracker.end - (part.start + part.end) / 2) / SAMPLE_RATE)


def cells_of(parts: list[SpeakerPart], labels: list[int | None], length: int) -> np.ndarray:
    cells = np.full(length, -1)
    for part, label in zip(parts, labels, strict=True):
        if label is not None:
            cells[part.start // _CELL : part.end // _CELL] = label
    return cells


def errors(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Cells missed, where nobody speaks, of another speaker; and those of speech."""
    edges = np.flatnonzero((truth[1:] != truth[:-1]).any(1))
    scored = np.ones(len(truth), bool)
    for edge in edges:
        scored[max(0, edge - _COLLAR) : edge + _COLLAR + 1] = False
    truth, found = truth[scored], found[scored]
    speaking = truth.sum(1)
    count = max(found.max(initial=-1) + 1, 1)
    same = np.array(
        [[(truth[:, p] & (found == s)).sum() for s in range(count)] for p in range(truth.shape[1])]
    )
    slots = range(max(count, truth.shape[1]))
    right = max(
        sum(same[p, s] for p, s in enumerate(chosen) if s < count)
        for chosen in itertools.permutations(slots, truth.shape[1])
    )
    missed = np.maximum(speaking - (found >= 0), 0).sum()
    nobody = ((found >= 0) & (speaking == 0)).sum()
    both = np.minimum(speaking, found >= 0).sum()
    return np.array([missed, nobody, both - right, speaking.sum()])


def afterwards(parts: list[SpeakerPart], speakers: int | None) -> list[int | None]:
    """The parts as those of a file, whose vectors are all there."""
    vectors = [part.vector for part in parts if part.vector is not None]
    found = iter(cluster(np.stack(vectors), speakers, SpeakerOptions().max_speakers))
    return [None if part.vector is None else next(found) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rooms", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="the number of the first room")
    options = parser.parse_args()
    everybody, pipeline = clips(options.folder), Pipeline()
    audio_s = 0.0
    print(
        "| people | overlap | noise | missed | nobody | wrong | DER | known | found |"
        " afterwards | afterwards known | found afterwards |"
    )
    for people, overlap, noise in (
        *((1, 0, None), (2, 0, None), (3, 0, None), (4, 0, None), (6, 0, None)),
        *((2, 0.1, None), (3, 0.1, None), (3, 0.2, None), (3, 0, 20), (3, 0, 10)),
    ):
        live, known, later, told, found, counted = *np.zeros((4, 4)), [], []
        for number in range(options.first, options.first + options.rooms):
            audio, truth = room(everybody, people, overlap, noise, 100 * people + number)
            audio_s += len(audio) / SAMPLE_RATE
            tracker = pipeline.follow(audio, SpeakerOptions())
            parts = [*tracker.parts]
            live += errors(truth, cells_of(parts, [p.speaker for p in parts], len(truth)))
            clustered = afterwards(parts, None)
            later += errors(truth, cells_of(parts, clustered, len(truth)))
            told += errors(truth, cells_of(parts, afterwards(parts, people), len(truth)))
            counted.append(len({*clustered} - {None}))
            given = pipeline.follow(audio, SpeakerOptions(speakers=people))
            labels = [part.speaker for part in given.parts]
            known += errors(truth, cells_of([*given.parts], labels, len(truth)))
            found.append(tracker.count)
        missed, nobody, wrong = 100 * live[:3] / live[3]
        der = [f"{100 * one[:3].sum() / one[3]:.1f}" for one in (live, known, later, told)]
        shares = f"{missed:.1f} | {nobody:.1f} | {wrong:.1f} | {' | '.join(der[:2])}"
        where = f"{people} | {overlap:.0%} | {noise or '-'}"
        after = f"{' | '.join(der[2:])} | {sorted(counted)}"
        print(f"| {where} | {shares} | {sorted(found)} | {after} |", flush=True)
    print(
        f"{1000 * pipeline.spent / pipeline.asked:.0f} ms of CPU a vector, "
        f"{50 * pipeline.spent / audio_s:.2f} % of a core a session"
    )
    print(f"from the middle of a part to its speaker: {np.median(pipeline.delays):.2f} s, median")
    one = np.concatenate([everybody["german"][n % len(everybody["german"])][0] for n in range(75)])
    print(f"one voice for {len(one) / SAMPLE_RATE / 60:.0f} min: ", end="")
    print(pipeline.follow(one, SpeakerOptions()).count)
    rng = np.random.default_rng(0)
    t = np.arange(60 * SAMPLE_RATE) / SAMPLE_RATE
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220, 277, 330)) * 0.05 * (1 + np.sin(4 * t))
    for name, sound in (
        ("silence", 0 * t),
        ("noise", rng.standard_normal(len(t)) * 0.05),
        ("chords", chord),
    ):
        heard = pipeline.follow(sound.astype(np.float32), SpeakerOptions())
        print(f"a minute of {name}: {heard.count}")


if __name__ == "__main__":
    main()
