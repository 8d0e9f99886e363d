"""Numbered migrations, `migrations/NNNN_name.sql`. Each is one transaction that also raises `user_version`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import apsw

from agent.domain.errors import StoreError
from agent.store.connection import APPLICATION_ID, query
from agent.store.errors import SchemaTooNew

FOLDER = Path(__file__).parent / "migrations"
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


def migrations(folder: Path = FOLDER) -> Mapping[int, str]:
    """SQL by number. Raises `StoreError` unless the numbers run 1, 2, 3, …"""
    found: dict[int, str] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        number = int(match[1]) if match else 0
        if number != len(found) + 1:
            raise StoreError(f"migration {path.name} is not number {len(found) + 1:04d}")
        found[number] = path.read_text(encoding="utf-8")
    return found


def schema_version(connection: apsw.Connection) -> int:
    return int(connection.pragma("user_version"))


def refuse_newer(connection: apsw.Connection, known: Mapping[int, str]) -> None:
    """Raises `SchemaTooNew` for a file that a newer release has touched."""
    version, newest = schema_version(connection), max(known, default=0)
    if version > newest:
        raise SchemaTooNew(
            f"the state file has schema {version}, this release knows schemas up to {newest}; "
            f"install the newer release again, or restore a snapshot taken before the update",
            file_version=version,
            known_version=newest,
        )


def migrate(connection: apsw.Connection, known: Mapping[int, str]) -> int:
    """Bring the file to the newest schema; returns how many migrations ran. Killed in between, it goes on next time."""
    refuse_newer(connection, known)
    start = schema_version(connection)
    for number in range(start + 1, max(known, default=0) + 1):
        script = (
            f"BEGIN IMMEDIATE; {known[number]}\n;"
            f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={number}; COMMIT;"
        )
        try:
            query(connection, script)
        except BaseException:
            if connection.in_transaction:
                query(connection, "ROLLBACK")
            raise
    return max(known, default=0) - start
