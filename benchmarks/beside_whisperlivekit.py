"""WhisperLiveKit and voxlive on the same weights and recordings, live, clip by clip in turn.

    whisperlivekit-server --backend faster-whisper --backend-policy localagreement --lan en \\
        --pcm-input --model_dir WEIGHTS --port 8001 &
    voxlive serve --model WEIGHTS --port 8002 &
    PYTHONPATH=tests python benchmarks/beside_whisperlivekit.py DIR WEIGHTS \\
        --server whisperlivekit=ws://127.0.0.1:8001/asr --server voxlive=ws://127.0.0.1:8002/asr

Every English clip of DIR (``references.json``, ``NAME.flac``) is played in real time to each server
in turn, over the protocol that both have. WEIGHTS is a Whisper in CTranslate2's layout. Prints for
each: errors in 100 words with and without the film, seconds from a word's end to its commitment and
to the first text with it. Where a word ends is what the library's own pass over the whole file has
for the word at its place.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import numpy as np
from faster_whisper import WhisperModel
from speech import errors
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from voxlive.streaming.ingest.media import read_file
from voxlive.values import SAMPLE_RATE, Samples

_CHUNK_S = 0.1


@dataclass
class PacedSession:
    """One clip: when there first were so many committed words, and so many words on the screen."""

    committed: list[float] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)
    text: str = ""

    def add(self, message: dict, now: float) -> None:
        """An update: all lines so far, and the text that may still change."""
        if "lines" not in message:
            return
        lines = [line for line in message["lines"] if line.get("speaker") != -2]
        self.text = " ".join(line.get("text") or "" for line in lines)
        count = len(self.text.split())
        self.committed += [now] * (count - len(self.committed))
        visible = count + len((message.get("buffer_transcription") or "").split())
        self.shown += [now] * (visible - len(self.shown))


async def play(url: str, audio: Samples) -> PacedSession:
    """Play one clip in real time; times are seconds since its first sample."""
    pcm = (np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()
    session, size = PacedSession(), int(_CHUNK_S * SAMPLE_RATE) * 2
    async with connect(url, max_size=None) as socket:
        began = time.monotonic()

        async def listen() -> None:
            try:
                async for text in socket:
                    message = json.loads(text)
                    session.add(message, time.monotonic() - began)
                    if message.get("type") == "ready_to_stop":
                        return
            except ConnectionClosed:
                return

        listening = asyncio.create_task(listen())
        for at in range(0, len(pcm), size):
            await asyncio.sleep(
                max(0.0, began + at / 2 / SAMPLE_RATE + _CHUNK_S - time.monotonic())
            )
            await socket.send(pcm[at : at + size])
        await socket.send(b"")
        await asyncio.wait_for(listening, 60)
    return session


def delays(
    session: PacedSession, words: list[tuple[str, float]], times: list[float]
) -> list[float]:
    """Seconds from the end of each word to its place in ``times``, where texts can be aligned."""
    found = session.text.split()
    if not found or not words:
        return []
    spelt = [" ".join(plain(w) for w in text) for text in ([w for w, _ in words], found)]
    [chunks] = jiwer.process_words(*spelt).alignments
    late = []
    for chunk in chunks:
        if chunk.type in ("equal", "substitute"):
            for offset in range(chunk.ref_end_idx - chunk.ref_start_idx):
                end = words[chunk.ref_start_idx + offset][1]
                late.append(times[chunk.hyp_start_idx + offset] - end)
    return late


def plain(word: str) -> str:
    """One token for each word, so that places stay what they are."""
    return "".join(c for c in word.lower() if c.isalnum()) or "_"


async def measure(folder: Path, weights: Path, servers: dict[str, str]) -> None:
    references = json.loads((folder / "references.json").read_text())
    clips = [name for name, one in references.items() if one["lang"] == "en"]
    model = WhisperModel(str(weights), "cpu", compute_type="int8", cpu_threads=1)
    wrong = {name: dict.fromkeys(clips, 0) for name in servers}
    count = dict.fromkeys(clips, 0)
    late: dict[str, list[float]] = {name: [] for name in servers}
    first: dict[str, list[float]] = {name: [] for name in servers}
    for clip in clips:
        audio = np.concatenate(list(read_file(folder / f"{clip}.flac")))
        segments, _ = model.transcribe(audio, language="en", word_timestamps=True)
        words = [(w.word.strip(), w.end) for segment in segments for w in segment.words]
        for name, url in servers.items():
            session = await play(url, audio)
            wrong[name][clip], count[clip] = errors(references[clip]["text"], session.text, "en")
            late[name] += delays(session, words, session.committed)
            first[name] += delays(session, words, session.shown)
            print(clip, name, wrong[name][clip], count[clip], session.text, flush=True)
    without = [c for c in clips if not references[c].get("kind", "").startswith("film")]
    print("| server | errors in 100 words | without the film | commitment | first text |")
    print("|---|---|---|---|---|")
    for name in servers:
        rates = [
            100 * sum(wrong[name][c] for c in some) / sum(count[c] for c in some)
            for some in (clips, without)
        ]
        p = [np.percentile(values, (50, 95)) for values in (late[name], first[name])]
        print(
            f"| {name} | {rates[0]:.1f} | {rates[1]:.1f} "
            f"| {p[0][0]:.2f} / {p[0][1]:.2f} | {p[1][0]:.2f} / {p[1][1]:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--server", action="append", required=True, metavar="NAME=URL")
    options = parser.parse_args()
    servers = dict(one.split("=", 1) for one in options.server)
    asyncio.run(measure(options.folder, options.weights, servers))


if __name__ == "__main__":
    main()
