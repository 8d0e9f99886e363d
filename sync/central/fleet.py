"""The fleet as gauges for `/metrics`, asked of Postgres at each scrape, so that nothing has to be kept in step.

Series of single kiosks appear only while there is something to say of them: what is silent, behind, or in doubt.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sync.central.database import Connection

_KIOSKS = b"""
SELECT k.kiosk_id::text, k.name,
    extract(epoch FROM now() - coalesce(greatest(s.last_seen_at, j.updated_at), k.enrolled_at))::float8,
    CASE WHEN s.journal_id IS NULL THEN 0 ELSE greatest(0, s.head_seq - coalesce(h.seq, 0)) END,
    CASE WHEN s.oldest_unsent_us IS NULL THEN 0
         ELSE greatest(0, extract(epoch FROM now()) - s.oldest_unsent_us / 1e6) END::float8,
    (SELECT count(*) FROM doubts d WHERE d.kiosk_id = k.kiosk_id AND d.outcome IS NULL)
FROM kiosks k
LEFT JOIN kiosk_status s ON s.kiosk_id = k.kiosk_id
LEFT JOIN journals j ON j.kiosk_id = k.kiosk_id AND j.journal_id = k.current_journal_id
LEFT JOIN journals h ON h.kiosk_id = k.kiosk_id AND h.journal_id = s.journal_id
WHERE k.revoked_at IS NULL"""
_ALARMS = b"SELECT code, severity, count(*) FROM alarms WHERE acknowledged_at IS NULL GROUP BY code, severity"


class _Given(Collector):
    def __init__(self, families: list[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families


async def text(connection: Connection, silent_after_s: float) -> bytes:
    """Prometheus text. Raises what Postgres raises."""
    kiosks = await (await connection.execute(_KIOSKS)).fetchall()
    alarms = await (await connection.execute(_ALARMS)).fetchall()
    count = GaugeMetricFamily("central_kiosks", "Enrolled kiosks", value=len(kiosks))
    silent = _of_kiosks("central_kiosk_silent_seconds", "Time since a kiosk was heard of, once it is silent")
    lag = _of_kiosks("central_kiosk_lag_rows", "Rows that a kiosk has and the office has not")
    unsent = _of_kiosks("central_kiosk_oldest_unsent_seconds", "Age of the first of them")
    doubts = _of_kiosks("central_doubts_open", "Amounts in doubt that wait for a person")
    for kiosk_id, name, silence_s, rows, age_s, in_doubt in kiosks:
        shown = ((silent, silence_s if silence_s > silent_after_s else 0), (lag, rows), (unsent, age_s if rows else 0))
        for family, value in (*shown, (doubts, in_doubt)):
            if value:
                family.add_metric([kiosk_id, name], value)
    raised = GaugeMetricFamily("central_alarms_open", "Alarms nobody acknowledged", labels=["code", "severity"])
    for code, severity, number in alarms:
        raised.add_metric([code, severity], number)
    registry = CollectorRegistry()
    registry.register(_Given([count, silent, lag, unsent, doubts, raised]))
    return generate_latest(registry)


def _of_kiosks(name: str, help_: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_, labels=["kiosk", "name"])
