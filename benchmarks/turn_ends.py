"""How soon a turn ends after its last word, against how often it ends too early.

    PYTHONPATH=tests python benchmarks/turn_ends.py DIR

DIR holds ``references.json`` (name -> ``lang``, ``text``) and ``NAME.flac``, as for ``speech.py``.
Each clip but those with music is cut behind every word that is recognised as in its text: behind
the last one and where the text has a full stop a turn is over, elsewhere somebody goes on after a
pause. A cut is followed by near silence, and made at three speeds. What the draft would say there
comes from a Whisper that is given the clip up to the cut.

Pauses in mid-turn last as a log-normal law has it (median 0.5 s, sigma 0.8; from 0.2 s): none are
in recordings of people who read. A turn that ends before the pause is over is a false end; the
delay is that from the end of speech, by the voice detector, to the end of the turn, where it is
over. Silence alone ends a turn after a time that is chosen for the same share of false ends.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from faster_whisper import WhisperModel

from voxlive.checkpoints.resolve import resolve
from voxlive.streaming.ingest.media import read_file
from voxlive.turns.detector import SmartTurn
from voxlive.turns.tracker import EAGERNESS, TurnEnded, TurnOptions, TurnTracker
from voxlive.vad.detector import CONTEXT, FRAME, STATE, Silero
from voxlive.vad.gate import WINDOW, GateOptions
from voxlive.values import SAMPLE_RATE, Samples

_DRAWS = 400
_MEDIAN_S, _SIGMA, _SHORTEST_S = 0.5, 0.8, 0.2
_SPEEDS = (1.0, 0.9, 1.1)
_PAUSE_S = 6.0
_FADE = SAMPLE_RATE * 3 // 100
_THRESHOLDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98)
_UNFINISHED = ("lj050-0131",)  # the whole clip is a subordinate clause


@dataclass
class Cut:
    """A pause: whether the turn is over there, the windows' speech, the draft, the network."""

    complete: bool
    windows: Samples
    text: str
    probability: float | None = None
    asked: int = 0  # the sample before which the network heard the pause

    def wait(self, options: TurnOptions, *, text: bool = True) -> float | None:
        """Seconds from the end of speech to the end of the turn."""
        tracker = TurnTracker(options, GateOptions())
        tracker.hear(self.text if text else "", 1 << 40)
        ended = None
        for window in self.windows:
            events = tracker.push(float(window))
            if tracker.asks:
                # The question of the pause is the last one; others are of silence in mid-clip.
                last = tracker.end >= self.asked
                events += tracker.judge(self.probability if last and self.probability else 0.02)
            ended = next((e for e in events if isinstance(e, TurnEnded)), ended)
        return (ended.upto - ended.at) / SAMPLE_RATE if ended else None


def speech(silero: Silero, audio: Samples) -> Samples:
    """The probability of speech in each window."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), audio])
    state = np.zeros((2, 1, STATE), np.float32)
    found = []
    for at in range(0, len(audio) - WINDOW + 1, WINDOW):
        probabilities, state = silero.step(padded[None, at : at + FRAME], state)
        found.append(probabilities[0])
    return np.array(found)


def plain(word: str) -> str:
    return re.sub(r"\W", "", word.lower())


def words_of(model: WhisperModel, audio: Samples, language: str) -> list[tuple[str, float, float]]:
    segments, _ = model.transcribe(audio, language=language, word_timestamps=True)
    words: list[tuple[str, float, float]] = []
    for word in (word for segment in segments for word in segment.words):
        if words and not word.word.startswith(" ") and language != "zh":
            words[-1] = (words[-1][0] + word.word, words[-1][1], word.end)
        else:
            words.append((word.word, word.start, word.end))
    return words


def cuts(
    words: Sequence[tuple[str, float, float]], text: str, audio: Samples, *, finished: bool
) -> Iterator[tuple[int, bool]]:
    """Where to cut, in samples, and whether a turn is over there."""
    reference = text.split()
    matcher = difflib.SequenceMatcher(
        None, [plain(w) for w in reference], [plain(w[0]) for w in words], autojunk=False
    )
    said = {
        block.b + at: reference[block.a + at]
        for block in matcher.get_matching_blocks()
        for at in range(block.size)
    }
    for number, (_, _, end) in enumerate(words[:-1]):
        following = words[number + 1][1]
        low = max(0, round((end - 0.06) * SAMPLE_RATE))
        high = min(len(audio) - 400, round((max(following, end) + 0.06) * SAMPLE_RATE))
        if number not in said or high <= low or low < SAMPLE_RATE // 2:
            continue
        loudness = np.convolve(audio[low : high + 400] ** 2, np.ones(400), "valid")
        yield low + int(loudness.argmin()) + 200, bool(re.search(r"[.?!]$", said[number]))
    if finished:
        yield min(len(audio), round((words[-1][2] + 0.25) * SAMPLE_RATE)), True


def load(folder: Path) -> Iterator[Cut]:
    references = json.loads((folder / "references.json").read_text("utf-8"))
    silero, network = Silero(), SmartTurn()
    options = {"device": "cpu", "compute_type": "int8", "cpu_threads": 1}
    models = {
        name: WhisperModel(str(resolve(name, offline=True).folder), **options)
        for name in ("whisper-base", "whisper-tiny.en")
    }
    rng = np.random.default_rng(1)
    spent, asked = 0.0, 0
    for name, reference in references.items():
        if "noise" in reference["kind"]:
            continue
        language = reference["lang"]
        audio = np.concatenate(list(read_file(folder / f"{name}.flac")))
        words = words_of(models["whisper-base"], audio, language)
        finished = name not in _UNFINISHED
        drafts = models["whisper-tiny.en" if language == "en" else "whisper-base"]
        for at, complete in cuts(words, reference["text"], audio, finished=finished):
            head = audio[:at].copy()
            head[-_FADE:] *= np.linspace(1, 0, _FADE, dtype=np.float32)
            segments, _ = drafts.transcribe(
                np.pad(head[-8 * SAMPLE_RATE :], (0, 3200)), language=language, beam_size=1
            )
            text = "".join(segment.text for segment in segments)
            for speed in _SPEEDS:
                changed = soxr.resample(head, SAMPLE_RATE * speed, SAMPLE_RATE)
                pause = rng.standard_normal(round(_PAUSE_S * SAMPLE_RATE)) * 1e-4
                whole = np.concatenate([changed, pause]).astype(np.float32)
                windows = speech(silero, whole)
                tracker = TurnTracker(TurnOptions(0.99, None, 30_000), GateOptions())
                cut = Cut(complete, windows, text)
                for window in windows:
                    tracker.push(float(window))
                    if tracker.asks:
                        began = time.process_time()
                        [found] = network.judge([whole[: tracker.end]])
                        spent, asked = spent + time.process_time() - began, asked + 1
                        cut.probability, cut.asked = float(found), tracker.end
                        tracker.judge(0.02)
                if cut.probability is not None:
                    yield cut
    print(f"the network: {1000 * spent / asked:.0f} ms of CPU for a pause")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    found = list(load(parser.parse_args().folder))
    over = [cut for cut in found if cut.complete]
    open_ = [cut for cut in found if not cut.complete]
    print(f"{len(found)} pauses: {len(over)} behind a turn, {len(open_)} in the middle of one")
    rng = np.random.default_rng(0)
    pauses = np.maximum(
        rng.lognormal(math.log(_MEDIAN_S), _SIGMA, (_DRAWS, len(open_))), _SHORTEST_S
    )

    def report(name: str, options: TurnOptions, *, text: bool = True) -> None:
        waits = np.array([cut.wait(options, text=text) or _PAUSE_S for cut in open_])
        delays = np.array([cut.wait(options, text=text) or _PAUSE_S for cut in over])
        false = float((pauses > waits).mean())
        alone = float(np.quantile(pauses, 1 - false))
        middle, mean = float(np.median(delays)), float(delays.mean())
        print(
            f"| {name} | {100 * false:.1f} % | {mean:.2f} s | {middle:.2f} s | {alone:.2f} s "
            f"| {mean / alone:.2f} |"
        )

    print("| | false ends | delay, mean | median | silence alone | ratio of means |")
    for threshold in _THRESHOLDS:
        report(f"threshold {threshold:g}", TurnOptions(threshold, None, 5000))
    for threshold in (0.7, 0.85, 0.95):
        report(f"{threshold:g}, without text", TurnOptions(threshold, None, 5000), text=False)
    for eagerness, options in EAGERNESS.items():
        report(eagerness, options)


if __name__ == "__main__":
    main()
