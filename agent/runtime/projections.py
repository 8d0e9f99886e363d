"""What the runtime remembers across restarts: how each device was last seen, and why no money is taken."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

from agent.domain import events as ev
from agent.domain.chain import JournalRow
from agent.domain.events import Event
from agent.store.ports import ProjectionWriter


class DeviceStatusProjection:
    """`device_status`: one row a device. `device_faults`: one row a fault that is not over."""

    name: str = "device_status"
    version: int = 1
    tables: Sequence[str] = ("device_status", "device_faults")
    schema: str = """
        CREATE TABLE IF NOT EXISTS device_status (
            device TEXT PRIMARY KEY, online INTEGER NOT NULL, since_us INTEGER NOT NULL,
            reason TEXT NOT NULL DEFAULT '', protocol TEXT NOT NULL DEFAULT '', model TEXT NOT NULL DEFAULT '',
            serial TEXT NOT NULL DEFAULT '', firmware TEXT NOT NULL DEFAULT '', notes TEXT NOT NULL DEFAULT '[]'
        ) STRICT;
        CREATE TABLE IF NOT EXISTS device_faults (
            device TEXT NOT NULL, code TEXT NOT NULL, detail TEXT NOT NULL, since_us INTEGER NOT NULL,
            PRIMARY KEY (device, code)
        ) STRICT;
    """
    handles: frozenset[type[Event]] = frozenset(
        {ev.DeviceOnline, ev.DeviceOffline, ev.DeviceFaulted, ev.DeviceRecovered}
    )
    _ONLINE: ClassVar[str] = """
        INSERT INTO device_status (device, online, since_us, reason, protocol, model, serial, firmware, notes)
        VALUES (?, 1, ?, '', ?, ?, ?, ?, ?)
        ON CONFLICT (device) DO UPDATE SET online = 1, since_us = excluded.since_us, reason = '',
            protocol = excluded.protocol, model = excluded.model, serial = excluded.serial,
            firmware = excluded.firmware, notes = excluded.notes
    """
    _OFFLINE: ClassVar[str] = """
        INSERT INTO device_status (device, online, since_us, reason) VALUES (?, 0, ?, ?)
        ON CONFLICT (device) DO UPDATE SET online = 0, since_us = excluded.since_us, reason = excluded.reason
    """

    def apply(self, tx: ProjectionWriter, row: JournalRow, event: Event) -> None:
        at = row.occurred_at
        match event:
            case ev.DeviceOnline():
                notes = json.dumps([[each.code, each.value.minor, each.value.currency] for each in event.table])
                identity = (event.protocol, event.model, event.serial, event.firmware)
                tx.execute(self._ONLINE, event.device, at, *identity, notes)
            case ev.DeviceOffline():
                tx.execute(self._OFFLINE, event.device, at, event.reason)
            case ev.DeviceFaulted():
                sql = "INSERT INTO device_faults VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET detail = excluded.detail"
                tx.execute(sql, event.device, event.code, event.detail, at)
            case ev.DeviceRecovered():
                tx.execute("DELETE FROM device_faults WHERE device = ? AND code = ?", event.device, event.code)


class AcceptanceProjection:
    """`acceptance_inhibits`: one row for each reason for which no money is taken. `reference_us` is the wall clock
    that was last believed, so that a restart under an absurd clock judges by it and not by the absurd rows."""

    name: str = "acceptance_inhibits"
    version: int = 1
    tables: Sequence[str] = ("acceptance_inhibits",)
    schema: str = """
        CREATE TABLE IF NOT EXISTS acceptance_inhibits (
            reason TEXT PRIMARY KEY, detail TEXT NOT NULL, since_us INTEGER NOT NULL, reference_us INTEGER
        ) STRICT;
    """
    handles: frozenset[type[Event]] = frozenset({ev.AcceptanceInhibited, ev.AcceptanceResumed})
    _SET: ClassVar[str] = """
        INSERT INTO acceptance_inhibits VALUES (?, ?, ?, ?) ON CONFLICT (reason) DO UPDATE SET detail = excluded.detail
    """

    def apply(self, tx: ProjectionWriter, row: JournalRow, event: Event) -> None:
        match event:
            case ev.AcceptanceInhibited():
                tx.execute(self._SET, event.reason, event.detail, row.occurred_at, event.reference_us)
            case ev.AcceptanceResumed():
                tx.execute("DELETE FROM acceptance_inhibits WHERE reason = ?", event.reason)


PROJECTIONS = (DeviceStatusProjection(), AcceptanceProjection())
