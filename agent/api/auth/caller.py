"""Who is calling, and `require`: the dependency that lets only named roles through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, unique
from typing import Annotated
from weakref import WeakSet

from fastapi import Security
from fastapi.requests import HTTPConnection
from fastapi.security import APIKeyCookie, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from starlette.types import Scope

from agent.api.problems import NotAuthenticated, RoleNotAllowed

SESSION_COOKIE = "kiosk_session"
REFRESH_COOKIE = "kiosk_refresh"
CALLER = "kiosk.caller"
PEER_EXTENSION = "kiosk.peer"


@unique
class Role(Enum):
    """`UI` is a screen, never a person; the others are people. No role includes another."""

    UI = "ui"
    TECHNICIAN = "technician"
    COLLECTOR = "collector"
    ADMIN = "admin"


STAFF = (Role.TECHNICIAN, Role.COLLECTOR, Role.ADMIN)


@dataclass(frozen=True, slots=True)
class Caller:
    """`actor` is what goes into journal rows: `ui`, `user:<uuid>`, or `cli:<uid>` on the control socket."""

    role: Role
    actor: str
    user_id: str | None = None
    session_id: str | None = None
    owner: bool = False  # root or the agent's own account on the control socket: could read the file anyway


def caller_of(scope: Scope) -> Caller | None:
    caller = scope.get(CALLER)
    return caller if isinstance(caller, Caller) else None


# Only for OpenAPI: the middleware in `agent.api.auth.middleware` has already looked at both.
_COOKIE = APIKeyCookie(
    name=SESSION_COOKIE, auto_error=False, description="Made by /auth/login, /auth/ui or /auth/launch."
)
_BEARER = HTTPBearer(auto_error=False, description='For programs: /auth/login with `"as": "bearer"`.')
SessionCookie = Annotated[str | None, Security(_COOKIE)]
BearerToken = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]


class PinRequired(NotAuthenticated):
    """The control socket says which account calls, not which person: log in with a PIN and use the bearer token."""

    code = "pin_required"


_GUARDS: WeakSet[Callable[..., str]] = WeakSet()


def require(*roles: str, pin: bool = False) -> Callable[..., str]:
    """A dependency that lets exactly these roles through (any role when none is named) and gives the actor.

    Use: `dependencies=[Depends(context.require("ui"))]` or `actor: str = Depends(context.require("ui"))`; not inside
    `Annotated`, of which FastAPI cannot read local names when annotations are text (`RouterFactory` refuses the
    result). `pin`: staff must have logged in, being root on the control socket is not enough. Raises
    `NotAuthenticated` (401), `PinRequired` (401), `RoleNotAllowed` (403); `ValueError` at start for an unknown role.
    """
    allowed = frozenset(Role(role) for role in roles) or frozenset(Role)

    def dependency(connection: HTTPConnection, _cookie: SessionCookie = None, _bearer: BearerToken = None) -> str:
        caller = permitted(caller_of(connection.scope), allowed)
        if pin and caller.role is not Role.UI and caller.user_id is None:
            raise PinRequired("Log in with your PIN: this moves money.")
        return caller.actor

    _GUARDS.add(dependency)
    return dependency


def guards(dependency: object) -> bool:
    """Whether this is a dependency that `require` made."""
    return dependency in _GUARDS


def permitted(caller: Caller | None, allowed: frozenset[Role]) -> Caller:
    if caller is None:
        raise NotAuthenticated("Log in first: there is no session, or it has ended.")
    if caller.role not in allowed:
        names = ", ".join(sorted(role.value for role in allowed))
        raise RoleNotAllowed(f"This is for {names}; you are {caller.role.value}.")
    return caller


def admin_or_owner(connection: HTTPConnection, _cookie: SessionCookie = None, _bearer: BearerToken = None) -> Caller:
    """An admin; or, on the control socket, the account that owns the kiosk's files: it could change them anyway."""
    caller = caller_of(connection.scope)
    return caller if caller is not None and caller.owner else permitted(caller, frozenset({Role.ADMIN}))


def owner(connection: HTTPConnection) -> Caller:
    caller = caller_of(connection.scope)
    if caller is None or not caller.owner:
        raise RoleNotAllowed("Only on this machine: kiosk auth init.")
    return caller


def somebody(connection: HTTPConnection, _cookie: SessionCookie = None, _bearer: BearerToken = None) -> Caller:
    return permitted(caller_of(connection.scope), frozenset(Role))


def person(connection: HTTPConnection, _cookie: SessionCookie = None, _bearer: BearerToken = None) -> Caller:
    """Somebody who has logged in by name."""
    caller = permitted(caller_of(connection.scope), frozenset(STAFF))
    if caller.user_id is None:
        raise PinRequired("Log in with your name and PIN.")
    return caller
