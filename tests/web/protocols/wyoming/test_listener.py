"""Who may use the Wyoming port, which has no keys."""

import ipaddress

import pytest

from voxlive.web.config import ConfigError, ServeConfig
from voxlive.web.ports import CannotListen
from voxlive.web.protocols.wyoming.listener import ANYWHERE, THIS_MACHINE, WyomingOptions


def options(port=0, allow=(), announce=False, keyed=False, insecure=False):
    config = ServeConfig(
        wyoming_port=port, wyoming_allow=tuple(allow), zeroconf=announce, insecure=insecure
    )
    return WyomingOptions.of(config, keyed=keyed)


def test_the_networks_that_may_connect():
    assert options(port=None) is None
    assert options().allowed == THIS_MACHINE
    assert options(insecure=True).allowed == ANYWHERE
    network = ipaddress.ip_network("192.168.1.0/24")
    assert options(allow=["192.168.1.7/24"], keyed=True).allowed == (network,)
    assert options(allow=["192.168.1.0/24"]).allowed == (network, *THIS_MACHINE)
    assert options(announce=True).announce


@pytest.mark.parametrize(
    ("kwargs", "hint"),
    [
        ({"keyed": True}, "--wyoming-allow"),
        ({"allow": ["home"]}, "192.168.1.0/24"),
        ({"port": None, "announce": True}, "--zeroconf needs --wyoming-port"),
        ({"port": None, "allow": ["::1"]}, "--wyoming-allow needs --wyoming-port"),
    ],
)
def test_invalid_options_name_the_option_to_change(kwargs, hint):
    with pytest.raises(ConfigError) as raised:
        options(**kwargs)
    assert hint in str(raised.value)


def test_the_missing_extra_for_discovery_is_named(monkeypatch):
    monkeypatch.setattr("voxlive.web.protocols.wyoming.listener.find_spec", lambda _name: None)
    with pytest.raises(CannotListen, match=r"voxlive\[discovery\]"):
        options(announce=True)
