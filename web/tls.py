"""TLS: a certificate's files, read and checked before anything slow is done."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from cryptography import x509


class TlsError(Exception):
    """A certificate or its key cannot be used; the message says why and what to do."""


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
