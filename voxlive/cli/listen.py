"""``voxlive listen``: captions of a microphone in the terminal.

The words come from a model on this machine or, with ``--server``, from a server: over a session
that outlives its connection, so that a broken line costs a pause and no word.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import typer

from voxlive.cli.console import MISUSED, fail, start_logging
from voxlive.cli.options import (
    DelayMs,
    Device,
    KeepQuantized,
    Language,
    Model,
    Offline,
    Quantize,
    open_model,
    open_service,
)
from voxlive.speakers.labels import (
    SpeakerRange,
    SpeakersFound,
    WordLabels,
    by_speaker,
    speaker_name,
)
from voxlive.streaming.events import (
    Draft,
    Event,
    Lag,
    SegmentClosed,
    SessionError,
    SessionWarning,
    Words,
)
from voxlive.values import SAMPLE_RATE, Word, samples

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from voxlive.engines.contract import StreamOptions
    from voxlive.speakers.tracker import SpeakerOptions
    from voxlive.streaming.service import Service
    from voxlive.streaming.session import Session

_SHOWN_LAG_S = 1.0
_GIVE_UP_S = 120.0
"""So long a server keeps a session for its client, unless it is started otherwise."""
_BLOCKS_A_SECOND = 20
MOST_BLOCKS = 30 * _BLOCKS_A_SECOND


class TerminalCaptions:
    """Finished lines to print, and the line in the making. Pure.

    Where speakers are told apart a line is printed once it is known whose it is: each has its own.
    """

    def __init__(self) -> None:
        self._words: list[Word] = []
        self._labels = WordLabels()
        self.committed = ""
        self.draft = ""
        self.behind_s = 0.0
        self.connected = True

    def on_event(self, event: Event) -> list[str]:
        """The lines that an event finishes."""
        match event:
            case Words(segment, words):
                self.committed += event.text
                self._words += words
                self._labels.add(segment, len(words))
            case SpeakersFound(ranges):
                self._labels.on_found(ranges)
            case Draft(_, text):
                self.draft = text
            case Lag(behind_s):
                self.behind_s = behind_s
            case SegmentClosed(_, start, _, text):
                self.committed = ""
                parts = by_speaker(self._words, self._labels.speakers)
                self._words = []
                self._labels.forget()
                if all(part.speaker is None for part in parts):
                    return [f"{_clock(start)}  {text.strip()}"]
                return [
                    f"{_clock(part.start)}  {speaker_name('', part.speaker)}: {part.text.strip()}"
                    for part in parts
                ]
            case SessionError(_, message):
                return [f"voxlive: {message}"]
            case SessionWarning(_, message):
                return [f"voxlive: warning: {message}"]
        return []

    @property
    def note(self) -> str:
        """That there is no connection, or how far recognition is behind, if that is much."""
        if not self.connected:
            return "(no connection: what is said is kept)"
        return f"({self.behind_s:.0f} s behind)" if self.behind_s >= _SHOWN_LAG_S else ""


def event_of(message: dict[str, Any]) -> Event | None:
    """What captions need of a message of ``/v1/live``."""
    match message:
        case {"type": "words", "segment": int(segment), "words": words}:
            return Words(
                segment,
                tuple(
                    Word(w["text"], samples(w["start"]), samples(w["end"]), w["p"]) for w in words
                ),
            )
        case {"type": "speakers", "ranges": ranges, "speakers": int(count)}:
            return SpeakersFound(tuple(map(_range, ranges)), count)
        case {"type": "draft", "segment": int(segment), "text": str(text)}:
            return Draft(segment, text)
        case {"type": "segment", "id": int(ident), "start": start, "end": end, "text": str(text)}:
            return SegmentClosed(ident, samples(start), samples(end), text)
        case {"type": "lag", "behind_s": behind_s}:
            return Lag(behind_s)
        case {"type": "error", "code": str(code), "message": str(text)}:
            return SessionError(code, text, fatal=False)
        case {"type": "warning", "code": str(code), "message": str(text)}:
            return SessionWarning(code, text)
    return None


def _range(named: dict[str, Any]) -> SpeakerRange:
    first, last = named["words"]
    return SpeakerRange(named["segment"], first, last, named["speaker"])


def live_url(server: str) -> str:
    """The address of a server's live sessions. Raises ValueError for what is no address."""
    parts = urlsplit(server if "://" in server else f"http://{server}")
    schemes = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(f"{server} is not the address of a server: use http://HOST:PORT")
    path = parts.path.rstrip("/").removesuffix("/v1/live")
    return parts._replace(scheme=schemes[parts.scheme], path=f"{path}/v1/live").geturl()


def _clock(samples: int) -> str:
    minutes, seconds = divmod(samples // SAMPLE_RATE, 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def listen(
    model: Model = None,
    microphone: Annotated[
        str | None, typer.Option(help="A microphone's number or a part of its name.")
    ] = None,
    language: Language = None,
    translate: Annotated[
        bool, typer.Option("--translate", help="Write English, whatever is spoken.")
    ] = False,
    commit: Annotated[
        Literal["fast", "steady", "pause"] | None,
        typer.Option(
            help="When a word counts as certain: soon, later with fewer errors, at the speaker's "
            "pause. Not for Voxtral. Default: steady."
        ),
    ] = None,
    vocabulary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TERMS",
            help="Names and terms to expect: with commas between, or a file of them with a name "
            "in .txt, one on each line. May be given again. Not for Voxtral.",
        ),
    ] = None,
    device: Device = None,
    delay_ms: DelayMs = None,
    diarize: Annotated[
        bool,
        typer.Option(
            "--diarize",
            help="Say who speaks, by their voices. Needs: voxlive models fetch speaker-encoder.",
        ),
    ] = False,
    quantize: Quantize = None,
    keep_quantized: KeepQuantized = False,
    offline: Offline = False,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Take the words from this server instead of a model here. "
            "A connection that breaks is resumed, and no word is lost.",
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The server's key.", envvar="VOXLIVE_API_KEY"),
    ] = None,
) -> None:
    """Captions from the microphone in this terminal, until Ctrl-C."""
    from voxlive.engines.contract import EngineOptions, StreamOptions
    from voxlive.recognisers.vocabulary import BadVocabulary, read_vocabulary
    from voxlive.speakers.tracker import SpeakerOptions

    start_logging("warning")
    try:
        terms = read_vocabulary(vocabulary or ())
    except BadVocabulary as error:
        fail(error, MISUSED)
    if server:
        here = {
            "--device": device,
            "--quantize": quantize,
            "--keep-quantized": keep_quantized,
            "--offline": offline,
        }
        if wrong := [name for name, value in here.items() if value]:
            fail(f"{wrong[0]} is for a model on this machine, --server for one elsewhere", MISUSED)
        try:
            url = live_url(server)
        except ValueError as error:
            fail(str(error), MISUSED)
        wanted = {
            "model": model,
            "language": language,
            "task": "translate" if translate else None,
            "commit": commit,
            "vocabulary": terms,
            "delay_ms": delay_ms,
            "diarize": diarize,
        }
        start = {name: value for name, value in wanted.items() if value}
        asyncio.run(_listen_to_server(url, api_key, _find(microphone), start))
        return
    source = _find(microphone)
    bits = int(quantize) if quantize else None
    service = open_service(
        open_model(model, offline=offline),
        EngineOptions(1, device, delay_ms, bits, keep_quantized=keep_quantized),
    )
    stream = StreamOptions(
        language,
        delay_ms,
        task="translate" if translate else "transcribe",
        vocabulary=terms,
        commit=commit,
    )
    speakers = SpeakerOptions() if diarize else None
    asyncio.run(_listen(service, source, stream, speakers))


def microphone_obstacle() -> str | None:
    """What has to be installed before ``listen`` can record, if anything."""
    try:
        import sounddevice  # noqa: F401
    except ModuleNotFoundError:
        return "the microphone needs a package more: pip install 'voxlive[listen]'"
    except OSError:
        return (
            "the microphone needs PortAudio: apt install libportaudio2, or brew install portaudio"
        )
    return None


def _find(microphone: str | None) -> dict[str, Any]:
    """PortAudio's description of the microphone."""
    if obstacle := microphone_obstacle():
        fail(obstacle)
    import sounddevice

    name = int(microphone) if microphone and microphone.isdecimal() else microphone
    try:
        found: dict[str, Any] = sounddevice.query_devices(name, "input")
    except (ValueError, sounddevice.PortAudioError) as error:
        fail(f"no such microphone is there ({error})", MISUSED)
    return found


class MicrophoneQueue:
    """Blocks of the microphone that wait for the session. At the bound of 30 s it ends."""

    def __init__(self, overrun: Callable[[], None]) -> None:
        self._overrun = overrun
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._ended = False

    def put(self, block: bytes) -> None:
        """Add a block. After the end it is dropped."""
        if not self._ended and self._queue.qsize() == MOST_BLOCKS:
            self._overrun()
            self.end()
        if not self._ended:
            self._queue.put_nowait(block)

    def end(self) -> None:
        """No more blocks."""
        self._ended = True
        self._queue.put_nowait(None)

    async def read(self) -> AsyncIterator[bytes]:
        """Every block, up to the end."""
        while (block := await self._queue.get()) is not None:
            yield block


async def _listen(
    service: Service,
    source: dict[str, Any],
    stream: StreamOptions,
    speakers: SpeakerOptions | None,
) -> None:
    from voxlive.cli.console import on_first_signal
    from voxlive.errors import VoxliveError
    from voxlive.streaming.ingest.formats import AudioFormat
    from voxlive.streaming.intake import SessionOptions

    rate = int(source["default_samplerate"])
    loop = asyncio.get_running_loop()
    try:
        audio = AudioFormat("s16le", rate)
        session = service.open(SessionOptions(audio, stream=stream, speakers=speakers))
    except VoxliveError as error:
        await service.aclose(0)
        fail(error)
    message = "this machine is more than 30 s behind: listening ends here"
    blocks = MicrophoneQueue(lambda: session.emit_error("too_slow", message))
    feeding = asyncio.create_task(_feed(session, blocks))
    try:
        with (
            on_first_signal(lambda _: blocks.end()),
            _capture(source, rate, lambda block: loop.call_soon_threadsafe(blocks.put, block)),
        ):
            await _show(session.events(), TerminalCaptions())
    finally:
        feeding.cancel()
        await service.aclose(0)


def _print_aside(message: str) -> None:
    """One line on stderr; on a terminal above the line in the making, which rich draws again."""
    sys.stderr.write(f"voxlive: {message}\n")


def _joint(restarted: dict[str, Any]) -> str:
    """What a user should know where another session goes on for one that the server has lost."""
    again = f"{restarted['replayed']:.0f} s are recognised again"
    text = f"the server has lost the session ({restarted['code']}); a new one goes on, {again}"
    lost = restarted["lost"]
    return f"{text}, and words of {lost:.0f} s may be missing" if lost else text


async def _listen_to_server(
    url: str, key: str | None, source: dict[str, Any], start: dict[str, Any]
) -> None:
    from voxlive.cli.console import on_first_signal
    from voxlive.client import LiveClient, LiveError

    captions = TerminalCaptions()
    started = False

    def on_lost(problem: str) -> None:
        captions.connected = False
        if not started:
            _print_aside(f"{url}: {problem}; trying again")

    def on_resumed() -> None:
        captions.connected = True
        _print_aside("the connection was lost and is back: nothing is missing")

    async def events() -> AsyncIterator[Event]:
        nonlocal started
        async for message in client:
            if message["type"] == "restarted":
                _print_aside(_joint(message))
                yield Draft(0, "")
            if message["type"] == "ready":
                started = captions.connected = True
            if event := event_of(message):
                yield event

    async def feed() -> None:
        async for block in blocks.read():
            await client.send(block)
        await client.stop()

    rate = int(source["default_samplerate"])
    loop = asyncio.get_running_loop()
    blocks = MicrophoneQueue(
        lambda: _print_aside("the server was away for too long: this is the end")
    )
    client = LiveClient(
        url,
        rate=rate,
        key=key,
        give_up_s=_GIVE_UP_S,
        on_lost=on_lost,
        on_resumed=on_resumed,
        **start,
    )
    feeding = asyncio.create_task(feed())
    try:
        with (
            on_first_signal(lambda _: blocks.end()),
            _capture(source, rate, lambda block: loop.call_soon_threadsafe(blocks.put, block)),
        ):
            async with client:
                await _show(events(), captions)
    except LiveError as error:
        fail(error)
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


@contextmanager
def _capture(source: dict[str, Any], rate: int, put: Callable[[bytes], object]) -> Iterator[None]:
    """Give every block of s16le from the microphone to ``put``, on PortAudio's thread."""
    import sounddevice

    def on_block(block: Any, _frames: int, _time: Any, _status: Any) -> None:
        put(bytes(block))

    try:
        with sounddevice.RawInputStream(
            rate, rate // _BLOCKS_A_SECOND, source["index"], 1, "int16", callback=on_block
        ):
            yield
    except sounddevice.PortAudioError as error:
        fail(f"the microphone does not open: {error}")


async def _feed(session: Session, blocks: MicrophoneQueue) -> None:
    async for block in blocks.read():
        await session.push(block)
    await session.stop()


async def _show(events: AsyncIterator[Event], captions: TerminalCaptions) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)

    def growing() -> Text:
        text = Text.assemble(captions.committed, (captions.draft, "dim"))
        return Text.assemble(text, " ", (captions.note, "yellow"))

    with Live(console=console, refresh_per_second=10, transient=True, get_renderable=growing):
        async for event in events:
            for line in captions.on_event(event):
                console.print(line, markup=False)
