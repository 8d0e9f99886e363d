"""`kiosk central restore`: the newest stored snapshot of a kiosk, opened with the office's or the recovery key.

Proves that it opens: SHA-256 of the object, age, zstd, then the store's own verification of every chain in the file.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import pyrage
import zstandard

from agent.domain.errors import KioskError
from agent.store.connection import connect_reader
from agent.store.reader import SqlReader, reading
from agent.store.verify import Verdict, verify
from sync.central.services import make_bucket, object_client
from sync.central.settings import CentralSettings
from sync.central.setup import connected

PIECE_BYTES = 1 << 20


class RestoreFailed(KioskError):
    """The snapshot is missing, forged, or does not open; the message says which."""

    code = "restore_failed"


@dataclass(frozen=True, slots=True)
class Snapshot:
    kiosk_id: UUID
    blob_id: str
    object_key: str
    sha256: bytes
    size_bytes: int
    captured_us: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What lies at `path` now, and what the store says of it."""

    snapshot: Snapshot
    path: Path
    journal_id: UUID
    seq: int
    hash: bytes
    verdict: Verdict


async def newest(settings: CentralSettings, kiosk_id: UUID) -> Snapshot:
    async with connected(settings) as connection:
        cursor = await connection.execute(
            "SELECT blob_id, object_key, sha256, size_bytes, captured_us FROM blobs "
            "WHERE kiosk_id = %s AND kind = 'snapshot' AND state = 'stored' ORDER BY captured_us DESC LIMIT 1",
            (kiosk_id,),
        )
        row = await cursor.fetchone()
    if row is None:
        raise RestoreFailed(f"no snapshot of kiosk {kiosk_id} is stored; see its blobs in the office")
    return Snapshot(kiosk_id, *row)


async def restore(settings: CentralSettings, kiosk_id: UUID, identity_file: Path, out: Path) -> Restored:
    """Raises `RestoreFailed`, or `ObjectStoreUnavailable`. Nothing is left behind when it fails; `out` must be new."""
    identity = read_identity(identity_file)
    snapshot = await newest(settings, kiosk_id)
    sealed = out.with_name(f"{out.name}.age")
    try:
        with _private(sealed) as file:
            await _download(settings, snapshot, file)
        await asyncio.to_thread(_open, sealed, identity, out)
        return await asyncio.to_thread(_check, snapshot, out)
    finally:
        sealed.unlink(missing_ok=True)


def read_identity(path: Path) -> pyrage.x25519.Identity:
    """The first age identity in a file as `age-keygen` and `kiosk central keys` write it."""
    try:
        lines = path.read_text("utf-8").split()
        return pyrage.x25519.Identity.from_str(next(line for line in lines if line.startswith("AGE-SECRET-KEY-")))
    except OSError as error:
        raise RestoreFailed(f"{path} cannot be read: {error.strerror}") from error
    except (StopIteration, ValueError, pyrage.IdentityError) as error:
        raise RestoreFailed(f"{path} holds no age identity") from error


def _private(path: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except OSError as error:
        raise RestoreFailed(f"{path} cannot be made: {error.strerror}") from error


async def _download(settings: CentralSettings, snapshot: Snapshot, file: BinaryIO) -> None:
    digest, size = hashlib.sha256(), 0
    async with (
        object_client(settings) as client,
        make_bucket(settings, client).read(snapshot.object_key, datetime.now(UTC)) as pieces,
    ):
        async for piece in pieces:
            digest.update(piece)
            size += len(piece)
            file.write(piece)
    if size != snapshot.size_bytes or digest.digest() != snapshot.sha256:
        raise RestoreFailed(f"{snapshot.object_key} is not what the kiosk's journal says: it was changed in the store")


def _open(sealed: Path, identity: pyrage.x25519.Identity, out: Path) -> None:
    squeezed = out.with_name(f"{out.name}.zst")
    try:
        with sealed.open("rb") as source, _private(squeezed) as target:
            pyrage.decrypt_io(source, target, [identity])
        with squeezed.open("rb") as source, _private(out) as target:
            zstandard.ZstdDecompressor().copy_stream(source, target, write_size=PIECE_BYTES)
            target.flush()
            os.fsync(target.fileno())
    except (pyrage.DecryptError, zstandard.ZstdError) as error:
        out.unlink(missing_ok=True)
        raise RestoreFailed(f"the snapshot does not open with this key: {error}") from error
    finally:
        squeezed.unlink(missing_ok=True)


def _check(snapshot: Snapshot, out: Path) -> Restored:
    connection = connect_reader(out)
    try:
        with reading(connection) as reader:
            return _judge(snapshot, out, reader)
    finally:
        connection.close()
        for suffix in ("-wal", "-shm"):
            out.with_name(out.name + suffix).unlink(missing_ok=True)


def _judge(snapshot: Snapshot, out: Path, reader: SqlReader) -> Restored:
    verdict = verify(reader, None)
    if verdict.journal_id is None:
        raise RestoreFailed(f"{out} opens, but is no kiosk's journal: {verdict.damages[0].detail}")
    seq, hash_ = reader.head()
    return Restored(snapshot, out, verdict.journal_id, seq, hash_, verdict)
