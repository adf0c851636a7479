"""Voice profiles of a server: who has agreed to be known again, sealed in its store.

``VOXLIVE_PROFILES_KEY`` is what they are sealed with: 32 random bytes as base64. Without it the
server remembers no voice. A profile is of the key that asked for it, and of one name: whoever is
remembered again by that name takes its place. Names and voices are sealed together (AES-256 in GCM,
with the profile's id and its owner authenticated), so that the store, and a copy of it, say no more
than when a profile was made and for which key.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Self

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from voxlive.errors import RequestRefused
from voxlive.speakers.profiles import VoiceProfile
from voxlive.store.contract import Owners, ProfileStore, StoredProfile
from voxlive.values import Samples
from voxlive.web.access.middleware import AuditLog, require_grant
from voxlive.web.config import ConfigError

log = logging.getLogger(__name__)

VARIABLE = "VOXLIVE_PROFILES_KEY"
NO_PROFILES = f"this server remembers no voices: it needs a store, and {VARIABLE}"
_KEY_BYTES, _NONCE_BYTES, _ID_CHARS = 32, 12, 16
_HEADERS = {"cache-control": "no-store"}


class ProfileSeal:
    """What profiles are sealed with: two keys from one secret of 32 bytes, by HKDF (RFC 5869)."""

    def __init__(self, secret: bytes) -> None:
        # Imported here: cryptography takes a while, and most servers remember no voices.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(_derived(secret, b"voxlive voice profiles: contents"))
        self._idents = _derived(secret, b"voxlive voice profiles: ids")

    def seal(self, owner: str, name: str, vector: Samples) -> StoredProfile:
        """The profile of a voice, float32 [width] of length 1, for the store."""
        whose = f"{owner}\0{name}".encode()
        ident = hmac.new(self._idents, whose, hashlib.sha256).hexdigest()[:_ID_CHARS]
        content = json.dumps([name, base64.b64encode(vector.astype("<f4").tobytes()).decode()])
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, content.encode(), _about(ident, owner))
        return StoredProfile(ident, owner, datetime.now(UTC), base64.b64encode(sealed).decode())

    def open(self, stored: StoredProfile) -> VoiceProfile | None:
        """What was sealed; None where that was with another key, or it was changed since."""
        from cryptography.exceptions import InvalidTag

        sealed = base64.b64decode(stored.sealed)
        nonce, content = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            opened = self._cipher.decrypt(nonce, content, _about(stored.id, stored.owner))
        except InvalidTag:
            return None
        name, vector = json.loads(opened)
        return VoiceProfile(stored.id, name, np.frombuffer(base64.b64decode(vector), "<f4"))


def _derived(secret: bytes, what: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), _KEY_BYTES, None, what).derive(secret)


def _about(ident: str, owner: str) -> bytes:
    """What is authenticated with a profile, so that none is taken for another one."""
    return f"{ident}\0{owner}".encode()


class VoiceProfiles:
    """The profiles of a store. Every method raises StoreError."""

    def __init__(self, store: ProfileStore, seal: ProfileSeal) -> None:
        self._store = store
        self._seal = seal

    @classmethod
    def of(cls, store: ProfileStore, environment: Mapping[str, str]) -> Self | None:
        """Those of a server; None where its environment has no key. Raises ConfigError."""
        given = environment.get(VARIABLE, "")
        if not given:
            return None
        try:
            secret = base64.b64decode(given, validate=True)
        except ValueError:
            secret = b""
        if len(secret) != _KEY_BYTES:
            message = f"{VARIABLE} must be {_KEY_BYTES} random bytes as base64"
            raise ConfigError(f"{message}: openssl rand -base64 {_KEY_BYTES}")
        return cls(store, ProfileSeal(secret))

    async def known(self, owner: str) -> tuple[VoiceProfile, ...]:
        """Those of a key, that can be opened."""
        stored = await asyncio.to_thread(self._store.profiles, frozenset({owner}))
        return tuple(filter(None, map(self._seal.open, stored)))

    async def remember(self, owner: str, name: str, vector: Samples) -> str:
        """Keep a voice, float32 [width] of length 1, by a name; returns the profile's id."""
        profile = self._seal.seal(owner, name, vector)
        await asyncio.to_thread(self._store.keep_profile, profile)
        log.info("voice profile %s is remembered for key %s", profile.id, owner)
        return profile.id

    def listed(self, owners: Owners) -> list[dict[str, object]]:
        """Those of some keys, as JSON has them. Blocks."""
        return [
            {
                "id": one.id,
                "owner": one.owner,
                "name": opened and opened.name,
                "made_at": one.made_at.isoformat().replace("+00:00", "Z"),
            }
            for one in self._store.profiles(owners)
            for opened in (self._seal.open(one),)
        ]

    def forget(self, profile: str, owners: Owners) -> bool:
        """Delete one; whether there was one. Blocks."""
        return self._store.delete_profile(profile, owners)


class ProfileEndpoints:
    """``/v1/voice-profiles``: the remembered voices of a key, to see and to delete."""

    def __init__(self, profiles: VoiceProfiles | None, audit: AuditLog) -> None:
        self._profiles = profiles
        self._audit = audit

    async def index(self, request: Request) -> JSONResponse:
        """``GET /v1/voice-profiles``: the name is null where another key sealed it."""
        profiles, grant = self._open(), require_grant(request)
        found = await asyncio.to_thread(profiles.listed, grant.readable)
        return JSONResponse({"profiles": found}, headers=_HEADERS)

    async def delete(self, request: Request) -> Response:
        """``DELETE /v1/voice-profiles/{profile}``: 204 once nothing of it is left."""
        profiles, grant = self._open(), require_grant(request)
        ident = request.path_params["profile"][:64]
        async with self._audit.recorded(request, "forget", begun=True, profile=ident):
            if not await asyncio.to_thread(profiles.forget, ident, grant.changeable):
                raise RequestRefused("no_such_profile", "this key has no such voice profile", "id")
        return Response(status_code=204, headers=_HEADERS)

    def _open(self) -> VoiceProfiles:
        if self._profiles is None:
            raise RequestRefused("no_profiles", NO_PROFILES)
        return self._profiles
