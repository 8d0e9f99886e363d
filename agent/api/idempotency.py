"""`Idempotency-Key` on POSTs that move money: the HTTP side of `agent.store.idempotency`."""

from __future__ import annotations

import re
from collections.abc import Callable

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from agent.api.auth.caller import caller_of
from agent.api.module import Answer
from agent.api.problems import NotAuthenticated
from agent.api.trace import trace_id
from agent.store import idempotency
from agent.store.idempotency import IdempotencyKeyMissing
from agent.store.ports import Store, Transaction

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
_SOUND = re.compile(r"[\x21-\x7e]{1,255}")


class Idempotency:
    """Keys are unique per role and route, the route being method and path with its ids, and have no end: money has no
    TTL. A key whose work was refused is free again, since nothing happened."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def once(self, request: Request, work: Callable[[Transaction], Answer]) -> Response:
        """`agent.api.module.Once` for this store. Raises `IdempotencyKeyMissing` (400), `IdempotencyKeyReused` (422),
        `RequestInProgress` (409), and what `work` raises."""
        caller = caller_of(request.scope)
        if caller is None:
            raise NotAuthenticated("Log in first: there is no session, or it has ended.")
        answer = await idempotency.once(
            self._store,
            role=caller.role.value,
            route=f"{request.method} {request.url.path}",
            key=_key(request),
            body=await request.body(),
            work=lambda tx: idempotency.Answer(*work(tx)),
            actor=caller.actor,
            trace_id=trace_id(),
        )
        return JSONResponse(dict(answer.body), answer.status, {REPLAYED: "true"} if answer.repeated else None)


def _key(request: Request) -> str:
    keys = request.headers.getlist(HEADER)
    if len(keys) != 1 or not _SOUND.fullmatch(keys[0]):
        raise IdempotencyKeyMissing("Send one Idempotency-Key header, 1 to 255 visible characters, new for each wish.")
    return keys[0]
