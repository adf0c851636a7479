"""Binding the addresses of a server, and the check that a public one needs keys."""

import socket

import pytest

from voxlive.web.config import ConfigError
from voxlive.web.ports import CannotListen, check_exposure, open_ports, url


def test_a_port_in_use_names_its_option_and_frees_the_others():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        for asked, option in [
            ((number, None, None), "--port"),
            ((0, number, None), "--whisper-live-port"),
            ((0, 0, number), "--wyoming-port"),
        ]:
            with pytest.raises(CannotListen, match=option):
                open_ports("127.0.0.1", *asked)
    with open_ports("127.0.0.1", 0, 0, 0) as ports:
        assert len({url(p) for p in (ports.main, ports.whisper_live, ports.wyoming)}) == 3
        assert url(ports.wyoming, "tcp").startswith("tcp://127.0.0.1:")
    assert ports.main.fileno() == ports.wyoming.fileno() == -1


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
def test_the_timeout_for_unacknowledged_data_is_set():
    with open_ports("127.0.0.1", 0, 0, 0) as ports:
        for bound in (ports.main, ports.whisper_live, ports.wyoming):
            bound.listen()
            with socket.create_connection(bound.getsockname()), bound.accept()[0] as accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_a_public_address_needs_keys_or_insecure():
    warnings: list[str] = []
    with socket.create_server(("0.0.0.0", 0)) as everywhere:

        def check(*, keyed: bool, insecure: bool) -> None:
            check_exposure(
                "0.0.0.0", everywhere, keyed=keyed, insecure=insecure, on_warning=warnings.append
            )

        check(keyed=True, insecure=False)
        assert warnings == []
        check(keyed=False, insecure=True)
        assert "everyone who can reach" in warnings.pop()
        with pytest.raises(ConfigError, match="--api-key"):
            check(keyed=False, insecure=False)
        with pytest.raises(ConfigError, match="choose one"):
            check(keyed=True, insecure=True)
    with socket.create_server(("127.0.0.1", 0)) as here:
        check_exposure("127.0.0.1", here, keyed=False, insecure=False, on_warning=warnings.append)
    assert warnings == []
