"""Sealed files on their way into the office's object store: by priority, within a bandwidth budget, after their rows.

A file lies in `<state>/blobs/<blob_id>.age` until the office has read its object back and says so (it answers
`blob_already_stored` to the wish for another grant); only then is it deleted. The journal says what there is to do; the
folder, what is left.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from loguru import logger

from agent.domain.clock import Clock
from agent.domain.errors import BatchRefused, CentreUnavailable, StoreError
from agent.domain.events import BlobDiscarded, BlobStored
from agent.domain.ids import Randomness
from agent.store.ports import Store
from sync.edge import blob_table
from sync.edge.backoff import Backoff, Bell, told_s
from sync.edge.blob_table import Blob
from sync.edge.client import ObjectStore, Office, UploadFailed
from sync.edge.settings import SyncSettings
from sync.edge.snapshot import SEALED
from sync.envelope import GrantAnswer, Refusal

CHUNK_BYTES = 64 << 10
LOOK_EVERY_S = 900.0
"""Without a ring (a new blob, rows accepted) the folder is looked at so often."""
CONFIRM_FIRST_S = 0.5
CONFIRM_MOST_S = 30.0
"""How often the office is asked whether it has read an uploaded object back."""
CONFIRM_PATIENCE_S = 1800.0
PATIENCE_MOST_S = 86_400.0
"""An object that the office still does not have so long after its upload is uploaded again; twice as long each time."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The object store took a blob: until when (monotonic) the office is given time to read it back."""

    until: float
    patience_s: float = CONFIRM_PATIENCE_S


class Uploader:
    """One upload at a time. `transport` is for tests."""

    def __init__(
        self,
        store: Store,
        office: Office,
        folder: Path,
        *,
        settings: SyncSettings,
        clock: Clock,
        randomness: Randomness,
        on_step: Callable[[str], None] = lambda name: None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._store, self._office, self._folder = store, office, folder
        self._settings, self._clock, self._on_step = settings, clock, on_step
        self._backoff = Backoff(settings.retry_min_s, settings.retry_max_s, randomness)
        self._confirm = Backoff(CONFIRM_FIRST_S, CONFIRM_MOST_S, randomness)
        self._bell = Bell(clock)
        self._objects = ObjectStore(settings, clock, transport=transport)
        self._taken: dict[str, Taken] = {}
        self._waiting = 0
        self._row_awaited = False  # the office does not know a blob's row yet

    def ring(self) -> None:
        """There may be something to do: a blob was captured, rows arrived at the office, a person asked."""
        self._bell.ring()

    def rows_arrived(self) -> None:
        """Rows reached the office: a blob whose row was on the way may be welcome now. Nothing else is tried for it: a
        busy kiosk would cut every wait for an absent object store short, and each failure makes the next one longer."""
        if self._row_awaited:
            self._bell.ring()

    async def run(self) -> None:
        try:
            while True:
                wait_s = await self._turn()
                await self._bell.wait(self._clock.monotonic() + wait_s)
        finally:
            await self._objects.close()

    async def _turn(self) -> float:
        """Work through what lies there; returns how long to wait. One file that will not go holds up no other."""
        unconfirmed, failed = 0, False
        self._row_awaited = False
        try:
            for blob in await asyncio.to_thread(self._worklist):
                try:
                    unconfirmed += not await self._bring(blob)
                except UploadFailed as error:
                    failed = True
                    logger.bind(blob=blob.blob_id, code=error.code).debug("{}", error.message)
        except (CentreUnavailable, StoreError) as error:
            logger.bind(code=error.code).debug("blobs wait: {}", error.message)
            return self._backoff.next_s(told_s(error))
        if failed:
            return self._backoff.next_s()
        self._backoff.reset()
        if unconfirmed:
            return self._confirm.next_s()
        self._confirm.reset()
        return LOOK_EVERY_S

    def _worklist(self) -> list[Blob]:
        """What lies in the folder, most urgent first; files that no row names are removed (a crash before the row)."""
        found: list[Blob] = []
        with self._store.read() as reader:
            open_blobs = blob_table.captured(reader)
            for path in self._folder.glob(f"*{SEALED}"):
                blob = blob_table.find(reader, path.name.removesuffix(SEALED))
                if blob is None or blob.state == blob_table.DISCARDED:
                    path.unlink(missing_ok=True)
                else:
                    found.append(blob)
        known = {blob.blob_id for blob in found}
        found += [blob for blob in open_blobs if blob.blob_id not in known]  # their files are gone: to be told
        self._waiting = len(found)
        return sorted(found, key=lambda blob: blob.order)

    async def _bring(self, blob: Blob) -> bool:
        """Take one blob a step further; True when it is settled for good."""
        try:
            grant = await self._office.grant(blob.blob_id)
        except BatchRefused as error:
            return self._refused(blob, error)
        now = self._clock.monotonic()
        if blob.state == blob_table.STORED and blob.blob_id not in self._taken:  # before this process started
            self._taken[blob.blob_id] = Taken(now + CONFIRM_PATIENCE_S)
        if blob.blob_id in self._taken and now < self._taken[blob.blob_id].until:
            return False  # taken by the object store, not yet read back by the office
        if not await asyncio.to_thread(self._sound, blob):
            if blob.state == blob_table.CAPTURED:
                await self._store.record(
                    [BlobDiscarded(blob_id=blob.blob_id, reason="lost")], actor="sync", trace_id=blob.blob_id
                )
            self._path(blob).unlink(missing_ok=True)
            logger.bind(blob=blob.blob_id).error("the sealed file is gone or changed; it cannot be uploaded any more")
            return True
        await self._upload(blob, grant)
        return False

    def _refused(self, blob: Blob, error: BatchRefused) -> bool:
        reason = error.details["reason"]
        if reason == Refusal.BLOB_STORED:
            self._path(blob).unlink(missing_ok=True)
            self._taken.pop(blob.blob_id, None)
            logger.bind(blob=blob.blob_id).info("the office has the object; the local file is removed")
            return True
        if reason == Refusal.BLOB_UNKNOWN:
            self._row_awaited = True
            return False
        raise CentreUnavailable(f"no grant for blob {blob.blob_id}: {error.message}") from error

    def _sound(self, blob: Blob) -> bool:
        """Whether the local file still is what the journal says; reads it whole."""
        try:
            with self._path(blob).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == blob.sha256
        except OSError:
            return False

    async def _upload(self, blob: Blob, grant: GrantAnswer) -> None:
        status = await self._objects.put(grant.url, grant.headers, self._paced(blob))
        if status not in (200, 412):  # 412: write-once, and an earlier upload whose answer was lost had been taken
            raise UploadFailed(f"the object store answered {status} for blob {blob.blob_id}")
        self._on_step("blob_put")
        stored = BlobStored(
            blob_id=blob.blob_id, sha256=blob.sha256, size_bytes=blob.size_bytes, object_key=grant.object_key
        )
        await self._store.record([stored], actor="sync", trace_id=blob.blob_id)
        self._on_step("blob_recorded")
        before = self._taken.get(blob.blob_id)
        patience_s = min(PATIENCE_MOST_S, 2 * before.patience_s) if before else CONFIRM_PATIENCE_S
        self._taken[blob.blob_id] = Taken(self._clock.monotonic() + patience_s, patience_s)
        logger.bind(blob=blob.blob_id, key=grant.object_key).info("blob uploaded")

    async def _paced(self, blob: Blob) -> AsyncIterator[bytes]:
        rate = self._settings.upload_kib_per_s * 1024
        started, sent = self._clock.monotonic(), 0
        with self._path(blob).open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk
                sent += len(chunk)
                if rate:
                    await self._clock.sleep_until(started + sent / rate)

    def _path(self, blob: Blob) -> Path:
        return self._folder / f"{blob.blob_id}{SEALED}"
