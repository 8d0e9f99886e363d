"""`/auth`: HTTP to the service and back, and the cookies.

Cookies are HttpOnly and SameSite=Strict. They are not `Secure`, since loopback is plain http, and browsers share them
between the ports of one host: what else listens on this machine's loopback must be trusted or not be there. The
refresh cookie is sent to /auth/refresh alone.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from agent.api.auth import caller as who
from agent.api.auth.caller import REFRESH_COOKIE, SESSION_COOKIE, Caller, Role
from agent.api.auth.schemas import (
    FirstAdminIn,
    LaunchIn,
    LoginIn,
    MeOut,
    PasswordIn,
    RefreshIn,
    SessionOut,
    UiIn,
    UserIn,
    UserOut,
    UserPatch,
    UsersOut,
)
from agent.api.auth.service import AuthService
from agent.api.auth.sessions import SessionBook, SessionEnded, Tokens
from agent.api.problems import documented

COOKIE_PATH = "/api/v1"
REFRESH_PATH = "/api/v1/auth/refresh"


def make_router(service: AuthService) -> APIRouter:
    router = APIRouter(prefix="/auth", tags=["auth"])
    _coming(router, service)
    _going(router, service)
    _users(router, service)
    _one_user(router, service)
    return router


def _coming(router: APIRouter, service: AuthService) -> None:
    @router.post("/login", responses=documented(400, 401, 403, 413, 415, 422, 429, 503))
    async def login(body: LoginIn, response: Response) -> SessionOut:
        """Log in with name and PIN or password. After five failures in a row a name waits 30 s, then 60, 120, … up to
        an hour (429 `locked_out`, Retry-After), whether or not such a user exists."""
        tokens = await service.login(body.name, body.secret.get_secret_value())
        return _session(response, service.sessions, tokens, cookies=body.transport == "cookie")

    @router.post("/ui", responses=documented(400, 401, 403, 413, 415, 422, 503))
    async def ui(body: UiIn, response: Response) -> SessionOut:
        """Trade the configured UI token for a session of role `ui`, as cookies."""
        return _session(response, service.sessions, await service.ui_session(body.token.get_secret_value()))

    @router.post("/launch", responses=documented(400, 401, 403, 413, 415, 422, 503))
    async def launch(body: LaunchIn, response: Response) -> SessionOut:
        """Trade the code of the launch file (works once) for a session of role `ui`, as cookies. For the kiosk's own
        page: it finds the code in its address as `#launch=…` and takes it out of there at once."""
        return _session(response, service.sessions, await service.launch_session(body.code.get_secret_value()))

    @router.post("/refresh", responses=documented(400, 401, 403, 413, 415, 422, 503))
    async def refresh(request: Request, response: Response, body: RefreshIn | None = None) -> SessionOut:
        """New tokens for the refresh cookie, or for `refresh_token` in the body. The old ones work for 30 s more; an
        older refresh token that comes again ends the session (401 `session_ended`)."""
        given = body.refresh_token.get_secret_value() if body and body.refresh_token else None
        token = given or request.cookies.get(REFRESH_COOKIE)
        if not token:
            raise SessionEnded("Log in again: there is no refresh token.")
        return _session(response, service.sessions, await service.sessions.refresh(token), cookies=given is None)


def _going(router: APIRouter, service: AuthService) -> None:
    @router.post("/logout", status_code=204, responses=documented(400, 401, 403, 503))
    async def logout(response: Response, caller: Annotated[Caller, Depends(who.somebody)]) -> None:
        """End this session, here and for whoever copied it."""
        await service.logout(caller)
        response.delete_cookie(SESSION_COOKIE, path=COOKIE_PATH, httponly=True, samesite="strict")
        response.delete_cookie(REFRESH_COOKIE, path=REFRESH_PATH, httponly=True, samesite="strict")

    @router.get("/me", responses=documented(401, 403))
    async def me(caller: Annotated[Caller, Depends(who.somebody)]) -> MeOut:
        """Who this session is."""
        name = service.people.one(caller.user_id).user.name if caller.user_id else None
        return MeOut(role=caller.role, actor=caller.actor, user_id=caller.user_id, name=name)

    @router.post("/password", responses=documented(400, 401, 403, 413, 415, 422, 429, 503))
    async def password(
        body: PasswordIn, request: Request, response: Response, caller: Annotated[Caller, Depends(who.person)]
    ) -> SessionOut:
        """Change your own PIN or password. All your sessions end; this client gets a new one, as it had it before
        (cookies or tokens). A wrong `current` counts as a failed login."""
        tokens = await service.change_own_secret(caller, body.current.get_secret_value(), body.new.get_secret_value())
        return _session(response, service.sessions, tokens, cookies="authorization" not in request.headers)


def _users(router: APIRouter, service: AuthService) -> None:
    @router.post("/first-admin", status_code=201, responses=documented(400, 403, 409, 413, 415, 422, 503))
    async def first_admin(body: FirstAdminIn, caller: Annotated[Caller, Depends(who.owner)]) -> UserOut:
        """The first admin, over the control socket only (`kiosk auth init`); 409 `admin_exists` when there is one."""
        secret = body.secret.get_secret_value()
        user = await service.people.add_first_admin(body.name, secret, actor=caller.actor)
        return UserOut.of(service.people.one(user.id))

    @router.get("/users", responses=documented(401, 403))
    async def list_users(_: Annotated[Caller, Depends(who.admin_or_owner)]) -> UsersOut:
        """Everybody who may log in at this kiosk."""
        return UsersOut(users=[UserOut.of(each) for each in service.people.everybody()])

    @router.post("/users", status_code=201, responses=documented(400, 401, 403, 409, 413, 415, 422, 503))
    async def add_user(body: UserIn, caller: Annotated[Caller, Depends(who.admin_or_owner)]) -> UserOut:
        """Add a user. 409 `name_taken`; names are compared without case."""
        secret = body.secret.get_secret_value()
        user = await service.people.add(body.name, Role(body.role), secret, actor=caller.actor)
        return UserOut.of(service.people.one(user.id))


def _one_user(router: APIRouter, service: AuthService) -> None:
    @router.get("/users/{user_id}", responses=documented(401, 403, 404))
    async def get_user(user_id: str, _: Annotated[Caller, Depends(who.admin_or_owner)]) -> UserOut:
        """One user."""
        return UserOut.of(service.people.one(user_id))

    @router.patch("/users/{user_id}", responses=documented(400, 401, 403, 404, 409, 413, 415, 422, 503))
    async def change_user(
        user_id: str, body: UserPatch, caller: Annotated[Caller, Depends(who.admin_or_owner)]
    ) -> UserOut:
        """Change a user's role or set a new PIN. Their sessions end. 409 `last_admin`."""
        role = Role(body.role) if body.role else None
        secret = body.secret.get_secret_value() if body.secret else None
        await service.change(user_id, role, secret, actor=caller.actor)
        return UserOut.of(service.people.one(user_id))

    @router.delete("/users/{user_id}", status_code=204, responses=documented(400, 401, 403, 404, 409, 503))
    async def remove_user(user_id: str, caller: Annotated[Caller, Depends(who.admin_or_owner)]) -> None:
        """Remove a user; journal rows keep their id. 409 `last_admin`."""
        await service.remove(user_id, actor=caller.actor)

    @router.post("/users/{user_id}/unlock", status_code=204, responses=documented(400, 401, 403, 404, 503))
    async def unlock_user(user_id: str, caller: Annotated[Caller, Depends(who.admin_or_owner)]) -> None:
        """Forget the failed logins of a user."""
        await service.people.unlock(user_id, actor=caller.actor)


def _session(response: Response, book: SessionBook, tokens: Tokens, cookies: bool = True) -> SessionOut:
    if cookies:
        _cookie(response, SESSION_COOKIE, tokens.access, COOKIE_PATH, book.access_ttl_s)
        _cookie(response, REFRESH_COOKIE, tokens.refresh, REFRESH_PATH, book.refresh_ttl_s)
    return SessionOut(
        role=tokens.session.role,
        user_id=tokens.session.user_id,
        expires_in_s=book.access_ttl_s,
        refresh_expires_in_s=book.refresh_ttl_s,
        access_token=None if cookies else tokens.access,
        refresh_token=None if cookies else tokens.refresh,
    )


def _cookie(response: Response, name: str, value: str, path: str, max_age_s: int) -> None:
    response.set_cookie(name, value, max_age=max_age_s, path=path, httponly=True, samesite="strict")
