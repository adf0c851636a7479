"""TLS: a certificate from files, or a self-signed one for phones and others in the same network.

Files are read and checked before anything slow is done. The self-signed certificate (``--https``)
names this machine and its addresses, may sign no other, and is kept in the user's cache folder, so
that a browser that trusts it does so after a restart too.
"""

from __future__ import annotations

import ipaddress
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
from voxlive.processes.process import user_cache
from voxlive.web.ports import lan_addresses

if TYPE_CHECKING:
    from collections.abc import Callable

    from voxlive.web.config import ServeConfig


Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Apple's systems accept no longer ones; a server may run for a year before it expires.
_VALIDITY = timedelta(days=825)
_MIN_REMAINING = timedelta(days=365)
_CLOCK_SKEW = timedelta(days=1)
_LOOPBACK: tuple[Address, ...] = (
    ipaddress.IPv4Address("127.0.0.1"),
    ipaddress.IPv6Address("::1"),
)


class TlsError(CodedError):
    """A certificate or its key cannot be used. The message says why and what to do."""

    code = "tls_failed"


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the certificate with its chain, and the key if that is a file of its own."""

    chain: Path
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """A server's context: TLS 1.2 or newer, with Python's default ciphers. Raises TlsError."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # whatever the system's default is
        for file in filter(None, (self.chain, self.key)):
            _check_readable(file)
        key = self.key or self.chain
        try:
            context.load_cert_chain(self.chain, key, password=lambda: _refuse_passphrase(key))
        except ssl.SSLError as error:
            raise TlsError(self._reason(error)) from error
        return context

    def expired_at(self, now: datetime | None = None) -> datetime | None:
        """When it has expired; None if it has not. For a certificate that can be used."""
        until = x509.load_pem_x509_certificate(self.chain.read_bytes()).not_valid_after_utc
        return until if until < (now or datetime.now(UTC)) else None

    def _reason(self, error: ssl.SSLError) -> str:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"the key in {self.key or self.chain} is not that of {self.chain}"
        if b"-----BEGIN CERTIFICATE-----" not in self.chain.read_bytes():
            return f"{self.chain} holds no certificate in PEM form"
        if b"PRIVATE KEY-----" not in (self.key or self.chain).read_bytes():
            where = f"{self.key} holds no key" if self.key else f"{self.chain} holds no key too"
            return f"{where}: name the key's PEM file with --ssl-keyfile"
        return f"{self.chain} cannot be used: {error.reason or error}"


def _check_readable(file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        raise TlsError(f"cannot read {file}: {error.strerror}") from error


def _refuse_passphrase(key: Path) -> NoReturn:
    raise TlsError(
        f"{key} is locked with a passphrase; unlock a copy with `openssl pkey -in {key.name}`"
    )


@dataclass(frozen=True, slots=True)
class MachineNames:
    """The host names and addresses by which a machine is reached."""

    hosts: frozenset[str]
    addresses: frozenset[Address]


def machine_names(host: str = "") -> MachineNames:
    """The names of this machine, with the name or address that the server listens on."""
    hostname = socket.gethostname().rstrip(".").lower()
    hosts = {"localhost", hostname, hostname if "." in hostname else f"{hostname}.local"}
    addresses: set[Address] = {*_LOOPBACK, *lan_addresses()}
    try:
        given = ipaddress.ip_address(host.partition("%")[0])
        addresses |= set() if given.is_unspecified else {given}
    except ValueError:
        hosts.add(host.lower())
    return MachineNames(frozenset(filter(_is_dns_name, hosts)), frozenset(addresses))


def cache_folder() -> Path:
    """Where the self-signed certificate is kept, in the user's cache folder."""
    return user_cache("tls")


def local_certificate(
    names: MachineNames, folder: Path, now: datetime | None = None
) -> Certificate:
    """The self-signed certificate in ``folder``; a new one if it expires soon or lacks a name.

    ``local.pem`` holds the key too and only its owner may read it; ``local.crt`` is the certificate
    alone, to be given to clients. Raises TlsError.
    """
    now = now or datetime.now(UTC)
    certificate = Certificate(folder / "local.pem")
    try:
        if not _is_usable(certificate, names, now):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            public, private = _generate(names, now)
            _write_atomically(certificate.chain, private + public, 0o600)
            _write_atomically(folder / "local.crt", public, 0o644)
    except OSError as error:
        raise TlsError(
            f"cannot keep a certificate in {folder}: {error.strerror}; "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return certificate


def server_context(
    config: ServeConfig, on_info: Callable[[str], object], on_warning: Callable[[str], object]
) -> ssl.SSLContext:
    """The context of a server with https. Raises TlsError.

    ``on_info`` is called with the path of a self-signed certificate, ``on_warning`` with that an
    expired one is used.
    """
    if config.ssl_certfile:
        certificate = Certificate(config.ssl_certfile, config.ssl_keyfile)
        context = certificate.context()
        if expired_at := certificate.expired_at():
            on_warning(f"{config.ssl_certfile} was valid until {expired_at:%Y-%m-%d}")
        return context
    folder = cache_folder()
    context = local_certificate(machine_names(config.host), folder).context()
    on_info(f"browsers will ask whether to trust {folder / 'local.crt'}, made here")
    return context


def _is_usable(certificate: Certificate, names: MachineNames, now: datetime) -> bool:
    """Whether it is readable by its owner alone, valid for long enough, and has all names."""
    try:
        if certificate.chain.stat().st_mode & 0o077:
            return False
        certificate.context()
        made = x509.load_pem_x509_certificate(certificate.chain.read_bytes())
        known = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (FileNotFoundError, TlsError, ValueError, x509.ExtensionNotFound):
        return False
    return (
        made.not_valid_before_utc <= now <= made.not_valid_after_utc - _MIN_REMAINING
        and names.hosts <= set(known.get_values_for_type(x509.DNSName))
        and names.addresses <= set(known.get_values_for_type(x509.IPAddress))
    )


def _generate(names: MachineNames, now: datetime) -> tuple[bytes, bytes]:
    """A certificate and its key, in PEM form."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "voxlive, self-signed")])
    known: list[x509.GeneralName] = [x509.DNSName(host) for host in sorted(names.hosts)]
    known += [x509.IPAddress(address) for address in sorted(names.addresses, key=str)]
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now - _CLOCK_SKEW + _VALIDITY)
        .add_extension(x509.SubjectAlternativeName(known), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.public_bytes(Encoding.PEM), private


def _write_atomically(path: Path, content: bytes, mode: int) -> None:
    """Replace a file atomically: of two servers that start together both find it whole."""
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
