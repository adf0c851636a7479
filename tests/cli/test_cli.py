import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from support.clips import clip
from support.commands import Run, command_line

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


def test_the_command_line_starts_without_what_it_does_not_need():
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


def test_transcribe_says_the_text_on_stdout():
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
