"""Sealed files reach the object store: as granted, within the budget, and stay here until the office has read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from agent.domain.events import BlobCaptured, BlobDiscarded, BlobStored, Event
from agent.domain.wire import event_of
from sync import envelope as wire
from sync.edge.edge import BLOBS
from tests.edge import office_double as double
from tests.edge.office_double import OfficeDouble
from tests.edge.rig import Rig

E = TypeVar("E", bound=Event)


def left(rig: Rig) -> list[Path]:
    return sorted((rig.folder / BLOBS).glob("*.age"))


def events(rig: Rig, kind: type[E]) -> list[E]:
    return [event for event in map(event_of, rig.rows()) if isinstance(event, kind)]


def puts(rig: Rig) -> int:
    return sum(request.startswith("PUT") for request in rig.office.requests)


async def test_from_the_kiosk_to_the_object_store_and_gone_here(rig: Rig) -> None:
    event = await rig.edge.snapshot_now()
    sealed = left(rig)[0].read_bytes()
    await rig.clock.until(lambda: not left(rig), 60)  # within a minute of the office's word
    assert list(rig.office.objects.values()) == [sealed]
    (stored,) = events(rig, BlobStored)
    assert (stored.blob_id, stored.sha256, stored.size_bytes) == (event.blob_id, event.sha256, event.size_bytes)
    assert stored.object_key in rig.office.objects
    assert rig.edge.status().blobs_pending == 0
    assert puts(rig) == 1


async def test_rows_never_wait_for_a_blob(make_rig: Callable[..., Rig]) -> None:
    """A large file on a slow line: rows go past it, each at once."""
    rig = make_rig(upload_kib_per_s=1)
    await rig.start()
    await rig.record(300, detail=rig.random.randbytes(100).hex())
    await rig.converge()
    await rig.edge.snapshot_now()
    await rig.clock.run(1)
    assert puts(rig) == 0  # the double counts a request when its last byte has come
    for _ in range(10):
        await rig.record()
        await rig.clock.settle()
        assert rig.arrived()
    assert not rig.office.objects


async def test_the_bandwidth_budget_is_kept(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(upload_kib_per_s=64)
    await rig.start()
    await rig.record(20, detail=rig.random.randbytes(20_000).hex())
    for _ in range(10):
        await rig.record(1, detail=rig.random.randbytes(20_000).hex())
    event = await rig.edge.snapshot_now()
    assert event.size_bytes > 200_000
    start = rig.clock.monotonic()
    await rig.clock.until(lambda: bool(rig.office.objects), 600)
    assert 0.8 * event.size_bytes / 65_536 <= rig.clock.monotonic() - start <= 2 + 1.5 * event.size_bytes / 65_536


async def test_the_object_store_away_only_delays(rig: Rig) -> None:
    def no_store(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
        return double.away(office, request) if request.url.host == "objects.test" else None

    rig.office.always = no_store
    await rig.edge.snapshot_now()
    await rig.record(5)
    await rig.clock.run(3 * 3_600)
    assert rig.arrived()
    assert rig.edge.status().blobs_pending == 1
    assert 100 < sum("grant" in request for request in rig.office.requests) < 3 * 3_600  # asked anew, within bounds
    rig.office.always = None
    await rig.clock.until(lambda: not left(rig), 300)


async def test_a_busy_kiosk_does_not_wear_out_the_wait_for_an_absent_object_store(rig: Rig) -> None:
    """Every batch of rows once woke the uploader: twenty rows in a second were twenty failures, and the next try came
    a minute after the store's return."""

    def no_store(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
        return double.away(office, request) if request.url.host == "objects.test" else None

    rig.office.always = no_store
    await rig.edge.snapshot_now()
    await rig.clock.run(1)
    before = sum("grant" in request for request in rig.office.requests)
    for _ in range(20):
        await rig.record()
        await rig.clock.run(0.05)
        assert rig.arrived()
    assert sum("grant" in request for request in rig.office.requests) - before <= 3
    rig.office.always = None
    await rig.clock.until(lambda: not left(rig), 60)


@pytest.mark.parametrize("status", [400, 403, 409, 500, 503, 302])
async def test_an_upload_that_is_refused_asks_for_a_new_grant(rig: Rig, status: int) -> None:
    """403: the grant has expired on a slow line. Whatever it is: asked again, never taken for stored."""
    refusals = [status] * 3

    def refuse(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(refusals.pop()) if request.url.host == "objects.test" and refusals else None

    rig.office.always = refuse
    await rig.edge.snapshot_now()
    await rig.clock.until(lambda: not left(rig), 600)
    assert len(events(rig, BlobStored)) == 1
    assert sum("grant" in request for request in rig.office.requests) >= 4


async def test_an_upload_whose_answer_was_lost_is_found_by_write_once(rig: Rig) -> None:
    def lose(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
        if request.url.host == "objects.test" and not office.objects:
            return double.lost_answer(office, request)
        return None

    rig.office.always = lose
    await rig.edge.snapshot_now()
    await rig.clock.until(lambda: not left(rig), 600)
    assert len(events(rig, BlobStored)) == 1


@pytest.mark.parametrize("step", ["blob_put", "blob_recorded"])
async def test_killed_around_the_upload_it_ends_the_same(rig: Rig, step: str) -> None:
    rig.kill_at = step
    await rig.edge.snapshot_now()
    await rig.clock.run(5)
    assert rig.killed
    await rig.restart()
    await rig.clock.until(lambda: not left(rig), 3_600)
    assert len(events(rig, BlobStored)) == 1
    assert len(rig.office.objects) == 1


async def test_the_file_stays_until_the_office_has_read_it_back(rig: Rig) -> None:
    """The object store said 200, but the office does not find it: the only copy is not deleted."""
    rig.office._read_back = lambda event: False  # type: ignore[method-assign]
    await rig.edge.snapshot_now()
    await rig.clock.run(2 * 3_600)
    assert len(left(rig)) == 1
    assert 2 <= puts(rig) <= 3  # uploaded again after a while, ever more seldom
    rig.office.kiosk.stored.update(rig.office.kiosk.blobs)  # an operator has found it
    await rig.clock.until(lambda: not left(rig), 60)


async def test_the_file_stays_over_a_restart_too(rig: Rig) -> None:
    rig.office._read_back = lambda event: False  # type: ignore[method-assign]
    await rig.edge.snapshot_now()
    await rig.clock.run(60)
    for _ in range(5):
        await rig.restart()
        await rig.clock.run(60)
    assert len(left(rig)) == 1
    assert puts(rig) == 1  # a restart is no reason to upload it again at once


async def test_a_file_that_changed_or_vanished_is_told_and_not_uploaded(rig: Rig) -> None:
    rig.office.always = double.away
    changed = await rig.edge.snapshot_now()
    gone = await rig.edge.snapshot_now()
    path = rig.folder / BLOBS / f"{changed.blob_id}.age"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (rig.folder / BLOBS / f"{gone.blob_id}.age").unlink()
    await rig.converge()
    await rig.clock.run(120)
    assert rig.office.objects == {}
    lost = {event.blob_id for event in events(rig, BlobDiscarded) if event.reason == "lost"}
    assert lost == {changed.blob_id, gone.blob_id}
    assert left(rig) == []
    assert rig.edge.status().blobs_pending == 0


async def test_one_file_that_will_not_go_holds_up_no_other(rig: Rig) -> None:
    rig.office.always = double.away
    stuck = await rig.edge.snapshot_now()
    fine = await rig.edge.snapshot_now()

    def refuse_one(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(403) if stuck.blob_id in request.url.path else None

    rig.office.always = refuse_one
    await rig.clock.run(300)
    assert [path.name for path in left(rig)] == [f"{stuck.blob_id}.age"]
    assert any(fine.blob_id in key for key in rig.office.objects)


async def test_files_that_no_row_names_are_removed(rig: Rig) -> None:
    (rig.folder / BLOBS / "0190-nobody.age").write_bytes(b"x")
    await rig.edge.snapshot_now()
    await rig.clock.until(lambda: not left(rig), 60)


async def test_a_grant_into_the_clear_is_not_used(rig: Rig) -> None:
    """An office that is told a plain http address for its object store gets no file, and no harm is done."""
    real = rig.office._grant

    def clear(kiosk_id: str, blob_id: str) -> wire.GrantAnswer:
        grant = real(kiosk_id, blob_id)
        return wire.GrantAnswer(grant.url.replace("https:", "http:"), grant.object_key, grant.headers, 300)

    rig.office._grant = clear  # type: ignore[method-assign]
    await rig.edge.snapshot_now()
    await rig.clock.run(300)
    assert puts(rig) == 0
    rig.office._grant = real  # type: ignore[method-assign]
    await rig.clock.until(lambda: not left(rig), 300)


async def test_a_grant_refused_for_good_reason_waits(rig: Rig) -> None:
    def revoked(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
        if request.url.path != wire.PATH_UPLOAD_GRANT:
            return None
        return httpx.Response(403, headers=double.PROBLEM, json={"code": "kiosk_revoked"})

    rig.office.always = revoked
    await rig.edge.snapshot_now()
    await rig.clock.run(3_600)
    assert len(left(rig)) == 1
    rig.office.always = None
    await rig.clock.until(lambda: not left(rig), 300)


async def test_documents_go_before_snapshots() -> None:
    from sync.edge.blob_table import Blob

    blobs = [
        Blob("a", "snapshot", "", 1, 1, ""),
        Blob("b", "document", "", 1, 9, ""),
        Blob("c", "snapshot", "", 1, 0, ""),
    ]
    assert [blob.blob_id for blob in sorted(blobs, key=lambda blob: blob.order)] == ["b", "c", "a"]


async def test_the_table_survives_rebuild_fork_and_repeats(rig: Rig, tmp_path: Path) -> None:
    """`sync_blobs` is a projection: from scratch it says the same."""
    await rig.edge.snapshot_now()
    await rig.clock.until(lambda: not left(rig), 60)
    rig.office.always = double.away
    await rig.edge.snapshot_now()

    def table() -> list[object]:
        with rig.store.read() as reader:
            return [dict(row) for row in reader.all("SELECT * FROM sync_blobs ORDER BY blob_id")]

    before = table()
    assert [row["state"] for row in before] == ["stored", "captured"]  # type: ignore[index]
    await rig.store.rebuild()
    assert table() == before
    await rig.store.fork(2)
    assert table() == before
    await rig.store.rebuild()
    assert table() == before
    assert [event for event in map(event_of, rig.rows()) if isinstance(event, BlobCaptured)]
