"""``voxlive transcribe``: from what its command line names to files, and from options to a plan."""

from __future__ import annotations

import asyncio
import glob
import signal
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import typer

from voxlive.cli.console import FAILED, MISUSED, fail, print_error, start_logging
from voxlive.cli.options import (
    DelayMs,
    Device,
    KeepQuantized,
    Language,
    Model,
    Offline,
    Quantize,
    open_model,
)
from voxlive.errors import BadInput
from voxlive.runners.scratch import SCRATCH
from voxlive.speakers.labels import MAX_SPEAKERS

if TYPE_CHECKING:
    from voxlive.checkpoints.local_model import LocalModel
    from voxlive.cli.jobs import TranscribePlan
    from voxlive.runners.contract import RunnerSpec
    from voxlive.runners.outputs.subtitles import CueStyle
    from voxlive.runners.refusals import LoadOptions, Requirements
    from voxlive.speakers.tracker import SpeakerOptions

MOST_SPOOLED = 4 << 30
"""Bytes of a stream that are kept while it is transcribed: six hours of stereo CD sound."""
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file, and its place below the folder that it was found in.

    ``name`` is what the user called it, where that is not the file. One of an object store has a
    ``url``, and the time of its last change, since the epoch.
    """

    path: Path
    place: Path
    name: str = ""
    url: str = ""
    changed_ns: int | None = None

    @property
    def title(self) -> str:
        """Its name in messages."""
        return self.name or str(self.path)

    def target(self, folder: Path, suffix: str) -> Path:
        """Where a result goes: below ``folder`` as the file lies below its own."""
        return folder / self.place.with_name(f"{self.place.stem}.{suffix}")


def find_inputs(named: Iterable[str], keep: ExitStack) -> list[InputFile]:
    """Every file once, in the order in which they were named. Raises BadInput.

    ``-`` is standard input; it and pipes are read to their ends, into files that ``keep`` removes.
    """
    found: dict[Path | str, InputFile] = {}
    for name in dict.fromkeys(named):
        for one in _inputs(name, keep):
            found.setdefault(one.url or one.path, one)
    return list(found.values())


def _inputs(name: str, keep: ExitStack) -> list[InputFile]:
    if "://" in name:
        return _stored_inputs(name)
    path = Path(name)
    if name == "-":
        if sys.stdin.isatty():
            raise BadInput("-: standard input is a terminal: pipe audio into it, or name a file")
        return [InputFile(_spooled(sys.stdin.buffer, "standard input", keep), Path("stdin"), name)]
    if path.is_fifo():
        with path.open("rb") as pipe:
            return [InputFile(_spooled(pipe, name, keep), Path(path.name), name)]
    if path.is_file():
        return [_single_input(path)]
    if path.is_dir():
        inside = [file for file in sorted(path.rglob("*")) if _is_media(file)]
        if not inside:
            raise BadInput(f"{name}: the folder has no audio or video files")
        return [InputFile(file, file.relative_to(path)) for file in inside]
    if path.exists():
        raise BadInput(f"{name}: not a file")
    if not glob.has_magic(name):
        raise BadInput(f"{name}: does not exist")
    paths = map(Path, sorted(glob.iglob(name, recursive=True)))  # noqa: PTH207 - "**" of a shell
    matched = [_single_input(path) for path in paths if path.is_file()]
    if not matched:
        raise BadInput(f"{name}: no file matches")
    return matched


def _stored_inputs(url: str) -> list[InputFile]:
    from voxlive.runners.archive import list_files

    found = [
        InputFile(Path(one.place), Path(one.place), one.url, one.url, one.changed_ns)
        for one in list_files(url)
        if one.url == url or _has_ending(Path(one.place))
    ]
    if not found:
        raise BadInput(f"{url}: there are no audio or video files")
    return found


def _spooled(stream: BinaryIO, name: str, keep: ExitStack) -> Path:
    """A file with all that a stream has: only a file can be measured and cut."""
    file = keep.enter_context(SCRATCH.file("stream"))
    left = MOST_SPOOLED
    try:
        while piece := stream.read(min(_PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                raise BadInput(f"{name}: has more than {MOST_SPOOLED >> 30} GiB: save it as a file")
            file.write(piece)
        file.flush()
    except OSError as error:
        raise BadInput(f"{name}: cannot be kept as a file: {error.strerror}") from error
    if left == MOST_SPOOLED:
        raise BadInput(f"{name}: is empty")
    return Path(file.name)


def _single_input(file: Path) -> InputFile:
    return InputFile(file, Path(file.name))


def _is_media(file: Path) -> bool:
    """What a folder is searched for; a file that is named is tried whatever its name."""
    return _has_ending(file) and file.is_file()


def _has_ending(file: Path) -> bool:
    from voxlive.streaming.ingest.sniff import ENDINGS

    return not file.name.startswith(".") and file.suffix[1:].lower() in ENDINGS


class OutputFormat(StrEnum):
    """What is written, by the name that users give."""

    txt = "txt"
    json = "json"
    srt = "srt"
    vtt = "vtt"
    verbose_json = "verbose_json"
    diarized_json = "diarized_json"


_ONE_LINE = (
    OutputFormat.txt,
    OutputFormat.json,
    OutputFormat.verbose_json,
    OutputFormat.diarized_json,
)
_CUE = "Subtitles: "

Files = Annotated[
    list[str],
    typer.Argument(
        help="Audio or video files, folders of them, patterns, s3://BUCKET/…, or - for stdin."
    ),
]
Formats = Annotated[
    list[OutputFormat] | None, typer.Option("--format", "-f", help="May be given several times.")
]
OutputDir = Annotated[
    Path | None,
    typer.Option(
        "--output-dir", "--output", "-o", help="Write a file per format here, not to stdout."
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(help="What was said before, or names to expect; for models that take it."),
]
Temperature = Annotated[
    float, typer.Option(min=0, max=1, help="How freely models that sample choose; 0 is not.")
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="End a file's text after so many tokens.")
]
TaskName = Annotated[
    Literal["transcribe", "translate"],
    typer.Option(help="translate gives English, by models that can."),
]
WordTimes = Annotated[
    bool, typer.Option("--words", help="List words with their times in verbose_json.")
]
Diarize = Annotated[
    bool,
    typer.Option(
        "--diarize",
        help="Say who speaks, in every format. Needs: voxlive models fetch "
        "speaker-encoder, or a model that tells speakers itself.",
    ),
]
Speakers = Annotated[
    int | None, typer.Option(min=1, help="--diarize: how many there are, where that is known.")
]
MaxSpeakers = Annotated[
    int, typer.Option(min=1, max=MAX_SPEAKERS, help="--diarize: there are never more.")
]
MinSpeechMs = Annotated[
    int, typer.Option(min=200, max=1600, help="--diarize: shorter speech has the nearest speaker.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Do files again whose results are there and newer.")
]
LineLength = Annotated[int, typer.Option(min=1, help=f"{_CUE}the longest line, in characters.")]
MaxLines = Annotated[int, typer.Option(min=1, help=f"{_CUE}the most lines at a time.")]
MinSeconds = Annotated[float, typer.Option(min=0.1, help=f"{_CUE}how long one stays.")]
MaxSeconds = Annotated[float, typer.Option(min=0.1, help=f"{_CUE}at most.")]

_RAY = "A Ray cluster"
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        rich_help_panel=_RAY,
        help="Have its machines do the files, this one among them: auto, or HOST:PORT of its head.",
    ),
]
RayCpus = Annotated[
    float, typer.Option(min=0.01, rich_help_panel=_RAY, help="Cores that a file takes there.")
]
RayGpus = Annotated[
    float, typer.Option(min=0, rich_help_panel=_RAY, help="GPUs that a file takes there.")
]


def transcribe(
    files: Files,
    model: Model = None,
    formats: Formats = None,
    output_dir: OutputDir = None,
    language: Language = None,
    prompt: Prompt = None,
    temperature: Temperature = 0.0,
    max_tokens: MaxTokens = None,
    task: TaskName = "transcribe",
    words: WordTimes = False,
    diarize: Diarize = False,
    speakers: Speakers = None,
    max_speakers: MaxSpeakers = 8,
    min_speech_ms: MinSpeechMs = 500,
    overwrite: Overwrite = False,
    line_length: LineLength = 42,
    max_lines: MaxLines = 2,
    min_seconds: MinSeconds = 1,
    max_seconds: MaxSeconds = 7,
    device: Device = None,
    delay_ms: DelayMs = None,
    quantize: Quantize = None,
    keep_quantized: KeepQuantized = False,
    offline: Offline = False,
    ray: RayAddress = None,
    ray_cpus: RayCpus = 1,
    ray_gpus: RayGpus = 0,
) -> None:
    """Transcribe files as fast as the machine can, or the machines of a cluster (--ray).

    With --output-dir, files that are done already are skipped: a run that was ended can go on.
    """
    from voxlive.cli.jobs import Hints, OutputTarget, TranscribePlan
    from voxlive.runners.archive import ChosenModel, RayBatch, RayOptions
    from voxlive.runners.outputs.formats import OutputOptions
    from voxlive.runners.refusals import LoadOptions, Requirements

    start_logging("warning")
    cues = _cue_style(line_length, max_lines, min_seconds, max_seconds)
    named = list(dict.fromkeys(formats or [OutputFormat.txt]))
    told = _speaker_options(max_speakers, min_speech_ms, speakers)
    diarize = diarize or OutputFormat.diarized_json in named
    requirements = Requirements(task, language, words, diarize)
    bits = int(quantize) if quantize else None
    load = LoadOptions(device, bits, delay_ms, keep_quantized)
    with ExitStack() as keep:
        inputs = _check_inputs(files, named, output_dir, words, keep)
        spec = _find_model(open_model(model, offline=offline), load, requirements)
        options = OutputOptions(spec.model, words=words, cues=cues, voices=diarize)
        output = OutputTarget(tuple(map(_format_key, named)), output_dir, options, overwrite)
        hints = Hints(prompt, temperature, max_tokens)
        over = None
        if ray:
            chosen = ChosenModel(_name_anywhere(model), load, requirements, offline)
            over = partial(RayBatch, ray, chosen, RayOptions(ray_cpus, ray_gpus))
        plan = TranscribePlan(spec, requirements, hints, output, over, told if diarize else None)
        if code := asyncio.run(_run(plan, inputs)):
            raise typer.Exit(code)


def _name_anywhere(model: str | None) -> str:
    """What means the same model in another process: this one's default, or a whole path."""
    from voxlive.checkpoints.resolve import default_model

    path = Path(model or "").expanduser()
    return str(path.resolve()) if model and path.is_dir() else model or default_model()


def _speaker_options(most: int, min_speech_ms: int, number: int | None) -> SpeakerOptions:
    from voxlive.speakers.tracker import SpeakerOptionError, SpeakerOptions

    try:
        return SpeakerOptions(most, min_speech_ms, number)
    except SpeakerOptionError as error:
        fail(error, MISUSED)


def _cue_style(line: int, lines: int, min_s: float, max_s: float) -> CueStyle:
    from voxlive.runners.outputs.subtitles import CueStyle

    if min_s > max_s:
        fail("--min-seconds must not be more than --max-seconds", MISUSED)
    return CueStyle(line, lines, round(1000 * min_s), round(1000 * max_s))


def _find_model(local: LocalModel, load: LoadOptions, requirements: Requirements) -> RunnerSpec:
    """What loads the model; one line and exit code 1 if it cannot do what is required."""
    from voxlive.errors import VoxliveError
    from voxlive.runners.catalogue import make_catalogue

    try:
        return make_catalogue(local, (), load).find(None, requirements)
    except VoxliveError as refusal:
        fail(refusal)


def _format_key(name: OutputFormat) -> str:
    """The name of a format in ``outputs.formats``."""
    return "text" if name is OutputFormat.txt else str(name)


async def _run(plan: TranscribePlan, inputs: list[InputFile]) -> int:
    """The exit code: of a signal, once the files under way have been given up in order."""
    from voxlive.cli.console import on_first_signal
    from voxlive.cli.jobs import run

    work = asyncio.create_task(run(plan, inputs))
    signals: list[int] = []

    def cancel(number: int) -> None:
        signals.append(number)
        work.cancel()

    with on_first_signal(cancel):
        await asyncio.wait([work])
    if signals and work.cancelled():
        print_error(f"ended by {signal.Signals(signals[0]).name}")
        return 128 + signals[0]
    return 0 if work.result() else FAILED


def _check_inputs(
    files: list[str],
    formats: list[OutputFormat],
    output_dir: Path | None,
    words: bool,
    keep: ExitStack,
) -> list[InputFile]:
    """Everything that can be refused before the model is loaded."""
    from voxlive.runners.outputs.formats import FORMATS

    try:
        inputs = find_inputs(files, keep)
    except BadInput as error:
        fail(str(error), MISUSED)
    if words and OutputFormat.verbose_json not in formats:
        fail("--words needs --format verbose_json", MISUSED)
    if output_dir is None:
        if len(formats) > 1 or (len(inputs) > 1 and formats[0] not in _ONE_LINE):
            fail("several formats or several subtitle files need --output-dir", MISUSED)
        return inputs
    suffix = FORMATS[_format_key(formats[0])].suffix
    targets = [one.target(output_dir, suffix) for one in inputs]
    for target in targets:
        if targets.count(target) > 1:
            fail(f"{target} would be written twice: transcribe these one by one", MISUSED)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"{output_dir}: {error.strerror}", MISUSED)
    return inputs
