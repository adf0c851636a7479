"""Where clients put their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_SCHEMES = ("bearer", "token")
_OPENAI = "openai-insecure-api-key."


@dataclass(frozen=True, slots=True)
class Credentials:
    """``labels`` are the sub-protocols that were offered, without those that carry a key."""

    secret: str | None = field(repr=False)
    labels: tuple[str, ...] = ()


def find(
    headers: Mapping[str, str],
    offered: Sequence[str] = (),
    params: Mapping[str, str] | None = None,
    *,
    extra_headers: Sequence[str] = (),
    key_params: Sequence[str] = (),
) -> Credentials:
    """The key in a header, in the sub-protocols or, where the protocol has it so, in the query.

    Names of ``headers`` are in lower case.
    """
    offer = _of_subprotocols(offered)
    scheme, _, value = headers.get("authorization", "").partition(" ")
    named = value.strip() if scheme.lower() in _SCHEMES else ""
    candidates = (
        named,
        *(headers.get(name, "").strip() for name in ("x-api-key", *extra_headers)),
        offer.secret,
        *((params or {}).get(name, "") for name in key_params),
    )
    return Credentials(next(filter(None, candidates), None), offer.labels)


def _of_subprotocols(offered: Sequence[str]) -> Credentials:
    """``token, KEY`` and ``bearer, KEY`` as Deepgram has it, or OpenAI's prefix before the key."""
    if len(offered) > 1 and offered[0].lower() in _SCHEMES:
        return Credentials(offered[1], (offered[0], *offered[2:]))
    labels = tuple(name for name in offered if not name.startswith(_OPENAI))
    keys = [name.removeprefix(_OPENAI) for name in offered if name.startswith(_OPENAI)]
    return Credentials(keys[0] if keys else None, labels)
