"""When to commit a word: rules replayed over the same real passes, errors and delays of each.

    PYTHONPATH=tests python benchmarks/live_curve.py DIR --model whisper-tiny.en

Every clip of DIR (``references.json``, ``NAME.flac``) in its versions (``speech.py``) is a session
of its own in real time on simulated cores (``live_whisper.py``): through the voice detector's gate,
passes when the scheduler makes them. The rules that the option ``commit`` has make their own
sessions, since a last pass may go on behind what is committed; all others are replayed over the
passes of the default rule's. What a pass takes is a line through what passes of its kind took on a
quiet machine, whatever else runs now (of other models: what it took). Prints for each
rule: errors in 100 words, with and without the film, the difference to LocalAgreement-2 with a
bootstrap over the clips, seconds from a word's end to its commitment and to the first text on the
screen that has as many words, and CPU seconds for a second of audio that the gate feeds.

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
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soxr
from live_whisper import delays, gated, play
from speech import Tally, Transcribe, errors, interval, plain, versions, whole_file
from support.simulated_cores import SimulatedCores, SimulatedStream

from voxlive.checkpoints.resolve import resolve
from voxlive.engines.contract import Committed, Drafted, Message, StreamOptions
from voxlive.engines.utterances import timing as timing_of
from voxlive.engines.utterances.commitment import DEFAULT_RULE, CommitRule
from voxlive.engines.utterances.engine import AGAIN, DRAFT, LAST, WIDE_DRAFT, make_pass
from voxlive.engines.utterances.utterance import DuePass, PassPlan, UtteranceStream
from voxlive.recognisers import load_recogniser
from voxlive.recognisers.contract import LoadingOptions, PassOptions, Recogniser, Recognition
from voxlive.streaming.ingest.media import read_file
from voxlive.vad.detector import Silero, VoiceDetector
from voxlive.vad.gate import Action, Feed
from voxlive.values import SAMPLE_RATE, Samples

Decisions = list[tuple[int, list[Action]]]
Made = tuple[str, float, int, float]
"""A pass: its kind, seconds of audio, tokens, CPU seconds."""
Costs = dict[str, tuple[float, float, float]]
"""By kind, seconds of a pass: at least, for a second of audio, for a token."""

_KINDS = {"draft": DRAFT, "wide": WIDE_DRAFT, "last": LAST, "again": AGAIN}
_COSTS: dict[str, Costs] = {
    "whisper-tiny.en": {
        "draft": (0.044, 0.0018, 0.0041),
        "wide": (0.044, 0.0048, 0.0057),
        "last": (0.025, 0.0124, 0.0052),
        "again": (0.464, 0.0373, 0.0),
    },
}
"""CPU seconds, by least squares over the passes of the English clips as they are; of wide drafts by
what they take beside plain ones over the same audio: 1.31 of it."""

_AGREEMENT = "LocalAgreement-2"
_PLAIN, _MIXED = PassPlan(wide=False), PassPlan()
_WAS = CommitRule(2, 2.0, patience_s=2.2)
Plans = dict[str, tuple[PassPlan, CommitRule]]
_CURVE: Plans = {
    f"{_AGREEMENT}, plain drafts": (_PLAIN, CommitRule(2, 0.0)),
    "2 passes, 2.0 s, alone after 2.2 s, plain drafts": (_PLAIN, _WAS),
    _AGREEMENT: (_MIXED, CommitRule(2, 0.0)),
    **{f"2 passes, {lag} s": (_MIXED, CommitRule(2, lag)) for lag in (0.8, 1.2, 2.0)},
    **{f"1 pass, {lag} s": (_MIXED, CommitRule(1, lag)) for lag in (1.0, 2.0)},
    **{
        f"2 passes, {lag} s, alone after 2.2 s": (_MIXED, CommitRule(2, lag, patience_s=2.2))
        for lag in (0.8, 1.0, 1.2, 1.6, 2.0)
    },
}


@dataclass(frozen=True)
class Timing:
    """A model's rules and its pause, as its engine has them."""

    rules: dict[str, CommitRule]
    pause_ms: int

    @property
    def default(self) -> CommitRule:
        return self.rules[DEFAULT_RULE]

    def curve(self) -> Plans:
        """All that is replayed."""
        return _CURVE | {
            "`steady`, plain drafts": (_PLAIN, self.default),
            "at the pause, plain drafts": (_PLAIN, self.rules["pause"]),
            "`steady` without words left out": (_MIXED, replace(self.default, surer=inf)),
            **{f"`{name}`": (_MIXED, rule) for name, rule in self.rules.items()},
        }


class CountingRecogniser:
    """Notes of each pass its options, seconds of audio and tokens."""

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self.info = recogniser.info
        self.made: list[Made] = []

    def recognise(self, samples: Samples, *given: Any, how: PassOptions) -> Recognition:
        """See the contract."""
        began = time.process_time()
        found = self._recogniser.recognise(samples, *given, how=how)
        took_s = time.process_time() - began
        plain_how = replace(how, max_tokens=None, before=None)
        kind = next(name for name, of in _KINDS.items() if plain_how == of)
        self.made.append((kind, len(samples) / SAMPLE_RATE, found.tokens or 0, took_s))
        return found


class KeptPasses:
    """Makes each pass once; those of earlier runs are read from a file.

    A pass takes what its kind's line in ``costs`` has, or what it took when it was made.
    """

    def __init__(self, recogniser: Recogniser, costs: Costs | None, path: Path | None) -> None:
        self._recogniser = CountingRecogniser(recogniser)
        self._costs = costs
        self._path = path
        self._kept: dict[bytes, tuple[Recognition, list[Made]]] = {}
        self.cpu_s = 0.0
        if path and path.exists():
            self._kept = pickle.loads(path.read_bytes())  # noqa: S301 - this script wrote it

    def __call__(self, due: DuePass) -> tuple[Recognition, float]:
        before = due.before
        state = f"{due.final} {due.wide} {due.language} {due.task} {before and before.spoken}"
        audio = (before.audio.tobytes() if before else b"") + due.audio.tobytes()
        key = hashlib.sha256(state.encode() + audio).digest()
        if key not in self._kept:
            self._recogniser.made = []
            found = make_pass(self._recogniser, due)
            self._kept[key] = found, self._recogniser.made
        found, made = self._kept[key]
        took_s = sum(map(self._seconds, made))
        self.cpu_s += took_s
        return found, took_s

    def _seconds(self, made: Made) -> float:
        kind, audio_s, tokens, took_s = made
        if self._costs is None:
            return took_s
        base_s, per_audio_s, per_token_s = self._costs[kind]
        return base_s + per_audio_s * audio_s + per_token_s * tokens

    def save(self) -> None:
        """Write them all."""
        if self._path:
            self._path.write_bytes(pickle.dumps(self._kept))


@dataclass
class Curve:
    """What one rule makes of all clips."""

    tally: Tally = field(default_factory=Tally)
    fed_s: float = 0.0
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
    passes = KeptPasses(recogniser, _COSTS.get(name), kept)
    timing = Timing(*timing_of(resolve(name)))
    curves = {rule: Curve() for rule in timing.curve()}
    rng = np.random.default_rng(0)
    detector = VoiceDetector(Silero())
    for clip in clips:
        original = clip_audio(folder, clip)
        lang = references[clip]["lang"]
        for version, samples, times in more_versions(original, rng):
            samples = samples.astype(np.float32)
            decisions = gated(detector, samples, timing.pause_ms)
            reference = " ".join([references[clip]["text"]] * times)
            for rule, stream, cpu_s in sessions(passes, timing, decisions, samples, lang):
                curve = curves[rule]
                curve.add(clip, version, stream, reference, lang)
                curve.tally.cpu_s += cpu_s
                curve.fed_s += fed_s(decisions)
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
                "live": live_text(passes, timing, detector, samples, lang),
            }
            for way, text in texts.items():
                missing, count = deletions(reference, text, lang)
                left_out[way] += missing
            words += count
        print(f"| {version} | {words} | {left_out['whole']} | {left_out['live']} |", flush=True)
    if english and minutes:
        print_joints(folder, clips, passes, timing, detector, whole, minutes)
    passes.save()
    detector.close()


def more_versions(samples: Samples, rng: np.random.Generator) -> Iterator[tuple[str, Samples, int]]:
    """Those of ``speech.py``, and others between them."""
    yield from versions(samples, rng)
    level = float(np.sqrt(np.mean(samples**2)))
    noise = np.random.default_rng(len(samples)).standard_normal(len(samples)).astype(np.float32)
    noisy = samples + noise * np.float32(level * 10**-0.75)
    yield "noise 15 dB below", np.clip(noisy, -1, 1), 1
    for speed in (0.95, 1.05):
        yield f"speed {speed}", soxr.resample(samples, SAMPLE_RATE * speed, SAMPLE_RATE), 1
    pause = np.zeros(SAMPLE_RATE, np.float32)
    yield "twice, 1 s apart", np.concatenate([samples, pause, samples]), 2


def clip_audio(folder: Path, clip: str) -> Samples:
    return np.concatenate(list(read_file(folder / f"{clip}.flac")))


def weakened(samples: Samples, version: str) -> Samples:
    """A clip at -35 dBFS (RMS), or with white noise 10 dB below it."""
    level = float(np.sqrt(np.mean(samples**2)))
    if version == "-35 dBFS":
        return samples * np.float32(10 ** (-35 / 20) / level)
    noise = np.random.default_rng(1).standard_normal(len(samples)).astype(np.float32)
    return np.clip(samples + noise * np.float32(level * 10**-0.5), -1, 1)


class NotedStream(UtteranceStream):
    """Notes all that it is given and when, so that another rule can be given the same."""

    def __init__(self, cores: SimulatedCores, *given: Any) -> None:
        super().__init__(*given)
        self._cores = cores
        self.notes: list[tuple[float, str, tuple[Any, ...]]] = []

    def feed(self, samples: Samples, at: int) -> None:
        self._note("feed", samples, at)
        super().feed(samples, at)

    def mark(self, marker: int) -> list[Message]:
        self._note("mark", marker)
        return super().mark(marker)

    def begin(self) -> DuePass | None:
        if (due := super().begin()) is not None:
            self._note("begin")
        return due

    def done(self, found: Recognition) -> list[Message]:
        self._note("done", found)
        return super().done(found)

    def _note(self, name: str, *given: Any) -> None:
        self.notes.append((self._cores.now, name, given))


def sessions(
    passes: KeptPasses, timing: Timing, decisions: Decisions, samples: Samples, lang: str
) -> Iterator[tuple[str, SimulatedStream, float]]:
    """The curve's rules, what each makes of a session, and the CPU seconds of its passes."""
    default: dict[PassPlan, tuple[SimulatedStream, float]] = {}
    for name, (plan, rule) in timing.curve().items():
        passes.cpu_s = 0.0
        if plan not in default:
            stream = session(passes, decisions, samples, lang, plan, timing.default)
            default[plan] = stream, passes.cpu_s
        noted, cpu_s = default[plan]
        if rule == timing.default:
            yield name, noted, cpu_s
        elif rule in timing.rules.values() and plan == _MIXED:
            passes.cpu_s = 0.0
            stream = session(passes, decisions, samples, lang, plan, rule)
            yield name, stream, passes.cpu_s
        else:
            yield name, replayed(noted, UtteranceStream(rule, plan, StreamOptions(lang))), cpu_s


def replayed(noted: SimulatedStream, stream: UtteranceStream) -> SimulatedStream:
    """A stream that was given what another one was, passes' words and times among it."""
    assert isinstance(noted.utterances, NotedStream)
    simulated = SimulatedStream(stream)
    for now, name, given in noted.utterances.notes:
        messages = getattr(stream, name)(*given)
        if name in ("mark", "done"):
            simulated.messages += [(now, message) for message in messages]
    return simulated


def session(
    passes: KeptPasses,
    decisions: Decisions,
    samples: Samples,
    lang: str,
    plan: PassPlan,
    rule: CommitRule,
) -> SimulatedStream:
    """A session of its own, with what the gate decides about its audio."""
    cores = SimulatedCores(2, passes)
    stream = cores.add(NotedStream(cores, rule, plan, StreamOptions(lang)))
    play(cores, stream, samples, decisions, 0.0)
    cores.run()
    return stream


def fed_s(decisions: Decisions) -> float:
    """Seconds of audio that the gate feeds."""
    feeds = (one for _, actions in decisions for one in actions if isinstance(one, Feed))
    return sum(one.end - one.start for one in feeds) / SAMPLE_RATE


def live_text(
    passes: KeptPasses, timing: Timing, detector: VoiceDetector, samples: Samples, lang: str
) -> str:
    """What the default rule commits."""
    decisions = gated(detector, samples, timing.pause_ms)
    stream = session(passes, decisions, samples, lang, _MIXED, timing.default)
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
    timing: Timing,
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
    text = live_text(passes, timing, detector, np.concatenate(pieces), "en")
    print(
        f"\n{sum(map(len, pieces)) / 60 / SAMPLE_RATE:.1f} min, {len(text.split())} words: "
        f"{repetitions(text)} repetitions, {expected} in whole files' texts",
        flush=True,
    )


def report(name: str, curves: dict[str, Curve], clips: list[str], references: dict) -> None:
    without = [clip for clip in clips if not references[clip].get("kind", "").startswith("film")]
    plain_drafts = curves[f"{_AGREEMENT}, plain drafts"].tally
    same = curves[_AGREEMENT].tally
    print(f"\n{name}: {sum(same.words.values())} words\n")
    print(
        "| rule | errors in 100 words | without the film | beside LocalAgreement-2, plain drafts "
        "| without the film | beside LocalAgreement-2, the same drafts "
        "| commitment p50 / p95, s | first shown p50 / p95, s | CPU s for a second |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for rule, curve in curves.items():
        tally = curve.tally
        differences = (
            difference(tally, plain_drafts, clips),
            difference(tally, plain_drafts, without),
            difference(tally, same, clips),
        )
        late, shown = (np.percentile(v, (50, 95)) for v in (curve.delays_s, curve.shown_s))
        print(
            f"| {rule} | {tally.rate(clips):.2f} | {tally.rate(without):.2f} "
            f"| {' | '.join(differences)} | {late[0]:.2f} / {late[1]:.2f} "
            f"| {shown[0]:.2f} / {shown[1]:.2f} | {tally.cpu_s / curve.fed_s:.3f} |"
        )


def difference(one: Tally, other: Tally, clips: list[str]) -> str:
    """Of errors in 100 words, with its 95 % interval."""
    low, high = interval(one, other, clips)
    return f"{one.rate(clips) - other.rate(clips):+.2f} ({low:+.2f} to {high:+.2f})"


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
