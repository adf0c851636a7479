"""WhisperLiveKit and voxlive on the same weights and recordings, live in real time.

    taskset -c 0 whisperlivekit-server --backend faster-whisper --backend-policy localagreement \\
        --lan en --pcm-input --model_dir WEIGHTS --port 8001 &
    taskset -c 1 voxlive serve --model WEIGHTS --port 8002 &
    PYTHONPATH=tests python benchmarks/beside_whisperlivekit.py DIR WEIGHTS \\
        --server whisperlivekit=ws://127.0.0.1:8001/asr \\
        --server "fast=ws://127.0.0.1:8002/v1/live?commit=fast"

Every English clip of DIR (``references.json``, ``NAME.flac``) in eleven versions (those of
``live_curve.py``; as it is alone with ``--plain``) is a session, one after another on each server,
on all servers at once: each has cores of its own. ``/asr`` is the protocol that both have; to
``/v1/live`` the query goes as fields of ``start``. WEIGHTS is a Whisper in CTranslate2's layout.
Prints for each: errors in 100 words with and without the film, the difference to the first server
with its 95 % interval, seconds from a word's end to its commitment and to the first text with it.
Where a word ends is what the library's own pass over the whole file has for the word at its place.

    PYTHONPATH=tests python benchmarks/beside_whisperlivekit.py DIR WEIGHTS \
        --server voxlive=ws://127.0.0.1:8002/v1/live --sessions 1 6 9 12

finds how many sessions one server keeps up with: for each number so many at once, each of the clips
as they are, one behind another from another one on, for ``--seconds``. Prints the words' commitment
and how long after a word's end the text on the screen next changes: for a reader that is how far
drafts are apart. Run it with a server that has the machine's cores for itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import jiwer
import numpy as np
from faster_whisper import WhisperModel
from live_curve import clip_audio, difference, more_versions
from speech import Tally, errors
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from voxlive.values import SAMPLE_RATE, Samples

_CHUNK_S = 0.1


@dataclass
class PacedSession:
    """One clip: when there first were so many committed words, and so many words on the screen."""

    committed: list[float] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)
    """When the text on the screen was another one."""
    text: str = ""
    screen: str = ""

    def add(self, message: dict, now: float) -> None:
        """A message of either protocol."""
        if message.get("type") in ("words", "draft"):
            if message["type"] == "words":
                self.text += "".join(word["text"] for word in message["words"])
            self._show(len(self.text.split()), message.get("text"), now)
        elif "lines" in message:  # all lines so far, and the text that may still change
            lines = [line for line in message["lines"] if line.get("speaker") != -2]
            self.text = " ".join(line.get("text") or "" for line in lines)
            self._show(len(self.text.split()), message.get("buffer_transcription"), now)

    def _show(self, count: int, draft: str | None, now: float) -> None:
        self.committed += [now] * (count - len(self.committed))
        self.shown += [now] * (count + len((draft or "").split()) - len(self.shown))
        screen = f"{self.text} {draft or ''}".strip()
        if screen != self.screen:
            self.screen = screen
            self.changed.append(now)


async def play(url: str, audio: Samples) -> PacedSession:
    """Play one clip in real time; times are seconds since its first sample."""
    pcm = (np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes()
    session, size = PacedSession(), int(_CHUNK_S * SAMPLE_RATE) * 2
    native = urlsplit(url).path == "/v1/live"
    start = {"type": "start", "format": "s16le", "rate": SAMPLE_RATE}
    start |= dict(parse_qsl(urlsplit(url).query))
    async with connect(url.partition("?")[0] if native else url, max_size=None) as socket:
        if native:
            await socket.send(json.dumps(start))
        began = time.monotonic()

        async def listen() -> None:
            try:
                async for text in socket:
                    message = json.loads(text)
                    if message.get("type") == "error":
                        raise RuntimeError(text)
                    session.add(message, time.monotonic() - began)
                    if message.get("type") in ("ready_to_stop", "done"):
                        return
            except ConnectionClosed:
                return

        listening = asyncio.create_task(listen())
        for at in range(0, len(pcm), size):
            await asyncio.sleep(
                max(0.0, began + at / 2 / SAMPLE_RATE + _CHUNK_S - time.monotonic())
            )
            await socket.send(pcm[at : at + size])
        await socket.send('{"type": "stop"}' if native else b"")
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


@dataclass
class Clip:
    """A version of a recording."""

    name: str
    version: str
    audio: Samples
    reference: str
    words: list[tuple[str, float]]
    """What the whole file's pass finds, and where it ends."""


@dataclass
class Heard:
    """What one server made of all clips."""

    tally: Tally = field(default_factory=Tally)
    committed: list[float] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)


def all_clips(folder: Path, names: list[str], weights: Path, *, plain_only: bool) -> list[Clip]:
    """Every version of every clip."""
    references = json.loads((folder / "references.json").read_text())
    model = WhisperModel(str(weights), "cpu", compute_type="int8", cpu_threads=1)
    rng, clips = np.random.default_rng(0), []
    for name in names:
        for version, samples, times in more_versions(clip_audio(folder, name), rng):
            if plain_only and version != "as it is":
                continue
            audio = samples.astype(np.float32)
            segments, _ = model.transcribe(audio, language="en", word_timestamps=True)
            words = [(w.word.strip(), w.end) for segment in segments for w in segment.words]
            reference = " ".join([references[name]["text"]] * times)
            clips.append(Clip(name, version, audio, reference, words))
    return clips


async def hear(server: str, url: str, clips: list[Clip]) -> Heard:
    """All clips to one server."""
    heard = Heard()
    await play(url, clips[0].audio)  # warms it up
    for clip in clips:
        session = await play(url, clip.audio)
        wrong, count = errors(clip.reference, session.text, "en")
        heard.tally.add(clip.name, clip.version, wrong, count)
        heard.committed += delays(session, clip.words, session.committed)
        heard.shown += delays(session, clip.words, session.shown)
        print(clip.name, clip.version, server, wrong, count, session.text, flush=True)
    return heard


def joined(clips: list[Clip], first: int, seconds: float) -> Clip:
    """The clips one behind another with a second between, from one on, for so long."""
    pause = np.zeros(SAMPLE_RATE, np.float32)
    parts: list[Samples] = []
    words: list[tuple[str, float]] = []
    upto, last = 0, int(seconds * SAMPLE_RATE)
    for clip in clips[first:] + clips[:first]:
        if upto >= last:
            break
        words += [(word, upto / SAMPLE_RATE + end) for word, end in clip.words]
        parts += [clip.audio, pause]
        upto += len(clip.audio) + len(pause)
    audio = np.concatenate(parts)[:last]
    return Clip("", "", audio, "", [(word, end) for word, end in words if end < seconds - 1])


async def capacity(
    folder: Path, weights: Path, servers: dict[str, str], counts: list[int], seconds: float
) -> None:
    """Of each server, with each number of sessions."""
    references = json.loads((folder / "references.json").read_text())
    names = [name for name, one in references.items() if one["lang"] == "en"]
    clips = all_clips(folder, names, weights, plain_only=True)
    print(
        "| server | sessions | lost | commitment p50 / p95, s | next change of the text p50 / p95 "
        "/ p99 / most, s |\n|---|---|---|---|---|"
    )
    for name, url in servers.items():
        await play(url, clips[0].audio)  # warms it up
        for count in counts:
            given = [joined(clips, n % len(clips), seconds) for n in range(count)]

            async def one(n: int, url: str = url, given: list[Clip] = given) -> PacedSession:
                await asyncio.sleep(3 * n / len(given))
                return await play(url, given[n].audio)

            found = await asyncio.gather(*(one(n) for n in range(count)), return_exceptions=True)
            late, apart, lost = [], [], 0
            for clip, session in zip(given, found, strict=True):
                if not isinstance(session, PacedSession):
                    lost += 1
                    continue
                late += delays(session, clip.words, session.committed)
                for _, end in clip.words:
                    following = (at - end for at in session.changed if at > end)
                    apart.append(next(following, len(clip.audio) / SAMPLE_RATE - end))
            late_p = " / ".join(f"{v:.2f}" for v in np.percentile(late or [np.nan], (50, 95)))
            rows = np.percentile(apart or [np.nan], (50, 95, 99, 100))
            apart_p = " / ".join(f"{v:.2f}" for v in rows)
            print(f"| {name} | {count} | {lost} | {late_p} | {apart_p} |", flush=True)


async def measure(
    folder: Path, weights: Path, servers: dict[str, str], *, plain_only: bool
) -> None:
    references = json.loads((folder / "references.json").read_text())
    names = [name for name, one in references.items() if one["lang"] == "en"]
    clips = all_clips(folder, names, weights, plain_only=plain_only)
    tasks = [hear(name, url, clips) for name, url in servers.items()]
    heard = dict(zip(servers, await asyncio.gather(*tasks), strict=True))
    first = next(iter(heard.values())).tally
    without = [n for n in names if not references[n].get("kind", "").startswith("film")]
    print(f"{sum(first.words.values())} words")
    print(
        "| server | errors in 100 words | without the film | beside the first | without the film "
        "| committed p50 / p95, s | first text p50 / p95, s |\n|---|---|---|---|---|---|---|"
    )
    for name, one in heard.items():
        late, shown = (np.percentile(v, (50, 95)) for v in (one.committed, one.shown))
        print(
            f"| {name} | {one.tally.rate(names):.2f} | {one.tally.rate(without):.2f} "
            f"| {difference(one.tally, first, names)} | {difference(one.tally, first, without)} "
            f"| {late[0]:.2f} / {late[1]:.2f} | {shown[0]:.2f} / {shown[1]:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--server", action="append", required=True, metavar="NAME=URL")
    parser.add_argument("--plain", action="store_true", help="the clips as they are, alone")
    parser.add_argument("--sessions", type=int, nargs="+", metavar="N", help="so many at once")
    parser.add_argument("--seconds", type=float, default=60, help="of each of those")
    options = parser.parse_args()
    servers = dict(one.split("=", 1) for one in options.server)
    if options.sessions:
        how_many, length = options.sessions, options.seconds
        asyncio.run(capacity(options.folder, options.weights, servers, how_many, length))
        return
    asyncio.run(measure(options.folder, options.weights, servers, plain_only=options.plain))


if __name__ == "__main__":
    main()
