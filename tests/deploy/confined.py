"""Everything on the kiosk that is unusual about system calls or memory, once each. Run by test_sandbox.py, confined."""

from __future__ import annotations

import asyncio
import ctypes
import json
import mmap
import os
import pty
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import apsw
import pyrage
import pyudev
import serial
import usb.core
import zstandard
from pwdlib import PasswordHash


def needed() -> None:
    """What the agent and its libraries do. Anything that raises here would stop the kiosk."""
    passwords = PasswordHash.recommended()  # argon2 by way of cffi
    assert passwords.verify("1234", passwords.hash("1234"))
    identity = pyrage.x25519.Identity.generate()
    assert pyrage.decrypt(pyrage.encrypt(b"sealed", [identity.to_public()]), [identity]) == b"sealed"
    assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda number: number + 1)(1) == 2  # libusb calls back so
    with tempfile.TemporaryDirectory() as folder:
        connection = apsw.Connection(f"{folder}/journal.db")
        connection.execute(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t (x); INSERT INTO t VALUES (1)"
        )
        connection.close()
        reserve = os.open(f"{folder}/reserve", os.O_CREAT | os.O_RDWR, 0o600)
        os.posix_fallocate(reserve, 0, 4096)
        os.fsync(reserve)
        os.chmod(f"{folder}/reserve", 0o640)  # noqa: PTH101 # the launch page's mode
    monitor = pyudev.Monitor.from_netlink(pyudev.Context())  # hot-plug
    monitor.filter_by("tty")
    monitor.start()
    ours, theirs = pty.openpty()
    port = serial.Serial(os.ttyname(theirs), exclusive=True)
    port.write(b"\x02")
    assert os.read(ours, 1) == b"\x02"
    port.close()
    with suppress(usb.core.NoBackendError):  # no libusb on this machine: then there is nothing to call
        usb.core.find()
    asyncio.run(_loop())


async def _loop() -> None:
    child = await asyncio.create_subprocess_exec("/bin/true")
    assert await child.wait() == 0
    assert await asyncio.to_thread(zstandard.compress, bytes(1 << 20))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)


def refused() -> dict[str, str]:
    """What the agent never does: name → error, or `allowed`."""
    path = str(Path(sys.argv[0]).resolve())
    writable_code = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    attempts: dict[str, Callable[[], object]] = {
        "give a file away": lambda: os.chown(path, os.geteuid(), os.getegid()),
        "another user": lambda: os.setuid(os.geteuid()),
        "raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        "bluetooth": lambda: socket.socket(31, socket.SOCK_STREAM),
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0)),
        "written code": lambda: mmap.mmap(-1, 4096, prot=writable_code),
        "unmount": lambda: _libc("umount2", b"/nowhere", 0),
        "trace": lambda: _libc("ptrace", 16, 0x7FFFFFFE, 0, 0),
        "clock": lambda: _libc("adjtimex", ctypes.create_string_buffer(256)),
    }
    return {name: _outcome(attempt) for name, attempt in attempts.items()}


def _libc(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return str(error.strerror)
    return "allowed"


if __name__ == "__main__":
    needed()
    sys.stdout.write(json.dumps(refused()))
