"""Words with the right source, where a microphone hears the loudspeaker: on recordings of people.

    PYTHONPATH=tests python benchmarks/two_sources.py DIR

The English clips of DIR (``references.json``, ``NAME.flac``) take turns on two channels, "me" and
"them", in two conversations, so that every clip is once on either. "me" has what "them" says as
well, 12 dB below, 40 ms later, with the decay of a room and a little noise. A real server with
tiny.en that commits at pauses hears it without any leak (``clean``), with ``suppress_leaks`` off
(``kept``) and as it is (``leak``). A word has the right source when its middle lies in a clip of
its source. In double talk both speak at the same time, from the first sample on; words that are
right are found by alignment with the texts of either.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
from speech import plain
from support.server import AT_PAUSES, serving
from support.sounds import leaked
from support.wire import START, dial, receive_until, s16le, send

from voxlive.streaming.ingest.media import read_file
from voxlive.values import SAMPLE_RATE, Samples

NAMES = ("me", "them")
GAP_S = 0.8
LEVEL = 0.07  # rms of what is loud
LATE_S = 0.3
CHUNK = 6400


@dataclass
class Turn:
    source: int
    text: str
    start: int
    end: int


def conversation(
    clips: list[tuple[str, Samples]], first: int, overlap: bool
) -> tuple[Samples, list[Turn]]:
    """Clips in turn, or each with the next one at the same time."""
    turns, placed, at = [], [], 0
    for number, (text, clip) in enumerate(clips):
        source = (first + number) % 2
        turns.append(Turn(source, text, at, at + len(clip)))
        placed.append((source, at, clip))
        if not overlap or number % 2:
            at = max(turn.end for turn in turns) + int(GAP_S * SAMPLE_RATE)
    length = max(turn.end for turn in turns) + 2 * SAMPLE_RATE
    channels = np.zeros((length, 2), np.float32)
    for source, start, clip in placed:
        channels[start : start + len(clip), source] += clip
    return channels, turns


async def recognise(url: str, channels: Samples, **start: Any) -> list[dict[str, Any]]:
    """All words of a session."""
    pcm = s16le(channels)
    async with dial(f"{url}/v1/live") as socket:
        await send(socket, {**START, "sources": list(NAMES), "drafts": False, **start})

        async def talk() -> None:
            for at in range(0, len(pcm), CHUNK):
                await send(socket, pcm[at : at + CHUNK])
            await send(socket, {"type": "stop"})

        talking = asyncio.create_task(talk())
        messages = await receive_until(socket, "done")
        await talking
    return [word for m in messages if m["type"] == "words" for word in m["words"]]


def wrong_source(words: list[dict[str, Any]], turns: list[Turn]) -> list[dict[str, Any]]:
    """Words whose middle lies in no turn of their source."""
    late = LATE_S * SAMPLE_RATE
    wrong = []
    for word in words:
        middle = (word["start"] + word["end"]) / 2 * SAMPLE_RATE
        own = [turn for turn in turns if NAMES[turn.source] == word["source"]]
        if not any(turn.start - late <= middle <= turn.end + late for turn in own):
            wrong.append(word)
    return wrong


def found(words: list[dict[str, Any]], turns: list[Turn], source: int) -> tuple[int, int, int]:
    """Of one source: words of its reference, those recognised, and words put in."""
    reference = " ".join(plain(turn.text, "en", False) for turn in turns if turn.source == source)
    mine = "".join(word["text"] for word in words if word["source"] == NAMES[source])
    aligned = jiwer.process_words(reference, plain(mine, "en", False) or "-")
    return len(reference.split()), aligned.hits, aligned.insertions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="whisper-tiny.en")
    options = parser.parse_args()
    references = json.loads((options.folder / "references.json").read_text())
    clips = []
    for name, about in references.items():
        if about["lang"] == "en":
            sound = np.concatenate(list(read_file(options.folder / f"{name}.flac")))
            loud = sound[np.abs(sound) > 0.01]
            clips.append((about["text"], sound * np.float32(LEVEL / np.sqrt(np.mean(loud**2)))))
    with serving("--model", options.model, *AT_PAUSES, "--max-sessions", "2") as server:
        for overlap in (False, True):
            print("double talk" if overlap else "in turn")
            for way in ("clean", "kept", "leak"):
                counts = np.zeros(5, int)
                for first in (0, 1):
                    rng = np.random.default_rng(first)
                    channels, turns = conversation(clips, first, overlap)
                    if way != "clean":
                        channels[:, 0] += leaked(channels[:, 1], seed=first)
                    channels += rng.standard_normal(channels.shape).astype(np.float32) * 1e-4
                    words = asyncio.run(
                        recognise(server.ws, channels, suppress_leaks=way == "leak")
                    )
                    wrong = wrong_source(words, turns)
                    if wrong and way == "leak":
                        print("   ", [(w["source"], w["text"], w["start"]) for w in wrong])
                    tallies = [found(words, turns, source) for source in (0, 1)]
                    counts += (len(words), len(wrong), *np.sum(tallies, axis=0))
                total, bad, spoken, hits, inserted = counts.tolist()
                print(
                    f"  {way:6} {total} words, {100 * (total - bad) / total:.1f} % with the right "
                    f"source; of {spoken} spoken {100 * hits / spoken:.1f} % right, "
                    f"{inserted} put in"
                )


if __name__ == "__main__":
    main()
