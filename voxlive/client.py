"""A client of ``WS /v1/live`` that survives a broken line: every word once, no sample lost.

    async with LiveClient("ws://127.0.0.1:8000/v1/live", rate=16000) as client:
        speaking = asyncio.create_task(speak(client))  # await client.send(pcm), …, client.stop()
        async for message in client:
            print(message)

The session is resumable (docs/live-protocol.md). Audio is kept until it is acknowledged, and
what the server has not received is sent again over the next connection. Messages come once and in
order, those about a connection alone (``resumed``, ``ack``, ``suspended``) left out. Where the
server has lost the session, another one goes on behind the last word, with one clock and one list
of segments: a message ``restarted`` says so. ``link.js`` of the page is the same in JavaScript.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from voxlive.errors import VoxliveError
from voxlive.streaming.ingest.formats import CONTAINER, AudioFormat

MAX_KEPT_BYTES = 64 << 20
"""Audio that is not acknowledged: half an hour of 16 kHz s16.

Beyond it the oldest that was sent is dropped, which the server has had long ago: in silence it has
nothing to acknowledge. If that is not enough, ``send`` waits.
"""
MAX_RECEIVED = 200_000
"""Characters of messages of which the server has not said that they are stored; see
``UnstoredMessages``. Beyond them the oldest are dropped."""
_PIECE_BYTES = 1 << 16
_ROUNDED_S = 0.02
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.1, 3.0
_OWN = ("resumed", "ack", "suspended")
_PASSING = (
    "server_full",
    "too_many_sessions",
    "rate_limit_exceeded",
    "slow_client",
    "shutting_down",
    "state_unavailable",
    "store_busy",
    "store_failed",
)
"""Errors that end a connection and leave the session as it is."""
_GONE = ("unknown_session", "resume_gap")
"""The server cannot go on with the session."""
_ENDING = ("shutting_down", "session_expired", "idle")
"""Why a server ends a session in good order, with ``done``, without being asked to."""


class LiveError(VoxliveError):
    """The server has ended or refused the session; or it cannot be reached, ``unreachable``."""


class UnsentAudio:
    """Audio from the first sample that is not acknowledged on, and how much of it is sent. Pure.

    Counts are samples of all channels, of ``sample_bytes`` each.
    """

    def __init__(self, sample_bytes: int) -> None:
        self._sample_bytes = sample_bytes
        self._audio = bytearray()
        self._sent = 0  # bytes, of those that are kept
        self.first = 0
        """The first sample that is kept."""

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return len(self._audio)

    def append(self, pcm: bytes) -> None:
        """Add audio at the end. Beyond the bound the oldest is dropped, if it was sent."""
        self._audio += pcm
        self._drop(self.size - MAX_KEPT_BYTES)

    def take(self) -> bytes:
        """The next piece to send; b"" if everything is sent."""
        piece = bytes(self._audio[self._sent : self._sent + _PIECE_BYTES])
        self._sent += len(piece)
        return piece

    def acknowledge(self, samples: int) -> None:
        """Nothing before this sample will be asked for again."""
        self._drop((samples - self.first) * self._sample_bytes)

    def _drop(self, most: int) -> None:
        """Drop so many bytes from the beginning, at most what was sent."""
        done = min(most, self._sent)
        if done > 0:
            done -= done % self._sample_bytes
            del self._audio[:done]
            self._sent -= done
            self.first += done // self._sample_bytes

    def send_from(self, sample: int) -> None:
        """Go on with this sample, which is kept."""
        self._sent = (sample - self.first) * self._sample_bytes

    @property
    def end(self) -> int:
        """The sample behind the last that there is."""
        return self.first + self.size // self._sample_bytes

    @property
    def sent(self) -> int:
        """The sample behind the last that was sent."""
        return self.first + self._sent // self._sample_bytes

    def begin(self, sample: int) -> int:
        """Drop what comes before this sample, and begin there, or with the first that is kept.

        Returns which one it is.
        """
        self._sent = min(max(sample - self.first, 0) * self._sample_bytes, self.size)
        self._drop(self._sent)
        return self.first


class UnstoredMessages:
    """The numbered messages that came last, while the server's store may not have them. Pure.

    Another server that goes on with the session gets them, so that it says nothing of it again.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[dict[str, Any], int]] = deque()
        self._chars = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (message for message, _ in self._kept)

    def append(self, message: dict[str, Any], chars: int) -> None:
        """Keep the next message, of so many characters."""
        self._kept.append((message, chars))
        self._chars += chars
        while self._chars > MAX_RECEIVED:
            self._drop()

    def stored(self, upto: int | None) -> None:
        """The store has those up to this number; None: the server has none."""
        while self._kept and (upto is None or self._kept[0][0]["seq"] <= upto):
            self._drop()

    def _drop(self) -> None:
        self._chars -= self._kept.popleft()[1]


class JoinedSessions:
    """The messages of several sessions, of which each goes on for the one before, as of one. Pure.

    They have one clock and different segments, and the text of ``done`` is that of all. Times in
    messages are seconds; ``at``, where the present session begins, is in samples at ``rate``.
    """

    def __init__(self, rate: int, sources: Sequence[str] = ()) -> None:
        self.at = 0
        self._rate = rate
        self._sources = tuple(sources) or ("",)
        self._joined = False
        self._first_segment = self._next_segment = 0
        # By source: a session that goes on for another one knows none of its voices.
        self._first_speaker = dict.fromkeys(self._sources, 0)
        self._speakers = dict.fromkeys(self._sources, 0)
        self._open: dict[int, dict[str, Any]] = {}  # by number, as they would close
        self._begins = dict.fromkeys(self._sources, False)  # behind a joint
        self._ends = dict.fromkeys(self._sources, 0.0)
        self._closed: list[tuple[str, str]] = []  # source and text

    def receive(self, message: dict[str, Any]) -> dict[str, Any]:
        """A message of the present session, as one of all."""
        moved = message | {
            key: self._moved(message[key]) for key in ("t", "start", "end") if key in message
        }
        source = message.get("source", "")
        match message["type"]:
            case "words":
                moved["words"] = [
                    word | {"start": self._moved(word["start"]), "end": self._moved(word["end"])}
                    for word in message["words"]
                ]
                self._add_words(moved, source)
            case "draft":
                moved["segment"] = self._number(message["segment"])
            case "speakers":
                first = self._first_speaker[source]
                moved["ranges"] = [
                    one
                    | {
                        "segment": self._number(one["segment"]),
                        "speaker": first + one["speaker"],
                    }
                    for one in message["ranges"]
                ]
                moved["speakers"] = self._speakers[source] = first + message["speakers"]
            case "segment":
                moved["id"] = self._number(message["id"])
                self._close(moved, source)
            case "done":
                self._finish(moved)
        return moved

    def restart(self, settled: int) -> list[dict[str, Any]]:
        """Another session begins at this sample: returns what is still open, as it closes."""
        rest = [self._open[number] for number in sorted(self._open)]
        for segment in rest:
            self._close(segment, segment.get("source", ""))
        self.at = settled
        self._first_segment = self._next_segment
        self._first_speaker = dict(self._speakers)
        said = {source for source, _ in self._closed}
        self._begins = {source: source in said for source in self._sources}
        self._joined = True
        return rest

    @property
    def settled(self) -> int:
        """The sample behind the last word, of the source that has got least far."""
        return max(self.at, round(min(self._ends.values()) * self._rate))

    def _moved(self, t: float) -> float:
        return round(t + self.at / self._rate, 6) if self.at else t

    def _number(self, segment: int) -> int:
        number = self._first_segment + segment
        self._next_segment = max(self._next_segment, number + 1)
        return number

    def _add_words(self, message: dict[str, Any], source: str) -> None:
        message["segment"] = number = self._number(message["segment"])
        words = message["words"]
        if not words:
            return
        if self._begins[source]:
            words[0]["text"] = f" {words[0]['text']}"
        text = "".join(word["text"] for word in words)
        opened = {"type": "segment", "id": number, "start": words[0]["start"], "text": ""}
        opened |= {"source": source} if source else {}
        segment = self._open.setdefault(number, opened)
        segment |= {"end": words[-1]["end"], "text": segment["text"] + text}
        self._begins[source] = False
        self._ends[source] = words[-1]["end"]

    def _close(self, segment: dict[str, Any], source: str) -> None:
        known = self._open.pop(segment["id"], None)
        if known and self._joined:
            segment["text"] = known["text"]
        elif self._begins[source]:  # its words were not asked for
            segment["text"] = f" {segment['text']}"
        self._begins[source] = False
        self._ends[source] = max(self._ends[source], segment["end"])
        self._closed.append((source, segment["text"]))

    def _finish(self, done: dict[str, Any]) -> None:
        done["duration"] = self._moved(done["duration"])
        if not self._joined:
            return
        texts = {
            name: "".join(text for source, text in self._closed if source == name)
            for name in self._sources
        }
        if "sources" in done:
            done["sources"] = texts
            lines = [f"{source}: {text.strip()}\n" for source, text in self._closed]
            done["text"] = "".join(lines)
        else:
            done["text"] = texts[""]


class LiveClient:
    """See the module. ``start`` are further fields of the message of that name.

    ``give_up_s``: for so long it tries to reach the server again. Iterating raises LiveError; so do
    ``send`` and ``stop`` after that, and ``send`` where the server has ended the session.
    ``on_lost`` is called with what is wrong when the server is not reached or the connection
    breaks, ``on_resumed`` when the session goes on.
    """

    def __init__(
        self,
        url: str,
        *,
        encoding: str = "s16le",
        rate: int = 16_000,
        channels: int = 1,
        key: str | None = None,
        give_up_s: float = 60.0,
        on_lost: Callable[[str], object] = lambda _: None,
        on_resumed: Callable[[], object] = lambda: None,
        **start: object,
    ) -> None:
        if encoding == CONTAINER:
            raise ValueError("a resumable session needs PCM, not a container")
        audio = AudioFormat(encoding, rate, channels)
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._give_up_s = give_up_s
        self._on_lost, self._on_resumed = on_lost, on_resumed
        self._start = {
            "type": "start",
            "format": encoding,
            "rate": rate,
            "channels": channels,
            "resumable": True,
            **start,
        }
        self._rate = rate
        self._audio = UnsentAudio(audio.sample_bytes)
        sources = start.get("sources") or ()
        self._joined = JoinedSessions(rate, tuple(sources) if isinstance(sources, Sequence) else ())
        self._restarted: dict[str, Any] | None = None
        self._ending: LiveError | None = None
        self._ended = self._begun = False
        self._acknowledged = 0
        self._stopping = False
        self._changed = asyncio.Condition()
        self._ready: dict[str, Any] | None = None
        self._have = -1
        self._unstored = UnstoredMessages()
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._error: LiveError | None = None
        self._task: asyncio.Task[None] | None = None
        self.connections = 0
        """How many connections there have been."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def send(self, pcm: bytes) -> None:
        """Add audio in the declared format. Waits while too much of it is not acknowledged."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._audio.size < MAX_KEPT_BYTES or self._ended)
            self._check()
            if self._ended and not self._stopping:
                raise self._ending or LiveError("ended", "the server has ended the session")
            self._audio.append(pcm)
            self._changed.notify_all()

    async def stop(self) -> None:
        """There is no more audio; the last words and ``done`` follow."""
        async with self._changed:
            self._check()
            self._stopping = True
            self._changed.notify_all()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        while (message := await self._messages.get()) is not None:
            yield message
        if self._task:
            await self._task
        self._check()

    def _check(self) -> None:
        if self._error:
            raise self._error

    async def _run(self) -> None:
        try:
            await self._connect_again_and_again()
        except LiveError as error:
            self._error = error
        finally:
            self._ended = True
            self._messages.put_nowait(None)
            async with self._changed:
                self._changed.notify_all()

    async def _connect_again_and_again(self) -> None:
        loop = asyncio.get_running_loop()
        retry_s, lost_at = _FIRST_RETRY_S, loop.time()
        while True:
            before, problem = self.connections, "the server closed the connection"
            try:
                if await self._serve():
                    return
            except (OSError, InvalidHandshake, ConnectionClosed, TimeoutError) as error:
                problem = str(error)
            if self.connections > before or retry_s == _FIRST_RETRY_S:
                self._on_lost(problem)
            if self.connections > before:
                retry_s, lost_at = _FIRST_RETRY_S, loop.time()
            elif loop.time() - lost_at > self._give_up_s:
                raise LiveError("unreachable", f"{self._url}: {problem}")
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LONGEST_RETRY_S)

    async def _serve(self) -> bool:
        """One connection; whether the session came to its end over it."""
        async with connect(self._url, additional_headers=self._headers, max_size=None) as socket:
            first = self._first_message()
            await socket.send(json.dumps(first, ensure_ascii=False, separators=(",", ":")))
            sending: asyncio.Task[None] | None = None
            try:
                async for text in socket:
                    message = json.loads(text)
                    if not self._receive(message, len(text)):
                        return False
                    if message["type"] in ("ready", "resumed"):
                        self.connections += 1
                        sending = asyncio.create_task(self._send_audio(socket))
                    if message["type"] == "done":
                        return not self._restarted
                    if message["type"] == "ack":
                        async with self._changed:
                            self._changed.notify_all()
            finally:
                if sending:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
        return False

    def _first_message(self) -> dict[str, Any]:
        if self._ready is None:
            return self._start
        token, first = self._ready["resume"], self._audio.first - self._joined.at
        resume = {"type": "resume", "token": token, "have": self._have, "from": first}
        received = [*self._unstored]
        return resume | ({"received": received} if received else {})

    def _receive(self, message: dict[str, Any], chars: int) -> bool:
        """Whether it is the next message; what is missing comes over the next connection."""
        if message["type"] == "error" and message["fatal"]:
            return self._on_fatal(message["code"], message["message"])
        if message.get("seq", self._have + 1) != self._have + 1:
            return False
        match message["type"]:
            case "ready":
                self._ready, self._begun = message, True
                if self._restarted:
                    self._messages.put_nowait(self._restarted)
                    self._restarted = None
            case "resumed":
                self._audio.send_from(self._joined.at + message["samples"])
                self._on_resumed()
            case "ack":
                self._acknowledged = self._joined.at + message["samples"]
                self._audio.acknowledge(self._acknowledged)
                self._unstored.stored(message.get("stored"))
            case "error" if message["code"] in _ENDING:
                self._ending = LiveError(message["code"], message["message"])
            case "done" if self._ending and self._ending.code == "shutting_down":
                ended_at = self._joined.at + round(message["duration"] * self._rate)
                whole = ended_at + _ROUNDED_S * self._rate >= self._audio.end
                if not (self._stopping and whole):
                    self._restart("shutting_down", ended_at)
                    return True
        self._have = message.get("seq", self._have)
        if self._ready and self._ready.get("store") and message.get("seq"):
            self._unstored.append(message, chars)
        if message["type"] not in _OWN:
            self._messages.put_nowait(self._joined.receive(message))
        return True

    def _on_fatal(self, code: str, text: str) -> bool:
        if self._ready is not None and code in _GONE:
            self._restart(code)
        elif not self._begun or code not in _PASSING:
            raise LiveError(code, text)
        return False

    def _restart(self, code: str, ended_at: int = 0) -> None:
        """Begin another session, behind the last word or where the session has ended."""
        sent = self._audio.sent
        settled = max(self._joined.settled, self._acknowledged, ended_at)
        at = self._audio.begin(settled)
        for segment in self._joined.restart(at):
            self._messages.put_nowait(segment)
        self._acknowledged = at
        self._ready, self._have, self._ending = None, -1, None
        self._unstored.stored(None)
        self._restarted = {
            "type": "restarted",
            "code": code,
            "at": at / self._rate,
            "replayed": max(0, sent - at) / self._rate,
            "lost": max(0, at - settled) / self._rate,
        }

    async def _send_audio(self, socket: ClientConnection) -> None:
        while True:
            async with self._changed:
                piece = self._audio.take()
                if not piece and not self._stopping:
                    await self._changed.wait()
                    continue
            await socket.send(piece or json.dumps({"type": "stop"}))
            if not piece:
                return
