"""Kiosk and office, both real: Postgres ≡ journal after every fault that a real office can be given."""

from __future__ import annotations

import asyncio
import base64
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from agent.domain.events import JournalOpened
from agent.domain.wire import event_of
from sync.central.embedded import EmbeddedServers, free_port
from sync.central.restore import restore
from sync.central.settings import AuthSettings
from tests.edge.real import RealKiosk, assert_office_has
from tests.servers import OFFICE_KEY, Centre, central_settings, running_centre

STEPS = ["batch_read", "batch_sent", "batch_answered"]
BLOB_STEPS = ["snapshot_sealed", "snapshot_recorded", "blob_put", "blob_recorded"]


@pytest.fixture
async def kiosk(tmp_path: Path, centre: Centre) -> Any:
    async with RealKiosk(tmp_path / "kiosk", centre) as kiosk:
        yield kiosk


async def alarms(centre: Centre) -> set[str]:
    return {row[0] for row in await centre.all("SELECT code FROM alarms")}


async def becomes(centre: Centre, sql: str, wanted: object) -> None:
    async with asyncio.timeout(30):
        while await centre.one(sql) != wanted:  # noqa: ASYNC110 - a table does not ring
            await asyncio.sleep(0.05)


async def test_rows_and_a_snapshot_from_disk_to_disk(kiosk: RealKiosk, centre: Centre, tmp_path: Path) -> None:
    """Enrolled with a code; rows in Postgres, the sealed file in S3, read back by the office, opened with its key."""
    await kiosk.record(2_500, detail="ü\u0000\u2028")
    event = await kiosk.edge.snapshot_now()
    await kiosk.uploaded()
    await kiosk.synced()
    await assert_office_has(centre, kiosk.history())
    assert await centre.one("SELECT state FROM blobs WHERE blob_id = %s", event.blob_id) == "stored"
    key = tmp_path / "office.key"
    key.write_text(str(OFFICE_KEY))
    kiosk_id = await centre.one("SELECT kiosk_id FROM kiosks")
    restored = await restore(centre.settings, kiosk_id, key, tmp_path / "restored.db")
    assert restored.journal_id == kiosk.store.journal_id
    assert restored.verdict.damages == ()
    assert restored.seq >= 2_501
    assert await alarms(centre) == set()
    status = kiosk.edge.status()
    assert (status.online, status.alarm, status.blobs_pending) == (True, None, 0)


async def test_the_office_hears_of_devices_and_lag(kiosk: RealKiosk, centre: Centre) -> None:
    await kiosk.record(3)
    await kiosk.synced()
    await becomes(centre, "SELECT head_seq FROM kiosk_status", 4)
    assert await centre.one("SELECT devices FROM kiosk_status") == {"validator": "idling"}


async def kiosk_process(folder: Path, rows: int, snapshot: bool, step: str, count: int = 1) -> int:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.edge.process", str(folder), str(rows), str(int(snapshot)), step, str(count)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(60):
        return await process.wait()


@pytest.mark.timeout(3_600)
async def test_killed_at_every_step_nothing_is_lost_and_nothing_doubled(
    tmp_path: Path, centre: Centre, scale: Callable[[int, int], int]
) -> None:
    """kill -9 of the kiosk's process: before, while and after a batch and an upload; then it starts again."""
    kiosk = RealKiosk(tmp_path / "kiosk", centre)
    await kiosk.enrol()
    for count in range(1, scale(2, 20)):
        for step in (*STEPS, *BLOB_STEPS):
            assert await kiosk_process(kiosk.folder, 300, step in BLOB_STEPS, step, count) == -signal.SIGKILL
    assert await kiosk_process(kiosk.folder, 5, False, "-") == 0
    await kiosk.start()
    await kiosk.synced()
    await assert_office_has(centre, kiosk.history())
    assert len(kiosk.history()) == 1
    assert set(await centre.all("SELECT state FROM blobs")) == {("stored",)}
    assert await alarms(centre) == set()
    await kiosk.stop()


async def test_postgres_restarted_in_mid_batch(kiosk: RealKiosk, centre: Centre, servers: EmbeddedServers) -> None:
    hit = asyncio.Event()

    def crash(step: str) -> None:
        if step == "batch_sent" and not hit.is_set():
            hit.set()
            servers.postgres.kill()

    kiosk.on_step = crash
    await kiosk.record(3_000)
    async with asyncio.timeout(20):
        await hit.wait()
    await kiosk.record(10)
    await asyncio.to_thread(servers.postgres.start)
    await kiosk.synced(60)
    await assert_office_has(centre, kiosk.history())


async def test_the_object_store_away(kiosk: RealKiosk, centre: Centre, servers: EmbeddedServers) -> None:
    await asyncio.to_thread(servers.s3.kill)
    try:
        event = await kiosk.edge.snapshot_now()
        await kiosk.record(50)
        await kiosk.synced()
        assert kiosk.edge.status().blobs_pending == 1
        await asyncio.sleep(1)
    finally:
        await asyncio.to_thread(servers.s3.start)
    await kiosk.uploaded()
    assert await centre.one("SELECT state FROM blobs WHERE blob_id = %s", event.blob_id) == "stored"


async def test_a_restored_image_and_a_clone(kiosk: RealKiosk, centre: Centre, tmp_path: Path) -> None:
    await kiosk.record(20)
    await kiosk.synced()
    await kiosk.image(tmp_path / "image")
    await kiosk.record(10)
    await kiosk.synced()
    old, lost = kiosk.store.journal_id, kiosk.history()
    await kiosk.put_back(tmp_path / "image")
    await kiosk.record(5)
    await kiosk.until(lambda: kiosk.store.journal_id != old)
    await kiosk.synced()
    await assert_office_has(centre, lost)  # what the office had of the old journal is still there, whole
    await assert_office_has(centre, kiosk.history())
    (opened, *_) = kiosk.history()[kiosk.store.journal_id]
    assert event_of(opened) == JournalOpened(
        previous_journal_id=str(old), previous_seq=21, previous_hash=lost[old][20].hash.hex()
    )
    assert "journal_forked" in await alarms(centre)
    clone = RealKiosk(tmp_path / "image", centre)
    await clone.start()
    try:
        for _ in range(3):
            await clone.record(4)
            await kiosk.record(3)
            await asyncio.sleep(0.3)
        await clone.synced()
        await kiosk.synced()
        await assert_office_has(centre, kiosk.history())
        await assert_office_has(centre, clone.history())
        assert "kiosk_cloned" in await alarms(centre)
        assert await centre.one("SELECT count(*) FROM journals") == 3
    finally:
        await clone.stop()


async def test_an_original_whose_clone_was_faster(kiosk: RealKiosk, centre: Centre, tmp_path: Path) -> None:
    """The clone forked away while the original was at work: the office calls the original's journal superseded."""
    await kiosk.record(20)
    await kiosk.synced()
    await kiosk.image(tmp_path / "image")
    await kiosk.record(10)
    await kiosk.synced()
    clone = RealKiosk(tmp_path / "image", centre)
    await clone.start()
    try:
        await clone.record(5)
        await clone.until(lambda: len(clone.history()) == 2)
        await clone.synced()
        old = kiosk.store.journal_id
        await kiosk.record(5)
        await kiosk.until(lambda: kiosk.store.journal_id != old)
        await kiosk.synced()
        await kiosk.record(5)
        await clone.record(5)
        await kiosk.synced()
        await clone.synced()
        await assert_office_has(centre, kiosk.history())
        await assert_office_has(centre, clone.history())
        assert {"journal_superseded", "kiosk_cloned"} <= await alarms(centre)
        assert kiosk.edge.status().alarm is None
    finally:
        await clone.stop()


async def test_an_office_restored_from_an_older_backup_is_resent_what_it_lost(
    servers: EmbeddedServers, database: str, tmp_path: Path
) -> None:
    """Also over a fork that its backup does not know: the end of the past journal comes first."""
    port, name, backup = free_port(), database.rpartition("/")[2].partition("?")[0], f"t_{uuid4().hex}"
    settings = central_settings(servers, database)
    async with running_centre(settings, port) as centre:
        kiosk = RealKiosk(tmp_path / "kiosk", centre)
        await kiosk.enrol()
        await kiosk.start()
        await kiosk.record(30)
        await kiosk.synced()
    old_dsn = await asyncio.to_thread(servers.postgres.create_database, backup, name)
    try:
        async with running_centre(settings, port) as centre:
            await kiosk.record(30)
            await kiosk.synced()
            await kiosk.image(tmp_path / "image")
            await kiosk.record(5)
            await kiosk.synced()
            await kiosk.put_back(tmp_path / "image")
            await kiosk.record(5)
            await kiosk.until(lambda: len(kiosk.history()) == 2)
            await kiosk.synced()
        async with running_centre(central_settings(servers, old_dsn), port) as centre:
            await kiosk.record(1)
            await becomes(centre, "SELECT count(*) FROM events", sum(map(len, kiosk.history().values())))
            await assert_office_has(centre, kiosk.history())
            assert "journal_gap" not in await alarms(centre)
        await kiosk.stop()
    finally:
        await asyncio.to_thread(servers.postgres.drop_database, backup)


async def test_a_token_of_an_office_with_another_secret(
    servers: EmbeddedServers, database: str, tmp_path: Path
) -> None:
    """The office's signing secret is changed while a kiosk holds a token: it gets a new one and goes on."""
    port, settings = free_port(), central_settings(servers, database)
    async with running_centre(settings, port) as centre:
        kiosk = RealKiosk(tmp_path / "kiosk", centre)
        await kiosk.enrol()
        await kiosk.start()
        await kiosk.record(3)
        await kiosk.synced()
    secret = AuthSettings(secret=SecretStr(base64.b64encode(b"n" * 32).decode()))
    async with running_centre(central_settings(servers, database, auth=secret), port) as centre:
        await kiosk.record(3)
        await kiosk.synced()
        await assert_office_has(centre, kiosk.history())
        assert kiosk.edge.status().alarm is None
        await kiosk.stop()


async def test_a_revoked_kiosk_says_so_and_goes_on_when_it_is_enrolled_again(kiosk: RealKiosk, centre: Centre) -> None:
    await kiosk.record(3)
    await kiosk.synced()
    kiosk_id = await centre.one("SELECT kiosk_id FROM kiosks")
    await centre.all("UPDATE kiosks SET revoked_at = now() RETURNING 1")
    await kiosk.record(3)
    await kiosk.until(lambda: kiosk.edge.status().alarm == "kiosk_revoked")
    await kiosk.enrol(kiosk_id)
    await kiosk.synced()
    await assert_office_has(centre, kiosk.history())


async def test_many_rows_are_brought_in_order_and_fast(
    kiosk: RealKiosk, centre: Centre, scale: Callable[[int, int], int]
) -> None:
    """A day offline: a backlog arrives in few batches while new rows are committed."""
    count = scale(4_000, 100_000)
    for _ in range(count // 1_000):
        await kiosk.record(1_000, detail="x" * 50)
    await kiosk.synced(60 + count / 500)
    assert await centre.one("SELECT count(*) FROM events") == count + 1
    assert await centre.one("SELECT max(seq) FROM events") == count + 1
