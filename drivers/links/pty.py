"""Pseudo-terminals: the device's end of a line for simulators, with a stable name if wanted."""

from __future__ import annotations

import os
import tty
from pathlib import Path

from agent.domain.errors import TransportError
from drivers.links.fd import FdLink


class PtyLink(FdLink):
    """The device's end. `port` is the path the host opens: `path` as given (a symlink), else `/dev/pts/N`.

    The host's end stays open here too, so that the host may close and reopen without an end of file on this side.
    """

    def __init__(self, master: int, slave: int, port: str, symlink: Path | None) -> None:
        super().__init__(master, f"pty {port}")
        self.port = port
        self._slave = slave
        self._symlink = symlink

    async def close(self) -> None:
        """To the host this is an unplugged cable; the symlink goes with it."""
        if not self._open:
            return
        if self._symlink is not None and _points_to(self._symlink, os.ttyname(self._slave)):
            self._symlink.unlink()
        await super().close()
        os.close(self._slave)


def open_pty(path: str | None = None) -> PtyLink:
    """Make a pty in raw mode; `path` becomes a symlink to its host end (an old symlink there is replaced).

    Raises `TransportError` when `path` is taken by something else or cannot be written.
    """
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        os.set_blocking(master, False)
        name = os.ttyname(slave)
        symlink = _link(Path(path), name) if path else None
    except OSError as error:
        os.close(master)
        os.close(slave)
        raise TransportError(f"cannot make a pty at {path}: {error.strerror or error}") from error
    return PtyLink(master, slave, str(symlink or name), symlink)


def _link(path: Path, target: str) -> Path:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    if path.exists() and not path.is_symlink():
        raise FileExistsError(17, "something that is not a symlink is there")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)  # in one step: a host that waits for the name never finds it missing
    return path


def _points_to(path: Path, target: str) -> bool:
    return path.is_symlink() and str(path.readlink()) == target
