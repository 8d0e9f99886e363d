"""A kiosk as the office sees it: an identity, a journal that chains, and the calls of the wire contract.

Rows are made here with the domain's own chain and wire code, since that is the contract; the client code of `sync/edge`
is not used, so that both ends are tested against the contract and not against each other.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.domain import events as ev
from agent.domain import wire as body
from agent.domain.chain import JournalRow, genesis_hash, row_hash
from agent.domain.money import Money
from sync import envelope as wire

OCCURRED = 1_790_000_000_000_000


def unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@dataclass
class Journal:
    """A kiosk's journal in memory."""

    journal_id: UUID = field(default_factory=uuid4)
    rows: list[JournalRow] = field(default_factory=list)

    @property
    def head(self) -> bytes:
        return self.rows[-1].hash if self.rows else genesis_hash(self.journal_id)

    def append(self, event: ev.Event, *, event_id: UUID | None = None, **overrides: Any) -> JournalRow:
        return self.append_raw(event.TYPE, body.encode(event), event_id=event_id, subject=event.subject(), **overrides)

    def append_raw(self, kind: str, raw: bytes, *, event_id: UUID | None = None, **overrides: Any) -> JournalRow:
        seq = len(self.rows) + 1
        fields: dict[str, Any] = {
            "seq": seq,
            "id": event_id or uuid4(),
            "type": kind,
            "schema": 1,
            "occurred_at": OCCURRED + seq * 1000,
            "boot_id": UUID(int=7),
            "monotonic_us": seq * 1000,
            "trace_id": "trace",
            "actor": "agent",
            "subject": "agent",
            "body": raw,
            "prev_hash": self.head,
        } | overrides
        row = JournalRow(**fields, hash=row_hash(**fields))
        self.rows.append(row)
        return row

    @classmethod
    def opened(cls) -> "Journal":
        journal = cls()
        journal.append(ev.JournalOpened())
        return journal

    def forked(self, at: int) -> "Journal":
        """A journal that continues this one after row `at`: the rows behind follow again, with the same ids."""
        following = Journal()
        hash_ = self.rows[at - 1].hash if at else genesis_hash(self.journal_id)
        following.append(
            ev.JournalOpened(previous_journal_id=str(self.journal_id), previous_seq=at, previous_hash=hash_.hex())
        )
        for row in self.rows[at:]:
            following.append_raw(row.type, row.body, event_id=row.id, subject=row.subject)
        return following

    def copy(self, upto: int | None = None) -> "Journal":
        """An image of the disk as it was after row `upto`."""
        return Journal(self.journal_id, self.rows[: len(self.rows) if upto is None else upto])

    def pay(self, payment_id: str, *notes: int, amount: int = 1000, complete: bool = True) -> None:
        """A payment with its notes, as the agent records one."""
        self.append(
            ev.PaymentCreated(
                payment_id=payment_id,
                amount=Money(amount, "EUR"),
                reference=f"order {payment_id}",
                timeout_s=60,
                deadline_us=OCCURRED + 60_000_000,
            )
        )
        for number, value in enumerate(notes):
            self.stack(f"{payment_id}-{number}", value, payment_id)
        if complete:
            self.append(ev.PaymentCompletionStarted(payment_id=payment_id))
            over = sum(notes) - amount
            if over > 0:
                self.claim(f"claim-{payment_id}", over, payment_id)
            self.append(ev.PaymentCompleted(payment_id=payment_id, paid=Money(min(amount, sum(notes)), "EUR")))

    def stack(self, note_id: str, value: int, payment_id: str | None = None, currency: str = "EUR") -> None:
        money = Money(value, currency)
        self.append(ev.NoteStacked(device="acceptor", note_id=note_id, value=money, note_code=2, payment_id=payment_id))

    def claim(self, claim_id: str, value: int, payment_id: str | None) -> None:
        money = Money(value, "EUR")
        self.append(
            ev.ClaimIssued(claim_id=claim_id, code="ABCDEFGHJK", payment_id=payment_id, amount=money, reason="overpaid")
        )


@dataclass
class Kiosk:
    """An enrolled kiosk. `post` sends raw; `send` sends rows of a journal."""

    client: httpx.AsyncClient
    key: Ed25519PrivateKey
    kiosk_id: str
    token: str = ""

    @classmethod
    async def enrolled(cls, client: httpx.AsyncClient, code: str) -> "Kiosk":
        key = Ed25519PrivateKey.generate()
        answer = await enroll(client, code, key)
        answer.raise_for_status()
        kiosk = cls(client, key, answer.json()["kiosk_id"])
        await kiosk.login()
        return kiosk

    async def login(self) -> None:
        answer = await self.ask_token(self.assertion(await self.nonce()))
        answer.raise_for_status()
        self.token = answer.json()["access_token"]

    async def nonce(self) -> str:
        answer = await self.client.post(wire.PATH_CHALLENGE, json={"kiosk_id": self.kiosk_id})
        answer.raise_for_status()
        return str(answer.json()["nonce"])

    def assertion(self, nonce: str, *, sub: str | None = None, key: Ed25519PrivateKey | None = None) -> str:
        claims = {"nonce": nonce, "sub": sub or self.kiosk_id}
        parts = [unpadded(json.dumps(each).encode()) for each in ({"alg": "EdDSA"}, claims)]
        signed = ".".join(parts)
        return f"{signed}.{unpadded((key or self.key).sign(signed.encode()))}"

    async def ask_token(self, assertion: str) -> httpx.Response:
        return await self.client.post(wire.PATH_TOKEN, json={"kiosk_id": self.kiosk_id, "assertion": assertion})

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def packed(self, journal: Journal, rows: Sequence[JournalRow] | None = None) -> bytes:
        return wire.pack(self.kiosk_id, journal.journal_id, list(journal.rows if rows is None else rows))

    async def post(
        self,
        packed: bytes,
        *,
        signature: bytes | None = None,
        key: Ed25519PrivateKey | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        signed = (key or self.key).sign(wire.SIGNATURE_CONTEXT + packed) if signature is None else signature
        return await self.client.post(
            wire.PATH_INGEST,
            content=packed,
            headers={
                "Content-Type": wire.BATCH_TYPE,
                wire.SIGNATURE_HEADER: unpadded(signed),
                wire.TRACE_HEADER: "0123",
                **self.bearer,
                **(headers or {}),
            },
        )

    async def send(self, journal: Journal, first: int = 1, last: int | None = None) -> httpx.Response:
        """Rows `first`..`last` (seq) as one batch."""
        return await self.post(self.packed(journal, journal.rows[first - 1 : last]))

    async def watermark(self, journal: Journal) -> wire.Watermark:
        answer = await self.client.get(
            wire.PATH_WATERMARK, params={"journal_id": str(journal.journal_id)}, headers=self.bearer
        )
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=wire.Watermark)

    async def call(self, path: str, request: msgspec.Struct) -> httpx.Response:
        return await self.client.post(path, content=msgspec.json.encode(request), headers=self.bearer)


async def enroll(client: httpx.AsyncClient, code: str, key: Ed25519PrivateKey) -> httpx.Response:
    public = unpadded(key.public_key().public_bytes_raw())
    return await client.post(wire.PATH_ENROLL, json={"code": code, "public_key": public, "agent_version": "0.1.0"})
