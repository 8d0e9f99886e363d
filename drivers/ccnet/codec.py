"""CCNET frames: 02 | address | length | data | CRC, and the wide form with length 00. Source: MAN_CCNET rev 2.4.3, 2.2.

`length` counts the whole frame in bytes; CRC-16/KERMIT over everything before it, low byte first. A host's data starts
with the command, a device's does not: only wide frames differ in layout by direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique

from drivers.ccnet.messages import Command

SYNC = 0x02
LENGTH_MIN = 6
LENGTH_SEND_MAX = 250
"""The manual's limit for the one-byte form; received frames may use up to 255 (one source switches at 256)."""
WIDE_MAX = 1024
"""Longest wide frame taken from a line, in bytes: nothing that we ask for comes near it, and it bounds the buffer."""
_WITH_SUBCOMMAND = frozenset({Command.DOWNLOAD})
_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x8408 if _byte & 1 else 0)
    _TABLE.append(_byte)


def crc16(data: bytes | bytearray) -> int:
    """CRC-16/KERMIT: 1021 reflected, start 0000, no final XOR. Over a whole sound frame it is 0."""
    register = 0
    for byte in data:
        register = register >> 8 ^ _TABLE[(register ^ byte) & 0xFF]
    return register


@unique
class Direction(Enum):
    HOST = "host"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Frame:
    """`data`: command (and subcommand) then its data, from the host; the reply's data, from the device."""

    address: int
    data: bytes
    wide: bool = False

    def encode(self, direction: Direction = Direction.HOST) -> bytes:
        """The bytes on the wire; the wide form when asked for or when the data needs it."""
        if not self.data:
            raise ValueError("a CCNET frame has at least one data byte")
        if not self.wide and len(self.data) + 5 <= LENGTH_SEND_MAX:
            body = bytes([SYNC, self.address, len(self.data) + 5]) + self.data
        else:
            head = _wide_head(direction, self.data[0])
            total = len(self.data) + 7
            body = bytes([SYNC, self.address, 0]) + self.data[:head] + total.to_bytes(2, "big") + self.data[head:]
        return body + crc16(body).to_bytes(2, "little")

    @property
    def control(self) -> int | None:
        """The byte of a frame that may be read as ACK, NAK or ILLEGAL COMMAND: only the shortest form may."""
        return self.data[0] if len(self.data) == 1 and not self.wide else None


@dataclass(frozen=True, slots=True)
class Noise:
    """Bytes that belong to no sound frame. `reason`: `sync`, `address`, `length`, `crc` or `incomplete`."""

    raw: bytes
    reason: str = "sync"


class Decoder:
    """One direction of one line. `address`: only frames of this address are frames; None accepts 01..0F."""

    def __init__(self, direction: Direction, address: int | None = None, wide_max: int = WIDE_MAX) -> None:
        self._direction = direction
        self._address = address
        self._wide_max = wide_max
        self._buffer = bytearray()
        self._noise = bytearray()
        self._reason = "sync"

    def feed(self, data: bytes) -> list[Frame | Noise]:
        """Take bytes in any chunking, return what became complete. Never raises; keeps less than one longest frame."""
        self._buffer += data
        return self._hunt(finish=False)

    def flush(self) -> list[Frame | Noise]:
        """Nothing more came for longer than a gap inside a frame may last: what looks like the start of a frame is
        none. Hunts on behind it, for a false start may have swallowed a sound frame."""
        return self._hunt(finish=True)

    def clear(self) -> None:
        """Forget everything: a new question is asked."""
        self._buffer.clear()

    def _hunt(self, *, finish: bool) -> list[Frame | Noise]:
        out: list[Frame | Noise] = []
        at = 0
        while (start := self._buffer.find(SYNC, at)) >= 0:
            at = self._skip(at, start, "sync")
            length, reason = self._measure(at)
            if length is None and not reason:
                if not finish:
                    break
                reason = "incomplete"
            if length is None or crc16(self._buffer[at : at + length]) != 0:
                at = self._skip(at, at + 1, reason or "crc")  # hunt on: 02 occurs inside data
                continue
            self._flush_noise(out)
            out.append(self._frame(at, length))
            at += length
        else:
            at = self._skip(at, len(self._buffer), "sync")
        del self._buffer[:at]
        self._flush_noise(out)
        return out

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    def _measure(self, at: int) -> tuple[int | None, str]:
        """(length of the complete frame at `at`, "") or (None, why it is none) or (None, "") while it is incomplete."""
        have = len(self._buffer) - at
        if have < 2:
            return None, ""
        address = self._buffer[at + 1]
        if address != self._address if self._address is not None else not 0x01 <= address <= 0x0F:
            return None, "address"
        if have < 3:
            return None, ""
        length, shortest = self._buffer[at + 2], LENGTH_MIN
        if length == 0:
            if have < 7:
                return None, ""
            head = _wide_head(self._direction, self._buffer[at + 3])
            length = int.from_bytes(self._buffer[at + 3 + head : at + 5 + head], "big")
            shortest = 7 + max(1, head)
            if length > self._wide_max:
                return None, "length"
        if length < shortest:
            return None, "length"
        return (length, "") if have >= length else (None, "")

    def _frame(self, at: int, length: int) -> Frame:
        raw = bytes(self._buffer[at : at + length])
        if raw[2] != 0:
            return Frame(raw[1], raw[3:-2])
        head = _wide_head(self._direction, raw[3])
        return Frame(raw[1], raw[3 : 3 + head] + raw[5 + head : -2], wide=True)

    def _skip(self, start: int, end: int, reason: str) -> int:
        if end > start:
            if not self._noise:
                self._reason = reason
            self._noise += self._buffer[start:end]
        return end

    def _flush_noise(self, out: list[Frame | Noise]) -> None:
        if self._noise:
            out.append(Noise(bytes(self._noise), self._reason))
            self._noise.clear()


def _wide_head(direction: Direction, command: int) -> int:
    """How many data bytes of a wide frame stand before its two length bytes."""
    if direction is Direction.DEVICE:
        return 0
    return 2 if command in _WITH_SUBCOMMAND else 1
