"""Sealed snapshots of the kiosk's SQLite file: nightly and on demand, journalled by hash and size, kept until stored.

What is in them: the whole file but the rows of `OMITTED` (logins in progress and lock-outs). Password hashes stay in: a
replaced disk must let its staff in while offline, and the file is sealed to the office's and the recovery key before it
is named anywhere. The kiosk's own key lives beside the database (`identity.json`) and is never in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from loguru import logger

from agent.domain.clock import Clock
from agent.domain.errors import StoreError, SyncError
from agent.domain.events import BlobCaptured, BlobDiscarded
from agent.domain.ids import Randomness, uuid7
from agent.store.ports import Store
from sync.edge import blob_table, seal
from sync.edge.identity import sync_folder
from sync.edge.settings import SyncSettings

KIND = "snapshot"
OMITTED = ["sessions", "login_attempts"]
SEALED = ".age"
PART = ".part"  # a sealed file that is not whole yet
PLAIN = ".plain"  # the child's copy; nobody but it ever opens one
ANSWER_BYTES_MAX = 64 << 10
CHILD_TIMEOUT_S = 6 * 3600.0
DISK_MARGIN_BYTES = 64 << 20
SPREAD_S = 3600.0
"""The fleet's snapshots are spread over so long after `snapshot_at`."""
FIRST_LOOK_S = 60.0
"""Not while the agent is starting."""
LOOK_EVERY_S = 900.0
"""How often the wall clock is looked at: it may be set at any time."""
AT_LEAST_APART_S = 12 * 3600.0
"""A wall clock that jumps to and fro makes no more snapshots than this allows."""
OVERDUE = timedelta(hours=36)
"""A kiosk that was off at night makes its snapshot when it is on."""


class SnapshotFailed(SyncError):
    code = "snapshot_failed"
    http_status = 500


class SnapshotRunning(SyncError):
    code = "snapshot_running"
    http_status = 409


class DiskTooFull(SyncError):
    """There is no room for the copy: money has first call on the disk."""

    code = "snapshot_disk_low"
    http_status = 507


class Snapshots:
    """Makes them, one at a time. `free_bytes` tells the space on the state directory's disk."""

    def __init__(
        self,
        store: Store,
        store_path: Path,
        folder: Path,
        *,
        recipients: tuple[str, ...],
        settings: SyncSettings,
        clock: Clock,
        randomness: Randomness,
        free_bytes: Callable[[], int],
        captured: Callable[[], None] = lambda: None,
        on_step: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._store, self._store_path, self._folder = store, store_path, folder
        self._recipients, self._settings = recipients, settings
        self._clock, self._randomness = clock, randomness
        self._free_bytes, self._captured, self._on_step = free_bytes, captured, on_step
        self._running = asyncio.Lock()
        self._since, self._made = clock.monotonic(), False
        self._spread_s = SPREAD_S * int.from_bytes(randomness(2), "big") / 65536

    async def run(self) -> None:
        """The nightly one, for ever. A failure is logged and tried again after a while."""
        await self._clock.sleep_until(self._clock.monotonic() + FIRST_LOOK_S)
        while True:
            try:
                if await asyncio.to_thread(self.due):
                    await self.make()
            except (SyncError, StoreError) as error:
                logger.bind(code=error.code).warning("no snapshot: {}", error.message)
            await self._clock.sleep_until(self._clock.monotonic() + LOOK_EVERY_S)

    def due(self) -> bool:
        """Whether tonight's snapshot is still to be made, or none was made for too long by either clock."""
        if not self._settings.snapshot_at:
            return False
        elapsed_s = self._clock.monotonic() - self._since
        if elapsed_s > OVERDUE.total_seconds():
            return True
        if self._made and elapsed_s < AT_LEAST_APART_S:
            return False
        with self._store.read() as reader:
            newest = blob_table.newest_captured_at(reader, KIND)
        if newest is None:
            return True
        now, last = _local(self._clock.now_us()), _local(newest)
        hour, minute = map(int, self._settings.snapshot_at.split(":"))
        tonight = now.replace(hour=hour, minute=minute, second=0, microsecond=0) + timedelta(seconds=self._spread_s)
        return last < tonight <= now or now - last > OVERDUE

    async def make(self) -> BlobCaptured:
        """One snapshot now. Returns its journalled event; raises `SnapshotFailed`, `SnapshotRunning`, `DiskTooFull`."""
        if self._running.locked():
            raise SnapshotRunning("a snapshot is being made at this moment; wait for it")
        async with self._running:
            self._check_space()
            blob_id = str(uuid7(self._clock.now_us() // 1_000, self._randomness(10)))
            event = await self._sealed(blob_id)
            self._on_step("snapshot_sealed")
            await self._store.record([event], actor="sync", trace_id=blob_id)
            self._on_step("snapshot_recorded")
            self._since, self._made = self._clock.monotonic(), True
            logger.bind(blob=blob_id, bytes=event.size_bytes).info("snapshot captured")
            await self._give_way(blob_id)
        self._captured()
        return event

    def _check_space(self) -> None:
        size = self._store_path.stat().st_size
        free, needed = self._free_bytes(), 2 * size + DISK_MARGIN_BYTES  # the copy, and its sealed form at worst
        if free < needed:
            raise DiskTooFull(f"a snapshot needs {needed >> 20} MiB of free disk and there are {free >> 20}")

    async def _sealed(self, blob_id: str) -> BlobCaptured:
        part = self._folder / f"{blob_id}{SEALED}{PART}"
        job = seal.Job(
            source=str(self._store_path),
            plain=str(self._folder / f"{blob_id}{PLAIN}"),
            sealed=str(part),
            recipients=list(self._recipients),
            omit=OMITTED,
            bytes_per_s=self._settings.snapshot_kib_per_s * 1024,
        )
        answer = await _child(job)
        if "error" in answer:
            raise SnapshotFailed(f"the snapshot could not be made: {answer['error']}")
        part.rename(self._folder / f"{blob_id}{SEALED}")
        sync_folder(self._folder)
        return BlobCaptured(
            blob_id=blob_id, kind=KIND, sha256=str(answer["sha256"]), size_bytes=int(answer["size_bytes"])
        )

    async def _give_way(self, newest: str) -> None:
        """Bound the disk: of the snapshots that could not be uploaded, only the newest few stay."""
        with self._store.read() as reader:
            waiting = [blob for blob in blob_table.captured(reader) if blob.kind == KIND]
        for blob in waiting[: -self._settings.snapshots_kept]:
            await self._store.record(
                [BlobDiscarded(blob_id=blob.blob_id, reason="superseded")], actor="sync", trace_id=newest
            )
            (self._folder / f"{blob.blob_id}{SEALED}").unlink(missing_ok=True)


def clean(folder: Path) -> None:
    """Make the folder if needed and remove what a crash left of snapshots in the making."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in [*folder.glob(f"*{PART}"), *folder.glob(f"*{PLAIN}*")]:
        path.unlink(missing_ok=True)


async def _child(job: seal.Job) -> dict[str, Any]:
    """Run the sealing process to its end; it dies with us and leaves nothing when it fails or we are stopped."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", seal.__file__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=ANSWER_BYTES_MAX,
    )
    assert process.stdin and process.stdout and process.stderr  # noqa: S101 - narrows for the type checker
    try:
        process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
        async with asyncio.timeout(CHILD_TIMEOUT_S):
            line = await process.stdout.readline()
            process.stdin.close()
            complaint = await process.stderr.read(ANSWER_BYTES_MAX)
            status = await process.wait()
    except (OSError, TimeoutError) as error:
        raise SnapshotFailed(f"the sealing process did not finish: {type(error).__name__} {error}") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.returncode != 0:
            _remove(job.sealed, job.plain)
    if status != 0 or not line:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise SnapshotFailed(f"the sealing process ended with status {status}: {last or 'no word'}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _remove(*paths: str) -> None:
    for path in paths:
        Path(path).unlink(missing_ok=True)


def _local(us: int) -> datetime:
    return datetime.fromtimestamp(us / 1_000_000, tz=UTC).astimezone()
