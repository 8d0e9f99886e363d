"""A VFS that writes down what the store asks of the disk, and one that fails on order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path
from typing import Any

import apsw


@unique
class Kind(Enum):
    WRITE = "write"
    TRUNCATE = "truncate"
    SYNC = "sync"
    FAILED_SYNC = "failed sync"
    DELETE = "delete"
    ACK = "ack"


@dataclass(frozen=True, slots=True)
class Op:
    """`at`: offset of a write, new length of a truncation. A SYNC without a file is of the folder: of names only. An
    ACK holds the ids of the rows that a caller was told of."""

    kind: Kind
    file: str = ""
    at: int = 0
    data: bytes = b""
    ids: tuple[bytes, ...] = ()


class RecordingVfs(apsw.VFS):
    """Passes everything on to the system's VFS and keeps the log of it. `fail_sync` makes the next sync of the log's
    file fail."""

    def __init__(self, name: str) -> None:
        self.log: list[Op] = []
        self.fail_sync = False
        self.name = name
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:
        return _RecordingFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self.log.append(Op(Kind.DELETE, Path(filename).name))
        if syncdir:
            self.log.append(Op(Kind.SYNC))


class _RecordingFile(apsw.VFSFile):
    def __init__(self, vfs: RecordingVfs, name: Any, flags: Any) -> None:
        self._vfs = vfs
        self._log = vfs.log
        self._file = Path(name.filename() if isinstance(name, apsw.URIFilename) else str(name)).name
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._log.append(Op(Kind.WRITE, self._file, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._log.append(Op(Kind.TRUNCATE, self._file, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        if self._vfs.fail_sync and self._file.endswith("-wal"):
            self._vfs.fail_sync = False
            self._log.append(Op(Kind.FAILED_SYNC, self._file))
            raise apsw.IOError("the disk said no")
        super().xSync(flags)
        self._log.append(Op(Kind.SYNC, self._file))


class FailingVfs(apsw.VFS):
    """Counts writes and syncs; `order(kind, file)` says which exception, if any, the next one meets instead."""

    def __init__(self, name: str) -> None:
        self.order: Callable[[Kind, str], type[apsw.Error] | None] = lambda _kind, _file: None
        self.name = name
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:
        return _FailingFile(self, name, flags)

    def check(self, kind: Kind, file: str) -> None:
        error = self.order(kind, file)
        if error is not None:
            raise error(f"ordered at {kind.value} of {file}")


class _FailingFile(apsw.VFSFile):
    def __init__(self, vfs: FailingVfs, name: Any, flags: Any) -> None:
        self._vfs = vfs
        self._file = Path(name.filename() if isinstance(name, apsw.URIFilename) else str(name)).name
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._vfs.check(Kind.WRITE, self._file)
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._vfs.check(Kind.TRUNCATE, self._file)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._vfs.check(Kind.SYNC, self._file)
        super().xSync(flags)
