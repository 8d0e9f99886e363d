"""One-time codes and what they buy: a kiosk's place in the office, bound to the public key it made itself."""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.domain.ids import Randomness, claim_code, uuid7
from sync.central.database import Connection
from sync.central.problems import Refused
from sync.envelope import EnrollAnswer, EnrollRequest, Refusal

CODE_CHARACTERS = 12  # ≈ 59 bits: nobody guesses it in its day of life
NAME_CHARACTERS_MAX = 100


def normalised(code: str) -> str:
    """As people type it: case, spaces and dashes do not matter."""
    return "".join(code.upper().replace("-", "").split())


def _hash(code: str) -> bytes:
    return hashlib.sha256(normalised(code).encode()).digest()


async def make_code(
    connection: Connection, name: str, ttl: timedelta, randomness: Randomness, kiosk_id: UUID | None = None
) -> tuple[str, UUID, datetime]:
    """(code to show once, kiosk it is for, end of its life). With `kiosk_id` an enrolled kiosk may enrol anew: a new
    disk with a new key, the old key ends with it."""
    code = claim_code(randomness, CODE_CHARACTERS)
    shown = "-".join(code[start : start + 4] for start in range(0, CODE_CHARACTERS, 4))
    kiosk_id = kiosk_id or uuid7(time.time_ns() // 1_000_000, randomness(10))
    expires_at = datetime.now(UTC) + ttl
    await connection.execute(
        "INSERT INTO enrolment_codes (kiosk_id, code_hash, name, expires_at) VALUES (%s, %s, %s, %s)",
        (kiosk_id, _hash(code), name.strip()[:NAME_CHARACTERS_MAX], expires_at),
    )
    return shown, kiosk_id, expires_at


_USE = """
UPDATE enrolment_codes SET used_at = now()
WHERE code_hash = %s AND used_at IS NULL AND expires_at > now() RETURNING kiosk_id, name"""
_ENROL = """
INSERT INTO kiosks AS k (kiosk_id, name, public_key) VALUES (%(kiosk)s, %(name)s, %(key)s)
ON CONFLICT (kiosk_id) DO UPDATE SET public_key = excluded.public_key, revoked_at = NULL, enrolled_at = now(),
    name = coalesce(nullif(excluded.name, ''), k.name)
RETURNING name"""
_STATUS = """
INSERT INTO kiosk_status (kiosk_id, agent_version) VALUES (%s, %s)
ON CONFLICT (kiosk_id) DO UPDATE SET agent_version = excluded.agent_version, last_seen_at = now()"""
_SAME = """
SELECT k.kiosk_id, k.name FROM enrolment_codes c JOIN kiosks k USING (kiosk_id)
WHERE c.code_hash = %s AND c.used_at IS NOT NULL AND k.public_key = %s AND k.revoked_at IS NULL"""


async def enrol(connection: Connection, request: EnrollRequest, recipients: list[str]) -> EnrollAnswer:
    """Uses the code up. The same code with the same key again gives the same answer: the first may have been lost.

    Of several at once, Postgres lets one use the code; the others are refused."""
    key = _public_key(request.public_key)
    digest = _hash(request.code)
    cursor = await connection.execute(_USE, (digest,))
    row = await cursor.fetchone()
    if row is None:
        cursor = await connection.execute(_SAME, (digest, key))
        row = await cursor.fetchone()
        if row is None:
            raise Refused(Refusal.ENROLMENT_REFUSED, "the code is unknown, was used, or has expired; ask for a new one")
        return EnrollAnswer(str(row[0]), row[1], recipients)
    kiosk_id, name = row
    cursor = await connection.execute(_ENROL, {"kiosk": kiosk_id, "name": name, "key": key})
    row = await cursor.fetchone()
    await connection.execute(_STATUS, (kiosk_id, request.agent_version.replace("\x00", "")[:100]))
    return EnrollAnswer(str(kiosk_id), str(row[0]) if row else name, recipients)


def _public_key(text: str) -> bytes:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        Ed25519PublicKey.from_public_bytes(raw)
    except (binascii.Error, ValueError, UnsupportedAlgorithm) as error:
        raise Refused(Refusal.ENROLMENT_REFUSED, "public_key is not an Ed25519 key in base64url") from error
    return raw


async def revoke(connection: Connection, kiosk_id: UUID) -> bool:
    """Effective with this commit: every call of a kiosk looks here."""
    done = await connection.execute(
        "UPDATE kiosks SET revoked_at = now() WHERE kiosk_id = %s AND revoked_at IS NULL", (kiosk_id,)
    )
    return done.rowcount == 1
