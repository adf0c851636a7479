"""TLS: a certificate's files, read and checked before anything slow is done.

``--https``: a certificate of this machine's own, for phones and others in the same network.

It is self-signed, names this machine and its addresses, may sign nothing else, and is kept, so that
a browser that was told to trust it does so at the next start too.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from voxlive.errors import CodedError
from voxlive.web.ports import lan_addresses

if TYPE_CHECKING:
    from collections.abc import Callable

    from voxlive.web.config import ServeConfig


class TlsError(CodedError):
    """A certificate or its key cannot be used; the message says why and what to do."""

    code = "tls_failed"


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the certificate with its chain, and the key if that is a file of its own."""

    chain: Path
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """For a server: TLS 1.2 and newer, with Python's choice of ciphers. Raises TlsError."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        for file in filter(None, (self.chain, self.key)):
            _readable(file)
        key = self.key or self.chain
        try:
            context.load_cert_chain(self.chain, key, password=lambda: _locked(key))
        except ssl.SSLError as error:
            raise TlsError(self._why(error)) from error
        return context

    def expired(self, now: datetime | None = None) -> datetime | None:
        """Since when it has not been valid any more; None while it is. For a usable one."""
        until = x509.load_pem_x509_certificate(self.chain.read_bytes()).not_valid_after_utc
        return until if until < (now or datetime.now(UTC)) else None

    def _why(self, error: ssl.SSLError) -> str:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"the key in {self.key or self.chain} is not that of {self.chain}"
        if b"-----BEGIN CERTIFICATE-----" not in self.chain.read_bytes():
            return f"{self.chain} holds no certificate in PEM form"
        if b"PRIVATE KEY-----" not in (self.key or self.chain).read_bytes():
            where = f"{self.key} holds no key" if self.key else f"{self.chain} holds no key too"
            return f"{where}: name the key's PEM file with --ssl-keyfile"
        return f"{self.chain} cannot be used: {error.reason or error}"


def _readable(file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise TlsError(f"cannot read {file}: {error.strerror}") from error


def _locked(key: Path) -> NoReturn:
    raise TlsError(
        f"{key} is locked with a passphrase; unlock a copy with `openssl pkey -in {key.name}`"
    )


Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Apple's systems take no longer ones; a server may run for a year before it is stale.
_LASTS = timedelta(days=825)
_FRESH = timedelta(days=365)
_SKEW = timedelta(days=1)
_LOOPBACK: tuple[Address, ...] = (
    ipaddress.IPv4Address("127.0.0.1"),
    ipaddress.IPv6Address("::1"),
)


@dataclass(frozen=True, slots=True)
class Names:
    """Under which names and addresses a machine is reached."""

    hosts: frozenset[str]
    addresses: frozenset[Address]


def this_machine(host: str = "") -> Names:
    """The names of this machine, and ``host``, a name or an address that the server is given."""
    called = socket.gethostname().rstrip(".").lower()
    hosts = {"localhost", called, called if "." in called else f"{called}.local"}
    addresses: set[Address] = {*_LOOPBACK, *lan_addresses()}
    try:
        given = ipaddress.ip_address(host.partition("%")[0])
        addresses |= set() if given.is_unspecified else {given}
    except ValueError:
        hosts.add(host.lower())
    return Names(frozenset(filter(_is_dns_name, hosts)), frozenset(addresses))


def cache_folder() -> Path:
    """Where it is kept: the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "voxlive" / "tls"


def local_certificate(names: Names, folder: Path, now: datetime | None = None) -> Certificate:
    """The one that is kept, or a new one if that runs out or lacks a name. Raises TlsError.

    ``local.pem`` holds the key too and is for its owner alone; ``local.crt`` is to be handed out.
    """
    now = now or datetime.now(UTC)
    certificate = Certificate(folder / "local.pem")
    try:
        if not _serves(certificate, names, now):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            public, private = _make(names, now)
            _write(certificate.chain, private + public, 0o600)
            _write(folder / "local.crt", public, 0o644)
    except OSError as error:
        raise TlsError(
            f"cannot keep a certificate in {folder}: {error.strerror}; "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return certificate


def server_context(
    config: ServeConfig, say: Callable[[str], object], warn: Callable[[str], object]
) -> ssl.SSLContext | None:
    """What to serve https with, None for http. Raises TlsError if it cannot be had.

    ``say`` is called with where a certificate lies that was made here.
    """
    if config.ssl_certfile:
        certificate = Certificate(config.ssl_certfile, config.ssl_keyfile)
        context = certificate.context()
        if ended := certificate.expired():
            warn(f"{config.ssl_certfile} was valid until {ended:%Y-%m-%d}")
        return context
    if not config.https:
        return None
    folder = cache_folder()
    context = local_certificate(this_machine(config.host), folder).context()
    say(f"browsers will ask whether to trust {folder / 'local.crt'}, made here")
    return context


def _serves(certificate: Certificate, names: Names, now: datetime) -> bool:
    """Whether it is whole, kept well, fresh enough, and good for all names."""
    try:
        if certificate.chain.stat().st_mode & 0o077:
            return False
        certificate.context()
        made = x509.load_pem_x509_certificate(certificate.chain.read_bytes())
        known = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (FileNotFoundError, TlsError, ValueError, x509.ExtensionNotFound):
        return False
    return (
        made.not_valid_before_utc <= now <= made.not_valid_after_utc - _FRESH
        and names.hosts <= set(known.get_values_for_type(x509.DNSName))
        and names.addresses <= set(known.get_values_for_type(x509.IPAddress))
    )


def _make(names: Names, now: datetime) -> tuple[bytes, bytes]:
    """A certificate and its key, in PEM form."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "voxlive, self-signed")])
    known: list[x509.GeneralName] = [x509.DNSName(host) for host in sorted(names.hosts)]
    known += [x509.IPAddress(address) for address in sorted(names.addresses, key=str)]
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now - _SKEW + _LASTS)
        .add_extension(x509.SubjectAlternativeName(known), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.public_bytes(Encoding.PEM), private


def _write(path: Path, content: bytes, mode: int) -> None:
    """In one go, so that two servers that start together both find it whole."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    temporary = Path(file.name)
    temporary.chmod(mode)
    temporary.replace(path)


def _is_dns_name(host: str) -> bool:
    labels = host.split(".")
    return (
        len(host) <= 253
        and all(
            0 < len(label) <= 63 and label.replace("-", "a").replace("_", "a").isalnum()
            for label in labels
        )
        and host.isascii()
    )
