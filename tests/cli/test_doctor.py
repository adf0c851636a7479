"""``voxlive doctor``, and a port that is in use."""

import socket

import pytest
from support.commands import command_line
from support.server import free_port


def test_a_port_in_use_is_one_line(voxlive, failed):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in failed("serve", "--port", port)
        done = voxlive("doctor", "--port", port)
        assert done.returncode == 1
        assert f"port {port} is in use" in done.stdout


@pytest.mark.long
def test_doctor_finds_the_engine_and_the_voice_detector_working(real_weights):
    with command_line() as voxlive:  # of its own: it begins with the environment as it is now
        done = voxlive("doctor", "--port", free_port())
    assert done.returncode == 0, done.stdout
    assert "whisper-base decodes on cpu: 99 languages, " in done.stdout
    assert "Silero loads" in done.stdout
    # What only some things need is told, and is no failure.
    assert "`voxlive listen`" in done.stdout
    assert "Device(cpu" not in done.stdout


def test_doctor_names_the_command_that_brings_the_default_model(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with command_line() as voxlive:
        done = voxlive("doctor", "--port", free_port())
    assert done.returncode == 0, done.stdout
    assert "`voxlive models fetch whisper-tiny.en`" in done.stdout
