"""The simulator's own end of the CCNET line: frames built and read without the driver's codec, so that the two do not
share mistakes. Source: MAN_CCNET rev 2.4.3, section 2; the tests hold both against the same golden frames."""

from __future__ import annotations

from dataclasses import dataclass

_START, _REFLECTED_POLYNOMIAL = 0x02, 0x8408


def checksum(data: bytes) -> bytes:
    """CRC-16/KERMIT bit by bit, as the manual's example does; low byte first."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            carry = crc & 1
            crc >>= 1
            if carry:
                crc ^= _REFLECTED_POLYNOMIAL
    return bytes([crc & 0xFF, crc >> 8])


def reply_frame(address: int, data: bytes) -> bytes:
    """A device frame: the short form, or the wide one when the data needs it."""
    if len(data) + 5 <= 250:
        head = bytes([_START, address, len(data) + 5])
    else:
        head = bytes([_START, address, 0]) + (len(data) + 7).to_bytes(2, "big")
    return head + data + checksum(head + data)


@dataclass(frozen=True, slots=True)
class Heard:
    """One host frame. `sound`: its checksum is right. `body`: command and data."""

    address: int
    body: bytes
    sound: bool


class Ear:
    """Collects host bytes into frames as a device does: by start byte and length, dropped after a gap."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._last_at = 0.0

    def hear(self, data: bytes, now: float, gap_s: float) -> list[Heard]:
        if now - self._last_at > gap_s:
            self._bytes.clear()
        self._last_at = now
        self._bytes += data
        heard = []
        while (item := self._take()) is not None:
            heard.append(item)
        return heard

    def _take(self) -> Heard | None:
        buffer = self._bytes
        while True:
            start = buffer.find(_START)
            del buffer[: len(buffer) if start < 0 else start]
            if len(buffer) < 3:
                return None
            total, body_at = self._layout()
            if total is None:
                return None
            if total < 6:
                del buffer[:1]
                continue
            if len(buffer) < total:
                return None
            raw = bytes(buffer[:total])
            del buffer[:total]
            body = raw[3 : 3 + body_at] + raw[5 + body_at : -2] if raw[2] == 0 else raw[3:-2]
            return Heard(raw[1], body, checksum(raw[:-2]) == raw[-2:])

    def _layout(self) -> tuple[int | None, int]:
        """(bytes of the frame, or None while its length is not there; bytes before a wide length)."""
        buffer = self._bytes
        if buffer[2] != 0:
            return buffer[2], 0
        if len(buffer) < 7:
            return None, 0
        before = 2 if buffer[3] == 0x50 else 1  # DOWNLOAD carries a subcommand
        return int.from_bytes(buffer[3 + before : 5 + before], "big"), before
