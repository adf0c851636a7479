"""The two ends of decoding: the bytes that a demuxer reads, and the clock that its frames go onto.

A ``Source`` looks ahead in a stream; ``OggPages``, ``WavChunks``, ``MatroskaElements`` and
``Parts`` pass it on to a demuxer and find the damage and the ends that libav passes over. Every
read is filled as far as there are bytes, so what a demuxer does depends on the bytes alone and not
on how they were cut.
``Output`` mixes and resamples decoded frames, and puts in silence where time stamps leave a gap.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

import numpy as np

from voxlive.errors import BadAudio
from voxlive.streaming.ingest.formats import MAX_CHANNELS, Mixer, Resampler, to_unit
from voxlive.streaming.ingest.sniff import PART_HEAD
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import av

    from voxlive.streaming.ingest.formats import Report
    from voxlive.values import Samples

MAX_ZEROS = 1 << 20
_BLOCK = 1 << 14
_SCAN = 1 << 12
# Sizes from here on, and 0, stand in WAV headers written before the length was known.
_WAV_UNKNOWN = 0x7FFF_0000
_MIN_RATE, _MAX_RATE = 8_000, 192_000  # of what is decoded: containers hold more than PCM may
MAX_SILENCE_S = 3600.0
"""The silence that late starts and gaps in time stamps may become, in all, of one stream."""
# Smaller gaps are none, and add up until they are one. Clocks that are not counted in samples are
# not more exact than the first, decoders not than the second.
_JITTER_S, _EXACT_S = 0.1, 0.015
_BLOCK_S = 1.0
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# What may stand in a Matroska file, in its segment and in a cluster: all that their standard knows.
_ELEMENTS = frozenset(
    map(
        bytes.fromhex,
        (
            *("1a45dfa3", "18538067", "114d9b74", "1549a966", "1654ae6b", "1f43b675"),
            *("1c53bb6b", "1254c367", "1043a770", "1941a469"),
            *("e7", "a3", "a0", "ab", "a7", "af", "5854", "ec", "bf"),
        ),
    )
)
_ENTERED = (bytes.fromhex("18538067"), bytes.fromhex("1f43b675"))


class Reader(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, waiting for at least one; none at the end."""
        ...


class Source:
    """A reader that can look ahead. Bound: what is looked at, and the reader's own pieces.

    ``at``: the byte of the stream that comes next.
    """

    def __init__(self, reader: Reader, at: int = 0) -> None:
        self._reader = reader
        self._ahead = b""
        self.at = at

    def peek(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer if there are no more."""
        if len(self._ahead) < size:
            pieces, held = [self._ahead], len(self._ahead)
            while held < size and (piece := self._reader.read(size - held)):
                pieces.append(piece)
                held += len(piece)
            self._ahead = b"".join(pieces)
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        """``peek``, and step over it."""
        piece = self.peek(size)
        self._ahead = self._ahead[len(piece) :]
        self.at += len(piece)
        return piece

    def skip(self, size: int) -> None:
        """Step over so many bytes, without keeping them."""
        while size > 0 and (piece := self.read(min(size, _BLOCK))):
            size -= len(piece)


def tag_length(source: Source) -> int:
    """Bytes of the ID3v2, ID3v1, APEv2 or Lyrics3 tag that comes next; 0 if none does."""
    head = source.peek(10)
    if head[:3] == b"ID3" and len(head) == 10 and head[3] < 0xFF and not max(head[6:]) & 0x80:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + size + (10 if head[5] & 0x10 else 0)
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX":
        whole = source.peek(32)
        size = int.from_bytes(whole[12:16], "little")
        has_header = len(whole) == 32 and whole[23] & 0x20
        return 32 + size if has_header else 32
    if head == b"LYRICSBEGI":
        end = source.peek(_BLOCK).find(b"LYRICS200")
        return end + 9 if end > 0 else 0
    return 0


def skip_front(source: Source, known: Callable[[bytes], bool]) -> None:
    """Step over tags, and over zeros that no container of its own begins with."""
    zeros = 0
    while True:
        if length := tag_length(source):
            source.skip(length)
            continue
        head = source.peek(16)
        if not head or head[0] or zeros >= MAX_ZEROS or known(head):
            return
        run = len(head) - len(head.lstrip(b"\0"))
        # The last zeros may belong to what begins behind them, as in MP4 and MPEG-PS.
        step = run if run == 16 else 1
        source.skip(step)
        zeros += step


def _page_is_whole(page: bytes) -> bool:
    """Whether an Ogg page's checksum holds: CRC-32 of 0x04C11DB7, the other way round than zlib."""
    clear = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(clear.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{crc:032b}"[::-1], 2) == int.from_bytes(page[22:26], "little")


class OggPages:
    """Gives a demuxer the whole pages of an Ogg stream and counts what was lost between them.

    ``lost``: pages that are missing, damaged ones among them; ``cut``: the last one is not whole.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._page = b""
        self._next: dict[int, int] = {}
        self.lost = 0
        self.junk = 0
        self.cut = False

    def read(self, size: int) -> bytes:
        """As Reader; no read goes beyond a page, so that none waits for the next one."""
        self._page = self._page or self._next_page()
        piece, self._page = self._page[:size], self._page[size:]
        return piece

    def _next_page(self) -> bytes:
        source = self._source
        while True:
            head = source.peek(27)
            if len(head) == 27 and head.startswith(b"OggS\0"):
                table = source.peek(27 + head[26])[27:]
                size = 27 + head[26] + sum(table)
                page = source.peek(size)
                if len(page) < size or len(table) < head[26]:
                    if page.find(b"OggS", 4) < 0:
                        self.cut = True
                        source.skip(size)
                        return b""
                elif _page_is_whole(page):
                    self._count(page)
                    return source.read(size)
            elif len(head) < 27 and b"OggS" not in head[1:]:
                self.cut = self.cut or head.startswith(b"OggS")
                self.junk += 0 if self.cut else len(head)
                source.skip(len(head))
                return b""
            ahead = source.peek(_SCAN)
            at = ahead.find(b"OggS", 1)
            step = at if at > 0 else max(len(ahead) - 3, 1)
            self.junk += step
            source.skip(step)

    def _count(self, page: bytes) -> None:
        serial = int.from_bytes(page[14:18], "little")
        number = int.from_bytes(page[18:22], "little")
        expected = self._next.get(serial)
        if page[5] & 2 or expected is None:
            expected = number
        self.lost += max(number - expected, 0)
        self._next[serial] = number + 1


class WavChunks:
    """Gives a demuxer a WAV up to the end of its sound, so that what follows can be recognised.

    ``missing``: bytes of sound that were promised and are not there.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left: int | None = None
        self._size64: int | None = None
        self._at = 0  # the next chunk's header, while the sound has not begun
        self._place = 0
        self.missing = 0
        self.stated = 0

    def read(self, size: int) -> bytes:
        """As Reader."""
        if self._left is None and self._at >= 0:
            size = self._walk(size)
        if self._left is not None:
            size = min(size, self._left)
        piece = self._source.read(size)
        self._place += len(piece)
        if self._left is not None:
            self._left -= len(piece)
            if not piece and size:
                self.missing = self._left
        return piece

    def _walk(self, size: int) -> int:
        """Follow the chunks that this read covers; how much of it may be read."""
        end = self._place + size
        if self._at == 0:
            self._at = 12
        while self._at < end:
            head = self._source.peek(self._at - self._place + 24)[self._at - self._place :]
            if len(head) < 8:
                return size
            name, length = head[:4], int.from_bytes(head[4:8], "little")
            if name == b"ds64" and len(head) == 24:
                self._size64 = int.from_bytes(head[16:24], "little")
            if name == b"data":
                return self._begin(length, size)
            self._at += 8 + length + length % 2
        return size

    def _begin(self, length: int, size: int) -> int:
        start = self._at + 8 - self._place
        if length == 0xFFFF_FFFF and self._size64:
            length = self._size64
        self._at = -1
        if 0 < length < _WAV_UNKNOWN or length == self._size64:
            self.stated = length
            self._left = start + length
            return min(size, self._left)
        return size

    def skip_rest(self) -> None:
        """Step over the chunks behind the sound, up to what may be another recording."""
        if self._left is None:
            return
        source = self._source
        if self.stated % 2 and source.peek(1) == b"\0":
            source.skip(1)
        while (head := source.peek(8)) and len(head) == 8:
            name, length = head[:4], int.from_bytes(head[4:], "little")
            known = name.isascii() and name.replace(b" ", b"").isalnum()
            if not known or name in (b"RIFF", b"RF64", b"BW64") or length >= _WAV_UNKNOWN:
                break
            source.skip(8 + length + length % 2)


class Parts:
    """Gives a demuxer one recording, where each part of it states its size.

    ``part_size`` is that of Container, ``begins_recording`` whether a part begins a new recording.
    No read goes beyond a part, so that none waits for the next one.
    """

    def __init__(
        self,
        source: Source,
        part_size: Callable[[bytes], int | None],
        begins_recording: Callable[[bytes], bool],
    ) -> None:
        self._source, self._part_size, self._begins_anew = source, part_size, begins_recording
        self._left: int | None = 0  # of the part; None: it has no end that is known
        self._first = True

    def read(self, size: int) -> bytes:
        """As Reader."""
        if self._left == 0:
            head = self._source.peek(PART_HEAD)
            if not self._first and self._begins_anew(head):
                return b""
            self._first, self._left = False, self._part_size(head)
        piece = self._source.read(size if self._left is None else min(size, self._left))
        if self._left is not None:
            self._left -= len(piece)
        return piece


class MatroskaElements:
    """Gives a demuxer a Matroska stream as it is, and sees where its elements stop making sense.

    Libav goes on silently at the next cluster. ``damaged_at``: the byte, None if there is none.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._place = 0
        self._next = 0
        self.damaged_at: int | None = None

    def read(self, size: int) -> bytes:
        """As Reader."""
        while self.damaged_at is None and self._next < self._place + size:
            offset = self._next - self._place
            head = self._source.peek(offset + 12)[offset:]
            if len(head) < 2:
                break
            self._follow(head)
        piece = self._source.read(size)
        self._place += len(piece)
        return piece

    def _follow(self, head: bytes) -> None:
        """From one element's header, a name and a length of up to 8 bytes, to the next one's."""
        width = 9 - head[0].bit_length()
        name, rest = head[:width], head[width:]
        if name not in _ELEMENTS or not rest or not rest[0]:
            # A header that the end of the stream has cut is no damage.
            self.damaged_at = None if len(head) < 12 else self._next
            self._next += 0 if self.damaged_at is not None else 1 << 62
            return
        wide = 9 - rest[0].bit_length()
        self._next += width + wide
        if name not in _ENTERED:
            self._next += int.from_bytes(rest[:wide], "big") & ((1 << 7 * wide) - 1)


class Output:
    """Frames of any rate and layout onto one clock: mixed, resampled, silence between them.

    ``at_s`` is the place on the clock, ``decoded_s`` the seconds that were decoded, ``gaps`` the
    number of gaps in time stamps that became silence, without a late start.
    """

    def __init__(self, report: Report) -> None:
        self.at_s = self._base_s = 0.0
        self.decoded_s = 0.0
        self.gaps = 0
        self._report = report
        self._silence_s = 0.0
        self._shape = (0, 0)
        self._mixer: Mixer | None = None
        self._resampler: Resampler | None = None
        self.restart()

    def restart(self, *, exact: bool = False) -> None:
        """What follows has a clock of its own, which goes on from here.

        Its time stamps may also go on from those before: a stream that repeats its header.
        """
        self._jitter_s = _EXACT_S if exact else _JITTER_S
        self._last_base_s, self._base_s = self._base_s, self.at_s
        self._due_s: float | None = None  # the next frame's time stamp, as the last one has it

    def place(self, at_s: float | None, lasts_s: float) -> Iterator[Samples]:
        """The silence before a frame with the time stamp ``at_s``."""
        if at_s is None:
            return
        late = self._due_s is None
        if late and abs(self._last_base_s + at_s - self.at_s) <= _JITTER_S:
            self._base_s = self._last_base_s
        if self._due_s is not None and at_s < self._due_s - self._jitter_s:
            # The clock was set back: another recording, or a wrap.
            self._base_s = self.at_s - at_s
        self._due_s = at_s + lasts_s
        gap_s = self._base_s + at_s - self.at_s
        if gap_s <= self._jitter_s:
            return
        if self._silence_s + gap_s <= MAX_SILENCE_S:
            self.gaps += not late
            yield from self.silence(gap_s)
            return
        self._report.add(
            "timeline_jump",
            f"the time stamps leap by {gap_s:.1f} s at {self.at_s:.1f} s: no more than"
            f" {MAX_SILENCE_S:g} s of silence are put in, so that later times are early",
        )
        self._base_s -= gap_s

    def silence(self, lasts_s: float) -> Iterator[Samples]:
        """So much of it, if it may be."""
        if self._silence_s + lasts_s > MAX_SILENCE_S:
            return
        self._silence_s += lasts_s
        yield from self.finish()
        left = round(lasts_s * SAMPLE_RATE)
        self.at_s += left / SAMPLE_RATE
        while left > 0:
            size = min(left, int(_BLOCK_S * SAMPLE_RATE))
            yield np.zeros(size, np.float32)
            left -= size

    def push(self, samples: Samples, rate: int) -> Iterator[Samples]:
        """A frame [n, channels]."""
        if self._shape != (rate, samples.shape[1]) or not self._mixer or not self._resampler:
            if not self._resampler or self._resampler.rate != rate:
                yield from self.finish()
                self._resampler = Resampler(rate)
            self._shape = rate, samples.shape[1]
            self._mixer = Mixer(*self._shape)
        self.at_s += len(samples) / rate
        self.decoded_s += len(samples) / rate
        yield self._resampler.push(self._mixer.push(samples))

    def finish(self) -> Iterator[Samples]:
        """The resampler's tail."""
        if self._resampler:
            yield self._resampler.finish()
        self._resampler = None


def samples_of(frame: av.AudioFrame) -> Samples:
    """A decoded frame as float32 [n, channels].

    More than eight channels must not reach PyAV's ``to_ndarray``, which reads past its planes then.
    """
    rate, channels = frame.sample_rate, frame.layout.nb_channels
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise BadAudio(f"a rate of {rate} Hz is not supported: use {_MIN_RATE} to {_MAX_RATE}")
    if channels > MAX_CHANNELS:
        raise BadAudio(f"{channels} channels are not supported: use 1 to {MAX_CHANNELS}")
    try:
        values = frame.to_ndarray()
    except ValueError as error:
        raise BadAudio(f"samples of the kind {frame.format.name} are not supported") from error
    return to_unit(values.T if frame.format.is_planar else values.reshape(-1, channels))
