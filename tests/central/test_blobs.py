"""An object counts only when the office has read it back; forgeries, losses and outages are told, rows never wait."""

import asyncio
import hashlib
from typing import Any
from uuid import uuid4

import httpx

from agent.domain import events as ev
from sync import envelope as wire
from sync.central.embedded import EmbeddedServers
from tests.central.kiosks import Journal, Kiosk
from tests.central.test_ingest import code_of
from tests.servers import Centre

DATA = b"age-encryption.org/v1 sealed bytes" * 40


def capture(journal: Journal, data: bytes = DATA) -> ev.BlobCaptured:
    digest = hashlib.sha256(data).hexdigest()
    event = ev.BlobCaptured(blob_id=str(uuid4()), kind="snapshot", sha256=digest, size_bytes=len(data))
    journal.append(event)
    return event


def stored(journal: Journal, captured: ev.BlobCaptured, key: str, **changed: Any) -> None:
    told: dict[str, Any] = {"sha256": captured.sha256, "size_bytes": captured.size_bytes, "object_key": key} | changed
    journal.append(ev.BlobStored(blob_id=captured.blob_id, **told))


async def grant(kiosk: Kiosk, blob_id: str) -> httpx.Response:
    return await kiosk.call(wire.PATH_UPLOAD_GRANT, wire.GrantRequest(blob_id))


async def upload(client: httpx.AsyncClient, answer: httpx.Response, data: bytes = DATA) -> int:
    given = answer.json()
    return (await client.put(given["url"], content=data, headers=given["headers"])).status_code


async def state_becomes(centre: Centre, blob_id: str, wanted: str) -> None:
    found = None
    for _ in range(200):
        found = await centre.one("SELECT state FROM blobs WHERE blob_id = %s", blob_id)
        if found == wanted:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the blob is {found}, not {wanted}")


async def test_a_blob_is_stored_once_it_was_read_back(centre: Centre, client: httpx.AsyncClient, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    captured = capture(journal)
    assert code_of(await grant(kiosk, captured.blob_id)) == "blob_unknown"  # the row first
    await kiosk.send(journal)
    answer = await grant(kiosk, captured.blob_id)
    given = answer.json()
    assert given["object_key"] == f"{kiosk.kiosk_id}/2026/09/{captured.blob_id}.age"
    assert given["headers"]["content-length"] == str(len(DATA))
    assert given["expires_in_s"] <= 300
    assert await upload(client, answer) == 200
    stored(journal, captured, given["object_key"])
    await kiosk.send(journal, 3)
    await state_becomes(centre, captured.blob_id, "stored")
    assert code_of(await grant(kiosk, captured.blob_id)) == "blob_already_stored"
    assert await centre.all("SELECT code FROM alarms") == []


async def test_a_forgery_of_equal_length_is_found(
    servers: EmbeddedServers, centre: Centre, client: httpx.AsyncClient, kiosk: Kiosk
) -> None:
    journal = Journal.opened()
    captured = capture(journal)
    await kiosk.send(journal)
    answer = await grant(kiosk, captured.blob_id)
    assert await upload(client, answer, bytes(len(DATA))) == 200  # this store does not check; AWS and MinIO would
    stored(journal, captured, answer.json()["object_key"])
    await kiosk.send(journal, 3)
    await state_becomes(centre, captured.blob_id, "mismatch")
    ((code, severity, detail),) = await centre.all("SELECT code, severity, detail FROM alarms")
    assert (code, severity) == ("blob_mismatch", "critical")
    assert captured.sha256 in detail
    assert await upload(client, await grant(kiosk, captured.blob_id)) == 200  # the kiosk may bring the right one
    stored(journal, captured, answer.json()["object_key"])
    await kiosk.send(journal, 4)
    await state_becomes(centre, captured.blob_id, "stored")


async def test_an_object_exchanged_while_its_grant_lives_is_found(
    servers: EmbeddedServers, centre: Centre, client: httpx.AsyncClient, kiosk: Kiosk
) -> None:
    """Stores that know no write-once: the office looks again when nobody can write any more."""
    journal = Journal.opened()
    captured = capture(journal)
    await kiosk.send(journal)
    answer = await grant(kiosk, captured.blob_id)
    await upload(client, answer)
    stored(journal, captured, answer.json()["object_key"])
    await kiosk.send(journal, 3)
    await state_becomes(centre, captured.blob_id, "stored")
    assert await upload(client, answer, bytes(len(DATA))) == 200
    async with centre.pool.connection() as connection:  # five minutes pass
        await connection.execute("UPDATE blobs SET grant_expires_at = now(), next_try_at = now()")
    await state_becomes(centre, captured.blob_id, "mismatch")


async def test_a_kiosk_that_names_another_object_than_it_captured(centre: Centre, kiosk: Kiosk) -> None:
    """Such as another kiosk's."""
    journal = Journal.opened()
    captured = [capture(journal) for _ in range(3)]
    lies: list[dict[str, Any]] = [{"object_key": f"{uuid4()}/2026/09/x.age"}, {"size_bytes": 1}, {"sha256": "00" * 32}]
    key = f"{kiosk.kiosk_id}/2026/09/{captured[0].blob_id}.age"
    for blob, lie in zip(captured, lies, strict=True):
        stored(journal, blob, key, **lie)
    await kiosk.send(journal)
    for blob in captured:
        await state_becomes(centre, blob.blob_id, "mismatch")
    for _ in range(100):
        if await centre.one("SELECT count(*) FROM alarms WHERE code = 'blob_mismatch'") == 3:
            break
        await asyncio.sleep(0.05)
    assert await centre.one("SELECT count(*) FROM alarms WHERE code = 'blob_mismatch'") == 3


async def test_with_the_store_away_rows_flow_and_the_check_follows(
    servers: EmbeddedServers, centre: Centre, client: httpx.AsyncClient, kiosk: Kiosk
) -> None:
    journal = Journal.opened()
    captured = capture(journal)
    await kiosk.send(journal)
    answer = await grant(kiosk, captured.blob_id)
    await upload(client, answer)
    servers.s3.stop()
    try:
        stored(journal, captured, answer.json()["object_key"])
        journal.pay("p1", 1000)
        assert (await kiosk.send(journal, 3)).json()["accepted"] == len(journal.rows) - 2
        for _ in range(200):
            if await centre.one("SELECT last_error FROM blobs"):
                break
            await asyncio.sleep(0.02)
        assert await centre.one("SELECT state FROM blobs") == "pending"
    finally:
        servers.s3.start()
    await state_becomes(centre, captured.blob_id, "stored")


async def test_an_object_that_is_not_there_is_looked_for_and_told(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    captured = capture(journal)
    stored(journal, captured, f"{kiosk.kiosk_id}/2026/09/{captured.blob_id}.age")
    await kiosk.send(journal)
    for _ in range(200):
        async with centre.pool.connection() as connection:  # no waiting between tries
            await connection.execute("UPDATE blobs SET next_try_at = now() WHERE lease_until IS NULL")
        if await centre.one("SELECT count(*) FROM alarms"):
            break
        await asyncio.sleep(0.05)
    assert await centre.all("SELECT code FROM alarms") == [("blob_missing",)]
    assert await centre.one("SELECT state FROM blobs") == "pending"


async def test_a_discarded_blob_is_no_longer_wanted(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    captured = capture(journal)
    journal.append(ev.BlobDiscarded(blob_id=captured.blob_id, reason="superseded"))
    await kiosk.send(journal)
    assert await centre.all("SELECT state, last_error FROM blobs") == [("discarded", "superseded")]
    assert code_of(await grant(kiosk, captured.blob_id)) == "blob_already_stored"


async def test_one_kiosk_gets_no_grant_for_anothers_blob(
    centre: Centre, client: httpx.AsyncClient, kiosk: Kiosk
) -> None:
    journal = Journal.opened()
    captured = capture(journal)
    await kiosk.send(journal)
    other = await Kiosk.enrolled(client, await centre.code("Bar"))
    assert code_of(await grant(other, captured.blob_id)) == "blob_unknown"
    assert code_of(await grant(kiosk, "x\x00y")) == "blob_unknown"
    event = ev.BlobCaptured(blob_id="huge", kind="snapshot", sha256="00" * 32, size_bytes=1 << 40)
    journal.append(event)
    await kiosk.send(journal, 3)
    assert code_of(await grant(kiosk, "huge")) == "batch_too_large"
