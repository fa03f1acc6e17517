"""Creates, lists and revokes the API keys that the gateway asks for.

python -m recipes.keys action=create keys.name=support-desk keys.requests_per_minute=600 keys.tokens_per_minute=100000
python -m recipes.keys action=list
python -m recipes.keys action=revoke keys.id=key-0123456789ab
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from recipes import app
from throughline.contracts.config import StrictModel, parse
from throughline.contracts.errors import ConfigError, GatewayError
from throughline.contracts.gateway import MAX_PRIORITY, KeySettings

if TYPE_CHECKING:
    from throughline.gateway.keys import ApiKey
    from throughline.gateway.store import KeyStore

R = TypeVar("R")
_DAY = 24 * 3600
# Levels of a bucket stay whole numbers that Lua's doubles hold: limits.PARTS times this is below 2^53.
_MOST = 10**9


class KeySpec(StrictModel):
    """One key and where it is kept.

    Attributes:
        store: As `gateway.keys.store` of `recipes.serve`: a SQLite file, or Redis for gateways on several machines.
        name: What it is for.
        tenant: Whose it is; stands in the gateway's log.
        expires_days: Days until it is refused; None for never.
        requests_per_minute: Limit of requests, whatever becomes of them; None for none.
        tokens_per_minute: Limit of prompt and output tokens; None for none.
        concurrent_requests: Limit of generations at a time; None for none.
        priority: Of its requests, lower is served earlier; one that names its own may only be less urgent.
        id: The key to revoke.
    """

    store: str = Field(default="sqlite:///artifacts/keys.sqlite", repr=False)
    name: str = Field(default="", max_length=100)
    tenant: str = Field(default="default", min_length=1, max_length=100)
    expires_days: float | None = Field(default=None, gt=0, le=36_500)
    requests_per_minute: int | None = Field(default=None, ge=1, le=_MOST)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=_MOST)
    concurrent_requests: int | None = Field(default=None, ge=1, le=_MOST)
    priority: int = Field(default=0, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    id: str = ""


class Config(app.RecipeConfig):
    """Settings of `recipes.keys`."""

    action: Literal["create", "list", "revoke"] = "list"
    keys: KeySpec = KeySpec()

    @model_validator(mode="after")
    def _names_its_key(self) -> Self:
        if self.action == "create" and not self.keys.name:
            raise ValueError("action=create needs keys.name=…: what the key is for")
        if self.action == "revoke" and not self.keys.id:
            raise ValueError("action=revoke needs keys.id=…, as action=list shows it")
        return self


def create(store: KeyStore, spec: KeySpec) -> Awaitable[None]:
    """Makes a key and shows it, this once."""
    from throughline.gateway.keys import KeyLimits, new_key

    now = int(time.time())
    limits = KeyLimits(spec.requests_per_minute, spec.tokens_per_minute, spec.concurrent_requests)
    expires = None if spec.expires_days is None else now + int(spec.expires_days * _DAY)
    key, secret = new_key(
        name=spec.name, tenant=spec.tenant, limits=limits, created=now, expires=expires, priority=spec.priority
    )

    async def run() -> None:
        await store.create(key)
        app.echo(f"id       {key.id}  {_limits(key)}, priority {key.priority}")
        app.echo(f"key      {secret.reveal()}")
        app.echo("         Shown this once: the store holds its SHA-256 alone.")

    return run()


async def show(store: KeyStore) -> None:
    """Prints all keys, oldest first."""
    rows = [("id", "name", "tenant", "created", "expires", "state", "priority", "limits")]
    keys = await store.all_keys()
    for key in keys:
        state = (key.refusal(time.time()) or "good").removeprefix("was ").removeprefix("has ")
        expires = "never" if key.expires is None else _date(key.expires)
        cells = (key.id, key.name, key.tenant, _date(key.created), expires, state, str(key.priority), _limits(key))
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows if keys else ():
        app.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not keys:
        app.echo("no keys yet: python -m recipes.keys action=create keys.name=…")


async def revoke(store: KeyStore, key_id: str) -> None:
    """Refuses a key from now on.

    Raises:
        ConfigError: If there is none of this id.
    """
    key = await store.revoke(key_id, int(time.time()))
    if key is None:
        raise ConfigError("no such key", where="keys.id", seen=key_id, fix="python -m recipes.keys action=list")
    app.echo(f"revoked  {key.id}  {key.name} of {key.tenant}; gateways refuse it from the next request on")


def with_store(url: str, step: Callable[[KeyStore], Awaitable[R]]) -> R:
    """Runs a step on an open store.

    Raises:
        ConfigError: If the URL names no store.
        GatewayError: If the store cannot be reached.
    """
    from throughline.gateway.store import StoreError
    from throughline.gateway.stores import make_store

    parse(KeySettings, {"store": url}, where="keys")
    store = make_store(url)

    async def run() -> R:
        await store.open()
        try:
            return await step(store)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except StoreError as error:
        raise GatewayError("the key store cannot be used", where="keys.store", seen=str(error)) from error


def _limits(key: ApiKey) -> str:
    held = key.limits
    parts = (
        (held.requests_per_minute, "requests/min"),
        (held.tokens_per_minute, "tokens/min"),
        (held.concurrent_requests, "at a time"),
    )
    return ", ".join(f"{value} {unit}" for value, unit in parts if value is not None) or "no limits"


def _date(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    steps: dict[str, Callable[[KeyStore], Awaitable[Any]]] = {
        "create": lambda store: create(store, config.keys),
        "list": show,
        "revoke": lambda store: revoke(store, config.keys.id),
    }
    with_store(config.keys.store, steps[config.action])
    if config.action == "create":
        app.echo("next     python -m recipes.serve gateway.keys.store=" + _shown(config.keys.store))


def _shown(url: str) -> str:
    """The store's address without its password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


if __name__ == "__main__":
    main()
