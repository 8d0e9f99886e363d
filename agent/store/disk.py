"""What the store asks of the file system beside SQLite; an argument, so that tests give a small or a failing one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

_CHUNK = 1 << 20


class Disk(Protocol):
    """All sizes in bytes. Every verb raises `OSError`."""

    def free_bytes(self, folder: Path) -> int:
        """What an unprivileged process may still write there."""
        ...

    def make_folder(self, folder: Path) -> None:
        """Create it with mode 0700, and its parents, when it is missing."""
        ...

    def make_file(self, path: Path) -> None:
        """Create it empty with mode 0600 when it is missing; durable, together with its name, on return."""
        ...

    def extend(self, path: Path, size_bytes: int) -> None:
        """Fill the file with written zeros up to that size, synced; longer files stay as they are."""
        ...

    def blank(self, path: Path, offset: int, length: int) -> None:
        """Write zeros over these bytes and sync, as far as the file goes."""
        ...

    def remove(self, path: Path) -> None:
        """Delete it when it is there."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Make the names in it durable: what was created or deleted."""
        ...


class RealDisk:
    """The Linux file system."""

    def free_bytes(self, folder: Path) -> int:
        stat = os.statvfs(folder)
        return stat.f_bavail * stat.f_frsize

    def make_folder(self, folder: Path) -> None:
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.sync_folder(folder.parent)

    def make_file(self, path: Path) -> None:
        if path.exists():
            return
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.sync_folder(path.parent)

    def extend(self, path: Path, size_bytes: int) -> None:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            offset = os.fstat(descriptor).st_size
            if offset >= size_bytes:
                return
            while offset < size_bytes:
                offset += os.pwrite(descriptor, bytes(min(_CHUNK, size_bytes - offset)), offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.sync_folder(path.parent)

    def blank(self, path: Path, offset: int, length: int) -> None:
        if not path.exists():
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            length = min(length, os.fstat(descriptor).st_size - offset)
            if length > 0:
                os.pwrite(descriptor, bytes(length), offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
