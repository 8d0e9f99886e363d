"""What the store's verbs raise, and which SQLite errors mean that the file or its disk cannot be trusted."""

from __future__ import annotations

import apsw

from agent.domain.errors import StoreError


class StorageFailed(StoreError):
    """A write or a sync failed: nothing that waited was acknowledged, and none of it may be assumed written or lost."""

    code = "storage_failed"


class StoreClosed(StoreError):
    code = "store_closed"


class StoreLocked(StoreError):
    """Another process holds this state directory."""

    code = "store_locked"


class SchemaTooNew(StoreError):
    """The file was written by a newer release."""

    code = "store_schema_too_new"
    retryable = False


class JournalDamaged(StoreError):
    """The journal's rows do not continue their chain; `details` name the first bad seq and the reason."""

    code = "journal_damaged"
    retryable = False


DISK_ERRORS: tuple[type[apsw.Error], ...] = (
    apsw.IOError,
    apsw.FullError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.CantOpenError,
    apsw.NoMemError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.ProtocolError,
    apsw.BusyError,
    apsw.InternalError,
)
"""Errors that say nothing about the statement and everything about the file. After one of them SQLite may have rolled
the whole transaction back by itself; none of it is acknowledged."""
