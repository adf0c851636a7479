import ipaddress
import socket

import pytest
import typer

from voxlive.cli.serve import wyoming_options
from voxlive.web.ports import CannotListen, open_ports, url
from voxlive.web.protocols.wyoming.listener import ANYWHERE, THIS_MACHINE


def options(port=0, allow=None, announce=False, keyed=False, insecure=False):
    return wyoming_options(port, allow, announce, keyed, insecure)


def test_who_may_use_the_wyoming_port():
    assert options(port=None) is None
    assert options().allowed == THIS_MACHINE
    assert options(insecure=True).allowed == ANYWHERE
    network = ipaddress.ip_network("192.168.1.0/24")
    assert options(allow=["192.168.1.7/24"], keyed=True).allowed == (network,)
    assert options(allow=["192.168.1.0/24"]).allowed == (network, *THIS_MACHINE)
    assert options(announce=True).announce


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ({"keyed": True}, "--wyoming-allow"),
        ({"allow": ["home"]}, "192.168.1.0/24"),
        ({"port": None, "announce": True}, "--zeroconf needs --wyoming-port"),
        ({"port": None, "allow": ["::1"]}, "--wyoming-allow needs --wyoming-port"),
    ],
)
def test_what_cannot_be_says_what_to_do(asked, hint, capsys):
    with pytest.raises(typer.Exit):
        options(**asked)
    assert hint in capsys.readouterr().err


def test_the_extra_for_discovery_is_named_when_it_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(typer.Exit):
        options(announce=True)
    assert "voxlive[discovery]" in capsys.readouterr().err


def test_a_port_that_is_taken_names_its_option_and_frees_the_others():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        for asked, option in [
            ((number, None, None), "--port"),
            ((0, number, None), "--whisper-live-port"),
            ((0, 0, number), "--wyoming-port"),
        ]:
            with pytest.raises(CannotListen, match=option):
                open_ports("127.0.0.1", *asked)
    ports = open_ports("127.0.0.1", 0, 0, 0)
    assert len({url(p) for p in (ports.main, ports.whisper_live, ports.wyoming)}) == 3
    assert url(ports.wyoming, "tcp").startswith("tcp://127.0.0.1:")
    for bound in (ports.main, ports.whisper_live, ports.wyoming):
        bound.close()
