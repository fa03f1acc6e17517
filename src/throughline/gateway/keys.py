"""API keys: what a client sends, what is kept of it, and what a key may use."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

PREFIX = "tl-"
_RANDOM_BYTES = 32
_LONGEST = 128


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may use; None is without limit.

    Attributes:
        requests_per_minute: Requests, whatever becomes of them.
        tokens_per_minute: Prompt and output tokens.
        concurrent_requests: Generations that run at a time.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is stored of a key.

    Attributes:
        id: Its public name, for lists, logs and revocation.
        digest: SHA-256 of the key itself, as `digest` makes it.
        name: What it is for.
        tenant: Whose it is.
        limits: See `KeyLimits`.
        created: Unix seconds.
        expires: Unix seconds from which on it is refused; None for never.
        revoked: Unix seconds since when it is refused; None while it is good.
        priority: Of its requests in the engines' queues; lower is served earlier.
    """

    id: str
    digest: bytes = field(repr=False)
    name: str
    tenant: str
    limits: KeyLimits
    created: int
    expires: int | None = None
    revoked: int | None = None
    priority: int = 0

    def refusal(self, now: float) -> str:
        """Why the key is no longer good at `now` (Unix seconds), as a clause; empty while it is."""
        if self.revoked is not None:
            return "was revoked"
        return "has expired" if self.expires is not None and now >= self.expires else ""

    def is_of(self, digest: bytes) -> bool:
        """Whether it is the key with this digest, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(self.digest, digest)

    def priority_of(self, wanted: int | None) -> int:
        """The priority of a request that wants one, or none in particular; never more urgent than the key's own."""
        return self.priority if wanted is None else max(wanted, self.priority)


class Secret:
    """A new key itself, to be shown once; its `repr` and `str` do not show it."""

    __slots__ = ("_text",)

    def __init__(self) -> None:
        self._text = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)

    def reveal(self) -> str:
        """The key, for its owner's eyes."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({PREFIX}…)"


def new_key(
    *, name: str, tenant: str, limits: KeyLimits, created: int, expires: int | None = None, priority: int = 0
) -> tuple[ApiKey, Secret]:
    """Makes a key of 32 random bytes; only the first of the two results may be stored."""
    secret = Secret()
    key_id = f"key-{secrets.token_hex(6)}"
    made = digest(secret.reveal())
    return ApiKey(key_id, made, name, tenant, limits, created, expires, priority=priority), secret


def digest(text: str) -> bytes:
    """SHA-256 of a key.

    Slow, salted hashes (bcrypt, Argon2) make guessing passwords dear. A key of 256 random bits cannot be guessed at
    any speed, so that they would only make every request dear.
    """
    return hashlib.sha256(text.encode()).digest()


def bearer_digest(header: bytes) -> bytes | None:
    """Digest of the key in an `Authorization` header; None where it holds none of ours."""
    scheme, _, token = header.partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token.startswith(PREFIX.encode()) or len(token) > _LONGEST:
        return None
    return hashlib.sha256(token).digest()
