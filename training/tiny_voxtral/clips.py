"""The held-out clips and golden tokens that the test suite keeps.

OUT/VOICE.opus holds every fifth sentence, 24 a voice, each followed by a pause; OUT/*.flac are ten
sentences exactly as synthesised, whose tokens are the golden ones; OUT/held_out.json says what is
said, and when each word ends.

    python -m tiny_voxtral.clips --programs DIR --weights checkpoint.safetensors
        --exported tests/models/tiny-voxtral --out tests/models/held_out --golden FILE.json
"""

from __future__ import annotations

import argparse
import json
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from training.tiny_voxtral.decode import transcribe
from training.tiny_voxtral.export import read_weights
from training.tiny_voxtral.held_out import VOICES, VoiceClip, spoken
from training.tiny_voxtral.model import SAMPLE_RATE

PAUSE = 1.0  # seconds
OPUS_BITS = 16_000  # a second
EXACT = 2  # sentences of each voice kept as FLAC
GOLDEN_DELAYS = (6, 3, 12)


def write_audio(audio: np.ndarray, path: Path, codec: str, options: dict[str, str]) -> None:
    """Mono s16 at 16 kHz."""
    with av.open(str(path), "w", format="ogg" if path.suffix == ".opus" else None) as file:
        stream = file.add_stream(codec, rate=SAMPLE_RATE, layout="mono", options=options)
        frame = av.AudioFrame.from_ndarray(audio[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def seconds(samples: int) -> float:
    """To the millisecond."""
    return round(samples / SAMPLE_RATE, 3)


def joined(clips: list[VoiceClip]) -> tuple[np.ndarray, list[dict[str, object]]]:
    """Sentences one after another with PAUSE between, and what is said when."""
    audio, table, at = [], [], 0
    for clip in clips:
        ends = [seconds(end + at) for end in clip.ends]
        stop = at + len(clip.audio)
        text = " ".join(clip.words)
        table.append({"text": text, "start": seconds(at), "end": seconds(stop), "ends": ends})
        audio += [clip.audio, np.zeros(int(PAUSE * SAMPLE_RATE), np.int16)]
        at = stop + len(audio[-1])
    return np.concatenate(audio), table


def golden(clips: dict[str, VoiceClip], args: argparse.Namespace) -> dict[str, object]:
    """Greedy tokens of the exact clips in float32, from the float weights and the exported ones."""
    nets = {
        "float": read_weights(args.weights),
        "exported": read_weights(args.exported / "model.safetensors"),
    }
    document: dict[str, object] = {}
    for delay in GOLDEN_DELAYS:
        rows = {
            kind: transcribe(net, [clip.samples() for clip in clips.values()], delay)
            for kind, net in nets.items()
        }
        document[f"delay {delay}"] = {
            name: {kind: found[i] for kind, found in rows.items()} for i, name in enumerate(clips)
        }
    return document


def dump(document: object) -> str:
    """JSON with every list of numbers on one line."""
    text = json.dumps(document, indent=1)
    return re.sub(r"\[[\d\s.,]+\]", lambda found: " ".join(found[0].split()), text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--exported", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--golden", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    clips = spoken(args.programs)
    table: dict[str, object] = {}
    exact: dict[str, VoiceClip] = {}
    for v, voice in enumerate(VOICES):
        own = [clip for clip in clips if clip.voice == voice and clip.sentence % len(VOICES) == v]
        audio, table[f"{voice}.opus"] = joined(own)
        write_audio(
            audio, args.out / f"{voice}.opus", "libopus", {"b": str(OPUS_BITS), "vbr": "on"}
        )
        for clip in sorted(own, key=lambda clip: len(clip.audio))[:EXACT]:
            name = f"{voice}-{clip.sentence:03d}.flac"
            write_audio(clip.audio, args.out / name, "flac", {"compression_level": "12"})
            exact[name] = clip
            table[name] = joined([clip])[1]
    (args.out / "held_out.json").write_text(dump(table))
    args.golden.write_text(dump(golden(exact, args)))


if __name__ == "__main__":
    main()
