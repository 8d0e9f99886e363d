"""What the journal already says about one device, so that only changes are recorded: online once, offline once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agent.domain import events as ev
from agent.domain.events import Event
from agent.domain.money import Money
from agent.store.ports import Reader


@dataclass(slots=True)
class DeviceRecord:
    """`online` is None for a device of which the journal knows nothing. `since_us`: wall clock of the last change."""

    device: str
    online: ev.DeviceOnline | None = None
    reason: str | None = None
    since_us: int | None = None
    faults: dict[str, str] = field(default_factory=dict)

    def fresh(self, events: Iterable[Event]) -> list[Event]:
        """`events` without those that tell what is recorded already; changes nothing yet (the commit may fail)."""
        ahead = DeviceRecord(self.device, self.online, self.reason, self.since_us, dict(self.faults))
        return [event for event in events if ahead._take(event)]

    def committed(self, events: Iterable[Event], at_us: int) -> None:
        """`events` are on the disk."""
        for event in events:
            if self._take(event) and isinstance(event, ev.DeviceOnline | ev.DeviceOffline):
                self.since_us = at_us

    def as_events(self) -> list[Event]:
        """The last `DeviceOnline` and the faults that stand, as a machine is told them."""
        known: list[Event] = [] if self.online is None else [self.online]
        return known + [
            ev.DeviceFaulted(device=self.device, code=code, detail=detail) for code, detail in self.faults.items()
        ]

    def _take(self, event: Event) -> bool:
        """Apply `event`; False when it says nothing new."""
        match event:
            case ev.DeviceOnline():
                if self.reason is None and event == self.online:
                    return False
                self.online, self.reason = event, None
            case ev.DeviceOffline():
                if self.reason is not None:
                    return False
                self.reason = event.reason
            case ev.DeviceFaulted():
                if self.faults.get(event.code) == event.detail:
                    return False
                self.faults[event.code] = event.detail
            case ev.DeviceRecovered():
                return self.faults.pop(event.code, None) is not None
        return True


def load(reader: Reader, device: str) -> DeviceRecord:
    """The record as the projection `device_status` has it."""
    record = DeviceRecord(device)
    row = reader.one("SELECT * FROM device_status WHERE device = ?", device)
    if row is not None:
        record.since_us = int(row["since_us"])
        record.reason = None if row["online"] else str(row["reason"])
        record.online = ev.DeviceOnline(
            device=device,
            protocol=str(row["protocol"]),
            model=str(row["model"]),
            serial=str(row["serial"]),
            firmware=str(row["firmware"]),
            table=_table(json.loads(row["notes"])),
        )
    faults = reader.all("SELECT code, detail FROM device_faults WHERE device = ? ORDER BY since_us", device)
    record.faults = {str(fault["code"]): str(fault["detail"]) for fault in faults}
    return record


def _table(notes: Sequence[tuple[int, int, str]]) -> tuple[ev.Denomination, ...]:
    return tuple(ev.Denomination(code=code, value=Money(minor, currency)) for code, minor, currency in notes)
