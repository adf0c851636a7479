"""Containers through PyAV: a reader of bytes to float32 mono at 16 kHz, piece by piece. Blocking.

Samples are counted as they are decoded: gaps in a container's own time stamps are not filled. Bytes
after the end of a recording are not looked at. A cut is seen in MP4, FLAC, WAV and Ogg, and in WebM
where its header states a length; MP3, AAC and live WebM do not tell how long they are. Sound comes
out with the packet that carries it, but FLAC holds back ten frames (about a second) and WAV its
first 64 KiB, since libav looks that far for something else in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

import av
import numpy as np
from av.audio.stream import AudioStream

from ..clock import SAMPLE_RATE
from .formats import MAX_CHANNELS, BadAudio, to_unit
from .pcm import Resampler, mix_down
from .sniff import HEAD, TAIL, mp4_index_is_last, sniff

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.container import InputContainer

    from ..engine import Samples
    from .sniff import Container

MIN_RATE, MAX_RATE = 8_000, 192_000
MAX_PEEK = 1 << 16
# What comes out must not wait for bytes that are only good for statistics.
_OPTIONS = {"analyzeduration": "1", "probesize": "32"}
_SLACK_S = 0.03


class Reader(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, waiting for at least one; none at the end."""
        ...


class _Source:
    """A reader that can look ahead and remembers what tells a whole stream from a cut one."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._ahead = b""
        self.tail = b""
        self.total = 0

    def peek(self, size: int) -> bytes:
        """The first ``size`` bytes, fewer if there are no more."""
        while len(self._ahead) < size and (piece := self._reader.read(size - len(self._ahead))):
            self._ahead += piece
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        piece = self._ahead[:size] or self._reader.read(size)
        self._ahead = self._ahead[size:]
        self.total += len(piece)
        self.tail = (self.tail + piece)[-TAIL:]
        return piece


def decode(reader: Reader) -> Iterator[Samples]:
    """Decode a stream as it arrives, in pieces of float32 [n].

    Raises BadAudio, once everything that can be decoded has been given out.
    """
    source = _Source(reader)
    head = source.peek(HEAD)
    container = sniff(head)
    if container.demuxer == "mov" and _index_is_last(source):
        raise BadAudio(
            "this MP4 has its index (moov) after the sound, so it cannot be decoded while it"
            " arrives: send it as a file, or rewrite it with '-movflags faststart'"
        )
    yield from _decode(source, container)
    if container.cut and container.cut(head, source.tail, source.total):
        raise BadAudio(f"the {container.name} was cut off: its last part is missing")


def decode_file(file: BinaryIO) -> Iterator[Samples]:
    """Decode a seekable file; otherwise as ``decode``."""
    container = sniff(file.read(HEAD))
    file.seek(0)
    # Only MP4 has to be sought in. The rest is read in order, where a cut is better seen.
    yield from _decode(file, container) if container.demuxer == "mov" else decode(file)


def read_file(path: Path) -> Iterator[Samples]:
    """The sound of a file in blocks of about a second. Raises OSError, or BadAudio at its end."""
    with path.open("rb") as file:
        pieces: list[Samples] = []
        held = 0
        flaw = None
        try:
            for piece in decode_file(file):
                pieces.append(piece)
                held += len(piece)
                if held >= SAMPLE_RATE:
                    yield np.concatenate(pieces)
                    pieces, held = [], 0
        except BadAudio as error:
            flaw = error
        if held:
            yield np.concatenate(pieces)
        if flaw:
            raise flaw


def measure(path: Path, most_s: float | None = None) -> float:
    """Seconds of sound in a file, whatever it says of itself; decoding stops beyond ``most_s``.

    All of it is decoded and nothing kept, a few hundred times as fast as it sounds. Raises as
    ``read_file``.
    """
    samples = 0
    for block in read_file(path):
        samples += len(block)
        if most_s is not None and samples > most_s * SAMPLE_RATE:
            break
    return samples / SAMPLE_RATE


def _index_is_last(source: _Source) -> bool:
    size = HEAD
    while (last := mp4_index_is_last(source.peek(size))) is None and size < MAX_PEEK:
        size *= 2
    return bool(last)


def _decode(file: Reader, container: Container) -> Iterator[Samples]:
    """Resample what ``_frames`` gives; the tail comes out before its error goes on."""
    resampler: Resampler | None = None
    flaw = None
    try:
        for frame in _frames(file, container):
            mono = mix_down(_samples(frame))
            if resampler is None or resampler.rate != frame.sample_rate:
                if resampler:
                    yield resampler.finish()
                resampler = Resampler(frame.sample_rate)
            yield resampler.push(mono)
    except BadAudio as error:
        flaw = error
    if resampler:
        yield resampler.finish()
    if flaw:
        raise flaw


def _samples(frame: av.AudioFrame) -> Samples:
    """A decoded frame as float32 [n, channels].

    More than eight channels must not reach PyAV's ``to_ndarray``, which reads past its planes then.
    """
    rate, channels = frame.sample_rate, frame.layout.nb_channels
    if not MIN_RATE <= rate <= MAX_RATE:
        raise BadAudio(f"a rate of {rate} Hz is not supported: use {MIN_RATE} to {MAX_RATE}")
    if channels > MAX_CHANNELS:
        raise BadAudio(f"{channels} channels are not supported: use 1 to {MAX_CHANNELS}")
    try:
        values = frame.to_ndarray()
    except ValueError as error:
        raise BadAudio(f"samples of the kind {frame.format.name} are not supported") from error
    return to_unit(values.T if frame.format.is_planar else values.reshape(-1, channels))


def _frames(file: Reader, container: Container) -> Iterator[av.AudioFrame]:
    try:
        with av.open(
            file, "r", container.demuxer, options=_OPTIONS, metadata_errors="replace"
        ) as media:
            stream = media.streams.best("audio")
            if not isinstance(stream, AudioStream):
                raise BadAudio(f"there is no audio track in the {container.name}")
            if stream.codec_context is None:
                raise BadAudio(f"the coding of the sound in the {container.name} is not known here")
            yield from _stream_frames(media, stream, container)
    except av.FFmpegError as error:
        raise BadAudio(f"the {container.name} cannot be decoded: {error.strerror}") from error


def _stream_frames(
    media: InputContainer, stream: AudioStream, container: Container
) -> Iterator[av.AudioFrame]:
    """Every frame of the stream. Damaged packets are left out, and told in the end."""
    length = _stated_length(media) if container.states_length else 0.0
    heard, reached, cut = 0.0, 0.0, False
    damaged, damaged_at = 0, 0.0
    for packet in media.demux(stream):
        cut = cut or (packet.is_corrupt and not container.cut)
        try:
            frames = packet.decode()
        except av.FFmpegError:
            damaged_at = damaged_at if damaged else heard
            damaged += 1
            continue
        if packet.pts is not None:
            reached = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        for frame in frames:
            heard += frame.samples / max(frame.sample_rate, 1)
            yield frame
    if cut or reached < length - _SLACK_S:
        of = f" of {length:.1f} s" if length else ""
        raise BadAudio(f"the {container.name} was cut off after {heard:.1f} s{of}")
    if damaged:
        raise BadAudio(
            f"the {container.name} is damaged: {damaged} of its packets were left out,"
            f" the first at {damaged_at:.1f} s"
        )


def _stated_length(media: InputContainer) -> float:
    """Seconds that the header promises, 0 where it does not or speaks of other tracks as well."""
    return media.duration / av.time_base if media.duration and len(media.streams) == 1 else 0.0
