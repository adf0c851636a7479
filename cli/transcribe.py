"""``voxlive transcribe``."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .console import FAILED, MISUSED, complain, fail, start_logging
from .files import open_catalogue
from .options import DelayMs, Device, Language, Model, Offline, Quantize

if TYPE_CHECKING:
    from .inputs import Input
    from .jobs import Plan


class Format(StrEnum):
    """What is written, by the name that users give."""

    txt = "txt"
    json = "json"
    srt = "srt"
    vtt = "vtt"
    verbose_json = "verbose_json"
    diarized_json = "diarized_json"


Formats = Annotated[
    list[Format] | None, typer.Option("--format", "-f", help="May be given several times.")
]
OutputDir = Annotated[
    Path | None,
    typer.Option(
        "--output-dir", "--output", "-o", help="Write a file per format here, not to stdout."
    ),
]
_ONE_LINE = (Format.txt, Format.json, Format.verbose_json, Format.diarized_json)
_CUE = "Subtitles: "


def transcribe(
    files: Annotated[
        list[str],
        typer.Argument(help="Audio or video files, folders of them, patterns, or - for stdin."),
    ],
    model: Model = "pocketsphinx",
    formats: Formats = None,
    output_dir: OutputDir = None,
    language: Language = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="What was said before, or names to expect; for models that take it."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=1, help="How freely models that sample choose; 0 is not.")
    ] = 0.0,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="End a file's text after so many tokens.")
    ] = None,
    task: Annotated[
        Literal["transcribe", "translate"],
        typer.Option(help="translate gives English, by models that can."),
    ] = "transcribe",
    words: Annotated[
        bool, typer.Option("--words", help="List words with their times in verbose_json.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do files again whose results are there and newer.")
    ] = False,
    line_length: Annotated[
        int, typer.Option(min=1, help=f"{_CUE}the longest line, in characters.")
    ] = 42,
    max_lines: Annotated[int, typer.Option(min=1, help=f"{_CUE}the most lines at a time.")] = 2,
    min_seconds: Annotated[float, typer.Option(min=0.1, help=f"{_CUE}how long one stays.")] = 1,
    max_seconds: Annotated[float, typer.Option(min=0.1, help=f"{_CUE}at most.")] = 7,
    device: Device = None,
    delay_ms: DelayMs = None,
    quantize: Quantize = None,
    offline: Offline = False,
) -> None:
    """Transcribe files as fast as the machine can.

    With --output-dir, files that are done already are skipped: a run that was ended can go on.
    """
    from ..runners.contract import Refusal
    from ..runners.formats import Wanted
    from ..runners.policy import Asked, LoadOptions
    from ..runners.subtitles import CueStyle
    from .jobs import Hints, Plan, Writing

    start_logging("warning")
    if min_seconds > max_seconds:
        fail("--min-seconds must not be more than --max-seconds", MISUSED)
    wanted = list(dict.fromkeys(formats or [Format.txt]))
    style = CueStyle(line_length, max_lines, round(1000 * min_seconds), round(1000 * max_seconds))
    load = LoadOptions(device, int(quantize) if quantize else None, delay_ms)
    asked = Asked(task, language, words, Format.diarized_json in wanted)
    names = tuple("text" if name is Format.txt else str(name) for name in wanted)
    with ExitStack() as keep:
        inputs = _checked(files, wanted, output_dir, words, keep)
        try:
            spec = open_catalogue(model, None, load, offline=offline).find(None, asked)
        except Refusal as refusal:
            fail(refusal.message)
        writing = Writing(names, output_dir, Wanted(spec.model, words=words, cues=style), overwrite)
        plan = Plan(spec, asked, Hints(prompt, temperature, max_tokens), writing)
        if code := asyncio.run(_run(plan, inputs)):
            raise typer.Exit(code)


async def _run(plan: Plan, inputs: list[Input]) -> int:
    """The exit code: of a signal, once the files under way have been given up in order."""
    from .ending import ending
    from .jobs import run

    work = asyncio.create_task(run(plan, inputs))
    told: list[int] = []

    def give_up(number: int) -> None:
        told.append(number)
        work.cancel()

    with ending(give_up):
        await asyncio.wait([work])
    if told and work.cancelled():
        complain(f"ended by {signal.Signals(told[0]).name}")
        return 128 + told[0]
    return 0 if work.result() else FAILED


def _checked(
    files: list[str],
    formats: list[Format],
    output_dir: Path | None,
    words: bool,
    keep: ExitStack,
) -> list[Input]:
    """Everything that can be refused before the model is loaded."""
    from ..runners.formats import FORMATS
    from .inputs import BadInput, find_inputs

    try:
        inputs = find_inputs(files, keep)
    except BadInput as error:
        fail(str(error), MISUSED)
    if words and Format.verbose_json not in formats:
        fail("--words needs --format verbose_json", MISUSED)
    if output_dir is None:
        if len(formats) > 1 or (len(inputs) > 1 and formats[0] not in _ONE_LINE):
            fail("several formats or several subtitle files need --output-dir", MISUSED)
        return inputs
    suffix = FORMATS["text" if formats[0] is Format.txt else formats[0]].suffix
    targets = [one.target(output_dir, suffix) for one in inputs]
    for target in targets:
        if targets.count(target) > 1:
            fail(f"{target} would be written twice: transcribe these one by one", MISUSED)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"{output_dir}: {error.strerror}", MISUSED)
    return inputs
