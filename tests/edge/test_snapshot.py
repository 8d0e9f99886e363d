"""Sealed snapshots: consistent, sealed to the pinned keys only, journalled by hash and size, and no plain copy left."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import pyrage
import pytest
import zstandard

from agent.domain.events import BlobCaptured, BlobDiscarded
from agent.domain.wire import event_of
from agent.store.verify import verify
from sync.edge import PROJECTIONS, SyncSettings, seal, snapshot
from sync.edge.edge import BLOBS
from sync.edge.identity import NotEnrolled
from sync.edge.snapshot import DiskTooFull, SnapshotFailed, SnapshotRunning
from tests.edge import office_double as double
from tests.edge.clock import FakeClock, soon
from tests.edge.office_double import OfficeDouble
from tests.edge.rig import Rig, Watched
from tests.store.helpers import open_now


def sealed_files(rig: Rig) -> list[Path]:
    return sorted((rig.folder / BLOBS).iterdir())


def opened(office: OfficeDouble, sealed: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(office.open(sealed))) as reader:
        return reader.read()


def events(rig: Rig, kind: type) -> list[object]:
    return [event for event in map(event_of, rig.rows()) if isinstance(event, kind)]


async def test_a_snapshot_opens_with_the_offices_key_and_holds_the_journal(rig: Rig, tmp_path: Path) -> None:
    rig.office.always = double.away  # it lies there sealed until the office is back
    await rig.record(50, detail="canary")
    head = rig.rows()[-1]
    event = await rig.edge.snapshot_now()
    (sealed,) = sealed_files(rig)
    assert sealed.name == f"{event.blob_id}.age"
    assert sealed.stat().st_mode & 0o077 == 0
    assert hashlib.sha256(sealed.read_bytes()).hexdigest() == event.sha256
    assert sealed.stat().st_size == event.size_bytes
    assert b"canary" not in sealed.read_bytes()
    assert events(rig, BlobCaptured) == [event]
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(sealed.read_bytes(), [pyrage.x25519.Identity.generate()])
    (tmp_path / "restored").mkdir()
    (tmp_path / "restored" / rig.store.path.name).write_bytes(opened(rig.office, sealed.read_bytes()))
    restored = open_now(tmp_path / "restored")
    try:
        with restored.read() as reader:
            assert verify(reader, None).damages == ()
            assert reader.rows(0, 1000)[: head.seq] == rig.rows()[: head.seq]
    finally:
        restored.close_now()


async def test_it_is_one_moment_of_a_busy_file(rig: Rig) -> None:
    """Rows committed while the copy is made are in it whole or not at all, and no commit waits for it."""
    await rig.record(3_000, detail="x" * 400)
    making = asyncio.create_task(rig.edge.snapshot_now())
    slowest = 0.0
    while not making.done():
        start = time.perf_counter()
        await rig.record(3)
        slowest = max(slowest, time.perf_counter() - start)
    event = await making
    sealed = (rig.folder / BLOBS / f"{event.blob_id}.age").read_bytes()
    with closing(apsw.Connection(":memory:")) as copy:
        copy.deserialize("main", opened(rig.office, sealed))
        dense = copy.execute("SELECT count(*) = max(seq), max(seq) >= 3001 FROM journal").fetchall()
        assert dense == [(1, 1)]
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert slowest < 1.0


async def test_logins_stay_here_and_their_bytes_too(rig: Rig) -> None:
    """Sessions are credentials; nothing of them is in the sealed bytes, not even in a free page."""
    with closing(apsw.Connection(str(rig.store.path))) as raw:
        raw.execute("CREATE TABLE IF NOT EXISTS sessions (id TEXT)").fetchall()
        columns = [row[1] for row in raw.execute("PRAGMA table_info(sessions)").fetchall()]
        for number in range(100):
            values = [f"SECRET-{number}-{column}" if column != "user_id" else None for column in columns]
            marks = ",".join("?" * len(columns))
            raw.execute(f"INSERT INTO sessions VALUES ({marks})", values).fetchall()
    event = await rig.edge.snapshot_now()
    plain = opened(rig.office, (rig.folder / BLOBS / f"{event.blob_id}.age").read_bytes())
    assert b"SECRET-" not in plain
    assert rig.store.path.parent == rig.folder  # and the identity lies beside the file, not in it
    assert (rig.folder / "identity.json").read_bytes()[40:] not in plain


async def test_only_one_at_a_time(rig: Rig) -> None:
    first = asyncio.create_task(rig.edge.snapshot_now())
    await asyncio.sleep(0.01)
    with pytest.raises(SnapshotRunning):
        await rig.edge.snapshot_now()
    await first


async def test_none_without_an_office_to_seal_for(tmp_path: Path, office: OfficeDouble, clock: FakeClock) -> None:
    async with Rig(tmp_path / "k", office, clock) as rig:
        with pytest.raises(NotEnrolled):
            await rig.edge.snapshot_now()


async def test_money_has_first_call_on_the_disk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.edge._session.snapshots, "_free_bytes", lambda: 1 << 20)  # type: ignore[union-attr]
    with pytest.raises(DiskTooFull):
        await rig.edge.snapshot_now()
    assert sealed_files(rig) == []


async def test_a_failure_leaves_nothing_behind(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.edge._session.snapshots, "_recipients", ("age1nonsense",))  # type: ignore[union-attr]
    with pytest.raises(SnapshotFailed):
        await rig.edge.snapshot_now()
    assert sealed_files(rig) == []
    assert events(rig, BlobCaptured) == []


def sealing_child() -> int:
    children = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    (child,) = [pid for pid in children if b"seal.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return child


async def test_a_child_that_is_killed_leaves_nothing_behind(rig: Rig) -> None:
    await rig.record(4_000, detail="x" * 500)
    slow = snapshot.Snapshots(
        rig.store,
        rig.store.path,
        rig.folder / BLOBS,
        recipients=tuple(rig.office.recipients),
        settings=rig.settings.model_copy(update={"snapshot_kib_per_s": 64}),
        clock=rig.clock,
        randomness=rig.random.randbytes,
        free_bytes=lambda: 1 << 40,
    )
    making = asyncio.create_task(slow.make())
    await soon(lambda: list((rig.folder / BLOBS).glob(f"*{snapshot.PLAIN}")))
    os.kill(sealing_child(), signal.SIGKILL)
    with pytest.raises(SnapshotFailed, match="status -9"):
        await making
    assert sealed_files(rig) == []


async def test_stopping_in_the_middle_ends_the_child_and_leaves_nothing(rig: Rig) -> None:
    await rig.record(3_000, detail="x" * 500)
    job = seal.Job(
        source=str(rig.store.path),
        plain=str(rig.folder / BLOBS / "x.plain"),
        sealed=str(rig.folder / BLOBS / "x.age.part"),
        recipients=rig.office.recipients,
        omit=[],
        bytes_per_s=65_536,
    )
    child = asyncio.create_task(snapshot._child(job))
    await soon(lambda: list((rig.folder / BLOBS).glob("x.*")))
    child.cancel()
    with pytest.raises(asyncio.CancelledError):
        await child
    assert sealed_files(rig) == []


def job_line(folder: Path, source: Path, changes: dict[str, object] | None = None) -> bytes:
    job = {
        "source": str(source),
        "plain": str(folder / "x.plain"),
        "sealed": str(folder / "x.age.part"),
        "recipients": [str(pyrage.x25519.Identity.generate().to_public())],
        "omit": ["sessions", 'odd"name'],
        "bytes_per_s": 0,
    }
    return json.dumps({**job, **(changes or {})}).encode() + b"\n"


def some_file(path: Path, rows: int = 2_000) -> Path:
    with closing(apsw.Connection(str(path))) as raw:
        raw.execute("PRAGMA journal_mode=WAL").fetchall()
        raw.execute("CREATE TABLE t (x)").fetchall()
        raw.execute('CREATE TABLE "odd""name" (x)').fetchall()
        raw.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
                    "INSERT INTO t SELECT randomblob(1000) FROM n", (rows,)).fetchall()  # fmt: skip
    return path


def test_when_the_agent_dies_the_child_stops_and_cleans_up(tmp_path: Path) -> None:
    """kill -9 of the agent closes the pipe: nobody waits for the answer any more."""
    process = subprocess.Popen([sys.executable, "-I", seal.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    process.stdin.write(job_line(tmp_path, some_file(tmp_path / "k.db"), {"bytes_per_s": 200_000}))
    process.stdin.flush()
    while not (tmp_path / "x.plain").exists():
        time.sleep(0.01)
    process.stdin.close()
    assert process.wait(10) == seal.GONE
    process.stdout.close()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("x")) == []


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"recipients": ["age1bad"]}, "RecipientError"),
        ({"source": "/nowhere/k.db"}, "CantOpenError"),
    ],
)
def test_the_child_says_in_one_line_what_went_wrong(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    line = job_line(tmp_path, some_file(tmp_path / "k.db", 10), changes)
    with subprocess.Popen(
        [sys.executable, "-I", seal.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin and child.stdout
        child.stdin.write(line)
        child.stdin.flush()
        answer = json.loads(child.stdout.readline())
    assert complaint in answer["error"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("x")) == []


def test_a_file_that_is_not_sound_is_not_sealed_as_if_it_were(tmp_path: Path) -> None:
    source = some_file(tmp_path / "k.db", 500)
    with closing(apsw.Connection(str(source))) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        raw.execute("PRAGMA journal_mode=DELETE").fetchall()
    data = bytearray(source.read_bytes())
    data[4096 * 40 : 4096 * 41] = b"\xa5" * 4096
    source.write_bytes(data)
    with subprocess.Popen(
        [sys.executable, "-I", seal.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin and child.stdout
        child.stdin.write(job_line(tmp_path, source))
        child.stdin.flush()
        answer = json.loads(child.stdout.readline())
    assert "not sound" in answer["error"] or "Corrupt" in answer["error"]


def test_what_a_power_cut_left_is_removed_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    snapshot.clean(folder)
    for name in ("a.plain", "a.plain-journal", "b.age.part", "c.age"):
        (folder / name).write_bytes(b"x")
    snapshot.clean(folder)
    assert [path.name for path in folder.iterdir()] == ["c.age"]
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("step", ["snapshot_sealed", "snapshot_recorded"])
async def test_killed_around_the_row_it_is_whole_or_gone(rig: Rig, step: str) -> None:
    """Before its row is committed a sealed file is nobody's and removed; after it, it is uploaded."""
    rig.kill_at = step
    with pytest.raises(BaseException, match=step):
        await rig.edge.snapshot_now()
    assert len(sealed_files(rig)) == 1
    await rig.restart()
    await rig.clock.until(lambda: not sealed_files(rig), 120)
    assert len(rig.office.objects) == (1 if step == "snapshot_recorded" else 0)


async def test_while_the_office_is_away_only_the_newest_snapshots_stay(make_rig: Callable[..., Rig]) -> None:
    """Weeks offline do not fill the disk; the journal says which ones gave way."""
    rig = make_rig(snapshots_kept=2)
    rig.office.always = double.away
    await rig.start()
    made = []
    for _ in range(4):
        made.append(await rig.edge.snapshot_now())
        await rig.clock.run(60)
    assert [path.name for path in sealed_files(rig)] == [f"{event.blob_id}.age" for event in made[2:]]
    assert events(rig, BlobDiscarded) == [
        BlobDiscarded(blob_id=event.blob_id, reason="superseded") for event in made[:2]
    ]
    assert rig.edge.status().blobs_pending == 2
    await rig.converge()
    await rig.clock.until(lambda: not sealed_files(rig), 600)
    assert len(rig.office.objects) == 2


class Quick(snapshot.Snapshots):
    """The real schedule and journalling, without the sealing process."""

    async def _sealed(self, blob_id: str) -> BlobCaptured:
        return BlobCaptured(blob_id=blob_id, kind=snapshot.KIND, sha256="00" * 32, size_bytes=0)


class Nights:
    """A kiosk that makes nothing but snapshots, on a clock of the test's; times are local."""

    def __init__(self, folder: Path, clock: FakeClock, at: str = "03:30") -> None:
        folder.mkdir(exist_ok=True)
        self.clock, self.folder, self.at = clock, folder, at
        self.store = Watched(open_now(folder, PROJECTIONS, clock=clock))
        clock.busy.append(self.store.busy)
        self.start()

    def start(self) -> None:
        self.quick = Quick(
            self.store,
            self.store.path,
            self.folder,
            recipients=(),
            settings=SyncSettings(snapshot_at=self.at),
            clock=self.clock,
            randomness=random.Random(3).randbytes,
            free_bytes=lambda: 1 << 40,
        )
        self.task = asyncio.create_task(self.quick.run())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def hours(self, count: float) -> list[datetime]:
        """Let time pass; when the snapshots of that time were captured."""
        before = len(self.all())
        for _ in range(round(count * 4)):
            await self.clock.run(900)
        return self.all()[before:]

    def all(self) -> list[datetime]:
        with self.store.read() as reader:
            rows = reader.rows(0, 10_000)
        return [snapshot._local(row.occurred_at) for row in rows if row.type == BlobCaptured.TYPE]


@pytest.fixture
async def nights(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Nights]:
    noon = snapshot._local(clock.now_us()).replace(hour=12, minute=0)
    clock.set_wall(round(noon.timestamp() * 1e6))
    nights = Nights(tmp_path / "n", clock)
    yield nights
    await nights.stop()
    nights.store.close_now()


async def test_the_first_snapshot_comes_soon_and_then_one_a_night(nights: Nights) -> None:
    assert len(await nights.hours(1)) == 1
    made = await nights.hours(5 * 24)
    assert len(made) == 5
    for at in made:
        assert timedelta(hours=3, minutes=30) <= timedelta(hours=at.hour, minutes=at.minute) <= timedelta(hours=4.8)


async def test_a_kiosk_that_is_off_at_night_makes_it_in_the_morning(nights: Nights) -> None:
    await nights.hours(4)
    await nights.stop()
    nights.clock.set_wall(nights.clock.now_us() + 17 * 3_600_000_000)  # from 16:00 to 09:00
    nights.start()
    assert len(await nights.hours(1)) == 1
    await nights.stop()
    nights.start()
    assert await nights.hours(8) == []  # a restart is no reason for another one


async def test_a_wall_clock_that_jumps_makes_no_flood_and_no_famine(nights: Nights) -> None:
    await nights.hours(1)
    made = []
    for year in (1970, 2099, 1999, 2026, 2040, 1970):
        nights.clock.set_wall(round(datetime(year, 6, 1, 12, tzinfo=UTC).timestamp() * 1e6))
        made += await nights.hours(6)
    assert len(made) <= 3
    nights.clock.set_wall(0)
    assert len(await nights.hours(72)) >= 1


async def test_no_time_given_means_no_nightly_snapshot(tmp_path: Path, clock: FakeClock) -> None:
    nights = Nights(tmp_path / "n", clock, at="")
    assert await nights.hours(48) == []
    await nights.stop()
    nights.store.close_now()


async def test_a_night_without_room_is_tried_again(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nights.quick, "_free_bytes", lambda: 0)
    assert await nights.hours(5) == []
    monkeypatch.undo()
    assert len(await nights.hours(1)) == 1
