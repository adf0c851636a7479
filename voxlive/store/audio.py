"""The audio of stored sessions: mono Opus in Ogg, one file for each, written while it is received.

A session of several sources has a file of each source beside its own (``source_name``).

A file is on its session's clock: sample t of the session is sample t of the file at 16 kHz. What
was not kept in between is silence. A page of a second is written whole, so that a file is playable
at any moment, and after a crash without its last second or two; every ``SYNC_S`` seconds it is
flushed to the disk. A session that goes on in another process goes on in its file; whoever opens it
again in this one is its only writer from then on.

Files are for their owner alone (0600, in a folder 0700). One thread encodes and writes for all
sessions, and nobody waits for it. Bounds: ``MAX_WAITING`` bytes that are not encoded yet, and the
bytes of the whole folder. At either, and while the disk fails, audio is dropped, the session gets a
warning once, and its file goes on as soon as it can.

Ogg is RFC 3533, Opus in it RFC 7845. The encoder is libopus, by PyAV.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import struct
import threading
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from voxlive.store.contract import StoreError, StoreReadOnly, StoreUnusable
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from voxlive.values import Samples

SUFFIX = ".ogg"
MAX_WAITING = 16 << 20
"""Bytes of 16-bit samples that wait to be encoded, of all sessions: 8 minutes and a half."""
MAX_FOLDER = 20 << 30
"""Bytes of all files, unless ``most`` is another bound: some 2000 hours of speech."""
SYNC_S = 5.0
_BIT_RATE = 24_000
_FRAME = 960  # samples of a packet: 60 ms
_PAGE_FRAMES = 16
_FADE = 16
_GRANULE = 48_000 // SAMPLE_RATE  # Ogg counts Opus at 48 kHz, whatever goes in
_PRE_SKIP = 312  # of these: what the encoder looks ahead
_MAX_PAGE = 27 + 255 + 255 * 255
_GATHER_S = 0.2
_RETRY_S = 10.0
_ORPHAN_S = 86_400.0
_DIGEST_CHARS = 16
_ID = re.compile(r"[\w:-]{1,64}", re.ASCII)
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_CONTINUED, _FIRST, _LAST = 1, 2, 4

Report = Callable[[str, str], object]
"""Takes the code and the message of a warning, in any thread."""


class SessionAudio(Protocol):
    """Takes the audio of one session, on its loop."""

    def put(self, samples: Samples, at: int) -> None:
        """Keep float32 samples [n], of which the first is sample ``at`` of the session."""
        ...

    def close(self, end: int | None) -> None:
        """The session has ended at this sample, or goes on in another process (None)."""
        ...


class AudioStore(Protocol):
    """Where the audio of sessions is kept."""

    def open(self, session: str, report: Report) -> SessionAudio:
        """Keep a session's audio, behind what of it there is already.

        ``report`` is called with what is not kept, in any thread. Raises StoreError.
        """
        ...


def to_16_bits(samples: Samples) -> NDArray[np.int16]:
    """Float32 samples [n] as they are kept."""
    return np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)


def source_name(session: str, source: str) -> str:
    """The name under which the audio of one of a session's sources is kept; "" is the session's."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{session}:{digest}" if source else session


def _checksum(page: bytes) -> int:
    """Ogg's CRC-32: that of zlib with all bits the other way round, and nothing inverted."""
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(crc.to_bytes(4, "little").translate(_REVERSED), "big")


def _make_page(serial: int, number: int, granule: int, packets: list[bytes], flags: int) -> bytes:
    """A page of whole packets, whose lacing values fit into one."""
    lacing = b"".join(bytes([255] * (len(one) // 255) + [len(one) % 255]) for one in packets)
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, serial, number, 0, len(lacing))
    page = b"".join((head, lacing, *packets))
    return b"".join((page[:22], struct.pack("<I", _checksum(page)), page[26:]))


def _read_pages(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Whole pages in a piece of a file: where one begins and ends, its flags, granule, number."""
    at = data.find(b"OggS")
    while at >= 0:
        count = data[at + 26] if at + 27 <= len(data) else 256
        end = at + 27 + count + sum(data[at + 27 : at + 27 + count])
        page = data[at:end]
        if count < 256 and end <= len(data):
            checked = b"".join((page[:22], bytes(4), page[26:]))
            if struct.unpack_from("<I", page, 22)[0] == _checksum(checked):
                flags, granule, _, number = struct.unpack_from("<BqII", page, 5)
                yield at, end, flags, granule, number
                at = data.find(b"OggS", end)
                continue
        at = data.find(b"OggS", at + 1)


def _packets_of(page: bytes) -> list[bytes]:
    """The packets of a page of whole ones."""
    lacing = page[27 : 27 + page[26]]
    packets, at, size = list[bytes](), 27 + page[26], 0
    for value in lacing:
        size += value
        if value < 255:
            packets.append(page[at : at + size])
            at, size = at + size, 0
    return packets


class OpusFile:
    """One file that is written, from its beginning or from the last page that it has.

    ``position``: samples that it has taken. Every method raises OSError, after which it is of no
    more use; another one goes on with the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self._encoder: Any = None
        self._rest: NDArray[np.int16] = np.zeros(0, np.int16)
        self._packets: list[bytes] = []
        self._encoded = self._number = 0
        self._synced_at = time.monotonic()
        try:
            self._find_end()
        except BaseException:
            os.close(self._file)
            raise

    @property
    def position(self) -> int:
        """Samples that it has taken, with those that are not in a page yet."""
        return self._encoded + len(self._rest)

    @property
    def deleted(self) -> bool:
        """Whether another process has deleted it."""
        return os.fstat(self._file).st_nlink == 0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def write(self, samples: NDArray[np.int16]) -> None:
        """Take samples [n]."""
        data = np.concatenate((self._rest, samples))
        whole = len(data) // _FRAME * _FRAME
        for at in range(0, whole, _FRAME):
            self._add(self._encode(data[at : at + _FRAME]))
        self._rest = data[whole:]

    def skip(self, to: int) -> None:
        """Take silence up to this sample."""
        self.write(np.zeros(min(to - self.position, -self.position % _FRAME), np.int16))
        packet = b""
        for count in range((to - self.position) // _FRAME):
            # After so many it depends no more on the sound before, and may come again.
            packet = packet if count > _FADE else self._encode(np.zeros(_FRAME, np.int16))
            self._add(packet)
        self.write(np.zeros(to - self.position, np.int16))

    def end(self) -> None:
        """Write the last page, with the sample at which the audio ends."""
        granule = _GRANULE * self.position + _PRE_SKIP
        self.write(np.zeros(_FRAME - len(self._rest), np.int16))
        if _GRANULE * self._encoded < granule:
            self.write(np.zeros(_FRAME, np.int16))
        self._write_page(granule, _LAST)

    def sync(self) -> None:
        """Have what is written outlive a loss of power, if that was not done just now."""
        if time.monotonic() - self._synced_at >= SYNC_S:
            os.fdatasync(self._file)
            self._synced_at = time.monotonic()

    def close(self) -> None:
        """Write the packets that there are, and free everything."""
        try:
            self._write_page(_GRANULE * self._encoded)
        finally:
            os.close(self._file)

    def _find_end(self) -> None:
        """Go to the end of the last whole page; of one that ends the audio the packets go on."""
        size = os.fstat(self._file).st_size
        first = list(_read_pages(os.pread(self._file, _MAX_PAGE, 0)))
        if len(first) < 2:
            os.ftruncate(self._file, 0)
            self._serial = secrets.randbits(32)
            self._size = 0
            self._begin()
            return
        self._serial = struct.unpack("<I", os.pread(self._file, 4, 14))[0]
        begin = max(0, size - 2 * _MAX_PAGE)
        data = os.pread(self._file, size - begin, begin)
        pages = list(_read_pages(data))
        last = pages.pop() if pages[-1][2] & _LAST else None
        _, end, _, granule, number = pages[-1] if pages else first[1]
        self._size = begin + end if pages else end
        self._encoded, self._number = granule // _GRANULE, number + 1
        if last:
            length = (last[3] - _PRE_SKIP) // _GRANULE - self._encoded
            self._packets = _packets_of(data[last[0] : last[1]])[: length // _FRAME]
            self._encoded += _FRAME * len(self._packets)
        os.ftruncate(self._file, self._size)
        os.lseek(self._file, self._size, os.SEEK_SET)

    def _begin(self) -> None:
        head = struct.pack("<8sBBHIhB", b"OpusHead", 1, 1, _PRE_SKIP, SAMPLE_RATE, 0, 0)
        tags = b"OpusTags" + struct.pack("<I", 7) + b"voxlive" + struct.pack("<I", 0)
        pages = (
            _make_page(self._serial, 0, 0, [head], _FIRST),
            _make_page(self._serial, 1, 0, [tags], 0),
        )
        self._number = 2
        self._put(b"".join(pages))

    def _encode(self, frame: NDArray[np.int16]) -> bytes:
        import av

        if self._encoder is None:
            self._encoder = av.CodecContext.create("libopus", "w")
            self._encoder.sample_rate, self._encoder.bit_rate = SAMPLE_RATE, _BIT_RATE
            self._encoder.layout, self._encoder.format = "mono", "s16"
            self._encoder.options = {
                # "voip" would filter what recognisers use, and take twice the time.
                "application": "audio",
                "frame_duration": "60",
                # A core encodes 700 sessions with it, and 120 with 10.
                "compression_level": "0",
            }
        audio = av.AudioFrame.from_ndarray(frame[None], format="s16", layout="mono")
        audio.sample_rate = SAMPLE_RATE
        return b"".join(map(bytes, self._encoder.encode(audio)))

    def _add(self, packet: bytes) -> None:
        """Add a packet. A full page is written before the next one: the last page needs some."""
        if len(self._packets) == _PAGE_FRAMES:
            self._write_page(_GRANULE * self._encoded)
        self._packets.append(packet)
        self._encoded += _FRAME

    def _write_page(self, granule: int, flags: int = 0) -> None:
        if self._packets:
            page = _make_page(self._serial, self._number, granule, self._packets, flags)
            self._packets.clear()
            self._number += 1
            self._put(page)

    def _put(self, data: bytes) -> None:
        """Write all of it, or leave the file as it was."""
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)


class AudioWriter:
    """The audio of one session. Called on its loop; the folder's thread encodes and writes."""

    def __init__(self, folder: AudioFolder, session: str, report: Report) -> None:
        self.session = session
        self.path = folder.path / f"{session}{SUFFIX}"
        self.waiting: list[tuple[int, NDArray[np.int16]]] = []
        self.end: int | None = None
        """The session's last sample, once it is over."""
        self.deleted = self.closed = False
        self.file: OpusFile | None = None
        self.counted = 0
        """Bytes of the file that are among the folder's."""
        self.before: AudioWriter | None = None
        """Who had the file until this one was opened."""
        self.lock = threading.Lock()
        """Held while the file is opened, written or deleted; one for all that have the file."""
        self.retry_at = 0.0
        self._folder = folder
        self._report = report
        self._reported: set[str] = set()

    def put(self, samples: Samples, at: int) -> None:
        """See ``SessionAudio``."""
        self._folder.put(self, at, to_16_bits(samples))

    def close(self, end: int | None) -> None:
        """See ``SessionAudio``."""
        self._folder.finish(self, end)

    def report(self, code: str, message: str) -> None:
        """Warn the session, once of each kind."""
        if code not in self._reported:
            self._reported.add(code)
            self._report(code, message)


class AudioFolder:
    """The audio of the sessions of a store; see the module. Every method may be called anywhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.most = MAX_FOLDER
        """Bytes of all files. At the bound nothing more is kept until some are deleted."""
        self._bytes: int | None = None
        self._waiting: deque[AudioWriter] = deque()
        self._waiting_bytes = 0
        self._writers: dict[str, AudioWriter] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def bytes(self) -> int:
        """What all files have."""
        if self._bytes is None:
            self._bytes = sum(one.stat().st_size for one in self._files())
        return self._bytes

    def find(self, session: str) -> Path | None:
        """The file of a session; None where it has none."""
        if not _ID.fullmatch(session):
            return None
        path = self.path / f"{session}{SUFFIX}"
        return path if path.is_file() else None

    def is_written(self, session: str) -> bool:
        """Whether a file of a session is not complete, and written by this process."""
        return any(name.partition(":")[0] == session for name in tuple(self._writers))

    def open(self, session: str, report: Report) -> AudioWriter:
        """See ``AudioStore``. Of what an earlier writer is given from now on nothing is kept."""
        if not _ID.fullmatch(session):
            raise StoreError(f"{session[:64]!r} cannot be the name of a file")
        self.make_folder()
        writer = AudioWriter(self, session, report)
        with self._changed:
            if before := self._writers.get(session):
                writer.before, writer.lock = before, before.lock
                self._finish(before, None)  # before anything of the new one
            self._writers[session] = writer
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="audio", daemon=True)
                self._thread.start()
        return writer

    def make_folder(self) -> None:
        """Make it, where it is not there. Raises StoreError if it cannot be used."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            others = self.path.stat().st_mode & 0o077
            usable = os.access(self.path, os.W_OK | os.X_OK)
            _ = self.bytes
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror or error}") from error
        if others:
            message = f"others may look into {self.path}: chmod 700 it, or name another folder"
            raise StoreUnusable(message)
        if not usable:
            raise StoreReadOnly(f"{self.path} cannot be written to")

    def delete(self, sessions: Iterable[str]) -> None:
        """Delete the audio of sessions, also of those that run: nothing more is kept of them.

        Raises OSError.
        """
        for session in sessions:
            if _ID.fullmatch(session):
                names = {one.stem for one in self.path.glob(f"{session}:*{SUFFIX}")} | {session}
                with self._changed:
                    names |= {one for one in self._writers if one.partition(":")[0] == session}
                for name in names:
                    self._delete(name)

    def _delete(self, name: str) -> None:
        with self._changed:
            writer = self._writers.get(name)
        with writer.lock if writer else contextlib.nullcontext():
            while writer:
                writer.deleted, writer = True, writer.before
            self._unlink(self.path / f"{name}{SUFFIX}")

    def _unlink(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            with self._changed:
                self._bytes = None if self._bytes is None else self._bytes - size

    def sweep(self, known: Callable[[list[str]], set[str]]) -> None:
        """Delete files without a session: ``known`` gives those of these ids that there are.

        Another server, or a crash in between, may have left one. Raises OSError.
        """
        before = time.time() - _ORPHAN_S
        old = [one for one in self._files() if one.stat().st_mtime < before]
        for at in range(0, len(old), 500):
            some: dict[str, list[Path]] = defaultdict(list)
            for one in old[at : at + 500]:
                some[one.stem.partition(":")[0]].append(one)
            for session in some.keys() - known(list(some)):
                for one in some[session]:
                    self._unlink(one)

    def _files(self) -> Iterator[Path]:
        return self.path.glob(f"*{SUFFIX}") if self.path.is_dir() else iter(())

    def put(self, writer: AudioWriter, at: int, samples: NDArray[np.int16]) -> None:
        """Have this encoded and written. It never waits."""
        with self._changed:
            if writer.deleted or writer.closed or self._closed:
                return
            if self._waiting_bytes + samples.nbytes > MAX_WAITING:
                late = True
            else:
                late = False
                writer.waiting.append((at, samples))
                self._waiting_bytes += samples.nbytes
                self._notify(writer)
        if late:
            writer.report(
                "audio_late", "audio is not kept as fast as it comes; the session goes on"
            )

    def finish(self, writer: AudioWriter, end: int | None) -> None:
        """Nothing more comes: see ``AudioWriter.close``."""
        with self._changed:
            self._finish(writer, end)

    def _finish(self, writer: AudioWriter, end: int | None) -> None:
        if not writer.closed:
            writer.end, writer.closed = end, True
            self._notify(writer)

    def _notify(self, writer: AudioWriter) -> None:
        if writer not in self._waiting:
            self._waiting.append(writer)
            self._changed.notify()

    def close(self) -> None:
        """Write what waits, and end the thread. Blocks."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread:
            self._thread.join()
        for writer in tuple(self._writers.values()):
            with writer.lock:
                self._release(writer)

    # The thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
            if not self._closed:
                time.sleep(_GATHER_S)  # what comes meanwhile is written with it
            with self._changed:
                writers, self._waiting = self._waiting, deque()
            for writer in writers:
                self._serve(writer)

    def _serve(self, writer: AudioWriter) -> None:
        with self._changed:
            blocks, writer.waiting = writer.waiting, []
            self._waiting_bytes -= sum(samples.nbytes for _, samples in blocks)
            closed = writer.closed
        with writer.lock:
            if not writer.deleted and time.monotonic() >= writer.retry_at:
                try:
                    self._write(writer, blocks, closed)
                except OSError as error:
                    writer.retry_at = time.monotonic() + _RETRY_S
                    self._release(writer)
                    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
                    writer.report(
                        "audio_full" if full else "audio_failed",
                        f"audio is not kept at the moment ({error.strerror or error}); "
                        "the session goes on",
                    )
            if closed or writer.deleted:
                self._release(writer)
        if closed:
            with self._changed:
                writer.before = None
                if self._writers.get(writer.session) is writer:
                    del self._writers[writer.session]

    def _write(
        self, writer: AudioWriter, blocks: list[tuple[int, NDArray[np.int16]]], closed: bool
    ) -> None:
        if self.bytes >= self.most:
            raise OSError(errno.EDQUOT, f"{self.most >> 20} MiB are the most for all sessions")
        if writer.file is None:
            if not (any(len(samples) for _, samples in blocks) or writer.path.exists()):
                return
            writer.counted = writer.path.stat().st_size if writer.path.exists() else 0
            writer.file = OpusFile(writer.path)
        file = writer.file
        if file.deleted:
            writer.deleted = True
            return
        for at, samples in blocks:
            # Of what it has already, nothing; what it was not given is silence.
            missing = samples[max(0, file.position - at) :]
            if len(missing):
                file.skip(at + len(samples) - len(missing))
                file.write(missing)
        if closed and writer.end is not None:
            file.skip(max(writer.end, file.position))
            file.end()
        file.sync()
        self._count(writer, file)

    def _count(self, writer: AudioWriter, file: OpusFile) -> None:
        with self._changed:
            self._bytes = self.bytes + file.size - writer.counted
        writer.counted = file.size

    def _release(self, writer: AudioWriter) -> None:
        file, writer.file = writer.file, None
        if file:
            with contextlib.suppress(OSError):
                file.close()
            if not writer.deleted:
                self._count(writer, file)
