"""The corpus of odd media files: damaged, cut, joined, late, lying, unusual. Made by script.

Everything is encoded with PyAV from the clip ``market`` and then treated byte by byte, so that no
ffmpeg executable is needed. What is drawn at random comes from ``SEED``.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import soxr
from numpy.typing import NDArray
from support.clips import clip
from support.encode import WriteOnly

SEED = 20261128
RATE = 16_000
SPEECH = clip("market").samples
LASTS_S = len(SPEECH) / RATE
CUT, DAMAGED, TRAILING, JUMP = "cut_off", "damaged", "trailing_data", "timeline_jump"

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class ClipPart:
    """The clip from ``start`` to ``end`` is decoded at ``at``, all in seconds."""

    at: float = 0.0
    start: float = 0.0
    end: float = LASTS_S


@dataclass(frozen=True)
class Odd:
    """One file: what must come of it. ``slack`` is how far the duration may be off, in seconds.

    ``live``: it can be decoded while it arrives. ``refused``: nothing in it can be decoded.
    ``like``: how alike what is decoded must be to the clip, as a correlation.
    """

    make: Callable[[], bytes]
    duration: float = LASTS_S
    warnings: frozenset[str] = frozenset()
    expected: tuple[ClipPart, ...] = (ClipPart(),)
    slack: float = 0.08
    live: bool = True
    refused: bool = False
    like: float = 0.95

    @property
    def data(self) -> bytes:
        return _made(self.make)


@cache
def _made(make: Callable[[], bytes]) -> bytes:
    return make()


def encoded(
    container: str,
    codec: str,
    rate: int = 48_000,
    channels: Sequence[float] = (1.0,),
    pieces: Sequence[tuple[float, Samples]] = ((0.0, SPEECH),),
    *,
    seekable: bool = True,
    video_s: float | None = None,
    **options: str,
) -> bytes:
    """Encode pieces of 16 kHz mono at their places on the container's clock.

    ``channels``: each one's gain. ``video_s``: so much of a video beside it.
    """
    if not seekable:
        stream = io.BytesIO()
        _encode(WriteOnly(stream), container, codec, rate, channels, pieces, video_s, options)
        return stream.getvalue()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "media"
        _encode(str(path), container, codec, rate, channels, pieces, video_s, options)
        return path.read_bytes()


_BITS = {"wmav1": 96_000, "wmav2": 96_000, "libopencore_amrnb": 12_200}


def _encode(sink, container, codec, rate, channels, pieces, video_s, options) -> None:
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(channels)]
    with av.open(sink, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout, options={"strict": "-2"})
        context = stream.codec_context
        video = None
        if video_s is not None:
            video = output.add_stream("flv" if container == "flv" else "mpeg4", rate=5)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        if codec in _BITS:
            stream.bit_rate = _BITS[codec]
        context.open()
        size = context.frame_size or 1024
        shape = av.AudioResampler(context.format.name, layout, rate)
        packets = []
        for number, (at_s, samples) in enumerate(pieces, 1):
            at_rate = soxr.resample(samples, RATE, rate) if rate != RATE else samples
            planes = np.stack([gain * at_rate for gain in channels]).astype(np.float32)
            for first in range(0, planes.shape[1], size):
                part = planes[:, first : first + size]
                if part.shape[1] < size and context.frame_size and number < len(pieces):
                    part = np.pad(part, ((0, 0), (0, size - part.shape[1])))
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), "fltp", layout)
                frame.rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = round(at_s * rate) + first
                for piece in shape.resample(frame):
                    packets += stream.encode(piece)
        packets += stream.encode(None)
        if video:
            for shown in range(round(5 * video_s)):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8), "rgb24")
                frame.pts, frame.time_base = shown, Fraction(1, 5)
                packets += video.encode(frame)
            packets += video.encode(None)
            packets.sort(key=lambda packet: float(packet.dts * packet.time_base))
        output.mux(packets)


# What a file may have in front, behind or in its middle.


def id3(size: int = 500) -> bytes:
    """An ID3v2.4 tag of ``size`` bytes of padding after one frame."""
    frame = b"TIT2" + bytes([0, 0, 0, 5, 0, 0]) + b"\x03odd!"
    size += len(frame)
    syncsafe = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\0\0" + syncsafe + frame + bytes(size - len(frame))


def id3v1() -> bytes:
    return b"TAG" + b"odd".ljust(125, b"\0")


def noise(size: int, seed: int = SEED) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def replaced(data: bytes, at: float, size: int, seed: int = SEED) -> bytes:
    """The file with noise in place of ``size`` bytes, from a share of it on."""
    first = int(len(data) * at)
    return data[:first] + noise(size, seed) + data[first + size :]


def without(data: bytes, at: float, size: int) -> bytes:
    first = int(len(data) * at)
    return data[:first] + data[first + size :]


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def ogg_pages(data: bytes) -> list[bytes]:
    pages, at = [], 0
    while at < len(data):
        size = 27 + data[at + 26] + sum(data[at + 27 : at + 27 + data[at + 26]])
        pages.append(data[at : at + size])
        at += size
    return pages


# The clean files that others are made from.


@cache
def mp3() -> bytes:
    return encoded("mp3", "libmp3lame", 44_100, write_xing="1")


@cache
def mp3_plain() -> bytes:
    """Nothing but frames, as a radio sends it."""
    return encoded("mp3", "libmp3lame", 44_100, write_xing="0", id3v2_version="0")


@cache
def aac() -> bytes:
    return encoded("adts", "aac", 44_100)


@cache
def wav() -> bytes:
    return encoded("wav", "pcm_s16le", RATE)


@cache
def flac() -> bytes:
    return encoded("flac", "flac", RATE)


@cache
def webm() -> bytes:
    return encoded("webm", "libopus")


@cache
def ogg() -> bytes:
    return encoded("ogg", "libopus", page_duration="200000")


@cache
def m4a() -> bytes:
    return encoded("ipod", "aac", 44_100, movflags="faststart")


@cache
def fragments() -> bytes:
    options = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"}
    return encoded("mp4", "aac", seekable=False, **options)


def _header_repeated() -> bytes:
    """As a stream that one may join anywhere: its header stands before a later fragment again."""
    movflags = "frag_keyframe+empty_moov+default_base_moof"
    options = {"movflags": movflags, "frag_duration": "200000"}
    data = encoded("mp4", "aac", seekable=False, **options)
    first = data.index(b"moof") - 4
    later = data.index(b"moof", len(data) // 2) - 4
    return data[:later] + data[:first] + data[later:]


LATE = ((5.0, SPEECH),)
HALF = len(SPEECH) // 2
HALF_S = HALF / RATE
GAP = ((0.0, SPEECH[:HALF]), (HALF_S + 10, SPEECH[HALF:]))
WITH_GAP = (ClipPart(0, 0, HALF_S), ClipPart(HALF_S + 10, HALF_S, LASTS_S))
TWICE = (ClipPart(), ClipPart(LASTS_S))


def odd(make: Callable[[], bytes], *warnings: str, **more) -> Odd:
    return Odd(make, warnings=frozenset(warnings), **more)


def late(make: Callable[[], bytes], **more) -> Odd:
    return odd(make, duration=LASTS_S + 5, expected=(ClipPart(5.0),), **more)


def gap(make: Callable[[], bytes], **more) -> Odd:
    return odd(make, duration=LASTS_S + 10, expected=WITH_GAP, **more)


def twice(make: Callable[[], bytes], *warnings: str, **more) -> Odd:
    return odd(make, *warnings, duration=2 * LASTS_S, expected=TWICE, **more)


def refused(make: Callable[[], bytes]) -> Odd:
    return odd(make, refused=True, expected=())


def cut(make: Callable[[], bytes], share: float, **more) -> Odd:
    """The first part of a file."""
    end = share * LASTS_S
    more = {"slack": 1.2, "expected": (ClipPart(0, 0, end - 1.3),), **more}
    return odd(lambda: make()[: int(len(make()) * share)], CUT, duration=end, **more)


def _rf64() -> bytes:
    data = wav()[wav().find(b"data") + 8 :]
    ds64 = b"ds64" + struct.pack("<IQQQI", 28, len(data) + 72, len(data), len(data) // 2, 0)
    fmt = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return b"RF64\xff\xff\xff\xffWAVE" + ds64 + fmt + b"data\xff\xff\xff\xff" + data


def _sphere() -> bytes:
    fields = "channel_count -i 1\nsample_rate -i 16000\n"
    fields += f"sample_count -i {len(SPEECH)}\n"
    fields += "sample_n_bytes -i 2\nsample_byte_format -s2 01\nsample_coding -s3 pcm\nend_head\n"
    head = f"NIST_1A\n   1024\n{fields}".encode().ljust(1024, b"\n")
    return head + (SPEECH * 32767).astype("<i2").tobytes()


def _wav_sized(stated: int | None, riff: int | None = None) -> bytes:
    at = wav().find(b"data") + 4
    data = wav()
    if stated is not None:
        data = patched(data, at, struct.pack("<I", stated))
    return data if riff is None else patched(data, 4, struct.pack("<I", riff))


def _without_page() -> bytes:
    pages = ogg_pages(ogg())
    return b"".join(pages[: len(pages) // 2] + pages[len(pages) // 2 + 1 :])


def _with_bad_page() -> bytes:
    pages = ogg_pages(ogg())
    middle = len(pages) // 2
    pages[middle] = replaced(pages[middle], 0.5, 20)
    return b"".join(pages)


def _aac_mid_stream() -> bytes:
    """The last 200 frames and a half."""
    starts, at = [], 0
    while at < len(aac()):
        starts.append(at)
        at += (aac()[at + 3] & 3) << 11 | aac()[at + 4] << 3 | aac()[at + 5] >> 5
    return aac()[(starts[-201] + starts[-200]) // 2 :]


_FASTSTART = {"movflags": "faststart"}
_FRAGMENTED = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"}
_SILENT = np.zeros(RATE, np.float32)


def _mp4_video() -> bytes:
    return encoded("mp4", "aac", pieces=LATE, video_s=12.0, **_FASTSTART)


CORPUS: dict[str, Odd] = {
    # Joined, cut, damaged, with something in front or behind.
    "mp3-twice": twice(lambda: mp3() * 2),
    "mp3-zeros-behind": odd(lambda: mp3() + bytes(5000)),
    "mp3-id3v1-behind": odd(lambda: mp3() + id3v1()),
    "mp3-noise-behind": odd(lambda: mp3() + noise(5000), DAMAGED),
    "mp3-text-behind": odd(lambda: mp3() + b"thank you for listening " * 20, DAMAGED),
    "mp3-100-bytes-cut-out": odd(lambda: without(mp3(), 0.5, 100), DAMAGED, slack=0.12, like=0.9),
    "mp3-damaged": odd(lambda: replaced(mp3(), 0.5, 1000), DAMAGED, slack=0.2, like=0.9),
    "mp3-hole-of-zeros": odd(
        lambda: patched(mp3(), len(mp3()) // 2, bytes(2000)), DAMAGED, slack=0.2, like=0.9
    ),
    "mp3-cut": cut(mp3, 0.6),
    "mp3-plain-cut": odd(
        lambda: mp3_plain()[: len(mp3_plain()) * 6 // 10 + 7],
        CUT,
        duration=0.6 * LASTS_S,
        expected=(ClipPart(0, 0, 0.5 * LASTS_S),),
        slack=0.2,
    ),
    "mp3-mid-stream": odd(
        lambda: mp3_plain()[len(mp3_plain()) // 4 + 77 :],
        duration=0.75 * LASTS_S,
        expected=(ClipPart(0.1, 0.25 * LASTS_S + 0.1, LASTS_S),),
        slack=0.2,
        like=0.9,
    ),
    "mp3-after-zeros": odd(lambda: bytes(3001) + mp3()),
    "mp3-after-three-tags": odd(lambda: id3(10) + id3(70_000) + id3(300) + mp3()),
    "mp3-tag-in-the-middle": twice(lambda: mp3_plain() + id3v1() + id3() + mp3_plain()),
    "mp3-two-rates": twice(
        lambda: (
            mp3_plain() + encoded("mp3", "libmp3lame", 22_050, write_xing="0", id3v2_version="0")
        ),
        slack=0.2,
    ),
    "mp2": odd(lambda: encoded("mp2", "mp2")),
    "aac-after-id3": odd(lambda: id3() + aac()),
    "aac-mid-stream": odd(
        _aac_mid_stream,
        duration=200 * 1024 / 44_100,
        expected=(ClipPart(0.1, LASTS_S - 200 * 1024 / 44_100 + 0.1, LASTS_S),),
        like=0.9,
    ),
    "aac-after-zeros": odd(lambda: bytes(777) + aac()),
    "aac-segments-with-tags": twice(lambda: (id3(80) + aac()) * 2),
    "aac-damaged": odd(lambda: replaced(aac(), 0.5, 800), DAMAGED, slack=0.3, like=0.85),
    "aac-then-mp3": twice(lambda: aac() + mp3_plain(), slack=0.2),
    "flac-after-id3": odd(lambda: id3() + flac()),
    "flac-twice": twice(lambda: flac() * 2),
    "flac-cut": cut(flac, 0.6),
    "flac-damaged": odd(lambda: replaced(flac(), 0.5, 500), DAMAGED, slack=0.1, like=0.85),
    "wav-after-id3": odd(lambda: id3() + wav()),
    "wav-without-10-bytes": odd(lambda: wav()[:-10], CUT),
    "wav-riff-10-too-large": odd(lambda: _wav_sized(None, len(wav()) + 2)),
    "wav-riff-too-small": odd(lambda: _wav_sized(None, 1000)),
    "wav-says-40-mb": odd(lambda: _wav_sized(40_000_000, 40_000_036), CUT),
    "wav-says-nothing": odd(lambda: _wav_sized(0, 0)),
    "wav-says-2-gb": odd(lambda: _wav_sized(0x7FFF_FFFF, 0x7FFF_FFFF)),
    "wav-says-4-gb": odd(lambda: _wav_sized(0xFFFF_FFFF, 0xFFFF_FFFF)),
    "wav-junk-behind": odd(lambda: wav() + noise(3000), TRAILING),
    "wav-zeros-behind": odd(lambda: wav() + bytes(3000)),
    "wav-twice": twice(lambda: wav() * 2),
    "wav-then-mp3": twice(lambda: wav() + mp3()),
    "wav-rf64": odd(_rf64),
    "wav-rf64-cut": odd(
        lambda: _rf64()[: len(_rf64()) // 2],
        CUT,
        duration=HALF_S,
        expected=(ClipPart(0, 0, HALF_S - 0.1),),
    ),
    "wav-mp3-inside": odd(lambda: encoded("wav", "libmp3lame", 44_100)),
    "wav-ima-adpcm": odd(lambda: encoded("wav", "adpcm_ima_wav", 16_000), slack=0.15),
    "m4a-30-bytes-changed": odd(lambda: replaced(m4a(), 0.6, 30), DAMAGED, slack=0.1, like=0.85),
    "m4a-cut": cut(m4a, 0.6),
    "m4a-twice": twice(lambda: m4a() * 2, slack=0.2),
    "m4a-index-last-twice": twice(
        lambda: encoded("ipod", "aac", 44_100) * 2, live=False, slack=0.2
    ),
    "mp3-then-m4a-index-last": twice(
        lambda: mp3() + encoded("ipod", "aac", 44_100), live=False, slack=0.2
    ),
    "fmp4-twice": twice(lambda: fragments() * 2, slack=0.2),
    "fmp4-header-repeated": odd(_header_repeated, slack=0.2),
    "aiff-twice": twice(lambda: encoded("aiff", "pcm_s16be") * 2),
    "caf-twice": twice(lambda: encoded("caf", "pcm_s16be") * 2),
    "w64-twice": twice(lambda: encoded("w64", "pcm_s16le") * 2),
    "m4a-index-last": odd(lambda: encoded("ipod", "aac", 44_100), live=False),
    "fmp4-cut": odd(
        lambda: fragments()[: len(fragments()) * 6 // 10],
        CUT,
        duration=0.6 * LASTS_S,
        expected=(ClipPart(0, 0, 0.5 * LASTS_S),),
        slack=0.6,
    ),
    "webm-cut": cut(webm, 0.6),
    "webm-damaged": odd(
        lambda: replaced(webm(), 0.5, 3000), DAMAGED, slack=0.5, expected=(ClipPart(0, 0, 3),)
    ),
    "webm-bytes-cut-out": odd(
        lambda: without(webm(), 0.5, 3000), DAMAGED, slack=0.5, expected=(ClipPart(0, 0, 3),)
    ),
    "webm-twice": twice(lambda: webm() * 2),
    "ogg-lost-page": odd(_without_page, DAMAGED, like=0.8),
    "ogg-damaged-page": odd(_with_bad_page, DAMAGED, like=0.8),
    "ogg-cut": cut(ogg, 0.6),
    "ogg-twice": twice(lambda: ogg() * 2),
    # Clocks.
    "mkv-late": late(lambda: encoded("matroska", "libopus", pieces=LATE)),
    "mkv-late-beside-video": late(
        lambda: encoded("matroska", "libopus", pieces=LATE, video_s=12.0)
    ),
    "webm-gap": gap(lambda: encoded("webm", "libopus", pieces=GAP)),
    "ogg-late": late(lambda: encoded("ogg", "libopus", pieces=LATE)),
    "ogg-gap": gap(lambda: encoded("ogg", "libopus", pieces=GAP), like=0.9),
    "mp4-late": late(lambda: encoded("mp4", "aac", pieces=LATE, **_FASTSTART)),
    "mp4-late-beside-video": late(_mp4_video),
    "mp4-gap": gap(lambda: encoded("mp4", "aac", pieces=GAP, **_FASTSTART)),
    "fmp4-gap": gap(lambda: encoded("mp4", "aac", pieces=GAP, seekable=False, **_FRAGMENTED)),
    "ts-late-beside-video": late(
        lambda: encoded("mpegts", "aac", pieces=LATE, video_s=12.0), slack=0.2
    ),
    "ts-gap": gap(lambda: encoded("mpegts", "aac", pieces=GAP), slack=0.2),
    "mkv-jump-beyond-the-bound": odd(
        lambda: encoded(
            "matroska", "libopus", pieces=((0.0, SPEECH[:HALF]), (9000.0, SPEECH[HALF:]))
        ),
        JUMP,
        expected=(ClipPart(0, 0, HALF_S), ClipPart(HALF_S, HALF_S, LASTS_S)),
    ),
    # Channels.
    "wav-opposite": odd(lambda: encoded("wav", "pcm_s16le", RATE, (1.0, -0.99)), like=0.95),
    "m4a-opposite": odd(
        lambda: encoded("ipod", "aac", 44_100, (0.9, -1.0), **_FASTSTART), like=0.95
    ),
    "opus-one-side": odd(lambda: encoded("webm", "libopus", 48_000, (1.0, 0.0))),
    # Containers and codings.
    "aiff": odd(lambda: encoded("aiff", "pcm_s16be", 44_100)),
    "aiff-cut": cut(lambda: encoded("aiff", "pcm_s16be", 44_100), 0.6),
    "au": odd(lambda: encoded("au", "pcm_s16be", 16_000)),
    "au-mulaw": odd(lambda: encoded("au", "pcm_mulaw", 8_000), like=0.9),
    "caf": odd(lambda: encoded("caf", "pcm_s16le", 16_000)),
    "caf-alac": odd(lambda: encoded("caf", "alac", 44_100), live=False),
    "w64": odd(lambda: encoded("w64", "pcm_s16le", 16_000)),
    "voc": odd(lambda: encoded("voc", "pcm_s16le", 16_000)),
    "sphere": odd(_sphere),
    "avi-mp3": odd(lambda: encoded("avi", "libmp3lame", 44_100, video_s=7.0)),
    "avi-pcm": odd(lambda: encoded("avi", "pcm_s16le", 16_000, video_s=7.0)),
    "wma": odd(lambda: encoded("asf", "wmav2", 44_100), slack=0.2),
    "wmv": odd(lambda: encoded("asf", "wmav1", 44_100, video_s=7.0), slack=0.2),
    "flv-aac": odd(lambda: encoded("flv", "aac", 44_100)),
    "flv-mp3": odd(lambda: encoded("flv", "libmp3lame", 44_100)),
    "ac3": odd(lambda: encoded("ac3", "ac3")),
    "eac3": odd(lambda: encoded("eac3", "eac3")),
    "amr": odd(lambda: encoded("amr", "libopencore_amrnb", 8_000), like=0.7),
    "mpegts-mp2": odd(lambda: encoded("mpegts", "mp2"), slack=0.15),
    "mpegps": odd(lambda: encoded("vob", "mp2", video_s=7.0), slack=0.3),
    "wavpack": odd(lambda: encoded("wv", "wavpack", 16_000)),
    "tta": odd(lambda: encoded("tta", "tta", 16_000)),
    "3gp": odd(lambda: encoded("3gp", "libopencore_amrnb", 8_000, **_FASTSTART), like=0.7),
    "mov-alac": odd(lambda: encoded("mov", "alac", 44_100, **_FASTSTART)),
    "mkv-flac": odd(lambda: encoded("matroska", "flac", 16_000)),
    "mkv-ac3-beside-video": odd(lambda: encoded("matroska", "ac3", video_s=7.0)),
    "flv-beside-video": odd(lambda: encoded("flv", "aac", 44_100, video_s=7.0)),
    "realmedia": odd(lambda: encoded("rm", "real_144", 8_000), like=0.6, slack=0.2),
    "ogg-vorbis": odd(lambda: encoded("ogg", "vorbis", 44_100, (1.0, 1.0))),
    "ogg-speech-flac": odd(lambda: encoded("ogg", "flac", 16_000)),
    # What holds no sound.
    "empty": odd(lambda: b"", refused=True, expected=(), live=False),
    "zeros": refused(lambda: bytes(40_000)),
    "noise": refused(lambda: noise(30_000)),
    "text": refused(lambda: b"The quick brown fox jumps over the lazy dog. " * 50),
    "playlist": refused(lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"),
    "concat": refused(lambda: b"ffconcat version 1.0\nfile /etc/passwd\n"),
    "only-a-tag": refused(id3),
    "wav-only-a-head": refused(lambda: wav()[:30]),
    "flac-only-a-head": refused(lambda: flac()[:60]),
    "mp4-noise": refused(lambda: m4a()[:40] + noise(30_000)),
}
