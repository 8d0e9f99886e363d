"""A CCNET machine and a scripted device: `poll("80 05")` answers its next POLL, everything else is answered by rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agent.domain import events as ev
from agent.domain.ids import uuid7
from agent.domain.money import Money
from drivers.ccnet.codec import Frame
from drivers.ccnet.machine import CcnetMachine, Step
from drivers.ccnet.messages import Command
from drivers.ccnet.settings import CcnetSettings

ACK, NAK, ILLEGAL = b"\x00", b"\xff", b"\x30"
IDENT = b"SM-RU1234      21K038AS3419" + bytes(7)
TABLE = (
    bytes(10)
    + bytes.fromhex("01 52 55 53 01  05 52 55 53 01  01 52 55 53 02  05 52 55 53 02  01 52 55 53 03")
    + bytes(85)
)
RUB = {2: 1_000, 3: 5_000, 4: 10_000, 5: 50_000, 6: 100_000}
ONLINE = ev.DeviceOnline(
    device="acceptor",
    protocol="ccnet",
    model="CashCode SM (SM-RU1234)",
    serial="21K038AS3419",
    firmware="crc32:12345678",
    table=tuple(ev.Denomination(code=code, value=Money(minor, "RUB")) for code, minor in RUB.items()),
)


class Talk:
    """`answers` by command; None is silence. `sent` lists every command in order, `events` everything emitted."""

    def __init__(self, history: Iterable[ev.Event] = (), **settings: Any) -> None:
        self.now = 100.0
        self.answers: dict[Command, bytes | None] = {
            Command.GET_STATUS: bytes.fromhex("FFFFFF 000000"),
            Command.GET_BILL_TABLE: TABLE,
            Command.IDENTIFICATION: IDENT,
            Command.GET_CRC32_OF_THE_CODE: bytes.fromhex("12345678"),
            Command.EXTRACT_BARCODE_DATA: b"012345678901234567",
        }
        self.sent: list[Command] = []
        self.frames: list[Frame] = []
        self.events: list[ev.Event] = []
        self._count = 0
        self.machine = CcnetMachine("acceptor", CcnetSettings(**settings), self._new_id, history)
        self.step: Step = self.machine.step(None, self.now)

    def _new_id(self) -> str:
        self._count += 1
        return str(uuid7(0, self._count.to_bytes(10, "big")))

    @property
    def asks(self) -> Command:
        return Command(self.step.send.data[0])

    def answer(self, data: bytes | None) -> list[ev.Event]:
        """Answer what the machine sends next; returns the events of that answer."""
        self.now = max(self.now, self.step.not_before) + 0.005
        self.sent.append(self.asks)
        self.frames.append(self.step.send)
        if data is None:
            self.now += self.step.timeout_s
        reply = None if data is None else Frame(3, data)
        assert reply is None or self.machine.is_reply(reply), f"{data!r} does not answer {self.asks.name}"
        self.step = self.machine.step(reply, self.now)
        self.events += self.step.events
        return list(self.step.events)

    def to_poll(self) -> None:
        """Answer by rule until the machine polls."""
        for _ in range(20):
            if self.asks is Command.POLL:
                return
            self.answer(self.answers.get(self.asks, ACK))
        raise AssertionError(f"the machine does not poll: {self.sent[-20:]}")

    def poll(self, *replies: str | None) -> list[ev.Event]:
        """Answer the next polls with these bytes; returns what was emitted until the poll after them."""
        before = len(self.events)
        for reply in replies:
            self.to_poll()
            self.answer(None if reply is None else bytes.fromhex(reply))
        self.to_poll()
        return self.events[before:]

    def ready(self) -> Talk:
        """Initialised, enabled and idling."""
        self.machine.enable(None)
        self.poll("19", "19", "19", "14")
        self.sent.clear()
        self.events.clear()
        return self

    def escrow(self, bill_type: int = 5) -> str:
        """A note in escrow; returns its id."""
        (event,) = (e for e in self.poll("15", f"80 {bill_type:02x}") if isinstance(e, ev.NoteEscrowed))
        return event.note_id

    def stacking(self, bill_type: int = 5) -> str:
        """A note on its way into the box, its STACK acknowledged."""
        note_id = self.escrow(bill_type)
        self.stack(note_id)
        return note_id

    def stack(self, note_id: str, payment_id: str | None = "p1") -> None:
        self.machine.stack(note_id, payment_id)
        self.step = self.machine.replan(self.now)
        self.to_poll()


def kinds(events: Iterable[ev.Event]) -> list[str]:
    """Class names, to compare with; that the device is online is left out."""
    return [type(event).__name__ for event in events if not isinstance(event, ev.DeviceOnline)]
