"""The keys recipe as a user runs it: the key is shown once, listed without itself, and revoked by its id."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from recipes import app, serve
from tests.unit.recipes.test_command_line import run
from throughline.contracts.errors import ConfigError

STORE = "keys.store=sqlite:///keys.sqlite"


def test_create_list_revoke(tmp_path: Path) -> None:
    limits = ("keys.requests_per_minute=60", "keys.tokens_per_minute=1000", "keys.concurrent_requests=4")
    named = ("keys.name=desk", "keys.expires_days=30", "keys.priority=-5")
    made = run(tmp_path, "recipes.keys", "action=create", STORE, *named, *limits)
    assert made.returncode == 0, made.stderr
    secret = re.search(r"key +(tl-[\w-]{43})\n", made.stdout)
    key_id = re.search(r"id +(key-[0-9a-f]{12}) ", made.stdout)
    assert secret and key_id
    assert "60 requests/min, 1000 tokens/min, 4 at a time, priority -5" in made.stdout
    assert "python -m recipes.serve gateway.keys.store=sqlite:///keys.sqlite" in made.stdout
    # In no file of the folder: not the store, not a log.
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if secret[1].encode() in path.read_bytes()] == []

    listed = run(tmp_path, "recipes.keys", STORE)
    assert key_id[1] in listed.stdout and "desk" in listed.stdout
    assert re.search(r"state +priority +limits\n.* good +-5 +60 requests/min", listed.stdout)
    assert secret[1] not in listed.stdout

    revoked = run(tmp_path, "recipes.keys", "action=revoke", STORE, f"keys.id={key_id[1]}")
    assert revoked.returncode == 0, revoked.stderr
    assert sqlite3.connect(tmp_path / "keys.sqlite").execute("SELECT revoked > 0 FROM keys").fetchall() == [(1,)]
    assert "revoked" in run(tmp_path, "recipes.keys", STORE).stdout

    unknown = run(tmp_path, "recipes.keys", "action=revoke", STORE, "keys.id=key-none")
    assert unknown.returncode == 2
    assert "no such key — keys.id — seen: key-none" in unknown.stderr


def test_a_store_that_is_away(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    done = run(tmp_path, "recipes.keys", "keys.store=redis://user:hunter2@127.0.0.1:9/0")
    assert done.returncode == 2
    assert "127.0.0.1:9" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_an_open_gateway_beyond_loopback_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="anyone who reaches"):
        app.to_schema(app.compose("serve", ["gateway.host=0.0.0.0"]), serve.Config)
    keys = ["gateway.host=0.0.0.0", "gateway.keys.store=sqlite:///keys.sqlite"]
    for allowed in (keys, ["gateway.host=0.0.0.0", "gateway.allow_open=true"]):
        assert app.to_schema(app.compose("serve", allowed), serve.Config).gateway.host == "0.0.0.0"
