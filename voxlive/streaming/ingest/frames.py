"""MP3 and ADTS, which have no container: their frames, found by the headers, and their sound.

Libav's demuxers for both join a stream only at its beginning and take tags in the middle for
damage. Here a stream is joined, and joined again after damage, where two headers agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import av

from voxlive.streaming.ingest.formats import PacketLosses
from voxlive.streaming.ingest.source import samples_of, tag_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voxlive.streaming.ingest.formats import Report
    from voxlive.streaming.ingest.source import Output, Source
    from voxlive.values import Samples

HEADER = 7
# As far as the first two headers may be away: a stream is joined in the middle of a frame.
MAX_JOIN = 1 << 12
_MOST_LOST_S = 10.0
_NO_TRIM = (0, 0)
_XING = (b"Xing", b"Info")
_MP3_RATES = (44_100, 48_000, 32_000)
_MP3_KBPS = {  # by MPEG-1 or not, layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_AAC_RATES = (
    *(96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000),
    *(22_050, 16_000, 12_000, 11_025, 8_000, 7_350),
)


@dataclass(frozen=True, slots=True)
class Header:
    """Of a frame: its length in bytes, its samples, and a ``key`` that all of its stream share."""

    length: int
    samples: int
    rate: int
    key: tuple[int, ...]

    @property
    def seconds(self) -> float:
        """The duration of the frame."""
        return self.samples / self.rate


def mp3_header(head: bytes) -> Header | None:
    """An MPEG-1, 2 or 2.5 header of any layer; None for what is none, and for free format."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3 or head[3] & 3 == 2:
        return None
    first = version == 3
    hertz = _MP3_RATES[rate] >> (0 if first else 1 if version == 2 else 2)
    kbps, padding = _MP3_KBPS[first, layer][bitrate - 1], head[2] >> 1 & 1
    if layer == 1:
        samples, length = 384, (12_000 * kbps // hertz + padding) * 4
    else:
        samples = 1152 if first or layer == 2 else 576
        length = samples // 8 * 1000 * kbps // hertz + padding
    return Header(length, samples, hertz, (version, layer, rate, int(head[3] >> 6 == 3)))


def adts_header(head: bytes) -> Header | None:
    """An ADTS header; None for what is none."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return None
    rate, length = head[2] >> 2 & 15, (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    if rate >= len(_AAC_RATES) or length < 9:
        return None
    samples = 1024 * (1 + (head[6] & 3))
    key = head[1] & 8, head[2] >> 6, rate, (head[2] & 1) << 2 | head[3] >> 6
    return Header(length, samples, _AAC_RATES[rate], key)


PARSERS = {"AAC": adts_header, "MP3": mp3_header}
"""How the header of a frame is read, by the name of what consists of such frames."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame. About ``lost_s`` of sound are missing before it."""

    header: Header
    data: bytes
    lost_s: float = 0.0


class Frames:
    """The frames of a source, which may begin in the middle of one.

    They end where ``ends`` finds something else right behind one. ``junk``: bytes that belong to no
    frame and no tag; ``cut``: the last frame is not whole.
    """

    def __init__(
        self,
        source: Source,
        parse: Callable[[bytes], Header | None],
        ends: Callable[[Source], bool] = lambda _: False,
    ) -> None:
        self._ends = ends
        self._source = source
        self._parse = parse
        self._last: Header | None = None
        self._synced = False
        self._between = 0
        self._zeros = 0  # padding, unless frames follow
        self.junk = 0
        self.cut = False

    def starts_here(self) -> bool:
        """Whether two headers agree, of which the first begins with the next byte."""
        header = self._parse(self._source.peek(HEADER))
        return header is not None and self._agrees(header, 0)

    def find_start(self) -> int | None:
        """How many bytes away two headers agree; None: not within ``MAX_JOIN``."""
        ahead = self._source.peek(MAX_JOIN + HEADER)
        at = ahead.find(b"\xff")
        while at >= 0:
            header = self._parse(ahead[at : at + HEADER])
            if header and self._agrees(header, at):
                return at
            at = ahead.find(b"\xff", at + 1)
        return None

    def __iter__(self) -> Iterator[Frame]:
        source = self._source
        while head := source.peek(HEADER):
            header = self._parse(head)
            if header and (self._follows(header) if self._synced else self._agrees(header, 0)):
                if len(source.peek(header.length)) < header.length:
                    self.cut = True
                    source.skip(header.length)
                    return
                lost_s = self._lost()
                yield Frame(header, source.read(header.length), lost_s)
                self._last, self._synced = header, True
            elif length := tag_length(source):
                source.skip(length)
                self._zeros = 0
            elif self._last and not self._between and self._ends(source):
                return
            elif zeros := len(head) - len(head.lstrip(b"\0")):
                source.skip(zeros)
                self._zeros += zeros
            elif self._is_cut(head):
                self.cut = True
                source.skip(len(head))
            else:
                self._synced = False
                ahead = source.peek(MAX_JOIN)
                at = ahead.find(b"\xff", 1)
                step = at if at > 0 else len(ahead)
                self._between += step
                self.junk += step
                source.skip(step)

    def _is_cut(self, head: bytes) -> bool:
        """Whether this is a beginning of a header, and the end of the bytes."""
        return self._synced and len(head) < HEADER and head[0] == 0xFF

    def _at(self, offset: int) -> tuple[bytes, Header | None]:
        head = self._source.peek(offset + HEADER)[offset:]
        return head, self._parse(head)

    def _agrees(self, header: Header, at: int) -> bool:
        """Whether the header ``at`` bytes away is followed by one of its kind.

        At the end of the bytes it must be of the kind of the frames before.
        """
        head, other = self._at(at + header.length)
        if not head:
            whole = len(self._source.peek(at + header.length)) == at + header.length
            return whole and self._last is not None and header.key == self._last.key
        return other is not None and other.key == header.key

    def _follows(self, header: Header) -> bool:
        """Whether the frame in the middle of a stream seems whole."""
        head, other = self._at(header.length)
        if other or not head or len(head) < HEADER or not head.strip(b"\0"):
            return True
        if head[:3] in (b"ID3", b"TAG") or head[:5] in (b"APETA", b"LYRIC"):
            return True
        # Where the next frame begins inside, bytes of this one are missing.
        ahead = self._source.peek(header.length + HEADER)
        at = ahead.find(b"\xff", 1, header.length)
        while at > 0:
            inner = self._parse(ahead[at : at + HEADER])
            if inner and inner.key == header.key and self._agrees(inner, at):
                return False
            at = ahead.find(b"\xff", at + 1, header.length)
        return True

    def _lost(self) -> float:
        """Seconds that the bytes without frames stand for, at the rate of the frame before."""
        if self._last is None:
            self._between = self._zeros = 0
            return 0.0
        self.junk += self._zeros
        between, self._between, self._zeros = self._between + self._zeros, 0, 0
        return min(round(between / self._last.length) * self._last.seconds, _MOST_LOST_S)


@dataclass(frozen=True, slots=True)
class Gapless:
    """What the header in a first MP3 frame states about the frames that follow.

    ``frames``: how many follow, 0 if that is not stated; of their samples the first ``delay`` and
    the last ``padding`` are the encoder's own.
    """

    frames: int
    delay: int
    padding: int


def gapless(data: bytes) -> Gapless | None:
    """Reads the Xing, Info or VBRI header that a frame carries in place of sound."""
    if data[36:40] == b"VBRI":
        return Gapless(int.from_bytes(data[50:54], "big"), 0, 0)
    at = next((at for at in (36, 21, 13, 38, 23, 15) if data[at : at + 4] in _XING), None)
    if at is None:
        return None
    flags = int.from_bytes(data[at + 4 : at + 8], "big")
    frames = int.from_bytes(data[at + 8 : at + 12], "big") if flags & 1 else 0
    at += 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    if data[at : at + 4] not in (b"LAME", b"Lavf", b"Lavc"):
        return Gapless(frames, 0, 0)
    both = int.from_bytes(data[at + 21 : at + 24], "big")
    # The decoder's own delay adds to the encoder's.
    return Gapless(frames, (both >> 12) + 529, max((both & 0xFFF) - 529, 0))


class FrameDecoder:
    """Decodes a recording that is MP3 or ADTS, up to where ``ends`` finds another kind."""

    def __init__(
        self, source: Source, name: str, out: Output, ends: Callable[[Source], bool]
    ) -> None:
        """``name`` is one of ``PARSERS``; what is decoded goes through ``out``."""
        self._name = name
        self._frames = Frames(source, PARSERS[name], ends)
        self._codec = av.CodecContext.create("aac" if name == "AAC" else "mp3", "r")
        self._out = out
        self._gapless: Gapless | None = None
        self._count = 0
        self._began_s = out.at_s

    def decode(self, report: Report) -> Iterator[Samples]:
        """Its sound; what is lost of it is added to ``report``."""
        losses = PacketLosses()
        junk_s: float | None = None
        for frame in self._frames:
            if self._name == "MP3" and (header := gapless(frame.data)):
                self._check_whole(report)
                self._gapless, self._count, self._began_s = header, 0, self._out.at_s
                continue
            if self._frames.junk and junk_s is None:
                junk_s = self._out.at_s
            if frame.lost_s:
                yield from self._out.silence(frame.lost_s)
                self._count += round(frame.lost_s / frame.header.seconds)
            self._count += 1
            try:
                decoded = self._codec.decode(av.Packet(frame.data))
            except av.FFmpegError:
                losses.add(self._out.at_s)
                yield from self._out.silence(frame.header.seconds)
                continue
            for sound in decoded:
                losses.good()
                yield from self._push(sound)
        losses.good()
        losses.report_to(self._name, report)
        if self._frames.junk:
            report.add(
                "damaged",
                f"the {self._name} is damaged: {self._frames.junk} of its bytes belong to no frame,"
                f" the first at {self._out.at_s if junk_s is None else junk_s:.1f} s",
            )
        self._check_whole(report)
        if self._frames.cut:
            report.add("cut_off", f"the {self._name} was cut off after {self._out.at_s:.1f} s")

    def _push(self, sound: av.AudioFrame) -> Iterator[Samples]:
        samples = samples_of(sound)
        front, back = self._trim(len(samples))
        samples = samples[front : len(samples) - back]
        if len(samples):
            yield from self._out.push(samples, sound.sample_rate)

    def _trim(self, length: int) -> tuple[int, int]:
        """How much of the frame's beginning and end are the encoder's own."""
        header = self._gapless
        if not header:
            return _NO_TRIM
        front = min(max(header.delay - (self._count - 1) * length, 0), length)
        after = (header.frames - self._count) * length
        back = max(header.padding - after, 0) if 0 <= after < header.padding else 0
        return front, min(back, length - front)

    def _check_whole(self, report: Report) -> None:
        """Report a cut if fewer frames came than the stream's header states."""
        if self._gapless and self._count < self._gapless.frames:
            lasts_s = self._out.at_s - self._began_s
            of_s = lasts_s * self._gapless.frames / self._count if self._count else 0.0
            report.add(
                "cut_off",
                f"the {self._name} was cut off after {lasts_s:.1f} s of {of_s:.1f} s",
            )
