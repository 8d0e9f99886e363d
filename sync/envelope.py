"""The wire contract between kiosk and office: paths, shapes, limits, signatures and refusal codes. Both ends import it.

A batch is a MessagePack array (bytes stay bytes), zstd-compressed, signed with the kiosk's Ed25519 key. Row hashes do
not travel: the office recomputes the chain from the watermark's hash and must arrive at `head_hash`.

| call | request → 200 answer | with token |
|---|---|---|
| `POST PATH_ENROLL` | `EnrollRequest` → `EnrollAnswer`; the same code with the same key again → the same answer | no |
| `POST PATH_CHALLENGE` | `ChallengeRequest` → `ChallengeAnswer` | no |
| `POST PATH_TOKEN` | `TokenRequest` → `TokenAnswer` | no |
| `GET PATH_WATERMARK?journal_id=UUID` | → `Watermark` (seq 0 and the genesis hash for a journal not seen yet) | yes |
| `POST PATH_INGEST` | `BATCH_TYPE` body with `SIGNATURE_HEADER` → `IngestAnswer` | yes |
| `POST PATH_COMMON_PREFIX` | `CommonPrefixRequest` → `CommonPrefixAnswer` | yes |
| `POST PATH_UPLOAD_GRANT` | `GrantRequest` → `GrantAnswer` | yes |
| `POST PATH_HEARTBEAT` | `Heartbeat` → `HeartbeatAnswer` | yes |

All bodies but the batch are JSON; the token travels as `Authorization: Bearer …`. A refusal is a problem document
(RFC 9457) whose `code` is a `Refusal`, with HTTP status `REFUSAL_STATUS[code]` and, where the office has one, its
`watermark` as a member. 429 and 5xx (`code` `database_unavailable`, `object_store_unavailable`) mean: later, after
`Retry-After` seconds when given.

**Forks.** `fork`, `journal_superseded`, or a watermark beyond the kiosk's own head: ask for the common prefix and go on
in a new journal that continues the old one there. A journal that was continued elsewhere takes rows only up to the
point of its continuation. Rows of a branch that nobody continues stay at the office, named in an alarm.
"""

from __future__ import annotations

import struct
from enum import StrEnum, unique
from typing import Annotated
from uuid import UUID

import msgspec
import zstandard

from agent.domain.chain import HASH_BYTES, JournalRow, row_hash
from agent.domain.errors import DomainError

API = "/api/v1"
PATH_ENROLL = f"{API}/enroll"
PATH_CHALLENGE = f"{API}/token/challenge"
PATH_TOKEN = f"{API}/token"
PATH_WATERMARK = f"{API}/watermark"
PATH_INGEST = f"{API}/ingest"
PATH_COMMON_PREFIX = f"{API}/common-prefix"
PATH_UPLOAD_GRANT = f"{API}/blobs/grant"
PATH_HEARTBEAT = f"{API}/heartbeat"

BATCH_TYPE = "application/vnd.kiosk.batch+msgpack"
SIGNATURE_HEADER = "Kiosk-Signature"  # base64url, no padding: Ed25519 over SIGNATURE_CONTEXT + the compressed body
SIGNATURE_CONTEXT = b"kiosk-batch-v1\x00"
TRACE_HEADER = "Kiosk-Trace-Id"

ROWS_MAX = 2_000
COMPRESSED_BYTES_MAX = 1 << 20
PLAIN_BYTES_MAX = 8 << 20
COMMON_PREFIX_MAX = 1_000
TOKEN_TTL_S = 600
NONCE_TTL_S = 60
GRANT_TTL_S = 300
ZSTD_LEVEL = 3


@unique
class Refusal(StrEnum):
    """`code` of the problem document that refuses; part of the contract."""

    GAP = "gap"  # rows do not follow the watermark; send from `watermark.seq + 1`
    FORK = "fork"  # same seq, other hash, or the office is ahead: two histories of one journal
    CHAIN_BROKEN = "chain_broken"  # the rows do not hash to `head_hash`
    JOURNAL_SUPERSEDED = "journal_superseded"  # this journal was continued by another one
    UNKNOWN_KIOSK = "unknown_kiosk"
    KIOSK_REVOKED = "kiosk_revoked"
    TOKEN_INVALID = "token_invalid"  # noqa: S105 - a code, not a secret
    WRONG_SIGNATURE = "wrong_signature"
    BATCH_TOO_LARGE = "batch_too_large"
    MALFORMED_BATCH = "malformed_batch"
    ENROLMENT_REFUSED = "enrolment_refused"
    BLOB_UNKNOWN = "blob_unknown"  # the row that names the blob has not arrived yet
    BLOB_STORED = "blob_already_stored"


REFUSAL_STATUS: dict[Refusal, int] = {
    Refusal.GAP: 409,
    Refusal.FORK: 409,
    Refusal.CHAIN_BROKEN: 422,
    Refusal.JOURNAL_SUPERSEDED: 409,
    Refusal.UNKNOWN_KIOSK: 403,
    Refusal.KIOSK_REVOKED: 403,
    Refusal.TOKEN_INVALID: 401,
    Refusal.WRONG_SIGNATURE: 403,
    Refusal.BATCH_TOO_LARGE: 413,
    Refusal.MALFORMED_BATCH: 422,
    Refusal.ENROLMENT_REFUSED: 403,
    Refusal.BLOB_UNKNOWN: 404,
    Refusal.BLOB_STORED: 409,
}


class MalformedBatch(DomainError):
    code = Refusal.MALFORMED_BATCH
    http_status = 422


class BatchTooLarge(DomainError):
    code = Refusal.BATCH_TOO_LARGE
    http_status = 413


_INT64 = 2**63 - 1
Positive = Annotated[int, msgspec.Meta(ge=1, le=_INT64)]
Count = Annotated[int, msgspec.Meta(ge=0, le=_INT64)]
Schema = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class WireRow(msgspec.Struct, frozen=True, array_like=True):
    """A journal row without its two hashes; `id` and `boot_id` are 16 bytes."""

    seq: Positive
    id: bytes
    type: str
    schema: Schema
    occurred_at: int
    boot_id: bytes
    monotonic_us: Count
    trace_id: str
    actor: str
    subject: str
    body: bytes


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive rows of one journal. `prev_hash` is the hash of row `rows[0].seq - 1`, `head_hash` of the last."""

    kiosk_id: str
    journal_id: bytes
    prev_hash: bytes
    head_hash: bytes
    rows: list[WireRow]


class Watermark(msgspec.Struct, frozen=True):
    """What the office has, whole and in order: rows 1..seq of this journal. `hash` is hex; seq 0 = nothing yet."""

    journal_id: str
    seq: int
    hash: str


class EnrollRequest(msgspec.Struct, frozen=True):
    """`public_key`: Ed25519 public key, 32 bytes as base64url without padding."""

    code: str
    public_key: str
    agent_version: str


class EnrollAnswer(msgspec.Struct, frozen=True):
    """`recipients`: age public keys (`age1…`) of the office and of its recovery key; the kiosk pins them."""

    kiosk_id: str
    name: str
    recipients: list[str]


class ChallengeRequest(msgspec.Struct, frozen=True):
    kiosk_id: str


class ChallengeAnswer(msgspec.Struct, frozen=True):
    nonce: str
    expires_in_s: int


class TokenRequest(msgspec.Struct, frozen=True):
    """`assertion`: compact JWS, `alg` EdDSA, claims `sub` (kiosk id) and `nonce`; no clock of the kiosk is trusted."""

    kiosk_id: str
    assertion: str


class TokenAnswer(msgspec.Struct, frozen=True):
    access_token: str
    expires_in_s: int


class IngestAnswer(msgspec.Struct, frozen=True):
    """`accepted` rows were new; the rest of the batch was known."""

    watermark: Watermark
    accepted: int


class CommonPrefixRequest(msgspec.Struct, frozen=True):
    """`hashes`: (seq, hash in hex) of the kiosk's rows, ascending, at most COMMON_PREFIX_MAX."""

    journal_id: str
    hashes: list[tuple[int, str]]


class CommonPrefixAnswer(msgspec.Struct, frozen=True):
    """The highest of the asked seqs at which both histories agree; 0 when none does."""

    seq: int


class GrantRequest(msgspec.Struct, frozen=True):
    blob_id: str


class GrantAnswer(msgspec.Struct, frozen=True):
    """A presigned PUT: send exactly these headers with exactly the journalled bytes."""

    url: str
    object_key: str
    headers: dict[str, str]
    expires_in_s: int


class Heartbeat(msgspec.Struct, frozen=True):
    """Telemetry that rides along; never money. `head_seq` lets the office show the lag."""

    journal_id: str
    head_seq: int
    agent_version: str
    devices: dict[str, str] = {}
    disk_free_bytes: int = 0
    oldest_unsent_at: int | None = None


class HeartbeatAnswer(msgspec.Struct, frozen=True):
    """`next_in_s`: when the office wants to hear again."""

    watermark: Watermark
    next_in_s: float


def wire_row(row: JournalRow) -> WireRow:
    return WireRow(
        row.seq,
        row.id.bytes,
        row.type,
        row.schema,
        row.occurred_at,
        row.boot_id.bytes,
        row.monotonic_us,
        row.trace_id,
        row.actor,
        row.subject,
        row.body,
    )


def pack(kiosk_id: str, journal_id: UUID, rows: list[JournalRow]) -> bytes:
    """The compressed body for `PATH_INGEST`; `rows` are consecutive and not empty."""
    batch = Batch(kiosk_id, journal_id.bytes, rows[0].prev_hash, rows[-1].hash, [wire_row(row) for row in rows])
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(msgspec.msgpack.encode(batch))


def unpack(data: bytes) -> Batch:
    """The batch in a body. Raises `BatchTooLarge` or `MalformedBatch`; never allocates beyond PLAIN_BYTES_MAX."""
    if len(data) > COMPRESSED_BYTES_MAX:
        raise BatchTooLarge(f"the batch has {len(data)} bytes, more than {COMPRESSED_BYTES_MAX}; send fewer rows")
    try:
        with zstandard.ZstdDecompressor(max_window_size=PLAIN_BYTES_MAX).stream_reader(data) as reader:
            plain = reader.read(PLAIN_BYTES_MAX + 1)
        if len(plain) > PLAIN_BYTES_MAX:
            raise BatchTooLarge(f"the batch unpacks to more than {PLAIN_BYTES_MAX} bytes; send fewer rows")
        batch = msgspec.msgpack.decode(plain, type=Batch)
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise MalformedBatch(f"the batch cannot be read: {error}") from error
    _check_shape(batch)
    return batch


def _check_shape(batch: Batch) -> None:
    if not batch.rows:
        raise MalformedBatch("the batch has no rows")
    if len(batch.rows) > ROWS_MAX:
        raise BatchTooLarge(f"the batch has {len(batch.rows)} rows, more than {ROWS_MAX}; send fewer rows")
    first = batch.rows[0].seq
    if [row.seq for row in batch.rows] != list(range(first, first + len(batch.rows))):
        raise MalformedBatch("the rows of a batch must have consecutive seq numbers from 1 upwards")
    sixteen = [batch.journal_id, *(row.id for row in batch.rows), *(row.boot_id for row in batch.rows)]
    hashes = (batch.prev_hash, batch.head_hash)
    if any(len(value) != 16 for value in sixteen) or any(len(value) != HASH_BYTES for value in hashes):
        raise MalformedBatch("an id is not 16 bytes or a hash is not 32")


def chained(batch: Batch) -> list[JournalRow]:
    """The batch's rows with their hashes recomputed. Raises `MalformedBatch` with `reason` chain_broken when they do
    not arrive at `head_hash`, or hold a number out of range."""
    rows: list[JournalRow] = []
    previous = batch.prev_hash
    for wire in batch.rows:
        fields = {
            "seq": wire.seq,
            "id": UUID(bytes=wire.id),
            "type": wire.type,
            "schema": wire.schema,
            "occurred_at": wire.occurred_at,
            "boot_id": UUID(bytes=wire.boot_id),
            "monotonic_us": wire.monotonic_us,
            "trace_id": wire.trace_id,
            "actor": wire.actor,
            "subject": wire.subject,
            "body": wire.body,
            "prev_hash": previous,
        }
        try:
            row = JournalRow(**fields, hash=row_hash(**fields))  # type: ignore[arg-type]
        except struct.error as error:
            raise MalformedBatch(f"row {wire.seq} holds a number out of range: {error}") from error
        rows.append(row)
        previous = row.hash
    if previous != batch.head_hash:
        raise MalformedBatch("the rows do not hash to head_hash", reason=Refusal.CHAIN_BROKEN)
    return rows
