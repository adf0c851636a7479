"""``voxlive transcribe``: files, folders, patterns and streams to every format."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from fsspec.core import url_to_fs
from support.clips import clip, two_people, write_wav
from support.commands import SAME_PRIORITY
from support.held_out import TINY_VOXTRAL
from support.object_store import BUCKET, s3_serving
from support.wire import s16le

from voxlive.cli import transcribe as inputs

PROGRAM = f"{SAME_PRIORITY}\nvoxlive.cli.main.app()"


def alone(*args: object) -> subprocess.CompletedProcess[str]:
    """The command in a process that Python was started for."""
    command = [sys.executable, "-c", PROGRAM, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def streamed(command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A line of bash, where ``voxlive`` is this one."""
    line = f'voxlive() {{ "{sys.executable}" -c "$PROGRAM" "$@"; }}; {command}'
    env = {**os.environ, "PROGRAM": PROGRAM}
    return subprocess.run(
        ["bash", "-c", line], input=stdin, capture_output=True, timeout=120, env=env
    )


def test_text_goes_to_stdout(voxlive):
    doctor, market = clip("doctor"), clip("market")
    one = alone("transcribe", doctor.path)
    assert one.returncode == 0
    assert "doctor" in one.stdout
    two = voxlive("transcribe", doctor.path, market.path)
    assert len(two.stdout.splitlines()) == 2
    assert two.stdout.startswith(one.stdout)


@pytest.mark.endurance
def test_speakers_are_told_apart(voxlive, tmp_path):
    path = write_wav(tmp_path / "two.wav", s16le(two_people()))
    done = voxlive("transcribe", path, "--diarize")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        *("Speaker 1", "Speaker 2", "Speaker 1")
    ]
    bad = voxlive("transcribe", path, "--diarize", "--speakers", 9)
    assert (bad.returncode, "speakers must be" in bad.stderr) == (2, True)


def test_transcribe_writes_every_format(voxlive, tmp_path):
    formats = ("txt", "json", "srt", "vtt", "verbose_json")
    asked = [arg for name in formats for arg in ("--format", name)]
    out = tmp_path / "made" / "here"
    done = voxlive("transcribe", clip("doctor").path, *asked, "--words", "--output-dir", out)
    assert (done.returncode, done.stdout) == (0, "")
    written = {path.name: path.read_text() for path in out.iterdir()}
    assert sorted(written) == [
        f"doctor.{suffix}" for suffix in ("json", "srt", "txt", "verbose.json", "vtt")
    ]
    text = written["doctor.txt"].strip()
    assert json.loads(written["doctor.json"])["text"] == text
    verbose = json.loads(written["doctor.verbose.json"])
    assert " ".join(word["word"] for word in verbose["words"]) == text
    assert written["doctor.srt"].startswith("1\n00:00:0")
    assert written["doctor.vtt"].startswith("WEBVTT\n")


def test_a_file_that_is_no_audio_does_not_stop_the_others(voxlive, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"nothing of the kind")
    done = voxlive("transcribe", bad, clip("yes").path)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    line, counts = done.stderr.splitlines()
    assert "bad.wav" in line
    assert counts == "voxlive: 1 failed, 1 done"


@pytest.mark.long
def test_a_folder_is_transcribed_below_the_output_folder_and_not_twice(voxlive, tmp_path):
    heard, out = tmp_path / "heard", tmp_path / "out"
    for name in ("one/yes.flac", "two/yes.flac", "phone.flac"):
        (heard / name).parent.mkdir(parents=True, exist_ok=True)
        (heard / name).write_bytes(clip(Path(name).stem).path.read_bytes())
    (heard / "notes.txt").write_text("no audio")
    asked = ("transcribe", heard, "-o", out, "-f", "txt", "-f", "srt", "--line-length", "20")
    first = voxlive(*asked)
    assert (first.returncode, first.stderr) == (0, "voxlive: 3 done\n")
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    places = ("one/yes", "phone", "two/yes")
    assert written == [f"{place}.{suffix}" for place in places for suffix in ("srt", "txt")]
    lines = (out / "phone.srt").read_text().splitlines()
    assert max(map(len, (line for line in lines if "-->" not in line))) <= 20
    (out / "one" / "yes.srt").unlink()
    assert voxlive(*asked).stderr == "voxlive: 1 done, 2 skipped\n"
    assert voxlive(*asked, "--overwrite").stderr == "voxlive: 3 done\n"


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_files_of_an_object_store_are_those_of_a_folder(voxlive, tmp_path, monkeypatch, kind):
    with ExitStack() as stack:
        url = f"file://{tmp_path}/talks"
        if kind == "s3":
            url = f"s3://{BUCKET}/talks"
            for name, value in stack.enter_context(s3_serving()).items():
                monkeypatch.setenv(name, value)
        files, root = url_to_fs(url)
        yes, out = clip("yes").path.read_bytes(), tmp_path / "out"
        files.makedirs(f"{root}/one", exist_ok=True)
        files.pipe(f"{root}/one/yes.flac", yes)
        files.pipe(f"{root}/doctor.flac", clip("doctor").path.read_bytes())
        files.pipe(f"{root}/notes.txt", b"no audio")
        first = voxlive("transcribe", url, "-o", out)
        assert (first.returncode, first.stderr) == (0, "voxlive: 2 done\n")
        assert (out / "one" / "yes.txt").read_text() == "Yes.\n"
        later = time.time() + 60
        os.utime(out / "one" / "yes.txt", (later, later))
        files.pipe(f"{root}/doctor.flac", yes)
        assert voxlive("transcribe", url, "-o", out).stderr == "voxlive: 1 done, 1 skipped\n"
        assert (out / "doctor.txt").read_text() == "Yes.\n"
        for name, reason in (
            ("notes.txt", "notes.txt: "),
            ("none.flac", "there is no such file"),
        ):
            done = voxlive("transcribe", f"{url}/{name}")
            assert (done.returncode > 0, done.stdout) == (True, "")
            assert f"voxlive: {url}/{name}: " in done.stderr
            assert reason in done.stderr


@pytest.mark.endurance
def test_a_pattern_is_all_that_it_matches(voxlive, failed):
    clips = clip("yes").path.parent
    done = voxlive("transcribe", clips / "[dy]*r*.flac", clips / "yes.flac")
    assert len(done.stdout.splitlines()) == 2
    assert "no file matches" in failed("transcribe", clips / "none*.flac")


def test_misuse_of_transcribe_is_one_line(failed, tmp_path):
    yes = clip("yes").path
    assert "does not exist" in failed("transcribe", tmp_path / "none.wav")
    assert "no audio or video" in failed("transcribe", tmp_path)
    assert "not a file" in failed("transcribe", "/dev/null")
    assert "translate" in failed("transcribe", yes, "--task", "translate")
    assert "--output-dir" in failed("transcribe", yes, "-f", "srt", "-f", "vtt")
    assert "--output-dir" in failed("transcribe", yes, clip("doctor").path, "-f", "srt")
    assert "verbose_json" in failed("transcribe", yes, "--words")
    twin = tmp_path / "yes.wav"
    twin.touch()
    assert "twice" in failed("transcribe", yes, twin, "--output-dir", tmp_path)


@pytest.mark.long
def test_standard_input_and_process_substitution_are_files_too(tmp_path):
    yes = clip("yes").path
    piped = streamed("voxlive transcribe - -o out -f txt; cat out/stdin.txt; rm -r out")
    assert piped.returncode != 0  # there was nothing
    assert b"standard input: is empty" in piped.stderr
    done = streamed(f"voxlive transcribe - <(cat {yes})", yes.read_bytes())
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second == b"Yes."
    out = tmp_path / "out"
    kept = streamed(f"voxlive transcribe - -f srt -o {out}", yes.read_bytes())
    assert kept.returncode == 0
    assert [path.name for path in out.iterdir()] == ["stdin.srt"]


def test_a_stream_that_is_no_audio_or_too_long_is_one_line_and_leaves_no_file(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    damaged = streamed("voxlive transcribe -", b"nothing like audio" * 100)
    assert damaged.returncode == 1
    assert damaged.stderr.startswith(b"voxlive: -: ")
    with monkeypatch.context() as bound, ExitStack() as keep, (tmp_path / "f").open("wb") as long:
        bound.setattr(inputs, "MOST_SPOOLED", 1000)
        long.write(bytes(1001))
        long.flush()
        with Path(long.name).open("rb") as read:
            bound.setattr(sys, "stdin", SimpleNamespace(buffer=read, isatty=lambda: False))
            with pytest.raises(inputs.BadInput, match="more than"):
                inputs.find_inputs(["-"], keep)
    assert [path.name for path in tmp_path.glob("voxlive-*")] == []


@pytest.mark.endurance
def test_ignored_options_are_warnings(voxlive, failed):
    yes = clip("yes").path
    tiny = ("--model", TINY_VOXTRAL, "--device", "cpu")
    done = voxlive("transcribe", yes, *tiny, "--temperature", "0.5", "--prompt", "Anna")
    assert done.returncode == 0
    warnings = done.stderr.splitlines()
    assert len(warnings) == 2
    assert "prompt has no effect" in warnings[0]
    assert "temperature has no effect" in warnings[1]
    cut = voxlive("transcribe", clip("doctor").path, *tiny, "--max-tokens", "3")
    assert len(cut.stdout.split()) == 3


def test_an_unknown_model_or_language_is_one_line(failed, tmp_path):
    assert "none-such" in failed("transcribe", clip("yes").path, "--model", tmp_path / "none-such")
    assert "xx" in failed("transcribe", clip("yes").path, "--language", "xx")


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.endurance),
        pytest.param(signal.SIGHUP, marks=pytest.mark.endurance),
    ],
)
def test_a_signal_ends_a_transcription_in_one_line_and_leaves_no_file(number, tmp_path):
    command = [sys.executable, "-m", "voxlive.cli.main", "transcribe", str(clip("minute").path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=env, **pipes) as process:
        while not [*tmp_path.glob("*/runner-*")]:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + number, "")
    assert err == f"voxlive: ended by {number.name}\n"
    assert [*tmp_path.iterdir()] == []
