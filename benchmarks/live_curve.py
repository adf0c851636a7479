"""When to commit a word: rules replayed over the same real passes, errors and delays of each.

    PYTHONPATH=tests python benchmarks/live_curve.py DIR --model whisper-tiny.en

Every clip of DIR (``references.json``, ``NAME.flac``) in its versions (``speech.py``) is a session
of its own in real time on simulated cores (``live_whisper.py``): through the voice detector's gate,
passes when the scheduler makes them. Passes do not depend on what is committed, so each is made
once and all rules are replayed over them. Prints for each rule: errors in 100 words, with and
without the film, the difference to LocalAgreement-2 with a bootstrap over the clips, and seconds
from a word's end to its commitment and to the first text on the screen that has as many words.

Then, for the default rule: words left out at -35 dBFS and with noise 10 dB below the speech, beside
the library's own pass over the whole file; and what is repeated in a session of so many
``--minutes`` of the clips with pauses between them, beside whole files' texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import numpy as np
from live_whisper import Passes, delays, gated, play
from speech import Tally, Transcribe, errors, interval, plain, versions, whole_file
from support.simulated_cores import SimulatedCores, SimulatedStream

from voxlive.checkpoints.resolve import resolve
from voxlive.engines.contract import Committed, Drafted, StreamOptions
from voxlive.engines.utterances.commitment import DEFAULT_RULE, RULES, CommitRule
from voxlive.engines.utterances.utterance import DuePass, PassPlan, UtteranceStream
from voxlive.recognisers import load_recogniser
from voxlive.recognisers.contract import LoadingOptions, Recognition
from voxlive.streaming.ingest.media import read_file
from voxlive.vad.detector import Silero, VoiceDetector
from voxlive.vad.gate import Action
from voxlive.values import SAMPLE_RATE, Samples

Decisions = list[tuple[int, list[Action]]]

_AGREEMENT = "LocalAgreement-2"
_PATIENT = {
    f"2 passes, {lag} s, alone after {patience} s": CommitRule(2, lag, patience_s=patience)
    for lag, patience in ((0.5, 1.6), (1.2, 2.4), (1.6, 2.2), (2.0, 2.2), (2.0, 2.6))
}
_CURVE = {
    _AGREEMENT: CommitRule(2, 0.0),
    **{f"2 passes, {lag} s": CommitRule(2, lag) for lag in (0.5, 0.8, 1.2, 2.0)},
    **{f"1 pass, {lag} s": CommitRule(1, lag) for lag in (1.0, 2.0)},
    **_PATIENT,
    **{f"`{name}`": rule for name, rule in RULES.items()},
}


class KeptPasses:
    """Makes each pass once; those of earlier runs are read from a file, with the time they took."""

    def __init__(self, passes: Passes, path: Path | None) -> None:
        self._passes = passes
        self._path = path
        self._kept: dict[bytes, tuple[Recognition, float]] = {}
        if path and path.exists():
            self._kept = pickle.loads(path.read_bytes())  # noqa: S301 - this script wrote it

    def __call__(self, due: DuePass) -> tuple[Recognition, float]:
        state = f"{due.final} {due.language} {due.task}".encode()
        key = hashlib.sha256(state + due.audio.tobytes()).digest()
        if key not in self._kept:
            self._kept[key] = self._passes(due)
        return self._kept[key]

    def save(self) -> None:
        """Write them all."""
        if self._path:
            self._path.write_bytes(pickle.dumps(self._kept))


@dataclass
class Curve:
    """What one rule makes of all clips."""

    tally: Tally = field(default_factory=Tally)
    delays_s: list[float] = field(default_factory=list)
    shown_s: list[float] = field(default_factory=list)

    def add(self, clip: str, version: str, stream: SimulatedStream, reference: str, lang: str):
        """A session's messages."""
        committed = [m for _, m in stream.messages if isinstance(m, Committed)]
        words = [word for message in committed for word in message.words]
        text = "".join(word.text for word in words)
        self.tally.add(clip, version, *errors(reference, text, lang))
        self.delays_s += delays(stream, 0.0)
        self.shown_s += first_shown(stream)


def first_shown(stream: SimulatedStream) -> list[float]:
    """Seconds from a word's end to the first text, committed or not, that has as many words."""
    ends, count, shown = [], 0, []
    for now, message in stream.messages:
        if isinstance(message, Committed):
            ends += [word.end / SAMPLE_RATE for word in message.words]
            visible = count = len(ends)
        elif isinstance(message, Drafted):
            visible = count + len(message.text.split())
        else:
            continue
        shown += [now] * (visible - len(shown))
    return [now - end for end, now in zip(ends, shown, strict=False)]


def measure(folder: Path, name: str, kept: Path | None, minutes: float) -> None:
    """All tables of one model; joints of an English one alone."""
    english = resolve(name).capabilities.languages == ("en",)
    languages = {"en"} if english else {"en", "de", "fr", "zh"}
    references = json.loads((folder / "references.json").read_text())
    clips = [clip for clip, one in references.items() if one["lang"] in languages]
    loading = LoadingOptions("cpu", threads=1, parallel=1)
    recogniser = load_recogniser("faster_whisper", resolve(name), loading)
    passes = KeptPasses(Passes(recogniser), kept)
    curves = {rule: Curve() for rule in _CURVE}
    rng = np.random.default_rng(0)
    detector = VoiceDetector(Silero())
    for clip in clips:
        original = clip_audio(folder, clip)
        lang = references[clip]["lang"]
        for version, samples, times in versions(original, rng):
            samples = samples.astype(np.float32)
            decisions = gated(detector, samples)
            reference = " ".join([references[clip]["text"]] * times)
            for rule, curve in curves.items():
                stream = session(passes, decisions, samples, lang, _CURVE[rule])
                curve.add(clip, version, stream, reference, lang)
        passes.save()
    report(name, curves, clips, references)
    print("\n| version | words | left out: whole file | live |\n|---|---|---|---|")
    whole = whole_file(name)
    for version in ("-35 dBFS", "noise 10 dB below"):
        left_out, words = {"whole": 0, "live": 0}, 0
        for clip in clips:
            samples = weakened(clip_audio(folder, clip), version)
            lang, reference = references[clip]["lang"], references[clip]["text"]
            texts = {
                "whole": whole(folder, samples, lang),
                "live": live_text(passes, detector, samples, lang),
            }
            for way, text in texts.items():
                missing, count = deletions(reference, text, lang)
                left_out[way] += missing
            words += count
        print(f"| {version} | {words} | {left_out['whole']} | {left_out['live']} |", flush=True)
    if english and minutes:
        print_joints(folder, clips, passes, detector, whole, minutes)
    passes.save()
    detector.close()


def clip_audio(folder: Path, clip: str) -> Samples:
    return np.concatenate(list(read_file(folder / f"{clip}.flac")))


def weakened(samples: Samples, version: str) -> Samples:
    """A clip at -35 dBFS (RMS), or with white noise 10 dB below it."""
    level = float(np.sqrt(np.mean(samples**2)))
    if version == "-35 dBFS":
        return samples * np.float32(10 ** (-35 / 20) / level)
    noise = np.random.default_rng(1).standard_normal(len(samples)).astype(np.float32)
    return np.clip(samples + noise * np.float32(level * 10**-0.5), -1, 1)


def session(
    passes: KeptPasses, decisions: Decisions, samples: Samples, lang: str, rule: CommitRule
) -> SimulatedStream:
    """A session of its own, with what the gate decides about its audio."""
    cores = SimulatedCores(2, passes)
    stream = cores.add(UtteranceStream(rule, PassPlan(), StreamOptions(lang)))
    play(cores, stream, samples, decisions, 0.0)
    cores.run()
    return stream


def live_text(passes: KeptPasses, detector: VoiceDetector, samples: Samples, lang: str) -> str:
    """What the default rule commits."""
    stream = session(passes, gated(detector, samples), samples, lang, RULES[DEFAULT_RULE])
    messages = (message for _, message in stream.messages)
    return "".join(w.text for one in messages if isinstance(one, Committed) for w in one.words)


def deletions(reference: str, text: str, lang: str) -> tuple[int, int]:
    """Words left out, and all of them."""
    wanted = plain(reference, lang, digits="zero" in reference.lower().split())
    return jiwer.process_words(wanted, plain(text, lang, digits=False)).deletions, len(
        wanted.split()
    )


def repetitions(text: str) -> int:
    """How often one to six words follow themselves."""
    words = re.findall(r"[\w']+", text.lower())
    count = at = 0
    while at < len(words):
        length = next((n for n in range(6, 0, -1) if words[at - n : at] == words[at : at + n]), 0)
        count += length > 0
        at += length or 1
    return count


def print_joints(
    folder: Path,
    clips: list[str],
    passes: KeptPasses,
    detector: VoiceDetector,
    whole: Transcribe,
    minutes: float,
) -> None:
    """Clips in random orders with pauses of 0.2 to 3 s, one session; English ones."""
    rng = np.random.default_rng(2)
    audio = {clip: clip_audio(folder, clip) for clip in clips}
    repeated = {clip: repetitions(whole(folder, audio[clip], "en")) for clip in clips}
    pieces: list[Samples] = []
    expected = 0
    while sum(map(len, pieces)) < minutes * 60 * SAMPLE_RATE:
        for clip in rng.permutation(clips):
            pause = np.zeros(round(float(rng.uniform(0.2, 3)) * SAMPLE_RATE), np.float32)
            pieces += [audio[clip], pause]
            expected += repeated[clip]
    text = live_text(passes, detector, np.concatenate(pieces), "en")
    print(
        f"\n{sum(map(len, pieces)) / 60 / SAMPLE_RATE:.1f} min, {len(text.split())} words: "
        f"{repetitions(text)} repetitions, {expected} in whole files' texts",
        flush=True,
    )


def report(name: str, curves: dict[str, Curve], clips: list[str], references: dict) -> None:
    without = [clip for clip in clips if not references[clip].get("kind", "").startswith("film")]
    agreement = curves[_AGREEMENT].tally
    print(f"\n{name}: {sum(agreement.words.values())} words\n")
    print(
        "| rule | errors in 100 words | without the film | beside LocalAgreement-2 (95 %) "
        "| commitment p50 / p95, s | first shown p50 / p95, s |"
    )
    print("|---|---|---|---|---|---|")
    for rule, curve in curves.items():
        tally = curve.tally
        difference = tally.rate(clips) - agreement.rate(clips)
        low, high = interval(tally, agreement, clips)
        late, shown = (np.percentile(v, (50, 95)) for v in (curve.delays_s, curve.shown_s))
        print(
            f"| {rule} | {tally.rate(clips):.2f} | {tally.rate(without):.2f} "
            f"| {difference:+.2f} ({low:+.2f} to {high:+.2f}) "
            f"| {late[0]:.2f} / {late[1]:.2f} | {shown[0]:.2f} / {shown[1]:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="whisper-tiny.en")
    parser.add_argument("--passes", type=Path, help="a file that keeps the passes between runs")
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    measure(options.folder, options.model, options.passes, options.minutes)


if __name__ == "__main__":
    main()
