"""``voxlive transcribe``."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import FAILED, MISUSED, complain, fail, start_logging
from .options import DelayMs, Device, Language, Model, Offline, Quantize, open_service

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..streaming.engine import StreamOptions
    from ..streaming.service import Service
    from ..streaming.transcribe import Transcription


class Format(StrEnum):
    """What is written, by the name that users give."""

    txt = "txt"
    json = "json"
    srt = "srt"
    vtt = "vtt"
    verbose_json = "verbose_json"


_SUFFIXES = {Format.verbose_json: "verbose.json"}
_ONE_LINE = (Format.txt, Format.json, Format.verbose_json)


def transcribe(
    files: Annotated[list[Path], typer.Argument(help="Audio or video files.")],
    model: Model = "pocketsphinx",
    formats: Annotated[
        list[Format] | None, typer.Option("--format", "-f", help="May be given several times.")
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", "--output", "-o", help="Write a file per format here, not to stdout."
        ),
    ] = None,
    language: Language = None,
    words: Annotated[
        bool, typer.Option("--words", help="List words with their times in verbose_json.")
    ] = False,
    device: Device = None,
    delay_ms: DelayMs = None,
    quantize: Quantize = None,
    offline: Offline = False,
) -> None:
    """Transcribe files as fast as the machine can, on the engine of the live sessions."""
    from ..streaming.engine import StreamOptions
    from ..streaming.options import EngineOptions

    start_logging("warning")
    wanted = list(dict.fromkeys(formats or [Format.txt]))
    _check(files, wanted, output_dir, words)
    bits = int(quantize) if quantize else None
    service = open_service(model, EngineOptions(1, device, delay_ms, bits, offline))

    def keep(file: Path, said: Transcription) -> None:
        for name in wanted:
            _write(file, name, _render(name, said, words), output_dir)

    stream = StreamOptions(language=language, delay_ms=delay_ms, drafts=False)
    if not asyncio.run(_transcribe_all(service, files, stream, keep)):
        raise typer.Exit(FAILED)


def _check(files: list[Path], formats: list[Format], output_dir: Path | None, words: bool) -> None:
    """Everything that can be refused before the model is loaded."""
    for file in files:
        if not file.is_file():
            fail(f"{file}: {'not a file' if file.exists() else 'does not exist'}", MISUSED)
    if words and Format.verbose_json not in formats:
        fail("--words needs --format verbose_json", MISUSED)
    if output_dir is None:
        if len(formats) > 1 or (len(files) > 1 and formats[0] not in _ONE_LINE):
            fail("several formats or several subtitle files need --output-dir", MISUSED)
        return
    targets = [_target(file, name, output_dir) for file in files for name in formats]
    for target in targets:
        if targets.count(target) > 1:
            fail(f"{target} would be written twice: transcribe these one by one", MISUSED)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"{output_dir}: {error.strerror}", MISUSED)


async def _transcribe_all(
    service: Service,
    files: list[Path],
    stream: StreamOptions,
    keep: Callable[[Path, Transcription], None],
) -> bool:
    """One file after the other; False if one of them failed."""
    from ..streaming.engine import EngineError
    from ..streaming.ingest import BadAudio
    from ..streaming.transcribe import transcribe as transcribe_file
    from ..vad.gate import GateOptions
    from .progress import progress

    good = True
    try:
        with progress() as follow:
            for file in files:
                try:
                    with follow(file) as told:
                        said = await transcribe_file(service, file, GateOptions(), stream, told)
                    keep(file, said)
                except (BadAudio, EngineError, OSError) as error:
                    complain(f"{file}: {error}")
                    good = False
    finally:
        await service.aclose(0)
    return good


def _render(name: Format, said: Transcription, words: bool) -> str:
    from ..streaming.formats import WRITERS, verbose_json

    if name is Format.verbose_json:
        return verbose_json(said, words=words)
    return WRITERS["text" if name is Format.txt else name](said)


def _write(file: Path, name: Format, body: str, output_dir: Path | None) -> None:
    if output_dir is None:
        typer.echo(body.removesuffix("\n"))
    else:
        _target(file, name, output_dir).write_text(body, encoding="utf-8")


def _target(file: Path, name: Format, output_dir: Path) -> Path:
    return output_dir / f"{file.stem}.{_SUFFIXES.get(name, name)}"
