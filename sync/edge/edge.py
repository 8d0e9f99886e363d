"""The kiosk's side of the road, put together: waits for an identity, runs uplink, uploader and snapshots, tells.

Light until the kiosk is enrolled: HTTP, compression and keys are imported when there is an office to talk to.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from agent.domain.clock import Clock
from agent.domain.errors import SyncError
from agent.domain.events import BlobCaptured
from agent.domain.ids import Randomness
from agent.store.ports import Store
from sync.edge import blob_table
from sync.edge import identity as files
from sync.edge.backoff import Backoff, Bell, first
from sync.edge.identity import Identity, NotEnrolled
from sync.edge.settings import SyncSettings
from sync.edge.status import EdgeStatus, Progress

if TYPE_CHECKING:
    import httpx

    from sync.edge.blobs import Uploader
    from sync.edge.client import Office
    from sync.edge.snapshot import Snapshots
    from sync.edge.uplink import Uplink

LOOK_EVERY_S = 5.0
"""How often `identity.json` is looked for and at (one stat): enrolment needs no restart of the agent."""
SYNC_NOW_MAX_S = 30.0
SESSION_MAX_S = 5.0
RESTART_S = 30.0
BLOBS = "blobs"


@dataclass(frozen=True, slots=True)
class Session:
    """What runs while the kiosk has one identity."""

    identity: Identity
    uplink: Uplink
    uploader: Uploader
    snapshots: Snapshots


class Edge:
    """`run` until `stop`. All else may be called at any time from the event loop."""

    def __init__(
        self,
        settings: SyncSettings,
        *,
        store: Store,
        store_path: Path,
        state_dir: Path,
        clock: Clock,
        randomness: Randomness,
        agent_version: str,
        devices_info: Callable[[], Mapping[str, str]],
        on_step: Callable[[str], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings, self._store, self._store_path, self._state_dir = settings, store, store_path, state_dir
        self._clock, self._randomness, self._version = clock, randomness, agent_version
        self._devices_info, self._on_step, self._transport = devices_info, on_step, transport
        self._progress = Progress()
        self._identity: Identity | None = None
        self._identity_error: SyncError | None = None
        self._session: Session | None = None
        self._bell: Bell | None = None
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Never returns by itself. A defect of ours in one part is logged and that part is started again."""
        self._task = asyncio.current_task()
        self._bell = Bell(self._clock)
        try:
            while True:
                stamp = self._stamp()
                self.look_for_identity()
                if self._identity is not None:
                    await self._served(self._identity, stamp)
                else:
                    await self._bell.wait(self._clock.monotonic() + LOOK_EVERY_S)
        finally:
            self._task = None

    async def stop(self) -> None:
        """End `run`; what was under way is simply done again after the next start."""
        if self._task is not None:
            task = self._task
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def look_for_identity(self) -> None:
        """Read `identity.json`, or note why it cannot be used. `run` does it by itself."""
        before = self._identity_error
        self._identity, self._identity_error = None, None
        try:
            self._identity = files.load(self._state_dir)
        except SyncError as error:
            self._identity_error = error
            if before is None or before.message != error.message:
                logger.bind(code=error.code).error("{}", error.message)

    def status(self) -> EdgeStatus:
        """As of now; reads two rows."""
        progress, now = self._progress, self._clock.monotonic()
        known = progress.watermark_seq
        with self._store.read() as reader:
            head, _ = reader.head()
            unsent = reader.rows(known, 1) if known is not None else []
            pending = blob_table.captured(reader)
        error = self._identity_error
        return EdgeStatus(
            enrolled=self._identity is not None,
            online=progress.online,
            kiosk_id=self._identity.kiosk_id if self._identity else None,
            central_url=self._identity.central_url if self._identity else None,
            journal_id=str(self._store.journal_id),
            head_seq=head,
            watermark_seq=known,
            lag_rows=None if known is None else max(0, head - known),
            oldest_unsent_age_s=max(0.0, (self._clock.now_us() - unsent[0].occurred_at) / 1e6) if unsent else None,
            error_code=error.code if error else progress.error_code,
            error_text=error.message if error else progress.error_text,
            alarm=error.code if error else progress.alarm,
            forked_from=progress.forked_from,
            last_contact_age_s=None if progress.last_contact is None else now - progress.last_contact,
            retry_in_s=None if progress.retry_at is None else max(0.0, progress.retry_at - now),
            blobs_pending=len(pending),
            blobs_pending_bytes=sum(blob.size_bytes for blob in pending),
        )

    async def sync_now(self) -> EdgeStatus:
        """Try now instead of after the wait; returns when everything has arrived, something failed, or time is up.

        Also looks for an identity at once: `kiosk enroll` calls it. Raises `NotEnrolled`.
        """
        until = self._clock.monotonic() + SYNC_NOW_MAX_S
        session = await self._session_soon()
        if session is None:
            raise self._identity_error or NotEnrolled("this kiosk is not enrolled; run `kiosk enroll`")
        while True:
            session.uploader.ring()
            session.uplink.urge()
            await first(session.uplink.turned(), self._clock.sleep_until(until))
            status = self.status()
            if status.lag_rows == 0 or status.error_code or self._clock.monotonic() >= until:
                return status

    async def snapshot_now(self) -> BlobCaptured:
        """Make a sealed snapshot; it is uploaded by and by. Raises `NotEnrolled` and what `Snapshots.make` raises."""
        if self._session is None:
            raise self._identity_error or NotEnrolled("a snapshot is sealed to the office's keys; run `kiosk enroll`")
        return await self._session.snapshots.make()

    async def _session_soon(self) -> Session | None:
        """The session; when there is none yet but an identity file, it is given a moment to come up."""
        until = self._clock.monotonic() + SESSION_MAX_S
        if self._bell is not None:
            self._bell.ring()
        while self._session is None and self._stamp() is not None and self._clock.monotonic() < until:
            await self._clock.sleep_until(self._clock.monotonic() + 0.05)
            if self._identity_error is not None:
                break
        return self._session

    # --- one identity ------------------------------------------------------------------------------------------------

    async def _served(self, identity: Identity, stamp: tuple[int, int] | None) -> None:
        """`_serve`; what cannot even begin (no folder for blobs, an unreadable `ca_file`) is logged and tried again."""
        try:
            await self._serve(identity, stamp)
        except Exception as error:  # noqa: BLE001 - the supervisor's edge: the kiosk goes on, and so must its sync
            self._progress.failed("sync_not_started", f"{type(error).__name__}: {error}", alarm=True)
            logger.exception("sync cannot run")
            await self._clock.sleep_until(self._clock.monotonic() + RESTART_S)

    def _open_office(self, identity: Identity, folder: Path) -> Office:
        """Off the event loop: imports and certificates take longer than a device may wait."""
        from sync.edge import blobs, snapshot, uplink  # noqa: F401 - imported here so that `_build` finds them done
        from sync.edge.client import Office

        snapshot.clean(folder)
        identity.sign(b"")  # loads the key and its library
        return Office(identity, self._settings, self._clock, agent_version=self._version, transport=self._transport)

    async def _serve(self, identity: Identity, stamp: tuple[int, int] | None) -> None:
        """Run everything until the identity file is another one."""
        folder = self._state_dir / BLOBS
        office = await asyncio.to_thread(self._open_office, identity, folder)
        session = self._session = self._build(identity, office, folder)
        logger.bind(kiosk=identity.kiosk_id, centre=identity.central_url).info("sync runs")
        try:
            async with asyncio.TaskGroup() as group:
                parts = [
                    group.create_task(self._kept(name, part))
                    for name, part in {
                        "uplink": session.uplink.run,
                        "uploader": session.uploader.run,
                        "snapshots": session.snapshots.run,
                    }.items()
                ]
                while self._stamp() == stamp:
                    await self._clock.sleep_until(self._clock.monotonic() + LOOK_EVERY_S)
                for part in parts:
                    part.cancel()
        finally:
            self._session = None
            await office.close()

    def _build(self, identity: Identity, office: Office, folder: Path) -> Session:
        from sync.edge.blobs import Uploader
        from sync.edge.snapshot import Snapshots
        from sync.edge.uplink import Uplink

        quiet = self._on_step or (lambda name: None)
        uploader = Uploader(
            self._store,
            office,
            folder,
            settings=self._settings,
            clock=self._clock,
            randomness=self._randomness,
            on_step=quiet,
            transport=self._transport,
        )
        snapshots = Snapshots(
            self._store,
            self._store_path,
            folder,
            recipients=identity.recipients,
            settings=self._settings,
            clock=self._clock,
            randomness=self._randomness,
            free_bytes=self._free_bytes,
            captured=uploader.ring,
            on_step=quiet,
        )
        self._progress = Progress()
        uplink = Uplink(
            self._store,
            office,
            identity,
            settings=self._settings,
            clock=self._clock,
            randomness=self._randomness,
            progress=self._progress,
            agent_version=self._version,
            devices_info=self._devices_info,
            free_bytes=self._free_bytes,
            accepted=uploader.rows_arrived,
            on_step=self._on_step,
        )
        return Session(identity, uplink, uploader, snapshots)

    async def _kept(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """One part, for ever: a defect is logged once a fall, with growing pauses."""
        backoff = Backoff(1.0, 60.0, self._randomness)
        while True:
            try:
                await run()
            except Exception:  # noqa: BLE001 - the supervisor's edge: rows must go on whatever falls
                logger.bind(part=name).exception("sync: {} fell", name)
            await self._clock.sleep_until(self._clock.monotonic() + backoff.next_s())

    def _stamp(self) -> tuple[int, int] | None:
        """Changes whenever `identity.json` is written or removed."""
        try:
            info = (self._state_dir / files.FILE_NAME).stat()
        except OSError:
            return None
        return info.st_ino, info.st_mtime_ns

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._state_dir).free
