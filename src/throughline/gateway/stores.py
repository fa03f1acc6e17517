"""From a `KeySettings.store` to the store that it names."""

from __future__ import annotations

from throughline.gateway.store import KeyStore


def make_store(url: str) -> KeyStore:
    """The store that a `KeySettings.store` names; connects when it is opened."""
    if url.startswith("sqlite:///"):
        from throughline.gateway.store_sqlite import SqliteStore

        return SqliteStore(url.removeprefix("sqlite:///"))
    from throughline.gateway.store_redis import RedisStore

    return RedisStore(url)
