"""What systemd hears, on a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime.systemd import Notifier


class Ear:
    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(2)

    def hear(self) -> list[str]:
        return self._socket.recv(4096).decode().split("\n")

    def silent(self) -> bool:
        self._socket.setblocking(False)
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    found = Ear(str(tmp_path / "notify"))
    yield found
    found.close()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(tmp_path / "notify")}


def test_ready_status_and_stopping(ear: Ear, environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready("1 of 1 devices ready")
    assert ear.hear() == ["READY=1", "STATUS=1 of 1 devices ready", f"MAINPID={os.getpid()}"]
    notifier.status("fine")
    notifier.status("fine")
    assert ear.hear() == ["STATUS=fine"]
    assert ear.silent(), "the same status is not repeated"
    notifier.stopping("SIGTERM")
    ear._socket.settimeout(2)
    assert ear.hear() == ["STOPPING=1", "STATUS=SIGTERM"]


def test_the_watchdog_is_fed_only_when_systemd_watches_this_process(ear: Ear, environ: dict[str, str]) -> None:
    Notifier(environ).feed()
    Notifier(environ | {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}).feed()
    assert ear.silent()
    notifier = Notifier(environ | {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.watchdog_s == 30
    notifier.feed()
    ear._socket.settimeout(2)
    assert ear.hear() == ["WATCHDOG=1"]


def test_the_abstract_namespace_is_understood() -> None:
    name = f"kiosk-test-{os.getpid()}"
    ear = Ear("\0" + name)
    try:
        Notifier({"NOTIFY_SOCKET": "@" + name}).stopping("x")
        assert ear.hear()[0] == "STOPPING=1"
    finally:
        ear.close()


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    """Neither no socket nor a dead one may stop the kiosk."""
    Notifier({}).ready("x")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("x")
    assert Notifier({"WATCHDOG_USEC": "nonsense"}).watchdog_s == 0
