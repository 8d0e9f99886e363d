"""Serial ports through pyserial: opened exclusively, never blocking the loop."""

from __future__ import annotations

import os
import termios
from pathlib import Path

import serial

from agent.domain.errors import TransportError
from drivers.links.fd import FdLink
from drivers.links.settings import SerialSettings

_PARITY = {"none": serial.PARITY_NONE, "even": serial.PARITY_EVEN, "odd": serial.PARITY_ODD}


class SerialLink(FdLink):
    """A `Link` over one serial device file. pyserial sets the line up and holds the lock; bytes pass the loop."""

    def __init__(self, port: serial.Serial, name: str) -> None:
        self._port = port
        super().__init__(os.dup(port.fileno()), name)

    async def close(self) -> None:
        await super().close()
        self._port.close()


def open_serial(path: str, settings: SerialSettings) -> SerialLink:
    """Open `path`. Raises `TransportError` that says whether it is missing, forbidden or held by somebody else."""
    port = serial.Serial()
    port.port = path
    port.baudrate = settings.baud
    port.bytesize = settings.data_bits
    port.parity = _PARITY[settings.parity]
    port.stopbits = settings.stop_bits
    port.timeout = port.write_timeout = 0
    port.exclusive = True
    port.rts, port.dtr = settings.rts, settings.dtr  # before the open: the lines must not twitch
    try:
        port.open()
    except (serial.SerialException, termios.error, OSError, ValueError) as error:
        raise TransportError(f"cannot open {path}: {_cause(path, error)}", port=path) from error
    return SerialLink(port, path)


def _cause(path: str, error: Exception) -> str:
    if not Path(path).exists():
        return "there is no such port"
    if not os.access(path, os.R_OK | os.W_OK):
        return "no permission (is the user in the group that owns it, usually dialout?)"
    if "exclusively lock" in str(error):
        return "another process holds it"
    if isinstance(error, termios.error):
        return f"it does not take these line settings ({error.args[-1]})"
    return str(error)
