"""What Prometheus is told of the fleet: enough to wake somebody, and no series for kiosks that are well."""

from __future__ import annotations

import re

import httpx

from sync import envelope as wire
from tests.central.kiosks import Journal, Kiosk
from tests.servers import Centre


async def gauges(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    return {name: float(value) for name, value in re.findall(r"^(central_\S+) (\S+)$", text, re.M)}


async def test_a_kiosk_that_is_well_is_only_counted(centre: Centre, client: httpx.AsyncClient, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    assert (await kiosk.send(journal)).status_code == 200
    found = await gauges(client)
    assert found["central_kiosks"] == 1
    assert not [
        name for name in found if name.startswith(("central_kiosk_silent", "central_kiosk_lag", "central_doubts"))
    ]


async def test_silence_lag_doubts_and_alarms_show_with_the_kiosks_name(
    centre: Centre, client: httpx.AsyncClient, kiosk: Kiosk
) -> None:
    journal = Journal.opened()
    assert (await kiosk.send(journal)).status_code == 200
    beat = wire.Heartbeat(
        journal_id=str(journal.journal_id), head_seq=70, agent_version="1", devices={}, disk_free_bytes=1,
        oldest_unsent_at=5,
    )  # fmt: skip
    assert (await kiosk.call(wire.PATH_HEARTBEAT, beat)).status_code == 200
    async with centre.pool.connection() as connection:
        await connection.execute("UPDATE kiosk_status SET last_seen_at = now() - interval '1 hour'")
        await connection.execute("UPDATE journals SET updated_at = now() - interval '1 hour'")
        await connection.execute("INSERT INTO doubts (kiosk_id, doubt_id) SELECT kiosk_id, 'd1' FROM kiosks")
        await connection.execute(
            "INSERT INTO alarms (kiosk_id, alarm_id, code, key, severity) "
            "SELECT kiosk_id, gen_random_uuid(), 'journal_fork', 'k', 'critical' FROM kiosks"
        )
    found = await gauges(client)
    labels = f'{{kiosk="{kiosk.kiosk_id}",name="Lobby"}}'
    assert 3600 <= found[f"central_kiosk_silent_seconds{labels}"] < 3700
    assert found[f"central_kiosk_lag_rows{labels}"] == 69
    assert found[f"central_kiosk_oldest_unsent_seconds{labels}"] > 1e9
    assert found[f"central_doubts_open{labels}"] == 1
    assert found['central_alarms_open{code="journal_fork",severity="critical"}'] == 1
    async with centre.pool.connection() as connection:
        await connection.execute("UPDATE kiosks SET revoked_at = now()")
        await connection.execute("UPDATE alarms SET acknowledged_at = now()")
    found = await gauges(client)
    assert found["central_kiosks"] == 0 and not [name for name in found if "silent" in name or "alarms" in name]
