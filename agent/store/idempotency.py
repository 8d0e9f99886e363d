"""Answers that were given for an `Idempotency-Key`, written in the same transaction as what they answer. No TTL."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from agent.domain.errors import DomainError
from agent.store.ports import Store, Transaction

KEY_LENGTH_MAX = 255


class IdempotencyKeyMissing(DomainError):
    code = "idempotency_key_missing"
    http_status = 400


class IdempotencyKeyReused(DomainError):
    """The key was used with another body: an error of the caller, whatever the second body wants."""

    code = "idempotency_key_reused"
    http_status = 422


class RequestInProgress(DomainError):
    """The first call with this key is still running; `details['retry_after_s']` says when to ask again."""

    code = "request_in_progress"
    http_status = 409
    retryable = True


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP status and JSON body; `repeated` when it was given before."""

    status: int
    body: Mapping[str, Any]
    repeated: bool = False


_running: weakref.WeakKeyDictionary[Store, set[tuple[str, str, str]]] = weakref.WeakKeyDictionary()


async def once(
    store: Store,
    *,
    role: str,
    route: str,
    key: str | None,
    body: bytes,
    work: Callable[[Transaction], Answer],
    actor: str | None = None,
    trace_id: str = "",
) -> Answer:
    """Run `work` and keep its answer under (role, route, key); give the kept answer when there is one.

    `work` runs in the writer thread with everything it writes in one transaction with the key. An exception keeps
    nothing: the same key may try again. Raises `IdempotencyKeyMissing`, `IdempotencyKeyReused`, `RequestInProgress`.
    """
    if not key or len(key) > KEY_LENGTH_MAX:
        raise IdempotencyKeyMissing(f"the header Idempotency-Key (1 to {KEY_LENGTH_MAX} characters) is required here")
    place = (role, route, key)
    running = _running.setdefault(store, set())
    if place in running:
        raise RequestInProgress("the first request with this Idempotency-Key is still running", retry_after_s=1)
    running.add(place)
    try:
        return await store.transact(
            lambda tx: answer_in(tx, role=role, route=route, key=key, body=body, work=work),
            actor=actor or role,
            trace_id=trace_id,
        )
    finally:
        running.discard(place)


def answer_in(
    tx: Transaction, *, role: str, route: str, key: str, body: bytes, work: Callable[[Transaction], Answer]
) -> Answer:
    """The same inside a transaction that is already open."""
    digest = sha256(body).digest()
    kept = tx.one(
        "SELECT body_hash, status, answer FROM idempotency_keys WHERE role = ? AND route = ? AND key = ?",
        *(role, route, key),
    )
    if kept is not None:
        if kept["body_hash"] != digest:
            raise IdempotencyKeyReused("this Idempotency-Key was used with another body; use a fresh key")
        return Answer(kept["status"], json.loads(kept["answer"]), repeated=True)
    answer = work(tx)
    tx.execute(
        "INSERT INTO idempotency_keys VALUES (?, ?, ?, ?, ?, ?)",
        *(role, route, key, digest, answer.status, json.dumps(answer.body, separators=(",", ":"), ensure_ascii=False)),
    )
    return answer
