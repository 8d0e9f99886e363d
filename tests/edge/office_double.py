"""A strict office in memory, for the faults that a real one cannot be told to have: answers lost after the commit,
nonsense for an answer, patience asked for, a backup put back. It keeps the wire contract to the letter.

It is an httpx transport: requests of the code under test end here, without a socket.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pyrage
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.domain.chain import JournalRow, genesis_hash
from agent.domain.errors import DomainError
from agent.domain.events import BlobCaptured, BlobStored, JournalOpened
from agent.domain.wire import event_of
from sync import envelope as wire
from sync.envelope import Refusal

URL = "https://office.test"
OBJECTS = "https://objects.test"
JSON = {"Content-Type": "application/json"}
PROBLEM = {"Content-Type": "application/problem+json"}


class Refused(Exception):
    def __init__(self, code: Refusal | str, status: int | None = None) -> None:
        super().__init__(code)
        self.code, self.status = str(code), status or wire.REFUSAL_STATUS[Refusal(code)]


@dataclass
class Journal:
    rows: list[JournalRow] = field(default_factory=list)
    continued_at: int | None = None


@dataclass
class Kiosk:
    key: bytes
    journals: dict[UUID, Journal] = field(default_factory=dict)
    blobs: dict[str, BlobCaptured] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)


Fault = Callable[["OfficeDouble", httpx.Request], httpx.Response | None]
"""Runs before the office looks at a request; answers itself, raises, or returns None to let the office answer."""


class OfficeDouble(httpx.AsyncBaseTransport):
    """`faults` are used up one a request (from the left); `always` meets every request."""

    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        self._now = now
        self.codes: dict[str, str] = {}
        self.enrolled: dict[str, tuple[str, str]] = {}  # code: key, kiosk id
        self.kiosks: dict[str, Kiosk] = {}
        self.revoked: set[str] = set()
        self.tokens: dict[str, tuple[str, float]] = {}
        self.nonces: dict[str, str] = {}
        self.objects: dict[str, bytes] = {}
        self.identity = pyrage.x25519.Identity.generate()
        self.recipients = [str(self.identity.to_public()), str(pyrage.x25519.Identity.generate().to_public())]
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.requests: list[str] = []
        self.batches: list[list[int]] = []
        self.alarms: list[str] = []
        self.beats: list[wire.Heartbeat] = []
        self.next_beat_s = 30.0
        self.rows_max, self.bytes_max = wire.ROWS_MAX, wire.COMPRESSED_BYTES_MAX
        self.poison: set[str] = set()  # types of rows that it cannot digest

    # --- what a test may do ------------------------------------------------------------------------------------------

    def invite(self, code: str = "CODE") -> str:
        self.codes[code] = str(uuid4())
        return code

    def backup(self) -> Any:
        return copy.deepcopy(self.kiosks)

    def restore(self, backup: Any) -> None:
        self.kiosks = copy.deepcopy(backup)

    def forget_tokens(self) -> None:
        self.tokens.clear()

    @property
    def kiosk(self) -> Kiosk:
        (only,) = self.kiosks.values()
        return only

    def open(self, sealed: bytes) -> bytes:
        return pyrage.decrypt(sealed, [self.identity])

    # --- transport ---------------------------------------------------------------------------------------------------

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = self._handle(request, await request.aread())
        if not answer.is_stream_consumed:
            return answer
        return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content))

    def _handle(self, request: httpx.Request, body: bytes) -> httpx.Response:
        self.requests.append(f"{request.method} {request.url.path}")
        for fault in ([self.always] if self.always else []) + ([self.faults.popleft()] if self.faults else []):
            if (answer := fault(self, request)) is not None:
                return answer
        return self.answer(request, body)

    def answer(self, request: httpx.Request, body: bytes) -> httpx.Response:
        if request.url.host == "objects.test":
            return self._put(request, body)
        try:
            return httpx.Response(200, headers=JSON, content=msgspec.json.encode(self._route(request, body)))
        except Refused as refused:
            problem = {"type": "about:blank", "title": refused.code, "status": refused.status, "code": refused.code}
            return httpx.Response(refused.status, headers=PROBLEM, content=json.dumps(problem).encode())

    def _route(self, request: httpx.Request, body: bytes) -> Any:
        path = request.url.path
        if path == wire.PATH_ENROLL:
            return self._enroll(msgspec.json.decode(body, type=wire.EnrollRequest))
        if path == wire.PATH_CHALLENGE:
            nonce = uuid4().hex
            self.nonces[nonce] = msgspec.json.decode(body, type=wire.ChallengeRequest).kiosk_id
            return wire.ChallengeAnswer(nonce, wire.NONCE_TTL_S)
        if path == wire.PATH_TOKEN:
            return self._token(msgspec.json.decode(body, type=wire.TokenRequest))
        kiosk_id = self._caller(request)
        if path == wire.PATH_WATERMARK:
            return self._mark(kiosk_id, UUID(request.url.params["journal_id"]))
        if path == wire.PATH_INGEST:
            return self._ingest(kiosk_id, request, body)
        if path == wire.PATH_COMMON_PREFIX:
            return self._common(kiosk_id, msgspec.json.decode(body, type=wire.CommonPrefixRequest))
        if path == wire.PATH_UPLOAD_GRANT:
            return self._grant(kiosk_id, msgspec.json.decode(body, type=wire.GrantRequest).blob_id)
        if path == wire.PATH_HEARTBEAT:
            beat = msgspec.json.decode(body, type=wire.Heartbeat)
            self.beats.append(beat)
            return wire.HeartbeatAnswer(self._mark(kiosk_id, UUID(beat.journal_id)), self.next_beat_s)
        raise AssertionError(f"no such path: {path}")

    # --- calls -------------------------------------------------------------------------------------------------------

    def _enroll(self, request: wire.EnrollRequest) -> wire.EnrollAnswer:
        if request.code in self.enrolled and self.enrolled[request.code][0] == request.public_key:
            kiosk_id = self.enrolled[request.code][1]
        elif request.code in self.codes:
            kiosk_id = self.codes.pop(request.code)
            self.enrolled[request.code] = (request.public_key, kiosk_id)
            self.kiosks.setdefault(kiosk_id, Kiosk(b"")).key = unpadded(request.public_key)
        else:
            raise Refused(Refusal.ENROLMENT_REFUSED)
        return wire.EnrollAnswer(kiosk_id, "lobby", self.recipients)

    def _token(self, request: wire.TokenRequest) -> wire.TokenAnswer:
        head, claims, signature = request.assertion.split(".")
        assert json.loads(unpadded(head))["alg"] == "EdDSA"
        said = json.loads(unpadded(claims))
        if self.nonces.pop(said["nonce"], None) != request.kiosk_id or said["sub"] != request.kiosk_id:
            raise Refused(Refusal.TOKEN_INVALID)
        if request.kiosk_id not in self.kiosks:
            raise Refused(Refusal.UNKNOWN_KIOSK)
        if request.kiosk_id in self.revoked:
            raise Refused(Refusal.KIOSK_REVOKED)
        self._verify(request.kiosk_id, unpadded(signature), f"{head}.{claims}".encode())
        token = uuid4().hex
        self.tokens[token] = (request.kiosk_id, self._now() + wire.TOKEN_TTL_S)
        return wire.TokenAnswer(token, wire.TOKEN_TTL_S)

    def _caller(self, request: httpx.Request) -> str:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        kiosk_id, until = self.tokens.get(token, ("", 0.0))
        if kind != "Bearer" or self._now() >= until or kiosk_id not in self.kiosks:
            raise Refused(Refusal.TOKEN_INVALID)
        if kiosk_id in self.revoked:
            raise Refused(Refusal.KIOSK_REVOKED)
        return kiosk_id

    def _verify(self, kiosk_id: str, signature: bytes, data: bytes) -> None:
        try:
            Ed25519PublicKey.from_public_bytes(self.kiosks[kiosk_id].key).verify(signature, data)
        except InvalidSignature:
            raise Refused(Refusal.WRONG_SIGNATURE) from None

    def _mark(self, kiosk_id: str, journal_id: UUID) -> wire.Watermark:
        journal = self.kiosks[kiosk_id].journals.get(journal_id)
        if journal is None or not journal.rows:
            return wire.Watermark(str(journal_id), 0, genesis_hash(journal_id).hex())
        return wire.Watermark(str(journal_id), journal.rows[-1].seq, journal.rows[-1].hash.hex())

    def _ingest(self, kiosk_id: str, request: httpx.Request, body: bytes) -> wire.IngestAnswer:
        assert request.headers["Content-Type"] == wire.BATCH_TYPE
        self._verify(kiosk_id, unpadded(request.headers[wire.SIGNATURE_HEADER]), wire.SIGNATURE_CONTEXT + body)
        try:
            batch = wire.unpack(body)
            rows = wire.chained(batch)
        except DomainError as error:
            raise Refused(str(error.details.get("reason", error.code))) from error
        if len(rows) > self.rows_max or len(body) > self.bytes_max:
            raise Refused(Refusal.BATCH_TOO_LARGE)
        assert batch.kiosk_id == kiosk_id
        if any(row.type in self.poison for row in rows):
            raise Refused(Refusal.MALFORMED_BATCH)
        journal_id = UUID(bytes=batch.journal_id)
        accepted = self._apply(self.kiosks[kiosk_id], journal_id, rows)
        self.batches.append([row.seq for row in rows])
        return wire.IngestAnswer(self._mark(kiosk_id, journal_id), accepted)

    def _apply(self, kiosk: Kiosk, journal_id: UUID, rows: list[JournalRow]) -> int:
        journal = kiosk.journals.get(journal_id) or self._open(kiosk, journal_id, rows[0])
        head = len(journal.rows)
        if rows[0].seq > head + 1:
            raise Refused(Refusal.GAP)
        known = journal.rows[min(head, rows[-1].seq) - 1].hash if head else genesis_hash(journal_id)
        overlap = min(head, rows[-1].seq) - rows[0].seq
        if (rows[overlap].hash if overlap >= 0 else rows[0].prev_hash) != known:
            raise Refused(Refusal.FORK)
        if journal.continued_at is not None and rows[-1].seq > max(journal.continued_at, head):
            raise Refused(Refusal.JOURNAL_SUPERSEDED)
        new = rows[head - rows[0].seq + 1 :]
        journal.rows += new
        for event in map(event_of, new):
            if isinstance(event, BlobCaptured):
                kiosk.blobs[event.blob_id] = event
            elif isinstance(event, BlobStored) and self._read_back(event):
                kiosk.stored.add(event.blob_id)
        return len(new)

    def _open(self, kiosk: Kiosk, journal_id: UUID, first: JournalRow) -> Journal:
        if first.seq != 1:
            raise Refused(Refusal.GAP)
        opened = event_of(first)
        assert isinstance(opened, JournalOpened)
        if opened.previous_journal_id:
            assert opened.previous_seq is not None
            before = kiosk.journals.get(UUID(opened.previous_journal_id))
            if before is None or len(before.rows) < opened.previous_seq:
                self.alarms.append("journal_gap")
            elif opened.previous_seq and before.rows[opened.previous_seq - 1].hash.hex() != opened.previous_hash:
                raise Refused(Refusal.FORK)
            if before is not None:
                self.alarms.append("kiosk_cloned" if before.continued_at is not None else "journal_forked")
                before.continued_at = max(before.continued_at or 0, opened.previous_seq)
        return kiosk.journals.setdefault(journal_id, Journal())

    def _common(self, kiosk_id: str, request: wire.CommonPrefixRequest) -> wire.CommonPrefixAnswer:
        journal = self.kiosks[kiosk_id].journals.get(UUID(request.journal_id), Journal())
        seqs = [seq for seq, _ in request.hashes]
        assert seqs == sorted(set(seqs)) and len(seqs) <= wire.COMMON_PREFIX_MAX
        agreed = [
            seq for seq, hex_ in request.hashes if seq <= len(journal.rows) and journal.rows[seq - 1].hash.hex() == hex_
        ]
        return wire.CommonPrefixAnswer(max(agreed, default=0))

    def _grant(self, kiosk_id: str, blob_id: str) -> wire.GrantAnswer:
        blob = self.kiosks[kiosk_id].blobs.get(blob_id)
        if blob is None:
            raise Refused(Refusal.BLOB_UNKNOWN)
        if blob_id in self.kiosks[kiosk_id].stored:
            raise Refused(Refusal.BLOB_STORED)
        key = f"{kiosk_id}/2026/11/{blob_id}.age"
        checksum = base64.b64encode(bytes.fromhex(blob.sha256)).decode()
        headers = {"content-length": str(blob.size_bytes), "x-amz-checksum-sha256": checksum, "if-none-match": "*"}
        return wire.GrantAnswer(f"{OBJECTS}/{key}?X-Amz-Expires=300&sig=1", key, headers, wire.GRANT_TTL_S)

    def _put(self, request: httpx.Request, body: bytes) -> httpx.Response:
        assert request.method == "PUT" and "authorization" not in request.headers
        assert "transfer-encoding" not in request.headers
        if int(request.headers["content-length"]) != len(body):
            return httpx.Response(400)
        if base64.b64encode(hashlib.sha256(body).digest()).decode() != request.headers["x-amz-checksum-sha256"]:
            return httpx.Response(400)
        key = request.url.path.removeprefix("/")
        if key in self.objects:
            return httpx.Response(412)
        self.objects[key] = body
        return httpx.Response(200)

    def _read_back(self, event: BlobStored) -> bool:
        body = self.objects.get(event.object_key)
        return body is not None and hashlib.sha256(body).hexdigest() == event.sha256


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- faults ----------------------------------------------------------------------------------------------------------


def away(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
    raise httpx.ConnectError("connection refused", request=request)


def lost_answer(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
    """The office does its work; nobody hears of it."""
    office.answer(request, request.content)
    raise httpx.ReadError("connection reset", request=request)


def twice(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
    """A proxy repeats the request."""
    office.answer(request, request.content)
    return None


def garbage(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
    office.answer(request, request.content)
    return httpx.Response(200, headers=JSON, content=b'{"watermark": 7')


def portal(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
    return httpx.Response(200, headers={"Content-Type": "text/html"}, content=b"<html>Welcome, pay for Wi-Fi</html>")


def redirected(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
    return httpx.Response(302, headers={"Location": "http://portal.test/"})


def endless(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
    return httpx.Response(200, headers=JSON, content=b" " * (1 << 20))


def zipped(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
    return httpx.Response(200, headers={**JSON, "Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"\x1f\x8b"))


def broken(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
    return httpx.Response(500, content=b"Internal Server Error")


def busy(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
    return httpx.Response(429, headers={"Retry-After": "7"})


def rolled_back(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
    """The office dies in the middle of its transaction: nothing happened."""
    raise httpx.RemoteProtocolError("server disconnected", request=request)


def tokens_gone(office: OfficeDouble, request: httpx.Request) -> httpx.Response | None:
    office.forget_tokens()
    return None


FAULTS: tuple[Fault, ...] = (
    *(away, lost_answer, twice, garbage, portal, redirected, endless, zipped),
    *(broken, busy, rolled_back, tokens_gone),
)
