"""Who the device is and what its notes are worth: the set-up questions, the bill table, and telling it once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agent.domain import events as ev
from drivers.ccnet.codec import Frame
from drivers.ccnet.health import Health
from drivers.ccnet.messages import Command, Identification, Status, model_of
from drivers.ccnet.requests import Request, Setup
from drivers.ccnet.settings import CcnetSettings
from drivers.ccnet.states import STATES, UNKNOWN
from drivers.ccnet.table import BillTable, parse_table

TABLE_AGAIN_S = 5.0  # a device that does not give its table is asked again this often


class Identity:
    """`table` is what values are read from; None while no table may be trusted."""

    def __init__(self, name: str, settings: CcnetSettings, health: Health, past: Iterable[ev.Event]) -> None:
        self._name = name
        self._settings = settings
        self._health = health
        self._told = next((each for each in reversed(list(past)) if isinstance(each, ev.DeviceOnline)), None)
        self._online = False
        self._untold = True  # something was learned since `tell`
        self._current = ev.DeviceOnline(device=name, protocol="ccnet")
        self._setup = Setup(settings)
        self._only_when_disabled = False
        self._ask_from = float("-inf")
        self._changed: BillTable | None = None  # read while a note was unresolved
        self._refused: dict[int, str] = {}
        self.table: BillTable | None = BillTable.of(self._told.table) if self._told and self._told.table else None

    @property
    def ready(self) -> bool:
        """Asked everything, and the table may be used for new notes."""
        return self._setup.complete and self._changed is None and bool(self.table and self.table.values)

    @property
    def complete(self) -> bool:
        return self._setup.complete

    @property
    def current(self) -> ev.DeviceOnline:
        """What is known of the device now."""
        return replace(self._current, table=self.table.denominations() if self.table else ())

    def start_over(self) -> None:
        """After a RESET, a power-up or silence: it may be another device, or another firmware."""
        self._untold = True
        self._setup = Setup(self._settings)
        self._only_when_disabled = False

    def offline(self) -> None:
        self._online = False
        self.start_over()

    def question(self, status: Status | None, now: float) -> Request | None:
        trait = UNKNOWN if status is None else STATES.get(status, UNKNOWN)
        too_early = self._only_when_disabled and status is Status.INITIALIZE
        return None if too_early or not trait.setup or now < self._ask_from else self._setup.next

    def refused(self, command: Command, status: Status | None, now: float) -> list[ev.Event]:
        """ILLEGAL, or no answer. While initialising that only means: ask again once disabled."""
        if status is Status.INITIALIZE:
            self._only_when_disabled = True
            return []
        if self._setup.next is None or self._setup.next.command is not command or not self._setup.failed():
            return []
        self._ask_from = now + TABLE_AGAIN_S
        return self._health.raise_fault("no_bill_table", "the device does not give its bill table")

    def answer(self, command: Command, reply: Frame, *, notes_open: bool) -> list[ev.Event]:
        """Take in the reply to `command`; replies to what is no set-up question change nothing."""
        self._setup.answered(command)
        match command:
            case Command.IDENTIFICATION:
                who = Identification.parse(reply.data)
                self._current = replace(self._current, model=model_of(who.part_number), serial=who.serial)
            case Command.GET_CRC32_OF_THE_CODE:
                self._current = replace(self._current, firmware=f"crc32:{reply.data.hex()}")
            case Command.GET_BILL_TABLE:
                return self._read_table(parse_table(reply.data), notes_open)
            case _:
                pass
        return []

    def assume(self, online: ev.DeviceOnline) -> None:
        """Use this table for values as if the device had told it in an earlier run."""
        self.table = BillTable.of(online.table)

    def tell(self, *, notes_open: bool) -> list[ev.Event]:
        """DeviceOnline, once, when everything is known; again only for a change."""
        events: list[ev.Event] = []
        if self._changed is not None and not notes_open:
            self.table, self._changed = self._changed, None
            events += self._health.clear("bill_table_changed")
            self._untold = True
        if not self._untold or not self._setup.complete or self._changed is not None:
            return events
        self._untold = False
        current, told = self.current, self._told
        if self._online and current == told:
            return events
        if told is not None and told.serial and current.serial and told.serial != current.serial:
            detail = f"{told.model} {told.serial} before, {current.model} {current.serial} now"
            events.append(ev.DeviceAlarmed(device=self._name, code="device_replaced", detail=detail))
        self._told, self._online = current, True
        return [*events, current]

    def _read_table(self, table: BillTable, notes_open: bool) -> list[ev.Event]:
        events = self._refusals(table)
        if not table.values:
            events += self._health.raise_fault("no_bill_table", "the bill table holds no note of a known currency")
        else:
            events += self._health.clear("no_bill_table")
        if notes_open and self.table is not None and table.values != self.table.values:
            self._changed = table
            detail = "the bill table changed while a note is unresolved; nothing is taken until that note is settled"
            events.append(ev.DeviceAlarmed(device=self._name, code="bill_table_changed", detail=detail))
            return events + self._health.raise_fault("bill_table_changed", detail)
        self.table = table
        return events

    def _refusals(self, table: BillTable) -> list[ev.Event]:
        if dict(table.refused) == self._refused:
            return []
        self._refused = dict(table.refused)
        detail = "; ".join(f"type {code}: {why}" for code, why in sorted(table.refused.items()))
        if not detail:
            return []
        return [ev.DeviceAlarmed(device=self._name, code="bill_table_refused", detail=f"not accepted: {detail}")]
