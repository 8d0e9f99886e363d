"""Links: bytes to and from one device over a serial port, a pty, TCP or memory. `open_link` opens one by its name."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from pydantic import BaseModel

from agent.domain.errors import ConfigError, TransportError
from drivers.links.settings import SerialSettings
from drivers.ports import Link

__all__ = ["SerialSettings", "UsbPort", "open_link", "resolve"]

_USB = re.compile(r"usb:([0-9a-fA-F]{4}):([0-9a-fA-F]{4})(?::(\S+))?")
_TCP = re.compile(r"tcp:(\[[^\]]+\]|[^:\s]+):(\d{1,5})")


class UsbPort(Protocol):
    """What pyserial's `list_ports.comports()` says of a port, as far as it matters here."""

    device: str
    vid: int | None
    pid: int | None
    serial_number: str | None


def _comports() -> Iterable[UsbPort]:
    from serial.tools import list_ports  # walks sysfs: only when a usb: name asks for it

    found: Iterable[UsbPort] = list_ports.comports()
    return found


async def open_link(
    port: str,
    *,
    settings: SerialSettings | BaseModel | Mapping[str, object] | None = None,
    comports: Callable[[], Iterable[UsbPort]] = _comports,
) -> Link:
    """Open `port`: a path or glob below /dev, `usb:VID:PID[:SERIAL]`, `tcp:HOST:PORT`, or `pty:PATH` (makes one).

    `settings`: line settings, or a protocol's settings with a `serial` section. Raises `TransportError` when the port
    is not there or not unique, `ConfigError` when the name itself makes no sense.
    """
    if match := _TCP.fullmatch(port):
        from drivers.links.tcp import open_tcp

        return await open_tcp(match[1].strip("[]"), int(match[2]))
    if port.startswith("pty:"):
        from drivers.links.pty import open_pty

        return open_pty(port.removeprefix("pty:") or None)
    from drivers.links.serial import open_serial

    return open_serial(resolve(port, comports), _line(settings))


def resolve(port: str, comports: Callable[[], Iterable[UsbPort]] = _comports) -> str:
    """The device file behind a path, glob or `usb:` name; exactly one must match."""
    if match := _USB.fullmatch(port):
        vid, pid, serial_number = int(match[1], 16), int(match[2], 16), match[3]
        matches = sorted(
            each.device
            for each in comports()
            if (each.vid, each.pid) == (vid, pid) and serial_number in (None, each.serial_number)
        )
        return _only(port, matches)
    if not port.startswith("/"):
        raise ConfigError(
            f"port {port!r} is neither a path or glob (/dev/serial/by-id/*CashCode*), nor usb:VID:PID[:SERIAL], "
            "tcp:HOST:PORT or pty:PATH"
        )
    if glob.has_magic(port):
        return _only(port, sorted(glob.glob(port)))  # noqa: PTH207 - an absolute pattern, which Path.glob refuses
    return port


def _only(port: str, matches: list[str]) -> str:
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise TransportError(f"no port matches {port}", port=port)
    raise TransportError(f"{port} must match one port, but it matches {len(matches)}: {', '.join(matches)}", port=port)


def _line(settings: SerialSettings | BaseModel | Mapping[str, object] | None) -> SerialSettings:
    if isinstance(settings, SerialSettings):
        return settings
    if isinstance(settings, BaseModel):
        line = getattr(settings, "serial", None)
        return line if isinstance(line, SerialSettings) else SerialSettings()
    return SerialSettings.model_validate(dict(settings or {}))
