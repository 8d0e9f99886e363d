"""Upload grants, and the work list of objects that are read back before the office believes in them.

A grant is a presigned PUT for one journalled blob: host, key, length and SHA-256 are signed, it lives for minutes, and
asks the store to refuse a key that is taken (`If-None-Match: *`). What a store enforces of that differs: AWS S3 and
MinIO check all of it, `rclone serve s3` (1.75) checks signature, key, length, headers and time, but neither the
checksum's truth nor the precondition. So the office reads every object back, and once more when its grant has ended,
after which nobody can write to the key.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from loguru import logger

from sync.central.alarms import raise_alarms
from sync.central.database import UNAVAILABLE, Connection, Pool
from sync.central.presence import Presence
from sync.central.problems import Alarm, Refused
from sync.central.s3 import Bucket, ObjectMissing, ObjectStoreUnavailable, digest_of
from sync.central.settings import S3Settings
from sync.envelope import GrantAnswer, Refusal

LEASE_S = 600.0
BACKOFF_MAX_S = 3_600.0
MISSING_ALARM_AFTER = 5  # tries; by then the object has been missing for about a minute
AT_ONCE = 2

_GRANT = """
UPDATE blobs SET grant_expires_at = greatest(grant_expires_at, %s) WHERE kiosk_id = %s AND blob_id = %s
RETURNING sha256, size_bytes, object_key, state"""
_TAKE = """
UPDATE blobs SET lease_until = now() + make_interval(secs => %s), attempts = attempts + 1
WHERE (kiosk_id, blob_id) = (
    SELECT kiosk_id, blob_id FROM blobs
    WHERE next_try_at <= now() AND (lease_until IS NULL OR lease_until < now())
    ORDER BY next_try_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING kiosk_id, blob_id, sha256, size_bytes, object_key, state, attempts, grant_expires_at, last_error"""
_DONE = """
UPDATE blobs SET state = %s, next_try_at = %s, lease_until = NULL, last_error = %s,
    verified_at = CASE WHEN %s = 'stored' THEN now() ELSE verified_at END
WHERE kiosk_id = %s AND blob_id = %s"""


async def grant(
    connection: Connection, bucket: Bucket, settings: S3Settings, kiosk_id: UUID, blob_id: str
) -> GrantAnswer:
    """Raises `Refused` for a blob whose row is not here yet, whose object is here already, or that is too large."""
    ttl_s = settings.grant_ttl_s
    now = datetime.now(UTC)
    if "\x00" in blob_id:
        raise Refused(Refusal.BLOB_UNKNOWN, "no row names this blob")
    cursor = await connection.execute(_GRANT, (now + timedelta(seconds=ttl_s), kiosk_id, blob_id))
    row = await cursor.fetchone()
    if row is None:
        raise Refused(Refusal.BLOB_UNKNOWN, f"no row that names blob {blob_id[:100]} has arrived yet; send rows first")
    sha256, size_bytes, key, state = row
    if state in ("stored", "discarded"):
        raise Refused(Refusal.BLOB_STORED, f"blob {blob_id} is {state}")
    if size_bytes > settings.object_bytes_max:
        text = f"blob {blob_id} has {size_bytes} bytes, more than the office takes ({settings.object_bytes_max})"
        raise Refused(Refusal.BATCH_TOO_LARGE, text)
    url, headers = bucket.presigned_put(key, size_bytes=size_bytes, sha256=sha256, now=now, expires_in_s=ttl_s)
    return GrantAnswer(url, key, headers, ttl_s)


@dataclass(frozen=True, slots=True)
class _Task:
    kiosk_id: UUID
    blob_id: str
    sha256: bytes
    size_bytes: int
    object_key: str
    state: str
    attempts: int
    grant_expires_at: datetime | None
    last_error: str


class Verifier:
    """Works through the list, in every process; a task is leased, so that a process that dies does not keep it."""

    def __init__(self, pool: Pool, bucket: Bucket, presence: Presence, interval_s: float) -> None:
        self._pool = pool
        self._bucket = bucket
        self._presence = presence
        self._interval_s = interval_s

    async def run(self) -> None:
        """For ever; Postgres away only means a longer nap."""
        while True:
            try:
                done = await self.work()
            except UNAVAILABLE as error:
                logger.debug("the verifier waits for Postgres: {}", error)
                done = 0
            if done == 0:
                await asyncio.sleep(self._interval_s)

    async def work(self) -> int:
        """Read back what is due, a few at once; returns how many were looked at."""
        tasks = [task for task in [await self._take() for _ in range(AT_ONCE)] if task is not None]
        await asyncio.gather(*(self._verify(task) for task in tasks))
        return len(tasks)

    async def _take(self) -> _Task | None:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_TAKE, (LEASE_S,))
            row = await cursor.fetchone()
        return None if row is None else _Task(*row)

    async def _verify(self, task: _Task) -> None:
        if task.state == "mismatch":  # the kiosk's own two rows disagree
            await self._settle(task, "mismatch", None, task.last_error, _mismatch(task, task.last_error))
            return
        now = datetime.now(UTC)
        try:
            async with self._bucket.read(task.object_key, now) as pieces:
                size, digest = await digest_of(pieces, task.size_bytes)
        except ObjectMissing as error:
            alarm = _missing(task) if task.attempts == MISSING_ALARM_AFTER else None
            await self._settle(task, task.state, now + _pause(task.attempts), error.message, alarm)
        except ObjectStoreUnavailable as error:
            await self._settle(task, task.state, now + _pause(task.attempts), error.message)
        else:
            await self._judge(task, size, digest, now)

    async def _judge(self, task: _Task, size: int, digest: bytes, now: datetime) -> None:
        if size != task.size_bytes or digest != task.sha256:
            text = f"the object has {size} bytes and SHA-256 {digest.hex()}, the journal says {task.size_bytes} and "
            text += task.sha256.hex()
            await self._settle(task, "mismatch", None, text, _mismatch(task, text))
            return
        writable = task.grant_expires_at is not None and task.grant_expires_at > now
        again = task.grant_expires_at if writable else None
        await self._settle(task, "stored", again, "")

    async def _settle(
        self, task: _Task, state: str, again: datetime | None, error: str, alarm: Alarm | None = None
    ) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(_DONE, (state, again, error, state, task.kiosk_id, task.blob_id))
            if alarm is not None:
                await raise_alarms(connection, task.kiosk_id, [alarm])
        logger.info("blob {} of kiosk {} is {} {}", task.blob_id, task.kiosk_id, state, error)
        if state != task.state:
            self._presence.changed(task.kiosk_id)


def _pause(attempts: int) -> timedelta:
    return timedelta(seconds=min(BACKOFF_MAX_S, 2.0 ** min(attempts, 12)))


def _mismatch(task: _Task, text: str) -> Alarm:
    facts = {"blob_id": task.blob_id, "object_key": task.object_key}
    return Alarm("blob_mismatch", task.blob_id, f"blob {task.blob_id}: {text}", facts, severity="critical")


def _missing(task: _Task) -> Alarm:
    facts = {"blob_id": task.blob_id, "object_key": task.object_key}
    text = f"blob {task.blob_id}: the kiosk says it is uploaded, but there is no such object; still looking"
    return Alarm("blob_missing", task.blob_id, text, facts)
