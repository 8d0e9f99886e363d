"""What kiosks call: raw ASGI before the framework, since a framework's routing would cost more than the work itself.

Every call but enrolment, challenge and token carries a bearer token. Answers are those of `sync.envelope`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs
from uuid import UUID

import msgspec
from loguru import logger
from starlette.types import ASGIApp, Receive, Scope, Send

from sync import envelope as wire
from sync.central import blobs, enrolment, journals
from sync.central.database import UNAVAILABLE, Connection, attempt
from sync.central.ingest import revoked, unknown
from sync.central.problems import PROBLEM_TYPE, RETRY_AFTER_S, Refused, encoded, problem
from sync.central.services import Services
from sync.envelope import Refusal

JSON_BYTES_MAX = 256 << 10
BODY_TIMEOUT_S = 30.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One request: headers by lower-case name, the whole body, and who the token says is calling."""

    headers: dict[bytes, bytes]
    query: bytes
    body: bytes
    kiosk_id: UUID | None

    @property
    def kiosk(self) -> UUID:
        if self.kiosk_id is None:
            raise Refused(Refusal.TOKEN_INVALID, "a bearer token is needed")
        return self.kiosk_id


Answer = Callable[[Services, Call], Awaitable[msgspec.Struct]]


async def _enroll(services: Services, call: Call) -> msgspec.Struct:
    request = _decoded(call.body, wire.EnrollRequest)
    recipients = services.settings.keys.public()
    return await attempt(services.pool, lambda connection: enrolment.enrol(connection, request, recipients))


async def _challenge(services: Services, call: Call) -> msgspec.Struct:
    request = _decoded(call.body, wire.ChallengeRequest)
    tokens = services.tokens
    return wire.ChallengeAnswer(tokens.nonce(_kiosk_id(request.kiosk_id)), tokens.nonce_ttl_s)


async def _token(services: Services, call: Call) -> msgspec.Struct:
    request = _decoded(call.body, wire.TokenRequest)
    kiosk_id = _kiosk_id(request.kiosk_id)
    key = await attempt(services.pool, lambda connection: _allowed(connection, kiosk_id))
    services.tokens.check_assertion(kiosk_id, request.assertion, key)
    return wire.TokenAnswer(services.tokens.issue(kiosk_id), services.tokens.token_ttl_s)


async def _watermark(services: Services, call: Call) -> msgspec.Struct:
    journal_id = _uuid(parse_qs(call.query.decode("latin-1")).get("journal_id", [""])[0], "journal_id")

    async def read(connection: Connection) -> msgspec.Struct:
        await _allowed(connection, call.kiosk)
        return (await journals.state_of(connection, call.kiosk, journal_id)).mark.wire()

    return await attempt(services.pool, read)


async def _ingest(services: Services, call: Call) -> msgspec.Struct:
    try:
        text = call.headers.get(wire.SIGNATURE_HEADER.lower().encode(), b"")
        signature = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        signature = b""
    started = time.monotonic()
    answer = await services.ingest.accept(call.kiosk, call.body, signature)
    services.metrics.ingest_seconds.observe(time.monotonic() - started)
    services.metrics.rows.inc(answer.accepted)
    services.presence.seen(call.kiosk)
    return answer


_AGREE = """
SELECT coalesce(max(e.seq), 0) FROM events e JOIN unnest(%s::bigint[], %s::bytea[]) AS n (seq, hash)
ON e.seq = n.seq AND e.hash = n.hash WHERE e.kiosk_id = %s AND e.journal_id = %s"""


async def _common_prefix(services: Services, call: Call) -> msgspec.Struct:
    request = _decoded(call.body, wire.CommonPrefixRequest)
    journal_id = _uuid(request.journal_id, "journal_id")
    if len(request.hashes) > wire.COMMON_PREFIX_MAX:
        raise Refused(Refusal.MALFORMED_BATCH, f"more than {wire.COMMON_PREFIX_MAX} hashes")
    try:
        asked = [(seq, bytes.fromhex(text)) for seq, text in request.hashes if 0 < seq < 2**63]
    except ValueError as error:
        raise Refused(Refusal.MALFORMED_BATCH, "a hash is not hexadecimal") from error

    async def read(connection: Connection) -> msgspec.Struct:
        await _allowed(connection, call.kiosk)
        columns = [seq for seq, _ in asked], [hash_ for _, hash_ in asked]
        cursor = await connection.execute(_AGREE, (*columns, call.kiosk, journal_id))
        row = await cursor.fetchone()
        return wire.CommonPrefixAnswer(0 if row is None else row[0])

    return await attempt(services.pool, read)


async def _grant(services: Services, call: Call) -> msgspec.Struct:
    request = _decoded(call.body, wire.GrantRequest)

    async def give(connection: Connection) -> msgspec.Struct:
        await _allowed(connection, call.kiosk)
        return await blobs.grant(connection, services.bucket, services.settings.s3, call.kiosk, request.blob_id)

    return await attempt(services.pool, give)


_BEAT = """
INSERT INTO kiosk_status AS s
    (kiosk_id, journal_id, head_seq, agent_version, devices, disk_free_bytes, oldest_unsent_us)
VALUES (%s, %s, %s, %s, %s::jsonb, %s, %s)
ON CONFLICT (kiosk_id) DO UPDATE SET last_seen_at = now(), journal_id = excluded.journal_id,
    head_seq = excluded.head_seq, agent_version = excluded.agent_version, devices = excluded.devices,
    disk_free_bytes = excluded.disk_free_bytes, oldest_unsent_us = excluded.oldest_unsent_us"""


async def _heartbeat(services: Services, call: Call) -> msgspec.Struct:
    beat = _decoded(call.body, wire.Heartbeat)
    journal_id = _uuid(beat.journal_id, "journal_id")
    devices = msgspec.json.encode({_shown(name): _shown(state) for name, state in beat.devices.items()}).decode()
    oldest = None if beat.oldest_unsent_at is None else _int64(beat.oldest_unsent_at)
    numbers = (devices, _int64(beat.disk_free_bytes), oldest)

    async def note(connection: Connection) -> msgspec.Struct:
        await _allowed(connection, call.kiosk)
        values = (call.kiosk, journal_id, _int64(beat.head_seq), _shown(beat.agent_version), *numbers)
        await connection.execute(_BEAT, values)
        state = await journals.state_of(connection, call.kiosk, journal_id)
        return wire.HeartbeatAnswer(state.mark.wire(), services.settings.presence.heartbeat_s)

    answer = await attempt(services.pool, note)
    services.presence.seen(call.kiosk)
    return answer


async def _allowed(connection: Connection, kiosk_id: UUID) -> bytes:
    """The public key of a kiosk that may call. Raises `Refused`."""
    cursor = await connection.execute("SELECT public_key, revoked_at FROM kiosks WHERE kiosk_id = %s", (kiosk_id,))
    row = await cursor.fetchone()
    if row is None:
        raise unknown(kiosk_id)
    if row[1] is not None:
        raise revoked()
    return bytes(row[0])


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise Refused(Refusal.MALFORMED_BATCH, f"the body is not what this call takes: {error}") from error


def _uuid(text: str, what: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise Refused(Refusal.MALFORMED_BATCH, f"{what} is not a UUID") from error


def _kiosk_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise Refused(Refusal.UNKNOWN_KIOSK, "kiosk_id is not a UUID") from error


def _shown(text: str) -> str:
    return text.replace("\x00", "")[:200]


def _int64(value: int) -> int:
    return max(-(2**63), min(value, 2**63 - 1))


ROUTES: dict[str, tuple[str, Answer, bool, int]] = {
    wire.PATH_ENROLL: ("POST", _enroll, False, JSON_BYTES_MAX),
    wire.PATH_CHALLENGE: ("POST", _challenge, False, JSON_BYTES_MAX),
    wire.PATH_TOKEN: ("POST", _token, False, JSON_BYTES_MAX),
    wire.PATH_WATERMARK: ("GET", _watermark, True, 0),
    wire.PATH_INGEST: ("POST", _ingest, True, wire.COMPRESSED_BYTES_MAX),
    wire.PATH_COMMON_PREFIX: ("POST", _common_prefix, True, JSON_BYTES_MAX),
    wire.PATH_UPLOAD_GRANT: ("POST", _grant, True, JSON_BYTES_MAX),
    wire.PATH_HEARTBEAT: ("POST", _heartbeat, True, JSON_BYTES_MAX),
}
"""Path → (method, what answers, token needed, bytes of body at most)."""


class _BodyTooLarge(Exception):
    pass


class KioskApi:
    """ASGI: answers the paths of `ROUTES`, hands all others on. `services` is asked when the first call comes."""

    def __init__(self, app: ASGIApp, services: Callable[[], Services]) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = ROUTES.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        services, path = self._services(), scope["path"]
        status, body, headers = await self._answer(services, route, scope, receive)
        services.metrics.calls.labels(path, "ok" if status == 200 else str(status)).inc()
        headers += [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(
        self, services: Services, route: tuple[str, Answer, bool, int], scope: Scope, receive: Receive
    ) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
        method, handler, token_needed, limit = route
        try:
            if scope["method"] != method:
                return _problem(
                    "method_not_allowed", 405, f"{scope['path']} takes {method}", (b"allow", method.encode())
                )
            headers = dict(scope["headers"])
            kiosk_id = None
            if token_needed:
                kiosk_id = services.tokens.kiosk_of(headers.get(b"authorization", b"").decode("latin-1"))
            body = await asyncio.wait_for(_read(headers, receive, limit), BODY_TIMEOUT_S)
            answer = await handler(services, Call(headers, scope["query_string"], body, kiosk_id))
        except Refused as refusal:
            logger.info("{} refused: {}", scope["path"], refusal.refusal)
            return refusal.status, encoded(refusal.document()), [(b"content-type", PROBLEM_TYPE.encode())]
        except _BodyTooLarge:
            text = f"the body has more than {limit} bytes"
            return _problem(Refusal.BATCH_TOO_LARGE, 413, text, (b"connection", b"close"))
        except TimeoutError:
            return _problem("request_timeout", 408, "the body did not arrive in time", (b"connection", b"close"))
        except UNAVAILABLE as error:
            logger.warning("{}: Postgres is away: {}", scope["path"], error)
            retry = (b"retry-after", str(RETRY_AFTER_S).encode())
            return _problem("database_unavailable", 503, "the office's database does not answer; try again", retry)
        return 200, msgspec.json.encode(answer), [(b"content-type", b"application/json")]


def _problem(
    code: str, status: int, text: str, *headers: tuple[bytes, bytes]
) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    kind = (b"content-type", PROBLEM_TYPE.encode())
    return status, encoded(problem(code, status, text)), [kind, *headers]


async def _read(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The whole body; never holds more than `limit` bytes and one piece."""
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > limit:
        raise _BodyTooLarge
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise TimeoutError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _BodyTooLarge
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)
