"""Alarm rows: raised set-wise in whatever transaction is open, acknowledged by people."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from uuid import UUID

from agent.domain.ids import uuid7
from sync.central.database import Connection
from sync.central.problems import Alarm

_RAISE = """
INSERT INTO alarms (kiosk_id, alarm_id, code, key, severity, detail, facts)
SELECT %(kiosk)s, * FROM unnest(%(ids)s::uuid[], %(codes)s::text[], %(keys)s::text[], %(severities)s::text[],
                                %(details)s::text[], %(facts)s::jsonb[])
ON CONFLICT (kiosk_id, code, key) DO UPDATE
SET count = alarms.count + 1, last_at = now(), detail = excluded.detail, facts = excluded.facts,
    severity = excluded.severity, acknowledged_at = NULL, acknowledged_by = ''
"""
_RAISE_ONCE = _RAISE.partition("DO UPDATE")[0] + "DO NOTHING"


async def raise_alarms(connection: Connection, kiosk_id: UUID, alarms: Sequence[Alarm], *, once: bool = False) -> None:
    """`once`: a repeat of the same alarm changes nothing (its key is the id of an event that may come twice)."""
    distinct = list({(alarm.code, alarm.key): alarm for alarm in alarms}.values())
    parameters = {
        "kiosk": kiosk_id,
        "ids": [uuid7(time.time_ns() // 1_000_000, os.urandom(10)) for _ in distinct],
        "codes": [alarm.code for alarm in distinct],
        "keys": [alarm.key for alarm in distinct],
        "severities": [alarm.severity for alarm in distinct],
        "details": [alarm.detail for alarm in distinct],
        "facts": [json.dumps(alarm.facts) for alarm in distinct],
    }
    await connection.execute(_RAISE_ONCE if once else _RAISE, parameters)


async def acknowledge(connection: Connection, kiosk_id: UUID, alarm_id: UUID, name: str) -> bool:
    done = await connection.execute(
        "UPDATE alarms SET acknowledged_at = now(), acknowledged_by = %s "
        "WHERE kiosk_id = %s AND alarm_id = %s AND acknowledged_at IS NULL",
        (name, kiosk_id, alarm_id),
    )
    return done.rowcount == 1
