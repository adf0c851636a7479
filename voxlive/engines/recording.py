"""Recordings of live sessions: how they are written, without harm to the session, and read.

``RecordingFolder`` keeps every session of a server in a folder of its own, of two files: ``LOG``,
and the audio as it was received, in the client's format. The log has a JSON object a line: the
first is about the session, each of the others has ``t``, the seconds since it began, and is one of

| fields | what |
|---|---|
| `audio` | so many bytes of audio came from the client |
| `command` | another command of the client: flush, reconfigure, stop |
| `received` | the stream was given what the gate lets through before this sample |
| `pause`, `at`; `flush`, `at` | it was given this mark, at this sample |
| `words`, `draft`, `language`, `processed`, `behind`, `reached`, `failed` | it answered with this |
| `recovered` | its engine had failed, and another one goes on |
| `end` | the session was over, with so many samples; the last line |
| `cut` | the recording was ended before, and why |

Files are for their owner alone (0600, in folders 0700). One thread writes. Bounds: ``MAX_SESSION``
bytes a session, ``MAX_FOLDER`` bytes in all and ``MAX_WAITING`` that are not written yet; beyond
them, and where writing fails, the recording ends with a warning in the log, and the session goes on
without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from voxlive.engines.contract import (
    Behind,
    Committed,
    Drafted,
    EngineInfo,
    Failed,
    LanguageFound,
    Progressed,
    Reached,
    SessionMessage,
)
from voxlive.errors import CheckpointNotFound, DamagedFile, UnsupportedConfig
from voxlive.values import Word

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

log = logging.getLogger(__name__)

VERSION = 1
LOG = "session.jsonl"
AUDIO = "audio"
MAX_READ = 256 << 20
"""Bytes of logs that a replay keeps in memory."""
MAX_SESSION = 512 << 20
MAX_FOLDER = 20 << 30
MAX_WAITING = 16 << 20
_WRITE_EVERY_S = 0.1
_COUNT_EVERY_S = 60.0


def message_fields(message: SessionMessage) -> dict[str, object]:
    """A message as the fields of a line."""
    match message:
        case Committed(words):
            return {"words": [[w.text, w.start, w.end, w.probability] for w in words]}
        case Drafted(text):
            return {"draft": text}
        case LanguageFound(language, probability):
            return {"language": language, "p": probability}
        case Progressed(upto):
            return {"processed": upto}
        case Behind(seconds):
            return {"behind": seconds}
        case Reached(marker):
            return {"reached": marker}
        case Failed(code, text):
            return {"failed": code, "message": text}


def _read_message(line: dict[str, Any]) -> SessionMessage | None:
    """The message of a line; None for the death of an engine that was survived. Raises KeyError."""
    match line:
        case {"words": words}:
            return Committed(tuple(Word(*word) for word in words))
        case {"draft": text}:
            return Drafted(text)
        case {"language": language}:
            return LanguageFound(language, line["p"])
        case {"processed": upto}:
            return Progressed(upto)
        case {"behind": seconds}:
            return Behind(seconds)
        case {"reached": marker}:
            return Reached(marker)
        case {"failed": code}:
            return Failed(code, line["message"])
        case {"recovered": True}:
            return None
    raise KeyError("unknown")


_NO_INPUTS = ("audio", "command", "end", "cut")
"""Lines about the session's own input, and of its end: not of what its stream was given."""


class RecordedInput(NamedTuple):
    """What a stream was given: a mark, or where ``marker`` is None a block of audio.

    ``received`` is how far the session had received audio, ``at`` the mark's place, ``t`` seconds.
    """

    t: float
    received: int
    marker: int | None = None
    flush: bool = False
    at: int = 0


class RecordedAnswer(NamedTuple):
    """A message, ``delay_s`` after its input, and the number of words in the messages before."""

    delay_s: float
    message: SessionMessage | None
    words_before: int


@dataclass(frozen=True)
class Recording:
    """One recorded session: ``answers[i]`` are what came after ``inputs[i]``.

    ``answered`` is when a mark was reached, in seconds from the session's beginning.
    """

    name: str
    info: EngineInfo
    trail: int
    inputs: list[RecordedInput] = field(default_factory=lambda: [RecordedInput(0.0, 0)])
    answers: list[list[RecordedAnswer]] = field(default_factory=lambda: [[]])
    words: list[Word] = field(default_factory=list)
    answered: dict[int, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a session's folder; a last line that is cut short is left out.

        Raises DamagedFile, or UnsupportedConfig for one of another version.
        """
        path = folder / LOG
        try:
            first, *lines = path.read_text("utf-8", "surrogatepass").splitlines(keepends=True)
            header = json.loads(first)
            version = header["voxlive_recording"]
            if version != VERSION:
                raise UnsupportedConfig(
                    f"{path} is a recording of version {version}, and this voxlive replays version "
                    f"{VERSION}: record it again, or replay it with the voxlive that made it"
                )
            found = cls(folder.name, _read_info(header["engine"]), header["trail"])
            for line in lines:
                if line.endswith("\n"):
                    found._add(json.loads(line))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DamagedFile(f"{path} is no recording of a session: {error!r}") from error
        return found

    def _add(self, line: dict[str, Any]) -> None:
        t = line["t"]
        match line:
            case {"received": received}:
                self._add_input(RecordedInput(t, received))
            case {"pause": marker, "at": at}:
                self._add_input(RecordedInput(t, self.inputs[-1].received, marker, at=at))
            case {"flush": marker, "at": at}:
                self._add_input(RecordedInput(t, self.inputs[-1].received, marker, True, at))
            case _ if not any(name in line for name in _NO_INPUTS):
                message = _read_message(line)
                delay_s = t - self.inputs[-1].t
                self.answers[-1].append(RecordedAnswer(delay_s, message, len(self.words)))
                if isinstance(message, Committed):
                    self.words.extend(message.words)
                elif isinstance(message, Reached):
                    self.answered[message.marker] = t

    def _add_input(self, given: RecordedInput) -> None:
        self.inputs.append(given)
        self.answers.append([])


def _read_info(about: dict[str, Any]) -> EngineInfo:
    """An engine's description as JSON has it; fields of a later voxlive are left out."""
    known = {one.name for one in fields(EngineInfo)}
    values = {name: value for name, value in about.items() if name in known}
    for name, value in values.items():
        values[name] = tuple(value) if isinstance(value, list) else value
    return EngineInfo(**{**values, "delays_ms": range(*values["delays_ms"])})


def read_recordings(folder: Path, model: str | None = None) -> list[Recording]:
    """The recordings in a folder, or the one that it is, by name; at least one, of one model.

    ``model``: those with this one alone. Raises CheckpointNotFound, UnsupportedConfig, and as
    ``Recording.read``.
    """
    alone = (folder / LOG).is_file()
    folders = [folder] if alone else sorted(path.parent for path in folder.glob(f"*/{LOG}"))
    if not folders:
        why = "has no recorded session" if folder.is_dir() else "is no folder"
        raise CheckpointNotFound(f"{folder} {why}: `voxlive serve --record DIR` makes recordings")
    if sum((one / LOG).stat().st_size for one in folders) > MAX_READ:
        raise UnsupportedConfig(
            f"the recordings in {folder} are more than {MAX_READ >> 20} MiB without their audio: "
            "replay a folder of fewer"
        )
    found = [Recording.read(one) for one in folders]
    models = " and ".join(dict.fromkeys(one.info.model for one in found))
    found = [one for one in found if model in (None, one.info.model)]
    if not found:
        raise CheckpointNotFound(f"{folder} has no session with {model}, only with {models}")
    if len({one.info.model for one in found}) > 1:
        raise UnsupportedConfig(
            f"{folder} has sessions with {models}, and a replay is of one model: choose it, as in "
            f"replay:{folder},model={found[0].info.model}"
        )
    return found


# Writing.


class RecordingWriter:
    """One session's recording. Called on the session's loop; its folder's thread writes."""

    def __init__(self, folder: RecordingFolder, name: str, header: Mapping[str, object]) -> None:
        self.name = name
        self.lines = bytearray()
        self.audio = bytearray()
        """Both are what waits to be written."""
        self.bytes = 0
        self.files: tuple[BinaryIO, ...] | None = None
        """None before the first is written; none at all once writing has failed."""
        self.closed = self.failed = False
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self._received = -1
        self._put(header)

    def on_command(self, command: object) -> None:
        """The client has sent this: bytes of audio, or another command."""
        if isinstance(command, bytes):
            self._line({"audio": len(command)}, command)
        else:
            self._line({"command": type(command).__name__.lower()})

    def on_received(self, received: int) -> None:
        """What the gate lets through of the audio before this sample is about to be fed."""
        if received != self._received:
            self._received = received
            self._line({"received": received})

    def on_mark(self, marker: int, at: int, *, flush: bool) -> None:
        """The stream was given this."""
        self._line({"flush" if flush else "pause": marker, "at": at})

    def on_message(self, message: SessionMessage) -> None:
        """The stream has answered this."""
        self._line(message_fields(message))

    def on_recovered(self) -> None:
        """Another engine goes on."""
        self._line({"recovered": True})

    def close(self, samples: int) -> None:
        """The session is over."""
        self._line({"end": samples})
        self._folder.finish(self)

    def cut(self, reason: str) -> None:
        """End the recording here. With the folder's lock."""
        if not self.failed:
            self.failed = True
            cut = {"t": round(self._loop.time() - self._began_at, 6), "cut": reason}
            self.lines += json.dumps(cut).encode() + b"\n"
            log.warning("the recording %s ends early, its session goes on: %s", self.name, reason)

    @property
    def waiting(self) -> int:
        """Bytes that are not written yet."""
        return len(self.lines) + len(self.audio)

    def _line(self, values: Mapping[str, object], audio: bytes = b"") -> None:
        self._put({"t": round(self._loop.time() - self._began_at, 6), **values}, audio)

    def _put(self, values: Mapping[str, object], audio: bytes = b"") -> None:
        line = json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        self._folder.put(self, line, audio)


class RecordingFolder:
    """The recordings of a server. See the module."""

    def __init__(self, path: Path) -> None:
        """Make the folder, where it is not there. Raises OSError."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(f"{path} cannot be written to")
        self.path = path.absolute()
        self._waiting: deque[RecordingWriter] = deque()
        self._waiting_bytes = 0
        self._lock = threading.Condition()
        self._count()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    def open(
        self, session: str, info: EngineInfo, trail: int, options: Mapping[str, object]
    ) -> RecordingWriter:
        """Record a session with this id on the running loop. ``options`` are for readers."""
        about = asdict(replace(info, names=(), drop_at=None))
        delays = info.delays_ms
        about["delays_ms"] = [delays.start, delays.stop, delays.step]
        began = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
        header = {
            "voxlive_recording": VERSION,
            "session": session,
            "began": began,
            "trail": trail,
            "engine": about,
            "options": options,
        }
        return RecordingWriter(self, f"{began}-{session}", header)

    def put(self, recorder: RecordingWriter, line: bytes, audio: bytes) -> None:
        """Have this written."""
        size = len(line) + len(audio)
        with self._lock:
            if recorder.failed or self._closed:
                return
            recorder.bytes += size
            self._bytes += size
            if recorder.bytes > MAX_SESSION:
                self._cut(recorder, f"{MAX_SESSION >> 20} MiB are the most for one session")
            elif self._bytes > MAX_FOLDER:
                self._cut(recorder, f"{MAX_FOLDER >> 30} GiB are the most for all together")
            elif self._waiting_bytes > MAX_WAITING:
                self._cut(recorder, "the disk is too slow")
            else:
                recorder.lines += line
                recorder.audio += audio
                self._waiting_bytes += size
            self._add_waiting(recorder)

    def _cut(self, recorder: RecordingWriter, reason: str) -> None:
        before = recorder.waiting
        recorder.cut(reason)
        self._waiting_bytes += recorder.waiting - before

    def finish(self, recorder: RecordingWriter) -> None:
        """Nothing more comes: close its files."""
        with self._lock:
            recorder.closed = True
            self._add_waiting(recorder)

    def close(self) -> None:
        """Write what waits, and end the thread. Blocks."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._thread.join()

    def _add_waiting(self, recorder: RecordingWriter) -> None:
        if recorder not in self._waiting:
            self._waiting.append(recorder)
            self._lock.notify()

    # The writing thread.

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._lock.wait()
                if not self._waiting:
                    return
            if not self._closed:
                time.sleep(_WRITE_EVERY_S)  # what comes meanwhile is written with it
            self._write_waiting()

    def _count(self) -> None:
        """How many bytes there are, with those of other processes that record here."""
        files = sum(one.stat().st_size for one in self.path.glob("*/*") if one.is_file())
        with self._lock:
            self._bytes = files + self._waiting_bytes
        self._count_at = time.monotonic() + _COUNT_EVERY_S

    def _write_waiting(self) -> None:
        if time.monotonic() >= self._count_at:
            with contextlib.suppress(OSError):  # one was deleted just now
                self._count()
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for recorder in waiting:
            with self._lock:
                lines, audio = bytes(recorder.lines), bytes(recorder.audio)
                recorder.lines.clear()
                recorder.audio.clear()
                self._waiting_bytes -= len(lines) + len(audio)
                closed = recorder.closed
            try:
                self._write(recorder, lines, audio, closed)
            except OSError as error:
                with self._lock:
                    self._cut(recorder, f"{self.path / recorder.name} cannot be written: {error}")
                files, recorder.files = recorder.files or (), ()
                for file in files:
                    file.close()

    def _write(self, recorder: RecordingWriter, lines: bytes, audio: bytes, closed: bool) -> None:
        if recorder.files is None:
            folder = self.path / recorder.name
            folder.mkdir(mode=0o700)
            recorder.files = _create(folder / LOG), _create(folder / AUDIO)
        for file, data in zip(recorder.files, (lines, audio), strict=False):
            while data:
                data = data[file.write(data) :]
            if closed:
                file.close()


def _create(path: Path) -> BinaryIO:
    """A new file for its owner alone, written without a buffer."""
    return open(path, "xb", 0, opener=lambda name, flags: os.open(name, flags, 0o600))
