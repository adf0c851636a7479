"""Containers to float32 mono at 16 kHz, piece by piece, through PyAV. Blocking.

What decodes comes out; what does not is reported. The container's time stamps are the clock: a
late start and gaps become silence, up to MAX_SILENCE_S in all. MPEG-TS, MPEG-PS and FLV begin their
clocks anywhere, so there the first time stamp is 0. MP3 and ADTS have no time stamps; damaged
frames become silence of their length. Samples do not depend on how the bytes are cut.

A cut is seen where the header states a length or a last part is not whole; AAC, live WebM, MPEG-TS
and an Ogg or MP3 that is cut between two pages or frames do not show it. Sound comes out with the
packet that carries it, but FLAC holds back ten frames (about a second) and WAV its first 64 KiB,
since libav looks that far for something else in them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import av
import numpy as np
from av.audio.stream import AudioStream

from voxlive.errors import BadAudio
from voxlive.streaming.ingest.formats import PacketLosses, Report
from voxlive.streaming.ingest.frames import PARSERS, FrameDecoder, Frames
from voxlive.streaming.ingest.sniff import (
    CONTAINERS,
    DECODERS,
    FAR_HEAD,
    HEAD,
    PART_HEAD,
    begins_recording,
    mp4_index_is_last,
    sniff,
)
from voxlive.streaming.ingest.source import (
    MatroskaElements,
    OggPages,
    Output,
    Parts,
    Source,
    WavChunks,
    samples_of,
    skip_front,
)
from voxlive.values import SAMPLE_RATE, CodedWarning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import InputContainer

    from voxlive.streaming.ingest.sniff import Container
    from voxlive.streaming.ingest.source import Reader
    from voxlive.values import Samples

MAX_PEEK = 1 << 16
_SLACK_S = 0.1
# What comes out must not wait for bytes that are only good for statistics.
_OPTIONS = {"analyzeduration": "1", "codec_whitelist": ",".join(DECODERS)}
# Sound waits for a buffer to be full: small ones where a second of sound is few bytes.
_BUFFER, _PCM_BUFFER, _FILE_BUFFER = 128, 1024, 1 << 15


def decode(reader: Reader, report: Report | None = None) -> Iterator[Samples]:
    """Decode a stream as it arrives, in pieces of float32 [n].

    What is lost is added to ``report``. Raises BadAudio when nothing can be decoded.
    """
    source = Source(reader)
    container = _identify(source)
    if container.demuxer == "mov" and _index_is_last(source):
        raise BadAudio(
            "this MP4 has its index (moov) after the sound, so it cannot be decoded while it"
            " arrives: send it as a file, or rewrite it with '-movflags faststart'"
        )
    yield from _Recordings(report or Report()).decode(source, container)


def decode_file(file: BinaryIO, report: Report | None = None) -> Iterator[Samples]:
    """Decode a seekable file; otherwise as ``decode``."""
    source = Source(file)
    yield from _Recordings(report or Report(), file).decode(source, _identify(source))


def read_file(path: Path, report: Report | None = None) -> Iterator[Samples]:
    """The sound of a file in blocks of about a second. Raises OSError, else as ``decode``."""
    with path.open("rb") as file:
        pieces: list[Samples] = []
        held = 0
        for piece in decode_file(file, report):
            pieces.append(piece)
            held += len(piece)
            if held >= SAMPLE_RATE:
                yield np.concatenate(pieces)
                pieces, held = [], 0
        if held:
            yield np.concatenate(pieces)


@dataclass(frozen=True, slots=True)
class Measured:
    """The seconds of sound in a file, silence put in among them, and what is wrong with it."""

    seconds: float
    warnings: tuple[CodedWarning, ...] = ()


def measure(path: Path, most_s: float | None = None) -> Measured:
    """How much sound is in a file, whatever its header states; decoding stops beyond ``most_s``.

    All of it is decoded and nothing kept, a few hundred times as fast as it sounds. Raises as
    ``read_file``.
    """
    samples, report = 0, Report()
    for block in read_file(path, report):
        samples += len(block)
        if most_s is not None and samples > most_s * SAMPLE_RATE:
            break
    return Measured(samples / SAMPLE_RATE, report.warnings)


class _FileRange:
    """One recording of a file that has to be sought in, as a file: from ``start`` to ``end``.

    ``end`` is where another recording begins, None if none does; ``fragmented``: an MP4 whose
    length libav counts from time 0, not from its first sound.
    """

    def __init__(self, file: BinaryIO, start: int, container: Container) -> None:
        self._file = file
        self._start = start
        self.fragmented = False
        self.end = self._find_end(container)
        file.seek(start)

    def _find_end(self, container: Container) -> int | None:
        at, size_of = self._start, container.part_size
        while size_of:
            self._file.seek(at)
            head = self._file.read(PART_HEAD)
            if at > self._start and begins_recording(head):
                return at
            self.fragmented = self.fragmented or head[4:8] == b"moof"
            size = size_of(head) if len(head) == PART_HEAD else None
            if not size or at + size >= sys.maxsize:
                break
            at += size
        return None

    def read(self, size: int) -> bytes:
        """As a file's."""
        if self.end is not None:
            size = max(min(size, self.end - self._file.tell()), 0)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file's; a place that cannot be is an error to libav, not to us."""
        if whence == 2:
            base = self._file.seek(0, 2) if self.end is None else self.end
        else:
            base = self._file.tell() if whence else self._start
        place = base + offset
        if not self._start <= place < sys.maxsize:
            return -1
        return self._file.seek(place) - self._start

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell() - self._start


def _identify(source: Source) -> Container:
    """Step over what may stand before a container; returns which one it is. Raises BadAudio."""
    skip_front(source, _is_known)
    return _container_here(source) or _find_frames(source) or sniff(source.peek(HEAD))


def _is_known(head: bytes) -> bool:
    try:
        sniff(head)
    except BadAudio:
        return False
    return True


def _container_here(source: Source) -> Container | None:
    """The container that begins with the next byte; None if none does."""
    head = source.peek(HEAD)
    if b"G" in (head[:1], head[4:5]):  # MPEG-TS
        head = source.peek(FAR_HEAD)
    if not _is_known(head):
        return None
    container = sniff(head)
    return container if container.demuxer or _frames(source, container).starts_here() else None


def _another_begins(container: Container, source: Source) -> bool:
    """Whether a recording of another kind begins with the next byte."""
    other = _container_here(source)
    return other is not None and other.name != container.name


def _find_frames(source: Source) -> Container | None:
    """MP3 or ADTS that begins within ``MAX_JOIN`` bytes, which are stepped over."""
    if source.peek(HEAD).isascii() and b"\0" not in source.peek(HEAD):
        return None  # text, which no sound begins with
    places = {
        at: container
        for container in CONTAINERS
        if not container.demuxer and (at := _frames(source, container).find_start()) is not None
    }
    if not places:
        return None
    first = min(places)
    source.skip(first)
    return places[first]


def _frames(source: Source, container: Container) -> Frames:
    return Frames(source, PARSERS[container.name])


def _index_is_last(source: Source) -> bool:
    size = HEAD
    while (last := mp4_index_is_last(source.peek(size))) is None and size < MAX_PEEK:
        size *= 2
    return bool(last)


class _Recordings:
    """Decodes what a stream consists of: most often one recording, or several one after another."""

    def __init__(self, report: Report, file: BinaryIO | None = None) -> None:
        self._report = report
        self._file = file  # that can be sought in
        self._out = Output(report)

    def decode(self, source: Source, container: Container) -> Iterator[Samples]:
        """Raises BadAudio when no recording can be decoded."""
        while True:
            if self._file and container.seeks:
                part = _FileRange(self._file, source.at, container)
                yield from self._decode_one(part, container)
                if part.end is None:
                    break
                self._file.seek(part.end)
                source = Source(self._file, part.end)
            else:
                yield from self._decode_one(source, container)
            if not source.peek(1):
                break
            behind = source.at
            try:
                following = _identify(source)
            except BadAudio:
                if source.peek(1):
                    message = f"what follows the {container.name} is no audio and was left out"
                    self._report.add("trailing_data", f"{message}, from byte {behind} on")
                break
            container = following
        yield from self._out.finish()
        if not self._out.decoded_s and self._report.warnings:
            raise BadAudio(self._report.warnings[0].message)

    def _decode_one(self, file: Source | _FileRange, container: Container) -> Iterator[Samples]:
        self._out.restart(exact=container.exact)
        if isinstance(file, Source) and not container.demuxer:
            decoder: FrameDecoder | _Demuxer = FrameDecoder(
                file, container.name, self._out, partial(_another_begins, container)
            )
        else:
            decoder = _Demuxer(file, container, self._out)
        began = self._out.decoded_s
        try:
            yield from decoder.decode(self._report)
        except BadAudio as error:
            if not began and not self._out.decoded_s:
                raise
            self._report.add("damaged", str(error))


class _Demuxer:
    """Every other container, through libav."""

    def __init__(self, file: Source | _FileRange, container: Container, out: Output) -> None:
        self._file = file
        self._container = container
        self._out = out
        self._began_s = out.at_s
        source = file if isinstance(file, Source) else None
        self._pages = OggPages(source) if source and container.pages else None
        self._chunks = WavChunks(source) if source and container.chunks else None
        self._elements = MatroskaElements(source) if source and container.elements else None

    def decode(self, report: Report) -> Iterator[Samples]:
        container = self._container
        buffer = _PCM_BUFFER if container.exact and not container.partial else _BUFFER
        reader: Reader
        if isinstance(self._file, _FileRange):
            reader, buffer = self._file, _FILE_BUFFER
        else:
            reader = self._pages or self._chunks or self._elements or self._parts(self._file)
        try:
            with av.open(
                reader,
                "r",
                container.demuxer,
                options={**_OPTIONS, "probesize": str(container.probe)},
                metadata_errors="replace",
                buffer_size=buffer,
            ) as media:
                stream = media.streams.best("audio") or next(iter(media.streams.audio), None)
                if not isinstance(stream, AudioStream):
                    raise BadAudio(f"there is no audio track in the {container.name}")
                codec = stream.codec_context
                if codec is None or codec.name not in DECODERS:
                    raise BadAudio(
                        f"the coding of the sound in the {container.name} is not known here"
                    )
                yield from self._stream(media, stream, report)
        except av.FFmpegError as error:
            raise BadAudio(f"the {container.name} cannot be decoded: {error.strerror}") from error
        finally:
            self._report_byte_damage(report)

    def _parts(self, source: Source) -> Reader:
        size_of = self._container.part_size
        return Parts(source, size_of, begins_recording) if size_of else _Unseekable(source)

    def _stream(
        self, media: InputContainer, stream: AudioStream, report: Report
    ) -> Iterator[Samples]:
        name, out = self._container.name, self._out
        length_s = self._stated_length(media, stream)
        origin_s = self._origin(media)
        reached_s, losses, broken, gaps = 0.0, PacketLosses(), False, out.gaps
        failure = ""
        packets = media.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                failure = f": {error.strerror}"
                break
            except IndexError:  # PyAV's, for a track that begins behind what was probed
                failure = ": another track begins there"
                break
            if packet is None:
                break
            if broken:  # a packet that is not whole, but others follow
                losses.add(out.at_s)
            broken = packet.is_corrupt and self._container.partial
            if packet.pts is not None:
                end = packet.pts + (packet.duration or 0)
                reached_s = max(reached_s, float(end * packet.time_base))
                if origin_s is None:
                    origin_s = float(packet.pts * packet.time_base)
            try:
                frames = packet.decode()
            except av.FFmpegError:
                losses.add(out.at_s)
                continue
            for frame in frames:
                losses.good()
                yield from self._place(frame, origin_s or 0.0)
        complete = reached_s >= length_s - _SLACK_S
        whole = complete and not losses.last and bool(length_s or not (broken or failure))
        losses.report_to(name, report)
        if self._container.gapless and out.gaps > gaps:
            missing = f"{out.gaps - gaps} of its parts are missing"
            report.add("damaged", f"the {name} is damaged: {missing}")
        if not whole:
            came_s = out.at_s - self._began_s
            of = "" if complete else f" of {length_s:.1f} s"
            report.add("cut_off", f"the {name} was cut off after {came_s:.1f} s{of}{failure}")

    def _place(self, frame: av.AudioFrame, origin_s: float) -> Iterator[Samples]:
        samples = samples_of(frame)
        at_s = None
        if frame.pts is not None and frame.time_base is not None:
            at_s = float(frame.pts * frame.time_base) - origin_s
        yield from self._out.place(at_s, len(samples) / frame.sample_rate)
        yield from self._out.push(samples, frame.sample_rate)

    def _origin(self, media: InputContainer) -> float | None:
        """What the clock begins at; None: at the first packet."""
        if not self._container.from_first:
            return 0.0
        return None if media.start_time is None else media.start_time / av.time_base

    def _stated_length(self, media: InputContainer, stream: AudioStream) -> float:
        """Seconds that the header promises; 0 where it does not, or speaks of other tracks too."""
        if not self._container.states_length or (self._chunks and not self._chunks.stated):
            return 0.0
        if stream.duration and stream.time_base:
            from_zero = isinstance(self._file, _FileRange) and self._file.fragmented
            start = 0 if from_zero else stream.start_time or 0
            return float((stream.duration + start) * stream.time_base)
        return media.duration / av.time_base if media.duration and len(media.streams) == 1 else 0.0

    def _report_byte_damage(self, report: Report) -> None:
        """What the checks before libav found."""
        name = self._container.name
        if pages := self._pages:
            if pages.lost or pages.junk:
                what = f"{pages.lost} of its pages are missing or were left out"
                what = what if pages.lost else f"{pages.junk} of its bytes belong to no page"
                report.add("damaged", f"the {name} is damaged: {what}")
            if pages.cut:
                report.add("cut_off", f"the {name} was cut off after {self._out.at_s:.1f} s")
        if self._elements and self._elements.damaged_at is not None:
            where = f"from byte {self._elements.damaged_at} on parts of it were left out"
            report.add("damaged", f"the {name} is damaged: {where}")
        if chunks := self._chunks:
            if chunks.missing:
                at = f"{self._out.at_s - self._began_s:.1f} s"
                of = f"{chunks.missing} bytes of its sound are missing"
                report.add("cut_off", f"the {name} was cut off after {at}: {of}")
            chunks.skip_rest()


class _Unseekable:
    """A source that cannot be sought in, for libav."""

    def __init__(self, source: Source) -> None:
        self.read = source.read
