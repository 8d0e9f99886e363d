"""What systemd wants to hear (Type=notify): ready, stopping, status, and food for the watchdog.

Protocol: datagrams of `NAME=value` lines to the socket in `NOTIFY_SOCKET`; a leading `@` means the abstract namespace.
Source: sd_notify(3), sd_watchdog_enabled(3), systemd 252.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

SLICES = 3  # the watchdog is fed that many times in the time it allows


class Notifier:
    """Says nothing when the environment names no socket. Never raises: a deaf systemd must not stop the kiosk."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._status = ""
        self.watchdog_s = _watchdog_s(environ)

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """Sent on change only."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def feed(self) -> None:
        if self.watchdog_s:
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), self._address)
        except OSError:
            return


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """The time within which systemd wants to be told that we live; 0 when it does not watch this process."""
    given, owner = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not given.isdecimal() or (owner and owner != str(os.getpid())):
        return 0.0
    return int(given) / 1_000_000
