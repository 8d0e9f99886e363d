"""JSON for the office's own programs and pages, under `/api/v1/office`, behind the same login."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse

from sync.central import alarms, enrolment, setup
from sync.central.office import accounts, live, queries
from sync.central.office.access import (
    API_PREFIX,
    Admin,
    AnyUser,
    Parts,
    accounts_of,
    check_origin,
    clear_session,
    current_user,
    json_problem,
    services_of,
    set_session,
    token_of,
)
from sync.central.office.models import AlarmOut, BlobOut, ClaimOut, CodeOut, DoubtOut, KioskOut, TransactionOut
from sync.central.services import Services

router = APIRouter(prefix=API_PREFIX, dependencies=[Depends(check_origin)], tags=["office"])
Limit = Annotated[int, Query(ge=1, le=queries.PAGE_ROWS_MAX)]


class Login(BaseModel):
    name: str = Field(max_length=200)
    password: str = Field(max_length=1000)


class NewCode(BaseModel):
    name: str = Field(default="", max_length=100)
    kiosk_id: UUID | None = None


async def kiosk_list(services: Services, kiosk_id: UUID | None = None) -> list[KioskOut]:
    """All kiosks, or one, with presence from Redis and Postgres: either having heard of it lately is enough."""
    async with services.pool.connection() as connection:
        rows = await queries.kiosks(connection, services.settings.presence.ttl_s, kiosk_id)
    present = await services.presence.online(row["kiosk_id"] for row in rows) or set()
    return [KioskOut.of(row, bool(row["seen_lately"]) or row["kiosk_id"] in present) for row in rows]


def still_logged_in(request: Request) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        token = token_of(request)
        return token is not None and await accounts_of(request).user_of(token) is not None

    return check


@router.post("/login", status_code=204, responses={401: {"description": "wrong name or password, or locked out"}})
async def login(request: Request, body: Login) -> Response:
    """Starts a session; the cookie comes with the answer."""
    token = await accounts_of(request).login(body.name, body.password)
    if token is None:
        return json_problem("login_refused", 401, "name or password is wrong, or the account is locked for a while")
    response = Response(status_code=204)
    set_session(response, services_of(request).settings.office, token)
    return response


@router.post("/logout", status_code=204)
async def logout(request: Request, user: AnyUser) -> Response:
    await accounts_of(request).logout(token_of(request) or "")
    response = Response(status_code=204)
    clear_session(response, services_of(request).settings.office)
    return response


@router.get("/me")
async def me(user: AnyUser) -> dict[str, str]:
    """Who is logged in."""
    return {"name": user.name, "role": user.role}


@router.get("/kiosks")
async def kiosks(services: Parts, user: AnyUser) -> list[KioskOut]:
    """All kiosks with presence, lag and what is wrong."""
    return await kiosk_list(services)


@router.get("/kiosks/{kiosk_id}", responses={404: {"description": "no such kiosk"}}, response_model=KioskOut)
async def kiosk(services: Parts, user: AnyUser, kiosk_id: UUID) -> Any:
    found = await kiosk_list(services, kiosk_id)
    return found[0] if found else json_problem("not_found", 404, f"there is no kiosk {kiosk_id}")


@router.post("/kiosks/{kiosk_id}/revoke", status_code=204, responses={404: {"description": "none, or revoked already"}})
async def revoke(services: Parts, admin: Admin, kiosk_id: UUID) -> Response:
    """Ends a kiosk's identity at once: stolen, scrapped, cloned."""
    async with services.pool.connection() as connection:
        done = await enrolment.revoke(connection, kiosk_id)
    services.presence.changed(kiosk_id)
    return Response(status_code=204) if done else json_problem("not_found", 404, "no such kiosk, or it is revoked")


@router.post("/codes", status_code=201)
async def new_code(services: Parts, admin: Admin, body: NewCode) -> CodeOut:
    """A one-time enrolment code; with `kiosk_id` for a kiosk that gets a new disk or key."""
    code, kiosk_id, expires_at = await setup.make_code(services.settings, body.name, body.kiosk_id)
    return CodeOut(code=code, kiosk_id=kiosk_id, expires_at=expires_at)


@router.get("/transactions")
async def transactions(  # noqa: PLR0917 - the framework passes them by name
    services: Parts,
    user: AnyUser,
    kiosk_id: UUID | None = None,
    state: str = "",
    text: str = "",
    before_us: int | None = None,
    after_id: str | None = None,
    limit: Limit = queries.PAGE_ROWS,
) -> list[TransactionOut]:
    """Payments with their notes, newest first. `text`: a payment's id, or part of a reference. For the next page give
    the last one's `created_at` in microseconds as `before_us` and its `payment_id` as `after_id`."""
    async with services.pool.connection() as connection:
        rows = await queries.transactions(
            connection, kiosk_id=kiosk_id, state=state, text=text, before_us=before_us, after_id=after_id, limit=limit
        )
    return [TransactionOut.of(row) for row in rows]


@router.get("/transactions/{kiosk_id}/{payment_id}", response_model=TransactionOut)
async def transaction(services: Parts, user: AnyUser, kiosk_id: UUID, payment_id: str) -> Any:
    async with services.pool.connection() as connection:
        row = await queries.transaction(connection, kiosk_id, payment_id)
    return json_problem("not_found", 404, "there is no such payment") if row is None else TransactionOut.of(row)


@router.get("/live")
async def live_transactions(
    request: Request, services: Parts, user: AnyUser, kiosk_id: UUID | None = None
) -> EventSourceResponse:
    """SSE: `transaction` events, each a payment with its notes as it is now; `state` events: `live`, or `away`."""

    def render(row: queries.Row) -> str:
        return TransactionOut.of(row).model_dump_json()

    stream = live.changes(services, request, render, still_logged_in(request), kiosk_id)
    return EventSourceResponse(stream, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


@router.get("/alarms")
async def alarm_list(
    services: Parts, user: AnyUser, kiosk_id: UUID | None = None, everything: bool = False, limit: Limit = 100
) -> list[AlarmOut]:
    """Alarms that nobody has acknowledged, or all."""
    async with services.pool.connection() as connection:
        rows = await queries.listing(connection, "alarms", kiosk_id=kiosk_id, everything=everything, limit=limit)
    return [AlarmOut(**row) for row in rows]


@router.post("/alarms/{kiosk_id}/{alarm_id}/acknowledge", status_code=204)
async def acknowledge(services: Parts, user: AnyUser, kiosk_id: UUID, alarm_id: UUID) -> Response:
    """Says that a person knows; the same alarm again opens it anew."""
    async with services.pool.connection() as connection:
        done = await alarms.acknowledge(connection, kiosk_id, alarm_id, user.name)
    return Response(status_code=204) if done else json_problem("not_found", 404, "no such open alarm")


@router.get("/doubts")
async def doubt_list(
    services: Parts, user: AnyUser, kiosk_id: UUID | None = None, everything: bool = False, limit: Limit = 100
) -> list[DoubtOut]:
    """Money of which a device could not say where it is; resolved at the kiosk."""
    async with services.pool.connection() as connection:
        rows = await queries.listing(connection, "doubts", kiosk_id=kiosk_id, everything=everything, limit=limit)
    return [DoubtOut.of(row) for row in rows]


@router.get("/claims")
async def claim_list(
    services: Parts, user: AnyUser, kiosk_id: UUID | None = None, limit: Limit = 100
) -> list[ClaimOut]:
    """What kiosks owe to customers."""
    async with services.pool.connection() as connection:
        rows = await queries.listing(connection, "claims", kiosk_id=kiosk_id, limit=limit)
    return [ClaimOut.of(row) for row in rows]


@router.get("/blobs")
async def blob_list(services: Parts, user: AnyUser, kiosk_id: UUID | None = None, limit: Limit = 100) -> list[BlobOut]:
    """Sealed files (snapshots) and whether the office has read their objects back."""
    async with services.pool.connection() as connection:
        rows = await queries.listing(connection, "blobs", kiosk_id=kiosk_id, limit=limit)
    return [BlobOut.of(row) for row in rows]


async def openapi(request: Request, user: Annotated[accounts.User, Depends(current_user)]) -> dict[str, Any]:
    """The description of this API, behind the login like the rest."""
    document: dict[str, Any] = request.app.openapi()
    return document
