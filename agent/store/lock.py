"""One agent per state directory: an flock on `agent.lock`, which holds the owner's pid."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agent.store.errors import StoreLocked

NAME = "agent.lock"


class DirectoryLock:
    """Held from construction to `release`; the kernel lets go when the process dies. The file stays: deleting it would
    let two processes lock two files of one name. Raises `StoreLocked`, which names the owner's pid."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise StoreLocked(
                f"{folder} is in use by the process with pid {owner}; stop it first, or ask it through its socket",
                pid=int(owner) if owner.isdigit() else None,
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
