"""Who may see and do what at the office: session cookie, Origin check, roles, headers that keep pages to themselves.

State changes only by POST with an Origin that is ours; the cookie is `SameSite=Strict`, `HttpOnly` and, with TLS,
`Secure` under the `__Host-` name.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from sync.central.office.accounts import Accounts, User
from sync.central.problems import PROBLEM_TYPE, problem
from sync.central.services import Services
from sync.central.settings import OfficeSettings

API_PREFIX = "/api/v1/office"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class NotLoggedIn(Exception):
    """No session, or one that is over."""


class Forbidden(Exception):
    """A session whose role does not suffice, or a request that did not come from our own pages."""


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def accounts_of(request: Request) -> Accounts:
    accounts: Accounts = request.app.state.accounts
    return accounts


def cookie_name(settings: OfficeSettings) -> str:
    return "__Host-kiosk-office" if settings.cookie_secure else "kiosk-office"


def token_of(request: Request) -> str | None:
    return request.cookies.get(cookie_name(services_of(request).settings.office))


def set_session(response: Response, settings: OfficeSettings, token: str) -> None:
    response.set_cookie(
        cookie_name(settings),
        token,
        max_age=round(settings.session_h * 3600),
        path="/",
        secure=settings.cookie_secure,
        httponly=True,
        samesite="strict",
    )


def clear_session(response: Response, settings: OfficeSettings) -> None:
    response.delete_cookie(
        cookie_name(settings), path="/", secure=settings.cookie_secure, httponly=True, samesite="strict"
    )


async def check_origin(request: Request) -> None:
    """Refuses an unsafe request that another site's page sent. Raises `Forbidden`."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    origin = request.headers.get("origin", "")
    allowed = services_of(request).settings.office.origins
    host = request.headers.get("host", "")
    own = origin in allowed if allowed else bool(host) and urlsplit(origin).netloc == host
    if not own or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden


async def current_user(request: Request) -> User:
    """Raises `NotLoggedIn`."""
    token = token_of(request)
    user = None if token is None else await accounts_of(request).user_of(token)
    if user is None:
        raise NotLoggedIn
    return user


async def current_admin(user: Annotated[User, Depends(current_user)]) -> User:
    if not user.admin:
        raise Forbidden
    return user


AnyUser = Annotated[User, Depends(current_user)]
Admin = Annotated[User, Depends(current_admin)]
Parts = Annotated[Services, Depends(services_of)]


async def not_logged_in(request: Request, error: Exception) -> Response:
    if request.url.path.startswith(API_PREFIX):
        return json_problem("not_logged_in", 401, "log in first")
    return RedirectResponse("/login", 303, HEADERS)


async def forbidden(request: Request, error: Exception) -> Response:
    return json_problem("forbidden", 403, "your role does not allow this, or the request came from another site's page")


def json_problem(code: str, status: int, detail: str) -> Response:
    return JSONResponse(problem(code, status, detail), status, HEADERS, media_type=PROBLEM_TYPE)
