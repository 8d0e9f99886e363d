"""The edge as the agent runs it: before enrolment, while enrolled, with another identity, with a defect, to the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from sync.edge import SyncSettings, build_edge
from sync.edge import identity as files
from sync.edge.backoff import TOLD_MAX_S, Backoff, Bell
from sync.edge.identity import IdentityInvalid, NotEnrolled
from sync.edge.router import SyncStatusOut, make_router
from sync.edge.status import EdgeStatus
from sync.edge.uplink import Uplink
from tests.edge import office_double as double
from tests.edge.clock import FakeClock, soon
from tests.edge.office_double import OfficeDouble
from tests.edge.rig import Rig


@pytest.fixture
def bare(tmp_path: Path, office: OfficeDouble, clock: FakeClock) -> Rig:
    """A kiosk that is not enrolled and not started."""
    return Rig(tmp_path / "bare", office, clock)


async def test_before_enrolment_it_only_waits(bare: Rig) -> None:
    async with bare:
        await bare.record(3)
        await bare.clock.run(3_600)
        status = bare.edge.status()
        assert (status.enrolled, status.online, status.head_seq, status.lag_rows) == (False, False, 4, None)
        assert bare.office.requests == []
        with pytest.raises(NotEnrolled):
            await asyncio.gather(bare.edge.sync_now(), bare.clock.run(1))


async def test_enrolment_is_taken_up_while_the_agent_runs(bare: Rig) -> None:
    async with bare:
        await bare.record(3)
        await bare.clock.run(60)
        identity = bare.enrol()
        await bare.clock.run(6)
        assert bare.arrived()
        status = bare.edge.status()
        assert (status.enrolled, status.kiosk_id, status.central_url) == (True, identity.kiosk_id, double.URL)


async def test_the_command_line_need_not_wait_for_the_next_look(bare: Rig) -> None:
    async with bare:
        bare.enrol()
        status, _ = await asyncio.gather(bare.edge.sync_now(), bare.clock.run(1))
        assert status.lag_rows == 0


async def test_a_kiosk_that_is_enrolled_anew_changes_over_by_itself(rig: Rig) -> None:
    """`kiosk enroll --replace`: the old session ends, the new office identity is used."""
    await rig.record(3)
    await rig.converge()
    first = rig.edge.status().kiosk_id
    rig.office.kiosks.clear()
    second = rig.enrol()
    rig.office.kiosks = {f"{second.kiosk_id}": rig.office.kiosk}
    await rig.clock.run(10)
    assert rig.edge.status().kiosk_id == second.kiosk_id
    assert rig.arrived()
    assert first is not None
    (rig.folder / files.FILE_NAME).unlink()
    await rig.clock.run(10)
    assert not rig.edge.status().enrolled


async def test_an_identity_that_cannot_be_used_is_an_alarm_with_words(bare: Rig) -> None:
    bare.enrol()
    (bare.folder / files.FILE_NAME).chmod(0o644)
    async with bare:
        status = bare.edge.status()
        assert (status.enrolled, status.alarm) == (False, "identity_invalid")
        assert "chmod 600" in (status.error_text or "")
        for call in (bare.edge.sync_now, bare.edge.snapshot_now):
            with pytest.raises(IdentityInvalid):
                await asyncio.gather(call(), bare.clock.run(1))
        (bare.folder / files.FILE_NAME).chmod(0o600)
        await bare.clock.run(6)
        assert bare.edge.status().alarm is None
        assert bare.arrived()


async def test_a_defect_in_one_part_does_not_end_the_road(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor's edge: the fall is logged, the part starts again, rows go on."""
    real, falls = Uplink._arrived, []

    def fall(self: Uplink, *arguments: object) -> None:
        falls.append(1)
        if len(falls) < 3:
            raise RuntimeError("a defect of ours")
        real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Uplink, "_arrived", fall)
    for _ in range(4):
        await rig.record(3)
        await rig.clock.run(30)
    assert rig.arrived()
    assert len(falls) == 4
    assert rig.edge.status().lag_rows == 0


async def test_a_store_that_cannot_be_read_for_a_while_is_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.store.errors import StorageFailed

    def failed() -> None:
        raise StorageFailed("the disk is away")

    monkeypatch.setattr(rig.store, "read", failed, raising=False)
    rig.office.forget_tokens()
    rig.edge._session.uplink.urge()  # type: ignore[union-attr]
    await rig.clock.run(20)
    assert rig.edge._progress.error_code == "storage_failed"
    monkeypatch.undo()
    await rig.record(2)
    await rig.converge()
    assert rig.edge.status().error_code is None


async def test_what_cannot_begin_is_told_and_tried_again(bare: Rig) -> None:
    """The folder for sealed files cannot be made: an alarm, no end of the road, and all is well once it can."""
    bare.enrol()
    (bare.folder / "blobs").write_text("in the way")
    async with bare:
        await bare.clock.run(10)
        status = bare.edge.status()
        assert (status.alarm, status.online) == ("sync_not_started", False)
        assert "FileExistsError" in (status.error_text or "")
        (bare.folder / "blobs").unlink()
        await bare.clock.until(bare.arrived, 60)
        assert bare.edge.status().alarm is None


async def test_blobs_and_nights_wait_for_a_store_that_is_away(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.store.errors import StorageFailed

    def failed() -> None:
        raise StorageFailed("the disk is away")

    rig = make_rig(snapshot_at="03:30")
    await rig.start()
    monkeypatch.setattr(rig.store, "read", failed, raising=False)
    rig.edge._session.uploader.ring()  # type: ignore[union-attr]
    await rig.clock.run(120)
    monkeypatch.undo()
    event = await rig.edge.snapshot_now()
    await rig.clock.until(lambda: event.blob_id in rig.office.kiosk.stored, 600)


async def test_stop_ends_at_once_and_may_come_twice(rig: Rig) -> None:
    rig.office.always = double.away
    await rig.record()
    async with asyncio.timeout(2):
        await rig.edge.stop()
        await rig.edge.stop()
    assert not rig.edge.status().online


async def test_stop_before_run_is_nothing(bare: Rig) -> None:
    bare.open_store()
    edge = build_edge(
        SyncSettings(),
        store=bare.store,
        store_path=bare.store.path,
        state_dir=bare.folder,
        clock=bare.clock,
        randomness=bytes,
        agent_version="1",
    )
    assert edge is not None
    await edge.stop()
    await bare.stop()


def test_switched_off_means_nothing_is_built(tmp_path: Path, bare: Rig) -> None:
    edge = build_edge(
        SyncSettings(enabled=False),
        store=bare,  # type: ignore[arg-type]
        store_path=tmp_path,
        state_dir=tmp_path,
        clock=bare.clock,
        randomness=bytes,
        agent_version="1",
    )
    assert edge is None


def test_a_kiosk_without_an_office_does_not_pay_for_one() -> None:
    """Memory and start-up: HTTP client, compression and keys are imported when there is somebody to talk to."""
    heavy = "httpx", "zstandard", "msgspec", "cryptography", "joserfc", "pyrage", "apsw"
    code = f"import sys, sync.edge, sync.edge.router; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_status_and_its_api_model_agree() -> None:
    assert list(SyncStatusOut.model_fields) == list(EdgeStatus.__dataclass_fields__)


async def test_the_technicians_routes(rig: Rig) -> None:
    asked: list[str] = []

    def require(*roles: str) -> Callable[..., str]:
        asked.extend(roles)
        return lambda: "user:1"

    app = FastAPI()
    app.include_router(make_router(rig.edge, require), prefix="/api/v1")
    assert set(asked) == {"technician"}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://kiosk.test/api/v1/sync") as http:
        await rig.record(2)
        now = (await http.post("/now")).json()
        assert (now["lag_rows"], now["online"]) == (0, True)
        made = await http.post("/snapshot")
        assert made.status_code == 201
        await soon(rig.arrived)
        assert made.json()["blob_id"] in rig.office.kiosk.blobs
        status = (await http.get("/status")).json()
        assert status["head_seq"] == len(rig.rows())


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_rows": 0},
        {"batch_rows": 2_001},
        {"snapshot_at": "25:00"},
        {"snapshot_at": "3:30"},
        {"retry_min_s": 30, "retry_max_s": 5},
        {"refused_retry_min_s": 600, "refused_retry_max_s": 5},
        {"proxy": "socks5://x"},
        {"unknown": 1},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SyncSettings(**wrong)  # type: ignore[arg-type]


def test_backoff_grows_is_jittered_and_bounded() -> None:
    low, high = Backoff(0.5, 60, bytes), Backoff(0.5, 60, lambda count: b"\xff" * count)
    lows, highs = [low.next_s() for _ in range(50)], [high.next_s() for _ in range(50)]
    assert lows == [0.5] * 50
    assert highs == sorted(highs) and highs[0] == pytest.approx(1.0) and highs[-1] == pytest.approx(60)
    assert all(wait <= 60 for wait in highs)
    high.reset()
    assert high.next_s() == pytest.approx(1.0)
    assert high.failures == 1
    assert Backoff(5, 5, bytes).next_s() == 5


def test_what_the_office_asks_for_is_the_least_up_to_a_bound() -> None:
    backoff = Backoff(0.5, 60, lambda count: b"\xff" * count)
    assert backoff.next_s(30.0) == pytest.approx(33)
    assert backoff.next_s(1e9) == pytest.approx(1.1 * TOLD_MAX_S)
    assert backoff.next_s(0.0) >= 0.5


async def test_the_bell_is_heard_from_any_thread_and_remembered(clock: FakeClock) -> None:
    bell = Bell(clock)
    await asyncio.to_thread(bell.ring)
    assert await bell.wait(clock.monotonic() + 1_000)
    waiting = asyncio.create_task(bell.wait(clock.monotonic() + 10))
    await clock.run(11)
    assert not await waiting
    bell.ring()
    bell.ring()
    await asyncio.sleep(0)
    bell.hush()
    waiting = asyncio.create_task(bell.wait(clock.monotonic() + 10))
    await clock.run(11)
    assert not await waiting


def test_a_bell_whose_loop_is_gone_is_silent() -> None:
    async def make() -> Bell:
        return Bell(FakeClock())

    asyncio.run(make()).ring()
