"""`Idempotency-Key` on POSTs that move money: the HTTP side. Keys live in the store, in the event's transaction."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from agent.api.auth.caller import caller_of
from agent.api.module import Answer
from agent.api.problems import NotAuthenticated
from agent.api.trace import trace_id
from agent.domain.errors import KioskError
from agent.store.ports import Store, Transaction

HEADER = "Idempotency-Key"
_SOUND = re.compile(r"[\x21-\x7e]{1,200}")


class IdempotencyKeyMissing(KioskError):
    code: ClassVar[str] = "idempotency_key_missing"
    http_status: ClassVar[int] = 400


class IdempotencyKeyReused(KioskError):
    code: ClassVar[str] = "idempotency_key_reused"
    http_status: ClassVar[int] = 422


class RequestInProgress(KioskError):
    code: ClassVar[str] = "request_in_progress"
    http_status: ClassVar[int] = 409
    retryable: ClassVar[bool] = True


class Idempotency:
    """Keys are unique per role and route, the route being method and path with its ids, and have no end: money has no
    TTL. A key whose work was refused is free again, since nothing happened."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._running: set[tuple[str, str, str]] = set()

    async def once(self, request: Request, work: Callable[[Transaction], Answer]) -> Response:
        """`agent.api.module.Once` for this store. Raises the three errors above, and what `work` raises."""
        caller = caller_of(request.scope)
        if caller is None:
            raise NotAuthenticated("Log in first: there is no session, or it has ended.")
        place = (caller.role.value, f"{request.method} {request.url.path}", _key(request))
        body_hash = sha256(await request.body()).digest()
        with self._claimed(place):
            status, answer, repeated = await self._store.transact(
                lambda tx: _once(tx, place, body_hash, work), actor=caller.actor, trace_id=trace_id()
            )
        return JSONResponse(answer, status, {"Idempotency-Replayed": "true"} if repeated else None)

    @contextmanager
    def _claimed(self, place: tuple[str, str, str]) -> Iterator[None]:
        if place in self._running:
            raise RequestInProgress("The first request with this key is still being worked on.", retry_after_s=1)
        self._running.add(place)
        try:
            yield
        finally:
            self._running.remove(place)


def _key(request: Request) -> str:
    keys = request.headers.getlist(HEADER)
    if len(keys) != 1 or not _SOUND.fullmatch(keys[0]):
        raise IdempotencyKeyMissing("Send one Idempotency-Key header, 1 to 200 visible characters, new for each wish.")
    return keys[0]


def _once(
    tx: Transaction, place: tuple[str, str, str], body_hash: bytes, work: Callable[[Transaction], Answer]
) -> tuple[int, Any, bool]:
    known = tx.one(
        "SELECT body_hash, status, answer FROM idempotency_keys WHERE role = ? AND route = ? AND key = ?", *place
    )
    if known is not None:
        if bytes(known["body_hash"]) != body_hash:
            raise IdempotencyKeyReused("This Idempotency-Key was used with another body; take a new key.")
        return known["status"], json.loads(known["answer"]), True
    status, answer = work(tx)
    tx.execute(
        "INSERT INTO idempotency_keys(role, route, key, body_hash, status, answer) VALUES (?, ?, ?, ?, ?, ?)",
        *(*place, body_hash, status, json.dumps(answer)),
    )
    return status, answer, False
