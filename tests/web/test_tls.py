"""The self-signed certificate of --https, and the errors of certificates that cannot be used."""

import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from voxlive.web import ports as addresses
from voxlive.web.ports import network_urls
from voxlive.web.tls import (
    Certificate,
    MachineNames,
    TlsError,
    cache_folder,
    local_certificate,
    machine_names,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
LAN = ipaddress.ip_address("192.168.1.7")
HERE = MachineNames(
    frozenset({"localhost", "desk"}), frozenset({ipaddress.ip_address("127.0.0.1"), LAN})
)


def made(folder, names=HERE, now=NOW) -> x509.Certificate:
    local_certificate(names, folder, now).context()
    return x509.load_pem_x509_certificate((folder / "local.crt").read_bytes())


def pem(key, *, password=None) -> bytes:
    locked = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)


def test_the_certificate_names_the_machine_and_is_private(tmp_path):
    certificate = made(tmp_path / "new" / "folder")
    known = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(known.get_values_for_type(x509.DNSName)) == HERE.hosts
    assert set(known.get_values_for_type(x509.IPAddress)) == HERE.addresses
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    # What Apple's systems take at most.
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc <= timedelta(825)
    assert certificate.not_valid_before_utc < NOW
    private = tmp_path / "new" / "folder" / "local.pem"
    assert private.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in private.with_suffix(".crt").read_bytes()
    assert sorted(file.name for file in private.parent.iterdir()) == ["local.crt", "local.pem"]


def test_the_certificate_is_reused_while_it_is_usable(tmp_path):
    first = made(tmp_path)
    assert made(tmp_path, now=NOW + timedelta(400)) == first
    fewer = MachineNames(frozenset({"localhost"}), frozenset())
    assert made(tmp_path, fewer) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda pem: pem.write_bytes(pem.read_bytes()[:300]),
        lambda pem: pem.write_bytes(b""),
        lambda pem: pem.chmod(0o640),
        lambda pem: pem.unlink(),
    ],
)
def test_a_damaged_certificate_is_replaced(tmp_path, change):
    first = made(tmp_path)
    change(tmp_path / "local.pem")
    assert made(tmp_path) != first


def test_new_addresses_or_expiry_replace_the_certificate(tmp_path):
    first = made(tmp_path)
    moved = MachineNames(HERE.hosts, HERE.addresses | {ipaddress.ip_address("10.0.0.2")})
    second = made(tmp_path, moved)
    assert second != first
    assert made(tmp_path, moved, NOW + timedelta(600)) != second


def test_a_read_only_folder_is_a_tls_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TlsError, match="XDG_CACHE_HOME"):
        local_certificate(HERE, tmp_path / "file" / "tls")


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "voxlive" / "tls"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "voxlive" / "tls"


@pytest.mark.parametrize(
    ("called", "hosts"),
    [
        ("desk", {"localhost", "desk", "desk.local"}),
        ("Desk.Home.", {"localhost", "desk.home"}),
        ("der büro pc", {"localhost"}),
        ("a" * 64, {"localhost"}),
    ],
)
def test_machine_names(monkeypatch, called, hosts):
    monkeypatch.setattr(socket, "gethostname", lambda: called)
    assert machine_names().hosts == hosts


def test_machine_names_have_the_bound_address():
    assert ipaddress.ip_address("fd00::1") in machine_names("fd00::1").addresses
    assert ipaddress.ip_address("0.0.0.0") not in machine_names("0.0.0.0").addresses
    assert "captions.example" in machine_names("Captions.example").hosts


def test_network_urls(monkeypatch):
    monkeypatch.setattr(addresses, "lan_addresses", lambda: [LAN])
    with socket.create_server(("127.0.0.1", 0)) as bound:
        assert network_urls(bound, "https") == []
    with socket.create_server(("0.0.0.0", 0)) as bound:
        port = bound.getsockname()[1]
        assert network_urls(bound, "https") == [f"https://192.168.1.7:{port}"]


def test_a_given_certificate_with_or_without_a_key_file(tmp_path):
    made(tmp_path)
    both, chain, key = (tmp_path / name for name in ("local.pem", "local.crt", "key.pem"))
    key.write_bytes(both.read_bytes().partition(b"-----BEGIN CERT")[0])
    for certificate in (Certificate(both), Certificate(chain, key)):
        context = certificate.context()
        assert isinstance(context, ssl.SSLContext)
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
        assert certificate.expired_at(NOW) is None
        assert certificate.expired_at(NOW + timedelta(900)) is not None


def test_an_unusable_certificate_is_a_tls_error_with_the_reason(tmp_path):
    made(tmp_path)
    chain, absent, other = (tmp_path / name for name in ("local.crt", "absent", "other.pem"))
    key = ec.generate_private_key(ec.SECP256R1())

    def why(certificate: Certificate) -> str:
        with pytest.raises(TlsError) as refused:
            certificate.context()
        return str(refused.value)

    assert why(Certificate(absent)) == f"cannot read {absent}: No such file or directory"
    assert "--ssl-keyfile" in why(Certificate(chain))
    other.write_bytes(pem(key))
    assert why(Certificate(chain, other)) == f"the key in {other} is not that of {chain}"
    assert "no certificate" in why(Certificate(other, other))
    other.write_bytes(pem(key, password=b"secret"))
    assert "openssl pkey" in why(Certificate(chain, other))
    other.write_bytes(chain.read_bytes())
    assert "--ssl-keyfile" in why(Certificate(chain, other))
