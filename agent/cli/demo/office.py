"""What the office really holds: straight from Postgres and S3, not through its API."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import psycopg
from minio import Minio
from psycopg.rows import dict_row

from agent.cli.demo.rig import Rig
from sync.central.embedded import BUCKET, HOST

FINAL = ("completed", "cancelled", "expired", "failed")


@dataclass(frozen=True, slots=True)
class TransactionFacts:
    """One row of `transactions` with its notes as (value in minor units, journal seq)."""

    payment_id: str
    state: str
    currency: str
    collected_minor: int
    claimed_minor: int
    notes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """A sealed file that the office has read back and believes."""

    bucket: str
    key: str
    size_bytes: int
    sha256: str


class Office:
    """A read-only look behind the counter. `with Office(rig) as office:`; blocking."""

    def __init__(self, rig: Rig) -> None:
        self._dsn = rig.servers.postgres.dsn()
        s3 = rig.servers.s3
        self._s3 = Minio(f"{HOST}:{s3.port}", s3.access_key, s3.secret_key, secure=False, region="us-east-1")
        self._postgres: psycopg.Connection[dict[str, object]] | None = None

    def __enter__(self) -> Office:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._postgres is not None:
            self._postgres.close()

    def rows(self, sql: str, *parameters: object) -> list[dict[str, object]]:
        """All rows of a query; connects again when Postgres was restarted meanwhile."""
        try:
            return self._connection().execute(sql.encode(), parameters).fetchall()
        except psycopg.OperationalError:
            self._postgres = None
            return self._connection().execute(sql.encode(), parameters).fetchall()

    def transaction(self, payment_id: str) -> TransactionFacts | None:
        """The payment's row once it is in a final state."""
        found = self.rows(
            "SELECT state, currency, collected_minor, claimed_minor FROM transactions WHERE payment_id = %s", payment_id
        )
        if not found or found[0]["state"] not in FINAL:
            return None
        notes = self.rows(
            "SELECT value_minor, stacked_seq FROM transaction_notes WHERE payment_id = %s ORDER BY stacked_seq",
            payment_id,
        )
        row = found[0]
        return TransactionFacts(
            payment_id=payment_id,
            state=str(row["state"]),
            currency=str(row["currency"]),
            collected_minor=_int(row["collected_minor"]),
            claimed_minor=_int(row["claimed_minor"]),
            notes=tuple((_int(note["value_minor"]), _int(note["stacked_seq"])) for note in notes),
        )

    def stored_object(self, blob_id: str) -> ObjectFacts | None:
        """The blob once the office has read it back; checked against the object store itself."""
        found = self.rows("SELECT object_key, sha256 FROM blobs WHERE blob_id = %s AND state = 'stored'", blob_id)
        if not found:
            return None
        key = str(found[0]["object_key"])
        stat = self._s3.stat_object(BUCKET, key)
        digest = found[0]["sha256"]
        return ObjectFacts(BUCKET, key, stat.size or 0, digest.hex() if isinstance(digest, bytes) else str(digest))

    def _connection(self) -> psycopg.Connection[dict[str, object]]:
        if self._postgres is None or self._postgres.closed:
            self._postgres = psycopg.connect(self._dsn, autocommit=True, row_factory=dict_row)
        return self._postgres


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected a whole number from Postgres, got {value!r}")
    return value
