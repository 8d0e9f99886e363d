"""A consistent copy of the file, taken beside a working writer with SQLite's backup interface."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import apsw

from agent.store.connection import query
from agent.store.errors import DISK_ERRORS, StorageFailed
from agent.store.reader import SqlReader


def copy_to(reader: SqlReader, target: Path) -> tuple[UUID, int, bytes]:
    """Copy what `reader` sees to `target` (made with mode 0600, must not exist); one file, no log beside it.

    Returns the journal id and head of the copy. Raises `StorageFailed` and leaves no file behind when it cannot.
    """
    seq, hash_ = reader.head()  # fixes the moment: the copy is of this read transaction
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        copy = apsw.Connection(str(target))
        try:
            with copy.backup("main", reader.connection, "main") as backup:
                backup.step(-1)
            query(copy, "PRAGMA journal_mode=DELETE")
        finally:
            copy.close()
    except DISK_ERRORS as error:
        target.unlink(missing_ok=True)
        raise StorageFailed(f"no snapshot could be made: {error}") from error
    return reader.journal_id(), seq, hash_
