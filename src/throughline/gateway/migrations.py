"""The tables of the SQLite store, and how a file that an older version made gets those of today.

The file's `user_version` counts the steps that it has taken. Files of before it was kept have 0 and the first step's
tables, which that step leaves as they are.
"""

from __future__ import annotations

import sqlite3

from throughline.gateway.store import StoreError

_STEPS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE IF NOT EXISTS keys (
            id TEXT PRIMARY KEY, digest BLOB NOT NULL UNIQUE, name TEXT NOT NULL, tenant TEXT NOT NULL,
            requests INTEGER, tokens INTEGER, concurrent INTEGER,
            created INTEGER NOT NULL, expires INTEGER, revoked INTEGER
        ) STRICT
        """,
        """
        CREATE TABLE IF NOT EXISTS buckets (
            key TEXT NOT NULL, kind TEXT NOT NULL, level INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (key, kind)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE IF NOT EXISTS leases (
            key TEXT NOT NULL, id TEXT NOT NULL, ends INTEGER NOT NULL, PRIMARY KEY (key, id)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE IF NOT EXISTS answers (
            key TEXT NOT NULL, name TEXT NOT NULL, fingerprint BLOB NOT NULL, owner TEXT NOT NULL,
            ends INTEGER NOT NULL, answer BLOB, PRIMARY KEY (key, name)
        ) STRICT
        """,
        "CREATE INDEX IF NOT EXISTS answers_by_end ON answers (ends)",
    ),
    ("ALTER TABLE keys ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",),
)


def migrate(db: sqlite3.Connection) -> None:
    """Takes the steps that a file has not taken yet, all or none; gateways that open it at once wait for each other.

    A gateway of an older version that still has the file open goes on with it.

    Raises:
        StoreError: If a newer version made the file.
        sqlite3.Error: If SQLite fails.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        (taken,) = db.execute("PRAGMA user_version").fetchone()
        if taken > len(_STEPS):
            raise StoreError(
                f"the key store was made by a newer version of Throughline (schema {taken}, known: {len(_STEPS)})"
            )
        for step in _STEPS[taken:]:
            for statement in step:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(_STEPS)}")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
