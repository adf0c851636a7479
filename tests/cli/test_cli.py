import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.clips import clip
from support.commands import Run, command_line

from voxlive.cli import transcribe as inputs

HEAVY = ("numpy", "av", "onnxruntime", "starlette", "uvicorn", "pocketsphinx", "rich.console")


@pytest.fixture(scope="module")
def voxlive() -> Iterator[Run]:
    with command_line() as run:
        yield run


@pytest.fixture(scope="module")
def failed(voxlive: Run) -> Callable[..., str]:
    """The one line that a failing command says."""

    def line_of(*args: object) -> str:
        done = voxlive(*args)
        assert done.returncode in (1, 2)
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        assert line.startswith("voxlive: ")
        return line

    return line_of


def alone(*args: object) -> subprocess.CompletedProcess[str]:
    """The command as users start it."""
    command = [sys.executable, "-m", "voxlive.cli.main", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_version():
    assert alone("--version").stdout == f"voxlive {version('voxlive')}\n"


def test_the_command_line_imports_only_what_it_needs():
    probe = (
        f"import sys, voxlive.cli.main\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_names_every_command(voxlive):
    said = voxlive("--help").stdout
    assert all(command in said for command in ("serve", "transcribe", "models", "doctor"))


def test_models_lists_the_built_in_one(voxlive):
    assert "pocketsphinx" in voxlive("models").stdout


def test_text_goes_to_stdout():
    doctor, market = clip("doctor"), clip("market")
    one = alone("transcribe", doctor.path)
    assert one.returncode == 0
    assert "doctor" in one.stdout
    two = alone("transcribe", doctor.path, market.path)
    assert len(two.stdout.splitlines()) == 2
    assert two.stdout.startswith(one.stdout)


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


def test_a_folder_is_transcribed_below_the_output_folder_and_not_twice(voxlive, tmp_path):
    heard, out = tmp_path / "heard", tmp_path / "out"
    for name in ("one/yes.flac", "two/yes.flac", "doctor.flac"):
        (heard / name).parent.mkdir(parents=True, exist_ok=True)
        (heard / name).write_bytes(clip(Path(name).stem).path.read_bytes())
    (heard / "notes.txt").write_text("no audio")
    asked = ("transcribe", heard, "-o", out, "-f", "txt", "-f", "srt", "--line-length", "20")
    first = voxlive(*asked)
    assert (first.returncode, first.stderr) == (0, "voxlive: 3 done\n")
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    places = ("doctor", "one/yes", "two/yes")
    assert written == [f"{place}.{suffix}" for place in places for suffix in ("srt", "txt")]
    lines = (out / "doctor.srt").read_text().splitlines()
    assert max(map(len, (line for line in lines if "-->" not in line))) <= 20
    (out / "one" / "yes.srt").unlink()
    assert voxlive(*asked).stderr == "voxlive: 2 skipped, 1 done\n"
    assert voxlive(*asked, "--overwrite").stderr == "voxlive: 3 done\n"


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


def streamed(command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A line of bash, where ``voxlive`` is this one."""
    line = f'voxlive() {{ "{sys.executable}" -m voxlive.cli.main "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", line], input=stdin, capture_output=True, timeout=120)


def test_standard_input_and_process_substitution_are_files_too(tmp_path):
    yes = clip("yes").path
    piped = streamed("voxlive transcribe - -o out -f txt; cat out/stdin.txt; rm -r out")
    assert piped.returncode != 0  # there was nothing
    assert b"standard input: is empty" in piped.stderr
    done = streamed(f"voxlive transcribe - <(cat {yes})", yes.read_bytes())
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second == b"yes"
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


def test_ignored_options_are_warnings(voxlive, failed):
    yes = clip("yes").path
    done = voxlive("transcribe", yes, "--temperature", "0.5", "--prompt", "Anna")
    assert done.returncode == 0
    warnings = done.stderr.splitlines()
    assert len(warnings) == 2
    assert "prompt has no effect" in warnings[0]
    assert "temperature has no effect" in warnings[1]
    cut = voxlive("transcribe", clip("doctor").path, "--max-tokens", "3")
    assert len(cut.stdout.split()) == 3


def test_an_unknown_model_or_language_is_one_line(failed, tmp_path):
    assert "none-such" in failed("transcribe", clip("yes").path, "--model", tmp_path / "none-such")
    assert "xx" in failed("transcribe", clip("yes").path, "--language", "xx")


def test_a_port_in_use_is_one_line(voxlive, failed):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in failed("serve", "--port", port)
        done = voxlive("doctor", "--port", port)
        assert done.returncode == 1
        assert f"port {port} is in use" in done.stdout


def test_an_address_of_another_machine_is_one_line(failed):
    assert "192.0.2.1" in failed("serve", "--host", "192.0.2.1")
    assert "no.such.host.invalid" in failed("serve", "--host", "no.such.host.invalid")


def test_certificates_that_cannot_be_used_are_one_line(failed, tmp_path):
    absent = tmp_path / "absent.pem"
    assert f"cannot read {absent}" in failed("serve", "--ssl-certfile", absent)
    assert "--ssl-certfile" in failed("serve", "--ssl-keyfile", absent)
    assert "choose one" in failed("serve", "--https", "--ssl-certfile", absent)


def test_proxies_are_addresses(failed):
    assert "nginx" in failed("serve", "--forwarded-allow-ips", "127.0.0.1,nginx")


def test_doctor_finds_the_engine_and_the_voice_detector_working(voxlive):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = voxlive("doctor", "--port", port)
    assert done.returncode == 0, done.stdout
    assert "pocketsphinx decodes" in done.stdout
    assert "Silero loads" in done.stdout


def config(folder: Path, text: str) -> Path:
    path = folder / "voxlive.toml"
    path.write_text(text)
    return path


def test_options_come_from_the_config_file_and_the_command_line_wins(failed, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = config(tmp_path, f'[serve]\nport = {port}\nhost = "192.0.2.1"\n')
        said = failed("--config", path, "serve", "--host", "127.0.0.1")
        assert f"port {port} is in use" in said


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[serve]\nprot = 1\n", "prot"),
        ("[sevre]\nport = 1\n", "sevre"),
        ("port = 1\n", "port"),
        ("[serve\n", "cannot read"),
    ],
)
def test_a_mistake_in_the_config_file_is_one_line(failed, tmp_path, text, hint):
    assert hint in failed("--config", config(tmp_path, text), "models")


def test_a_config_file_that_was_asked_for_must_be_there(failed, tmp_path):
    assert "cannot read" in failed("--config", tmp_path / "none.toml", "models")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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


def test_a_closed_pipe_ends_a_list_without_a_traceback():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "voxlive.cli.main", "models"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""
