"""The office's pages: server-rendered, one small script of our own for what is live, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from sse_starlette import EventSourceResponse

from agent.domain.payments import PaymentState
from sync.central import alarms, enrolment, setup
from sync.central.office import live, queries
from sync.central.office.access import (
    HEADERS,
    Admin,
    AnyUser,
    Parts,
    accounts_of,
    check_origin,
    clear_session,
    services_of,
    set_session,
    token_of,
)
from sync.central.office.accounts import User
from sync.central.office.api import kiosk_list, still_logged_in
from sync.central.office.models import DoubtOut, TransactionOut
from sync.central.office.words import NAMES, Words, choose

FOLDER = Path(__file__).parent
LANGUAGE_COOKIE = "kiosk-language"
STATES = [state.value for state in PaymentState]

router = APIRouter(dependencies=[Depends(check_origin)], include_in_schema=False)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(moment=queries.moment, time=_time)
    return environment


def _time(value: datetime | int | None) -> Markup:
    """A moment in UTC, which the script turns into the viewer's own time."""
    at = queries.moment(value) if isinstance(value, int) else value
    if at is None:
        return Markup("–")
    at = at.astimezone(UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        at.isoformat(timespec="milliseconds"), f"{at:%Y-%m-%d %H:%M:%S}"
    )


def words_of(request: Request) -> Words:
    offered = list(services_of(request).settings.office.languages)
    asked = request.query_params.get("lang")
    cookie = asked if asked in offered else request.cookies.get(LANGUAGE_COOKIE)
    return Words(choose(cookie, request.headers.get("accept-language", ""), offered))


def page(
    request: Request, template: str, user: User | None, values: dict[str, Any] | None = None, status: int = 200
) -> Response:
    """A whole page in the viewer's language."""
    t, settings = words_of(request), services_of(request).settings.office
    frame = {"t": t, "user": user, "path": request.url.path, "languages": [(c, NAMES[c]) for c in settings.languages]}
    html = _environment().get_template(template).render(**frame, **(values or {}))
    response = HTMLResponse(html, status, HEADERS)
    if request.query_params.get("lang") in settings.languages:
        response.set_cookie(
            LANGUAGE_COOKIE, t.language, 365 * 86_400, secure=settings.cookie_secure, httponly=True, samesite="lax"
        )
    return response


def _back(path: str) -> Response:
    return RedirectResponse(path, 303, HEADERS)


@router.get("/login")
async def login_form(request: Request) -> Response:
    return page(request, "login.html", None, {"refused": False})


@router.post("/login")
async def login(request: Request, name: Annotated[str, Form()], password: Annotated[str, Form()]) -> Response:
    token = await accounts_of(request).login(name, password)
    if token is None:
        return page(request, "login.html", None, {"refused": True}, 401)
    response = _back("/")
    set_session(response, services_of(request).settings.office, token)
    return response


@router.post("/logout")
async def logout(request: Request) -> Response:
    await accounts_of(request).logout(token_of(request) or "")
    response = _back("/login")
    clear_session(response, services_of(request).settings.office)
    return response


@router.get("/")
async def kiosks(request: Request, services: Parts, user: AnyUser) -> Response:
    return page(request, "kiosks.html", user, {"kiosks": await kiosk_list(services)})


@router.get("/kiosks/new")
async def new_kiosk(request: Request, admin: Admin) -> Response:
    return page(request, "enrol.html", admin, {"made": None})


@router.post("/kiosks/new")
async def make_code(
    request: Request, services: Parts, admin: Admin, name: Annotated[str, Form(max_length=100)] = ""
) -> Response:
    code, kiosk_id, expires_at = await setup.make_code(services.settings, name)
    made = {"code": code, "name": name, "kiosk_id": kiosk_id, "expires_at": expires_at}
    return page(request, "enrol.html", admin, {"made": made})


@router.get("/kiosks/{kiosk_id}")
async def kiosk(request: Request, services: Parts, user: AnyUser, kiosk_id: UUID) -> Response:
    found = await kiosk_list(services, kiosk_id)
    if not found:
        return page(request, "missing.html", user, status=404)
    async with services.pool.connection() as connection:
        lists = {
            name: await queries.listing(connection, name, kiosk_id=kiosk_id, limit=20)
            for name in ("journals", "devices", "alarms", "parked", "blobs")
        }
        payments = await queries.transactions(connection, kiosk_id=kiosk_id, limit=20)
    values = {**lists, "kiosk": found[0], "transactions": [TransactionOut.of(row) for row in payments]}
    return page(request, "kiosk.html", user, values)


@router.post("/kiosks/{kiosk_id}/revoke")
async def revoke(services: Parts, admin: Admin, kiosk_id: UUID) -> Response:
    async with services.pool.connection() as connection:
        await enrolment.revoke(connection, kiosk_id)
    services.presence.changed(kiosk_id)
    return _back(f"/kiosks/{kiosk_id}")


@router.get("/transactions")
async def transactions(  # noqa: PLR0917 - the framework passes them by name
    request: Request,
    services: Parts,
    user: AnyUser,
    state: str = "",
    text: str = "",
    before_us: int | None = None,
    after_id: str | None = None,
) -> Response:
    async with services.pool.connection() as connection:
        rows = await queries.transactions(connection, state=state, text=text, before_us=before_us, after_id=after_id)
    last = rows[-1] if len(rows) == queries.PAGE_ROWS and rows[-1]["created_us"] is not None else None
    filtered = bool(state or text or before_us is not None)
    values = {"state": state, "text": text, "states": STATES, "filtered": filtered, "last": last}
    payments = [TransactionOut.of(row) for row in rows]
    return page(request, "transactions.html", user, {**values, "transactions": payments})


@router.get("/transactions/live")
async def live_rows(
    request: Request, services: Parts, user: AnyUser, kiosk_id: UUID | None = None
) -> EventSourceResponse:
    """As the JSON stream, with the row as this page shows it."""
    stream = live.changes(services, request, _fragment(words_of(request)), still_logged_in(request), kiosk_id)
    return EventSourceResponse(stream, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


def _fragment(t: Words) -> Callable[[queries.Row], str]:
    template = _environment().get_template("_transaction.html")

    def render(row: queries.Row) -> str:
        payment = TransactionOut.of(row)
        html = template.render(t=t, payment=payment)
        return json.dumps({"id": f"t-{payment.kiosk_id}-{payment.payment_id}", "html": html})

    return render


@router.get("/alarms")
async def alarm_list(request: Request, services: Parts, user: AnyUser, everything: bool = False) -> Response:
    async with services.pool.connection() as connection:
        rows = await queries.listing(connection, "alarms", everything=everything, limit=queries.PAGE_ROWS_MAX)
    return page(request, "alarms.html", user, {"alarms": rows, "everything": everything})


@router.post("/alarms/{kiosk_id}/{alarm_id}/acknowledge")
async def acknowledge(services: Parts, user: AnyUser, kiosk_id: UUID, alarm_id: UUID) -> Response:
    async with services.pool.connection() as connection:
        await alarms.acknowledge(connection, kiosk_id, alarm_id, user.name)
    return _back("/alarms")


@router.get("/doubts")
async def doubts(request: Request, services: Parts, user: AnyUser, everything: bool = False) -> Response:
    async with services.pool.connection() as connection:
        rows = await queries.listing(connection, "doubts", everything=everything, limit=queries.PAGE_ROWS_MAX)
    values = {"doubts": [DoubtOut.of(row) for row in rows], "everything": everything}
    return page(request, "doubts.html", user, values)


@router.get("/claims")
async def claims(request: Request, services: Parts, user: AnyUser) -> Response:
    async with services.pool.connection() as connection:
        rows = await queries.listing(connection, "claims", limit=queries.PAGE_ROWS_MAX)
    return page(request, "claims.html", user, {"claims": rows})


@router.get("/blobs")
async def blobs(request: Request, services: Parts, user: AnyUser) -> Response:
    async with services.pool.connection() as connection:
        rows = await queries.listing(connection, "blobs", limit=queries.PAGE_ROWS_MAX)
    return page(request, "blobs.html", user, {"blobs": rows})
