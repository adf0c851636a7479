"""Count what one 80 ms chunk passes from the socket to its words and back: files and buffers.

    python benchmarks/frame_path.py                                     # Whisper tiny.en
    python benchmarks/frame_path.py --model tests/models/tiny-voxtral   # Voxtral
    ... --write docs/life-of-a-frame.md                     # the page's tables, made anew

A real server is started in which every process records, for each function of the package that
runs, its file and its name (``sys.setprofile`` in every thread, forks included). One client speaks
a clip in real time: once to warm everything up, so that nothing is imported later, then again. The
recording is on from just before the chunk in the middle of the speech is sent until the words that
cover it have come; the chunks in between take the same way.

The server keeps no transcripts: a store's thread writes beside the way. A file counts if a function
of it ran in that time, in whichever process, other than at intervals (``BY_THE_CLOCK``). A buffer
counts once in each process in which one of its class's methods ran: see ``BUFFERS``, which must
name every class on the way that holds a deque or a queue. The exit status is 1 where there is more
than allowed, or where the declared buffers and the code differ.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import json
import mmap
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from websockets.sync.client import ClientConnection, connect

from voxlive.streaming.ingest.media import read_file

RATE = 16_000
CHUNK = RATE * 80 // 1000
CLIP = Path(__file__).parent.parent / "tests" / "audio" / "doctor.flac"
READY = re.compile(r"ready at (http://\S+)")


class Buffer(NamedTuple):
    """A place where audio, embeddings or answers may wait for whoever takes them next."""

    owner: str  # the class, unique over the package
    holds: str
    bound: str


BUFFERS = (
    # On the way in.
    Buffer("Inbox", "what the session has not come to yet", "64 MiB of audio, 10,000 others"),
    Buffer("DecoderPipe", "a container's bytes and decoded audio", "one push; 10 s"),
    Buffer("UndecidedAudio", "samples that the detector or the gate still needs", "8 s"),
    # An engine in a process of its own: in the server to the engine, in the engine back.
    Buffer("BatchedSender", "what waits for the socket to the other process", "the callers'; 2^20"),
    # Voxtral.
    Buffer("AudioBuffer", "audio until it is encoded, and the marks in it", "120 s"),
    Buffer("EmbeddingQueue", "embeddings that wait to be decoded", "a prompt and 8 tokens"),
    # Whisper.
    Buffer("UtteranceStream", "the utterance, and those that wait for their last pass", "120 s"),
    # On the way out.
    Buffer("Outbox", "events and answers that the socket's writer has not taken yet", "2000"),
)

BOOKKEEPING = {
    "Backlog": "the stretches that the engine has before it: numbers, no audio",
    "StoreWriter": "what the store has not written yet, beside the way of a server that keeps it",
    "StreamJournal": "audio that an engine has, kept for the next one, beside the way",
    "VoiceDetector": "which lanes are to be stepped: their windows lie in UndecidedAudio",
    "EngineLink": "the numbers of streams that are being closed",
    "CaptionFeed": "the last closed segments for new readers of captions, beside the way",
}
"""Classes on the way with a deque or a list in which nothing waits that is on the way."""


BY_THE_CLOCK = {
    "Supervisor": "a thread that looks at the engines' processes every few seconds",
    "Deadline": "the supervisor's",
}
"""Classes that run at intervals, whether there is a chunk or not: they do not count."""


# What runs in the server's processes. It is all in one place: the source of a sitecustomize module,
# since a child that imports nothing of ours has to be recorded too.
RECORDER = """
import mmap, os, sys, threading

_switch = mmap.mmap(os.open(os.environ["FRAME_PATH_SWITCH"], os.O_RDWR), 1)
_log = os.open(os.environ["FRAME_PATH_LOG"], os.O_WRONLY | os.O_APPEND)
_root = os.environ["FRAME_PATH_ROOT"]
_seen = set()


def _record(frame, event, arg):
    if _switch[0]:
        code = frame.f_code
        key = (os.getpid(), code)
        if key not in _seen:
            _seen.add(key)
            if code.co_filename.startswith(_root) and code.co_name != "<module>":
                line = f"{os.getpid()}\\t{code.co_filename}\\t{code.co_qualname}\\n"
                os.write(_log, line.encode())


threading.setprofile(_record)
sys.setprofile(_record)
"""


class Entered(NamedTuple):
    """A function that ran: in which process, of which file of the package."""

    pid: int
    file: str
    name: str

    @property
    def owner(self) -> str:
        """The class that it belongs to, or its own name."""
        return self.name.split(".")[0]


def package_root() -> Path:
    """The folder of the voxlive that this Python imports; nothing is imported for it."""
    spec = importlib.util.find_spec("voxlive")
    if spec is None or spec.origin is None:
        raise SystemExit("there is no voxlive to import: set PYTHONPATH or install it")
    return Path(spec.origin).parent


class CallRecording:
    """Switches the recorder of every process on and off, and reads what it wrote."""

    def __init__(self, folder: Path) -> None:
        self._root = package_root()
        self._log = folder / "log"
        self._log.touch()
        switch = folder / "switch"
        switch.write_bytes(b"\0")
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(RECORDER)
        descriptor = os.open(switch, os.O_RDWR)
        self._switch = mmap.mmap(descriptor, 1)
        os.close(descriptor)
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        self.environment = {
            **os.environ,
            "PYTHONPATH": path,
            "FRAME_PATH_SWITCH": str(switch),
            "FRAME_PATH_LOG": str(self._log),
            "FRAME_PATH_ROOT": f"{self._root}{os.sep}",
        }

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Record while the block runs."""
        self._switch[0] = 1
        try:
            yield
        finally:
            self._switch[0] = 0

    def entered(self) -> list[Entered]:
        """Every function once for each process, in the order in which they first ran."""
        found: dict[Entered, None] = {}
        for line in self._log.read_text().splitlines():
            pid, path, name = line.split("\t")
            found[Entered(int(pid), str(Path(path).relative_to(self._root)), name)] = None
        return [entry for entry in found if entry.owner not in BY_THE_CLOCK]


@contextlib.contextmanager
def serving(model: str, environment: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A server's address for WebSockets, and its process."""
    command = [
        *(sys.executable, "-P", "-c", "from voxlive.cli.main import app; app()"),
        *("serve", "--port", "0", "--model", model, "--max-sessions", "2", "--no-store"),
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := READY.search(line):
                yield found[1].replace("http", "ws", 1).rstrip("/") + "/v1/live", process.pid
                return
        raise SystemExit(f"the server did not start: it ended with {process.wait()}")
    finally:
        process.terminate()
        process.wait(30)


def speak(url: str, pcm: np.ndarray, recording: CallRecording | None) -> dict[str, object] | None:
    """Play the clip in real time; the words that cover its middle, with the recording on."""
    middle = len(pcm) // 2 // CHUNK * CHUNK
    covered = threading.Event()
    said: dict[str, object] = {}
    with contextlib.ExitStack() as stack:
        socket = stack.enter_context(connect(url, compression=None))
        socket.send(json.dumps({"type": "start", "format": "s16le", "rate": RATE}))
        assert json.loads(socket.recv())["type"] == "ready"
        listener = threading.Thread(
            target=listen, args=(socket, (middle + CHUNK) / RATE, covered, said)
        )
        listener.start()
        origin = time.monotonic()
        on = stack.enter_context(contextlib.ExitStack())
        for at in range(0, len(pcm), CHUNK):
            time.sleep(max(0.0, origin + (at + CHUNK) / RATE - time.monotonic()))
            if at == middle and recording:
                on.enter_context(recording.on())
            elif covered.is_set():
                on.close()
            socket.send(pcm[at : at + CHUNK].tobytes())
        covered.wait(30)
        on.close()
        socket.send('{"type": "stop"}')
        listener.join()
    return said or None


def listen(
    socket: ClientConnection, until_s: float, covered: threading.Event, said: dict[str, object]
) -> None:
    """Wait for the first words that end at ``until_s`` or later, then for the end."""
    for text in socket:
        message = json.loads(text)
        if message["type"] == "error":
            print(f"the session failed: {text!r}", file=sys.stderr)
            break
        if message["type"] == "words" and message["words"][-1]["end"] >= until_s:
            if not covered.is_set():
                said.update(message)
            covered.set()
    covered.set()


_QUEUES = {"deque", "Queue", "SimpleQueue", "LifoQueue"}


def queue_owners(source: str) -> set[str]:
    """The classes in a module that make a deque or a queue, but for bounded histories."""
    owners = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
            if any(_name(call.func) in _QUEUES and not _has_limit(call) for call in calls):
                owners.add(node.name)
    return owners


def _has_limit(call: ast.Call) -> bool:
    return any(keyword.arg == "maxlen" for keyword in call.keywords)


def _name(function: ast.expr) -> str:
    """What is called: the last part of a dotted name, without what stands in brackets."""
    if isinstance(function, ast.Subscript):
        return _name(function.value)
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def classes() -> Counter[str]:
    """How often each class's name occurs in the package."""
    found: Counter[str] = Counter()
    root = package_root()
    # Before the package has a folder of its own, its root also holds what is not of it.
    others = {"tests", "benchmarks", "training", "docs", "build", ".venv", ".ns"}
    for path in root.rglob("*.py"):
        if path.relative_to(root).parts[0] not in others:
            tree = ast.parse(path.read_text())
            found.update(node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return found


def faults_of_declaration(entered: list[Entered]) -> list[str]:
    """What is declared and not there, and what holds a queue on the way and is not declared."""
    declared = [buffer.owner for buffer in BUFFERS]
    there = classes()
    faults = [
        f"{name} is declared, and the package has {there[name]} classes of that name"
        for name in (*declared, *BOOKKEEPING)
        if there[name] != 1
    ]
    ran = {(entry.file, entry.owner) for entry in entered}
    known = {*declared, *BOOKKEEPING}
    for file in sorted({entry.file for entry in entered}):
        owners = sorted(queue_owners((package_root() / file).read_text()) - known)
        faults += [
            f"{owner} in {file} holds a queue and is not declared"
            for owner in owners
            if (file, owner) in ran
        ]
    return faults


class FramePath:
    """What the chunk passed: files and buffers, each with the processes, in order."""

    def __init__(self, entered: list[Entered], server: int) -> None:
        roles = {entry.pid: "engine" for entry in entered} | {server: "server"}
        self.files: dict[str, dict[str, None]] = {}
        ran: dict[tuple[str, str], None] = {}
        for entry in entered:
            self.files.setdefault(entry.file, {})[roles[entry.pid]] = None
            ran[entry.owner, roles[entry.pid]] = None
        self.buffers = [
            (buffer, role) for buffer in BUFFERS for owner, role in ran if owner == buffer.owner
        ]

    def tables(self) -> dict[str, str]:
        """As Markdown."""
        files = [(f"`{file}`", ", ".join(roles)) for file, roles in self.files.items()]
        buffers = [(f"`{b.owner}`", role, b.holds, b.bound) for b, role in self.buffers]
        return {
            "files": table(("file", "process"), files),
            "buffers": table(("buffer", "process", "holds", "bound"), buffers),
        }


def table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="whisper-tiny.en", help="as for voxlive serve")
    parser.add_argument("--clip", type=Path, default=CLIP, help="speech, its middle not silent")
    parser.add_argument("--write", type=Path, help="a page whose tables are to be made anew")
    parser.add_argument("--most-files", type=int, default=30)
    parser.add_argument("--most-buffers", type=int, default=7)
    args = parser.parse_args()
    samples = np.concatenate([*read_file(args.clip), np.zeros(2 * RATE, np.float32)])
    pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2")
    with tempfile.TemporaryDirectory() as folder:
        recording = CallRecording(Path(folder))
        with serving(args.model, recording.environment) as (url, pid):
            speak(url, pcm, None)
            words = speak(url, pcm, recording)
        entered = recording.entered()
    if words is None:
        print("no words came for the chunk: take a clip of speech that the model recognises")
        return 1
    path = FramePath(entered, pid)
    tables = path.tables()
    if args.write:
        text = args.write.read_text()
        text = _BLOCK.sub(lambda found: found[1] + tables[found[2]] + found[3], text)
        args.write.write_text(text)
    print(f"{len(path.files)} files\n{tables['files']}\n{len(path.buffers)} buffers")
    print(tables["buffers"])
    faults = faults_of_declaration(entered)
    if len(path.files) > args.most_files:
        faults.append(f"{len(path.files)} files are more than {args.most_files}")
    if len(path.buffers) > args.most_buffers:
        faults.append(f"{len(path.buffers)} buffers are more than {args.most_buffers}")
    for fault in faults:
        print(f"fault: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
