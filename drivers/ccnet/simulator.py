"""A CCNET bill validator, simulated byte for byte: the device's end of the line, orderable faults, text commands.

`receive` takes the host's bytes and gives what the device sends, each with its time; `command` is the person in front
of the machine; `truth` says where every note physically is and survives simulated power cuts.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drivers.ccnet import device as dev
from drivers.ccnet.bench import Bench
from drivers.ccnet.device import CcnetSimulatorSettings, Device
from drivers.ccnet.wire import Ear, Heard, reply_frame
from drivers.simulation import Reply, Transmission

EVENTS_MAX = 10_000
_ACK, _NAK, _ILLEGAL = 0x00, 0xFF, 0x30
_ASK_STATES = (0x10, 0x11, 0x12, 0x13, 0x19, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47)


@dataclass(slots=True)
class LineFaults:
    """Faults to order; each counts down to zero."""

    bad_crc: int = 0
    lost_ack: int = 0
    silent: int = 0
    silent_until: float = 0.0
    noise_bytes: int = 0
    late_s: float = 0.0
    nak: int = 0
    busy_until: float = 0.0
    cut_after_sent: int | None = None
    cut_after_heard: int | None = None


@dataclass(slots=True)
class _Reported:
    """The data reply that waits for the host's ACK."""

    state: int
    at: float


class CcnetSimulator:
    """See `drivers.simulation.Simulator`."""

    def __init__(self, settings: CcnetSimulatorSettings) -> None:
        self.settings = settings
        self.faults = LineFaults()
        self.device = Device(settings, self._tell)
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._ear = Ear()
        self._reported: _Reported | None = None
        self._random = random.Random(settings.seed)
        self._bench = Bench(self)

    # --- Simulator

    def receive(self, data: bytes, now: float) -> list[Transmission]:
        self.device.advance(now)
        data = self._power_cut_while_hearing(data, now)
        if not self.device.powered or not data:
            return []
        sent: list[Transmission] = []
        for heard in self._ear.hear(data, now, self.settings.gap_ms / 1000):
            if heard.address == self.settings.address and self.device.powered:
                sent += self._spoiled(self._answer(heard, now), now)
        return sent

    def command(self, line: str, now: float) -> Reply:
        self.device.advance(now)
        return self._bench.command(line, now)

    def advance(self, now: float) -> float | None:
        self.device.advance(now)
        return self.device.due

    def truth(self) -> dict[str, Any]:
        return {
            **self.device.truth.as_json(),
            "state": state_name(self.device.state),
            "powered": self.device.powered,
        }

    def drain(self) -> list[dict[str, Any]]:
        events = list(self._events)
        self._events.clear()
        return events

    # --- answering

    def _answer(self, heard: Heard, now: float) -> bytes | None:
        """The data to reply with; None: say nothing."""
        if now < self.faults.silent_until or _count_down(self.faults, "silent"):
            return None
        if not heard.sound or not heard.body or _count_down(self.faults, "nak"):
            return bytes([_NAK])
        command, data = heard.body[0], heard.body[1:]
        if command == _ACK and not data:
            self._acknowledge(now)
            return None
        self._reported = None
        if command == _NAK and not data:
            return None  # the host asks again by itself
        reply = self._execute(command, data, now)
        return bytes([_ILLEGAL]) if reply is None else reply

    def _acknowledge(self, now: float) -> None:
        reported, self._reported = self._reported, None
        if reported is None or now - reported.at > self.settings.ack_window_ms / 1000:
            return
        if reported.state in dev.AWAITS_ACK and _count_down(self.faults, "lost_ack"):
            return
        if reported.state == self.device.state:
            self.device.acknowledged(now)

    def _execute(self, command: int, data: bytes, now: float) -> bytes | None:
        """What section 4 of the sheet says of each command; None: ILLEGAL COMMAND."""
        device, ack = self.device, bytes([_ACK])
        match command, len(data):
            case 0x30, 0:
                device.reset(now)
                self.faults.silent_until = now + self.settings.reset_silence_ms / 1000 / self.settings.speed
                return ack
            case 0x31, 0:
                enabled = device.enabled & self._known_types()
                return self._reporting(enabled.to_bytes(3, "big") + device.security.to_bytes(3, "big"), now)
            case 0x32, 3:
                device.security = int.from_bytes(data, "big")
                return ack
            case 0x33, 0:
                return self._poll(now)
            case 0x34, 6:
                device.enable(int.from_bytes(data[:3], "big"), int.from_bytes(data[3:], "big"), now)
                return ack
            case 0x35, 0:
                return ack if device.stack(now) else None
            case 0x36, 0:
                return ack if device.give_back(now) else None
            case 0x38, 0:
                return ack if device.hold(now) else None
            case 0x39, 2:
                return ack if data[0] == 1 and 6 <= data[1] <= 18 else None
            case 0x3A, 0:
                code = device.last_barcode
                return None if code is None else self._reporting(code.encode("ascii"), now)
            case 0x37 | 0x41 | 0x51 | 0x60, 0:
                return self._asked(command, now)
            case _:
                return None

    def _asked(self, command: int, now: float) -> bytes | None:
        state = self.device.state
        if state not in _ASK_STATES or (state == dev.INITIALIZE and not self.settings.table_while_initializing):
            return None
        settings = self.settings
        match command:
            case 0x37:
                text = settings.part_number.ljust(15) + settings.serial.ljust(12)
                return self._reporting(text.encode("ascii") + bytes.fromhex(settings.asset_hex), now)
            case 0x41:
                words = [bytes(5)] * 24
                for entry in self.device.entries():
                    words[entry.code] = entry.word()
                return self._reporting(b"".join(words), now)
            case 0x51:
                return self._reporting(bytes.fromhex(settings.crc32_hex), now)
            case _:
                return self._reporting(len(self.device.truth.stacker).to_bytes(8, "big"), now)

    def _poll(self, now: float) -> bytes:
        left = self.faults.busy_until - now
        if left > 0:
            return self._reporting(bytes([dev.BUSY, min(255, max(1, round(left * 10)))]), now)
        state = self.device.state
        data = bytes([state])
        if state in dev.WITH_BILL_TYPE or state in dev.WITH_REASON:
            data += bytes([self.device.code])
        return self._reporting(data.ljust(self.settings.poll_bytes, b"\0"), now, state)

    def _reporting(self, data: bytes, now: float, state: int = -1) -> bytes:
        self._reported = _Reported(state, now)
        return data

    def _known_types(self) -> int:
        return sum(1 << entry.code for entry in self.device.entries()) | 1 << dev.TICKET

    # --- the line

    def _spoiled(self, data: bytes | None, now: float) -> list[Transmission]:
        if data is None:
            return []
        raw = reply_frame(self.settings.address, data)
        if _count_down(self.faults, "bad_crc"):
            raw = raw[:-1] + bytes([raw[-1] ^ 0x55])
        if self.faults.noise_bytes:
            raw = self._random.randbytes(self.faults.noise_bytes) + raw
            self.faults.noise_bytes = 0
        at, self.faults.late_s = now + self.faults.late_s, 0.0
        raw = self._power_cut_while_sending(raw, now)
        return [Transmission(at, raw)] if raw else []

    def _power_cut_while_hearing(self, data: bytes, now: float) -> bytes:
        """The bytes up to the cut still count; whatever they would be answered with never leaves."""
        left = self.faults.cut_after_heard
        if left is None:
            return data
        self.faults.cut_after_heard = max(0, left - len(data))
        if len(data) < left:
            return data
        self.faults.cut_after_heard = None
        self.receive(data[:left], now)
        self.power_cut(now)
        return b""

    def _power_cut_while_sending(self, raw: bytes, now: float) -> bytes:
        left = self.faults.cut_after_sent
        if left is None:
            return raw
        self.faults.cut_after_sent = max(0, left - len(raw))
        if len(raw) < left:
            return raw
        self.power_cut(now)
        return raw[:left]

    def clear_faults(self) -> None:
        self.faults = LineFaults()

    def power_cut(self, now: float) -> None:
        self.clear_faults()
        self._reported = None
        self.device.power_cut(now)

    def _tell(self, event: Mapping[str, Any]) -> None:
        told = dict(event)
        if "state" in told:
            told["state"] = state_name(told["state"])
        self._events.append(told)


def _count_down(faults: LineFaults, name: str) -> bool:
    left: int = getattr(faults, name)
    if left > 0:
        setattr(faults, name, left - 1)
    return left > 0


_STATE_NAMES = {
    0x10: "POWER UP",
    0x11: "POWER UP WITH BILL IN VALIDATOR",
    0x12: "POWER UP WITH BILL IN STACKER",
    0x13: "INITIALIZE",
    0x14: "IDLING",
    0x15: "ACCEPTING",
    0x17: "STACKING",
    0x18: "RETURNING",
    0x19: "UNIT DISABLED",
    0x1A: "HOLDING",
    0x1C: "REJECTING",
    0x41: "DROP CASSETTE FULL",
    0x42: "DROP CASSETTE OUT OF POSITION",
    0x43: "VALIDATOR JAMMED",
    0x44: "DROP CASSETTE JAMMED",
    0x45: "CHEATED",
    0x46: "PAUSE",
    0x47: "FAILURE",
    0x80: "ESCROW POSITION",
    0x81: "BILL STACKED",
    0x82: "BILL RETURNED",
}


def state_name(state: int) -> str:
    return _STATE_NAMES.get(state, f"{state:02X}")


def make_simulator(settings: Mapping[str, Any]) -> CcnetSimulator:
    """Settings by name, see `CcnetSimulatorSettings`."""
    return CcnetSimulator(CcnetSimulatorSettings.model_validate(dict(settings)))
