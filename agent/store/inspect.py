"""Looking at the file without the right to write, from a process of its own, beside a running agent or without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from agent.domain.errors import StoreError
from agent.store.connection import FILE_NAME, connect_reader
from agent.store.errors import DISK_ERRORS, StorageFailed
from agent.store.migrate import migrations, refuse_newer, schema_version


class NoJournal(StoreError):
    """There is no state file in the directory."""

    code = "no_journal"
    http_status = 404
    retryable = False


@contextmanager
def inspecting(folder: Path, *, vfs: str | None = None) -> Iterator[apsw.Connection]:
    """A read-only connection to the file in `folder`. Raises `NoJournal`, `SchemaTooNew`, `StorageFailed`."""
    path = folder / FILE_NAME
    if not path.exists():
        raise NoJournal(f"there is no journal in {folder}")
    try:
        connection = connect_reader(path, vfs=vfs)
    except DISK_ERRORS as error:
        raise StorageFailed(f"{path} cannot be opened: {error}") from error
    try:
        refuse_newer(connection, migrations())
        if schema_version(connection) == 0:
            raise NoJournal(f"{path} holds no journal yet")
        yield connection
    except DISK_ERRORS as error:
        raise StorageFailed(f"{path} cannot be read: {error}") from error
    finally:
        connection.close()
