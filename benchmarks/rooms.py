"""Who speaks, in rooms made of recordings and of synthetic voices, live and afterwards.

    PYTHONPATH=tests python benchmarks/rooms.py DIR

DIR holds ``references.json`` and ``NAME.flac`` of the people in ``PEOPLE``, as for ``speech.py``;
the synthetic voices are those of flite and espeak-ng. In a room some of them take turns: of people
a clip of at most 8 s, or 0.8 to 3 s of one, of voices one to six sentences (0.8 to 20 s); 0.1 to
1 s after the one before, or over its end. All are equally loud. What is speech in a clip is told by
how loud it is.

Errors are in per cent of the speech, leaving out 0.25 s around where anybody begins or ends:
missed, where nobody speaks, of another speaker, by the best assignment of numbers to people; their
sum is the diarisation error rate. ``known``: the number of people is given. ``afterwards``: as in a
file, where the same vectors are clustered when all are there; ``oracle``: with the number given.

``--encoder FILE``: an ONNX file instead of Resemblyzer's encoder.

With ``--words`` rooms of whole clips go through a server with ``--model`` instead. WER is that of
all that was said; cpWER is that of each person's words against those of a speaker, by the best
assignment: words that have the wrong speaker count twice. One room of each kind is sent at real
speed: how long behind a word's end its text and its first speaker come.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import speech
from scipy.optimize import linear_sum_assignment
from support.server import Server, serving
from support.wire import dial, live, s16le, send

from voxlive.speakers.clustering import cluster
from voxlive.speakers.encoder import SpeakerEncoder, SpeakerModel, load_encoder
from voxlive.speakers.onnx import OnnxSpeakerEncoder
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
# Of espeak-ng, with its pitch and speed, and of flite.
VOICES = {
    "m1": ("en-us+m1", "38", "165"),
    "m3": ("en-gb+m3", "25", "150"),
    "f2": ("en-us+f2", "65", "170"),
    "f4": ("en-gb+f4", "55", "155"),
    "awb": None,
    "rms": None,
    "slt": None,
    "kal": None,
}
SENTENCES = """
Yes, of course.
No, I do not think so.
That is a good question.
Let me see.
We met the new neighbours on Sunday afternoon.
The train to the coast leaves at a quarter past nine.
Nobody had told me that the meeting was moved to the large room.
Could you send the figures again?
I would rather wait until the results of the second test are in.
It rained all week.
The garden behind the old house has been empty for years.
She wrote a long letter to her brother.
Most of the money went into repairs of the roof and the windows.
Then we should ask them.
He opened the door and found a box with three small keys in it.
They sold bread and fresh cheese.
The doctor said that walking for half an hour every day would help.
Thank you very much.
There are two ways to do this, and neither of them is cheap.
We lost the map near the river.
Please bring the blue folder and a pencil to the first lesson.
My sister plays the piano.
"""


@dataclass(frozen=True)
class Piece:
    """What somebody may say in a turn: audio, the cells of 10 ms with speech, the text if known."""

    audio: Samples
    cells: np.ndarray
    text: str | None = None


Everybody = dict[str, list[Piece]]


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


def level(audio: Samples) -> Samples:
    return (audio * (_LEVEL / np.sqrt((audio**2).mean()))).astype(np.float32)


def clips(folder: Path, *, whole: bool) -> Everybody:
    """What people say; ``whole``: clips of English as they are, with their texts."""
    references = json.loads((folder / "references.json").read_text("utf-8"))
    found: Everybody = {}
    for person, names in PEOPLE.items():
        for name in names:
            audio = level(np.concatenate(list(read_file(folder / f"{name}.flac"))))
            if whole and references[name]["lang"] == "en":
                pieces = [Piece(audio, speech_of(audio), references[name]["text"])]
            else:
                starts = range(0, max(1, len(audio) - 3 * SAMPLE_RATE), 8 * SAMPLE_RATE)
                parts = [] if whole else [audio[at : at + 8 * SAMPLE_RATE] for at in starts]
                pieces = [Piece(part, speech_of(part)) for part in parts]
            if pieces:
                found.setdefault(person, []).extend(pieces)
    return found


def voices() -> Everybody:
    """What synthetic voices say: turns of one to six sentences."""
    sentences, rng = SENTENCES.strip().split("\n"), random.Random(1)
    found: Everybody = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        for voice, how in VOICES.items():
            found[voice] = []
            for count in (1, 1, 1, 2, 2, 3, 4, 6):
                text = " ".join(rng.sample(sentences, count))
                if how:
                    name, pitch, speed = how
                    command = ["espeak-ng", "-v", name, "-p", pitch, "-s", speed, "-w", path]
                else:
                    command = ["flite", "-voice", voice, "-o", path, "-t"]
                subprocess.run([*command, text], check=True, capture_output=True)
                audio = level(np.concatenate(list(read_file(path))))
                found[voice].append(Piece(audio, speech_of(audio), text))
    return found


def room(
    everybody: Everybody,
    people: int,
    overlap: float,
    noise_db: float | None,
    seed: int,
    turns: int = 20,
) -> tuple[Samples, np.ndarray, list[tuple[int, str]]]:
    """Audio, by cell and person whether they speak, and who says what, where that is known."""
    rng = random.Random(seed)
    names = rng.sample(sorted(everybody), people)
    pieces, at, last = [], SAMPLE_RATE // 2, None
    said: list[tuple[int, str]] = []
    for _ in range(turns):
        person = rng.choice([name for name in names if name != last or people == 1])
        last = person
        piece = rng.choice(everybody[person])
        audio, cells = piece.audio, piece.cells
        said.append((names.index(person), piece.text or ""))
        if piece.text is None and rng.random() < 0.4:
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
    return whole, truth, said


class Pipeline:
    def __init__(self, encoder: SpeakerModel) -> None:
        self.silero, self.encoder = Silero(), encoder
        self.spent = 0.0
        self.asked = 0
        self.delays: list[float] = []

    def follow(self, audio: Samples, options: SpeakerOptions) -> SpeakerTracker:
        tracker = SpeakerTracker(options, GateOptions(), 0, self.encoder.likeness)
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


def afterwards(
    parts: list[SpeakerPart], speakers: int | None, encoder: SpeakerModel
) -> list[int | None]:
    """The parts as those of a file, whose vectors are all there."""
    vectors = [part.vector for part in parts if part.vector is not None]
    most, alike = SpeakerOptions().max_speakers, encoder.likeness.same
    found = iter(cluster(np.stack(vectors), speakers, most, alike))
    return [None if part.vector is None else next(found) for part in parts]


@dataclass(frozen=True)
class SaidWord:
    """A word as the server has it, and when its text and its first speaker came, in seconds."""

    text: str
    start: float
    end: float
    came: float
    labelled: float | None = None
    speaker: int | None = None


async def heard(server: Server, audio: Samples, *, paced: bool) -> list[SaidWord]:
    """What a session with ``diarize`` makes of a room."""
    words: dict[tuple[int, int], SaidWord] = {}
    if not paced:
        output = await live(server.ws, s16le(audio), diarize=True)
        for message in output.messages:
            take(words, message, 0.0)
        return [*words.values()]
    async with dial(f"{server.ws}/v1/live") as socket:
        start = {"type": "start", "format": "s16le", "rate": SAMPLE_RATE, "diarize": True}
        await send(socket, start)
        data, size = s16le(audio), SAMPLE_RATE // 10
        json.loads(await socket.recv())
        began = time.monotonic()

        async def speak() -> None:
            for at in range(0, len(data) // 2, size):
                # A piece is there once it was spoken.
                await asyncio.sleep(began + (at + size) / SAMPLE_RATE - time.monotonic())
                await socket.send(data[2 * at : 2 * (at + size)])
            await send(socket, {"type": "stop"})

        speaking = asyncio.create_task(speak())
        async for text in socket:
            take(words, json.loads(text), time.monotonic() - began)
        await speaking
    return [*words.values()]


def take(words: dict[tuple[int, int], SaidWord], message: dict, now: float) -> None:
    if message["type"] == "words":
        place = sum(segment == message["segment"] for segment, _ in words)
        for number, word in enumerate(message["words"], place):
            one = SaidWord(word["text"], word["start"], word["end"], now)
            words[message["segment"], number] = one
    elif message["type"] == "speakers":
        for found in message["ranges"]:
            for number in range(found["words"][0], found["words"][1] + 1):
                place = found["segment"], number
                word = words[place]
                first = now if word.labelled is None else word.labelled
                words[place] = SaidWord(
                    word.text, word.start, word.end, word.came, first, found["speaker"]
                )


def cp_errors(said: list[str], words: list[tuple[str, int | None]]) -> int:
    """Errors in words by the best assignment of speakers to people; some may have none."""
    speakers = sorted({-1 if speaker is None else speaker for _, speaker in words})
    texts = [" ".join(w for w, s in words if (-1 if s is None else s) == one) for one in speakers]
    size = max(len(said), len(texts))
    people = [*said, *[""] * (size - len(said))]
    texts += [""] * (size - len(texts))
    costs = np.array([[edits(one, other) for other in texts] for one in people])
    rows, columns = linear_sum_assignment(costs)
    return int(costs[rows, columns].sum())


def label_at(parts: list[SpeakerPart], labels: list[int | None], word: SaidWord) -> int | None:
    """Of the part in which a word has its middle, or of the nearest."""
    middle = (word.start + word.end) / 2 * SAMPLE_RATE
    known = [(part, label) for part, label in zip(parts, labels, strict=True) if label is not None]
    near = [(max(part.start - middle, middle - part.end, 0), label) for part, label in known]
    return min(near, key=lambda pair: pair[0])[1] if near else None


def edits(said: str, text: str) -> int:
    return speech.errors(said, text, "en")[0] if said.strip() else count(text)


def count(text: str) -> int:
    """Its words, as ``edits`` counts them."""
    return len(speech.plain(text, "en", digits=True).split())


def diarisation(everybody: Everybody, kind: str, rooms: range, encoder: SpeakerModel) -> None:
    pipeline = Pipeline(encoder)
    audio_s = 0.0
    print(f"\n{kind}")
    print(
        "| people | overlap | noise | missed | nobody | wrong | DER | known | found | afterwards "
        "| oracle | found |"
    )
    conditions = [(people, 0.0, None) for people in range(1, 7)]
    conditions += [(people, overlap, None) for people in (2, 3, 4, 6) for overlap in (0.1, 0.2)]
    conditions += [(3, 0, 20), (3, 0, 10)]
    for people, overlap, noise in conditions:
        if kind == "people" and people > 3:
            continue
        live_, known, later, oracle = (np.zeros(4) for _ in range(4))
        found, counted = [], []
        for number in rooms:
            audio, truth, _ = room(everybody, people, overlap, noise, 100 * people + number)
            audio_s += len(audio) / SAMPLE_RATE
            tracker = pipeline.follow(audio, SpeakerOptions())
            parts = [*tracker.parts]
            count = len(truth)
            live_ += errors(truth, cells_of(parts, [p.speaker for p in parts], count))
            clustered = afterwards(parts, None, encoder)
            counted.append(len({*clustered} - {None}))
            later += errors(truth, cells_of(parts, clustered, count))
            oracle += errors(truth, cells_of(parts, afterwards(parts, people, encoder), count))
            given = pipeline.follow(audio, SpeakerOptions(speakers=people))
            labels = [part.speaker for part in given.parts]
            known += errors(truth, cells_of([*given.parts], labels, count))
            found.append(tracker.count)
        missed, nobody, wrong = 100 * live_[:3] / live_[3]
        der = [f"{100 * one[:3].sum() / one[3]:.1f}" for one in (live_, known, later, oracle)]
        shares = f"{missed:.1f} | {nobody:.1f} | {wrong:.1f} | {' | '.join(der[:2])}"
        where = f"{people} | {overlap:.0%} | {noise or '-'}"
        after = f"{' | '.join(der[2:])} | {sorted(counted)}"
        print(f"| {where} | {shares} | {sorted(found)} | {after} |", flush=True)
    print(
        f"{1000 * pipeline.spent / pipeline.asked:.0f} ms of CPU a vector, "
        f"{50 * pipeline.spent / audio_s:.2f} % of a core a session"
    )
    print(f"from the middle of a part to its speaker: {np.median(pipeline.delays):.2f} s, median")


def alone(everybody: Everybody, encoder: SpeakerModel) -> None:
    """One voice for long, and what is none."""
    pipeline = Pipeline(encoder)
    german = [piece.audio for piece in everybody["german"]]
    one = np.concatenate([german[n % len(german)] for n in range(75)])
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
        followed = pipeline.follow(sound.astype(np.float32), SpeakerOptions())
        print(f"a minute of {name}: {followed.count}")


def transcripts(everybody: Everybody, kind: str, rooms: range, server: Server) -> None:
    encoder = load_encoder()
    pipeline = Pipeline(encoder)
    print(f"\n{kind}: words")
    print("| people | overlap | words | WER | cpWER live | afterwards | oracle |")
    conditions = [(2, 0.0), (3, 0.0), (3, 0.1), (3, 0.2)]
    conditions += [(4, 0.0), (4, 0.1), (6, 0.0), (6, 0.2)] if kind == "voices" else []
    for people, overlap in conditions:
        total, counts = 0, np.zeros(4)
        for number in rooms:
            audio, _, turns = room(everybody, people, overlap, None, 100 * people + number, 10)
            said = [" ".join(t for who, t in turns if who == one) for one in range(people)]
            words = asyncio.run(heard(server, audio, paced=False))
            parts = [*pipeline.follow(audio, SpeakerOptions()).parts]
            total += sum(map(count, said))
            whole = " ".join(text for _, text in turns)
            counts[0] += edits(whole, " ".join(word.text for word in words))
            counts[1] += cp_errors(said, [(word.text, word.speaker) for word in words])
            for at, known in ((2, None), (3, people)):
                labels = afterwards(parts, known, encoder)
                named = [(word.text, label_at(parts, labels, word)) for word in words]
                counts[at] += cp_errors(said, named)
        rates = " | ".join(f"{100 * one / total:.1f}" for one in counts)
        print(f"| {people} | {overlap:.0%} | {total} | {rates} |", flush=True)
    audio, *_ = room(everybody, 3, 0, None, 300, 10)
    words = asyncio.run(heard(server, audio, paced=True))
    came = np.array([word.came - word.end for word in words])
    named = np.array([word.labelled - word.end for word in words if word.labelled is not None])
    print(
        f"at real speed, {len(words)} words, {len(named)} with a speaker: text "
        f"{np.median(came):.2f} / {np.quantile(came, 0.95):.2f} s behind a word's end (p50 / p95), "
        f"speaker {np.median(named):.2f} / {np.quantile(named, 0.95):.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rooms", type=int, default=6)
    parser.add_argument("--first", type=int, default=0, help="the number of the first room")
    parser.add_argument("--words", action="store_true")
    parser.add_argument("--model", default="whisper-tiny.en")
    parser.add_argument("--encoder", type=Path)
    options = parser.parse_args()
    rooms = range(options.first, options.first + options.rooms)
    everybody = clips(options.folder, whole=options.words)
    kinds = {"people": everybody, "voices": voices()}
    if options.words:
        with serving("--model", options.model) as server:
            for kind, pieces in kinds.items():
                transcripts(pieces, kind, rooms, server)
        return
    path = options.encoder
    encoder = OnnxSpeakerEncoder(path.read_bytes(), path.name) if path else SpeakerEncoder()
    for kind, pieces in kinds.items():
        diarisation(pieces, kind, rooms, encoder)
    alone(everybody, encoder)


if __name__ == "__main__":
    main()
