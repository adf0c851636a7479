"""``voxlive doctor``, and a port that is in use."""

import socket


def test_a_port_in_use_is_one_line(voxlive, failed):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in failed("serve", "--port", port)
        done = voxlive("doctor", "--port", port)
        assert done.returncode == 1
        assert f"port {port} is in use" in done.stdout


def test_doctor_finds_the_engine_and_the_voice_detector_working(voxlive):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = voxlive("doctor", "--port", port)
    assert done.returncode == 0, done.stdout
    assert "pocketsphinx decodes" in done.stdout
    assert "Silero loads" in done.stdout
