"""``voxlive listen``: captions of a microphone in the terminal."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

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
from voxlive.streaming.events import (
    Draft,
    Event,
    Lag,
    SegmentClosed,
    SessionError,
    SessionWarning,
    Words,
)
from voxlive.values import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from voxlive.engines.contract import StreamOptions
    from voxlive.streaming.service import Service
    from voxlive.streaming.session import Session

_SHOWN_LAG_S = 1.0
_BLOCKS_A_SECOND = 20
MOST_BLOCKS = 30 * _BLOCKS_A_SECOND


class TerminalCaptions:
    """Finished lines to print, and the line in the making. Pure."""

    def __init__(self) -> None:
        self.committed = ""
        self.draft = ""
        self.behind_s = 0.0

    def on_event(self, event: Event) -> list[str]:
        """The lines that an event finishes."""
        match event:
            case Words():
                self.committed += event.text
            case Draft(_, text):
                self.draft = text
            case Lag(behind_s):
                self.behind_s = behind_s
            case SegmentClosed(_, start, _, text):
                self.committed = ""
                return [f"{_clock(start)}  {text.strip()}"]
            case SessionError(_, message):
                return [f"voxlive: {message}"]
            case SessionWarning(_, message):
                return [f"voxlive: warning: {message}"]
        return []

    @property
    def note(self) -> str:
        """How far recognition is behind, if that is much."""
        return f"({self.behind_s:.0f} s behind)" if self.behind_s >= _SHOWN_LAG_S else ""


def _clock(samples: int) -> str:
    minutes, seconds = divmod(samples // SAMPLE_RATE, 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def listen(
    model: Model = None,
    microphone: Annotated[
        str | None, typer.Option(help="A microphone's number or a part of its name.")
    ] = None,
    language: Language = None,
    device: Device = None,
    delay_ms: DelayMs = None,
    quantize: Quantize = None,
    keep_quantized: KeepQuantized = False,
    offline: Offline = False,
) -> None:
    """Captions from the microphone in this terminal, until Ctrl-C."""
    from voxlive.engines.contract import EngineOptions, StreamOptions

    start_logging("warning")
    source = _find(microphone)
    bits = int(quantize) if quantize else None
    service = open_service(
        open_model(model, offline=offline),
        EngineOptions(1, device, delay_ms, bits, keep_quantized=keep_quantized),
    )
    asyncio.run(_listen(service, source, StreamOptions(language, delay_ms)))


def _find(microphone: str | None) -> dict[str, Any]:
    """PortAudio's description of the microphone."""
    try:
        import sounddevice
    except ModuleNotFoundError:
        fail("the microphone needs a package more: pip install 'voxlive[listen]'")
    except OSError:
        fail("the microphone needs PortAudio: apt install libportaudio2, or brew install portaudio")
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


async def _listen(service: Service, source: dict[str, Any], stream: StreamOptions) -> None:
    from voxlive.cli.console import on_first_signal
    from voxlive.errors import VoxliveError
    from voxlive.streaming.ingest.formats import AudioFormat
    from voxlive.streaming.intake import SessionOptions

    rate = int(source["default_samplerate"])
    loop = asyncio.get_running_loop()
    try:
        session = service.open(SessionOptions(AudioFormat("s16le", rate), stream=stream))
    except VoxliveError as error:
        await service.aclose(0)
        fail(error.message)
    message = "this machine is more than 30 s behind: listening ends here"
    blocks = MicrophoneQueue(lambda: session.emit_error("too_slow", message))
    feeding = asyncio.create_task(_feed(session, blocks))
    try:
        with (
            on_first_signal(lambda _: blocks.end()),
            _capture(source, rate, lambda block: loop.call_soon_threadsafe(blocks.put, block)),
        ):
            await _show(session)
    finally:
        feeding.cancel()
        await service.aclose(0)


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


async def _show(session: Session) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    captions = TerminalCaptions()
    with Live(console=console, refresh_per_second=10, transient=True) as live:
        async for event in session.events():
            for line in captions.on_event(event):
                console.print(line, markup=False)
            text = Text.assemble(captions.committed, (captions.draft, "dim"))
            live.update(Text.assemble(text, " ", (captions.note, "yellow")))
