"""Finds out who calls and says so in the scope; refuses nobody (`require` does, route by route)."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.api.auth.caller import CALLER, PEER_EXTENSION, SESSION_COOKIE, Caller, Role
from agent.api.auth.sessions import SessionBook


class Authentication:
    """A bearer token counts before a cookie, a cookie before the control socket's peer credentials. `owner_uids` are
    the accounts (root, the agent's own) whose processes count as a technician there; any other is nobody."""

    def __init__(self, app: ASGIApp, sessions: SessionBook, owner_uids: frozenset[int]) -> None:
        self._app = app
        self._sessions = sessions
        self._owner_uids = owner_uids

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            scope[CALLER] = self._caller(scope)
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller | None:
        connection = HTTPConnection(scope)
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme:
            return self._of_token(token.strip()) if scheme.lower() == "bearer" else None
        if cookie := connection.cookies.get(SESSION_COOKIE):
            return self._of_token(cookie)
        uid = ((scope.get("extensions") or {}).get(PEER_EXTENSION) or {}).get("uid")
        return Caller(Role.TECHNICIAN, f"cli:{uid}", owner=True) if uid in self._owner_uids else None

    def _of_token(self, token: str) -> Caller | None:
        session = self._sessions.of_access(token)
        if session is None:
            return None
        actor = f"user:{session.user_id}" if session.user_id else "ui"
        return Caller(session.role, actor, session.user_id, session.id)
