"""The road's last stop: a batch is written once, whatever the network, the processes and Postgres do meanwhile."""

from collections.abc import AsyncIterator

import pytest

from sync import envelope as wire
from tests.central.kiosks import Journal, Kiosk
from tests.servers import Centre


@pytest.fixture
async def kiosk(centre: Centre) -> AsyncIterator[Kiosk]:
    async with centre.client() as client:
        yield await Kiosk.enrolled(client, await centre.code())


async def test_rows_arrive_with_their_exact_bytes_and_the_watermark_follows(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.pay("p1", 500, 500)
    answer = await kiosk.send(journal)
    assert answer.status_code == 200, answer.text
    assert answer.json()["accepted"] == len(journal.rows)
    assert answer.headers["kiosk-trace-id"] == "0123"
    mark = await kiosk.watermark(journal)
    assert mark == wire.Watermark(str(journal.journal_id), len(journal.rows), journal.head.hex())
    stored = await centre.all("SELECT seq, id, type, body, hash, trace_id, occurred_us FROM events ORDER BY seq")
    assert stored == [(r.seq, r.id, r.type, r.body, r.hash, r.trace_id, r.occurred_at) for r in journal.rows]
    assert await centre.all("SELECT payment_id, state, amount_minor, collected_minor FROM transactions") == [
        ("p1", "completed", 1000, 1000)
    ]
