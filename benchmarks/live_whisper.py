"""Sessions of a Whisper in real time on simulated cores: real passes, a clock of their own.

    PYTHONPATH=tests python benchmarks/live_whisper.py DIR --model whisper-tiny.en --sessions 1 8 16

Every session plays the English clips of DIR (``references.json``, ``NAME.flac``) in an order and
from a phase of its own, with pauses, through the voice detector's gate; passes are made one after
another and take their CPU time on the simulated clock, so that what else the machine does at the
moment hardly counts (it still shares caches and memory with it). Prints, for each number of
sessions: CPU seconds of passes for a second of audio, how busy the cores are, seconds from draft to
draft in an utterance, from a word's end to its commitment, and from a pause to its last words.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from support.simulated_cores import SimulatedCores, SimulatedStream

from voxlive.checkpoints.resolve import resolve
from voxlive.engines.contract import Committed, StreamOptions
from voxlive.engines.utterances import measure, timing
from voxlive.engines.utterances.commitment import RULES
from voxlive.engines.utterances.engine import make_pass
from voxlive.engines.utterances.utterance import DuePass, PassPlan, UtteranceStream
from voxlive.recognisers import load_recogniser
from voxlive.recognisers.contract import LoadingOptions, Recogniser, Recognition
from voxlive.streaming.ingest.media import read_file
from voxlive.vad.detector import Silero, VoiceDetector
from voxlive.vad.gate import Action, Feed, Gate, GateOptions, Paused
from voxlive.values import PAUSE_MS, SAMPLE_RATE, Samples

_PAUSE = np.zeros(SAMPLE_RATE, np.float32)
_CHUNK = SAMPLE_RATE // 10


def english_clips(folder: Path) -> list[Samples]:
    """The audio of every English clip."""
    references = json.loads((folder / "references.json").read_text())
    names = [name for name, one in references.items() if one["lang"] == "en"]
    return [np.concatenate(list(read_file(folder / f"{name}.flac"))) for name in names]


def gated(
    detector: VoiceDetector, audio: Samples, pause_ms: int = PAUSE_MS
) -> list[tuple[int, list[Action]]]:
    """What the gate decides once it has audio up to a sample, chunk by chunk."""
    gate, lane = Gate(GateOptions(min_silence_ms=pause_ms), 0), detector.lane()
    decisions = []
    for end in range(_CHUNK, len(audio) + 1, _CHUNK):
        probabilities = lane.push_blocking(audio[end - _CHUNK : end])
        lane.audio.drop(end)
        decisions.append((end, gate.process(probabilities, end)))
    total = len(audio) // _CHUNK * _CHUNK
    decisions.append((total, gate.finish(total)))
    lane.close()
    return decisions


@dataclass
class Passes:
    """Makes passes and counts what they cost."""

    recogniser: Recogniser
    cpu_s: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    count: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})

    def __call__(self, due: DuePass) -> tuple[Recognition, float]:
        began = time.process_time()
        found = make_pass(self.recogniser, due)
        took_s = time.process_time() - began
        self.cpu_s[due.final] += took_s
        self.count[due.final] += 1
        return found, took_s


def play(
    cores: SimulatedCores, stream: SimulatedStream, audio: Samples, gate: list, phase: float
) -> float:
    """Feed a session's audio as the gate has it; seconds of audio that are fed."""
    fed = marker = 0
    for end, actions in gate:
        now = phase + end / SAMPLE_RATE
        for action in actions:
            match action:
                case Feed(start, stop):
                    cores.feed(stream, audio[start:stop], start, now)
                    fed += stop - start
                case Paused():
                    marker += 1
                    cores.mark(stream, marker, now)
    return fed / SAMPLE_RATE


def delays(stream: SimulatedStream, phase: float) -> Iterator[float]:
    """Seconds from the end of each word to its commitment."""
    for now, message in stream.messages:
        if isinstance(message, Committed):
            for word in message.words:
                yield now - phase - word.end / SAMPLE_RATE


def gaps(stream: SimulatedStream) -> Iterator[float]:
    """Seconds from draft to draft of one utterance."""
    finals = [end for _, _, end in stream.finals]
    for before, after in itertools.pairwise(end for _, end in stream.drafts):
        if not any(before < end <= after for end in finals):
            yield after - before


def run(recogniser: Recogniser, clips: list[Samples], sessions: int, args) -> dict:
    """So many sessions, each ``args.seconds`` long."""
    rng = random.Random(args.seed)
    detector = VoiceDetector(Silero())
    rules, pause_ms = timing(resolve(args.model))
    passes = Passes(recogniser)
    cores = SimulatedCores(args.threads, passes)
    phases, fed = [], 0.0
    for _ in range(sessions):
        order: list[Samples] = []
        while sum(map(len, order)) < args.seconds * SAMPLE_RATE:
            order += [part for clip in rng.sample(clips, len(clips)) for part in (clip, _PAUSE)]
        audio = np.concatenate(order)
        if sessions > 1:
            audio = audio[: round(args.seconds * SAMPLE_RATE)]
        stream = cores.add(UtteranceStream(rules[args.rule], PassPlan(), StreamOptions("en")))
        phases.append(rng.uniform(0, 5))
        fed += play(cores, stream, audio, gated(detector, audio, pause_ms), phases[-1])
    cores.run()
    detector.close()
    late = [d for s, phase in zip(cores.streams, phases, strict=True) for d in delays(s, phase)]
    between = [gap for stream in cores.streams for gap in gaps(stream)]
    closing = [end - due for stream in cores.streams for due, _, end in stream.finals]
    return {
        "sessions": sessions,
        "audio_s": round(fed, 1),
        "cpu": round(sum(passes.cpu_s.values()) / fed, 3),
        "of drafts": round(passes.cpu_s[False] / fed, 3),
        "busy": round(cores.busy_s / args.threads / cores.now, 2),
        "drafts": passes.count[False],
        "gap": percentiles(between),
        "commit": percentiles(late),
        "closing": percentiles(closing),
        "words": len(late),
    }


def percentiles(values: list[float]) -> list[float]:
    """p50, p95, the most."""
    return [round(float(v), 2) for v in np.percentile(values or [0.0], (50, 95, 100))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="whisper-tiny.en")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rule", default="steady", choices=RULES)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    loading = LoadingOptions("cpu", threads=1, parallel=1)
    recogniser = load_recogniser("faster_whisper", resolve(args.model), loading)
    cost = measure(recogniser)
    print(cost, f"{cost.sessions(args.threads)} sessions", flush=True)
    clips = english_clips(args.folder)
    for sessions in args.sessions:
        print(json.dumps(run(recogniser, clips, sessions, args)), flush=True)


if __name__ == "__main__":
    main()
