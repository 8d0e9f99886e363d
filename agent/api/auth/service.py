"""Logging in and out: how a person, a UI or the kiosk's own page comes to a session, and how it ends."""

from __future__ import annotations

import asyncio
import hmac
from hashlib import sha256
from typing import ClassVar

from agent.api.auth import users
from agent.api.auth.caller import Caller, Role
from agent.api.auth.launch import LaunchFile
from agent.api.auth.people import LoginFailed, People
from agent.api.auth.secrets import Secrets, check_secret
from agent.api.auth.sessions import SessionBook, Tokens
from agent.api.auth.users import User
from agent.api.trace import trace_id
from agent.domain.clock import Clock
from agent.domain.errors import KioskError
from agent.domain.ids import Randomness
from agent.store.ports import Store, Transaction


class UiTokenInvalid(KioskError):
    code: ClassVar[str] = "ui_token_invalid"
    http_status: ClassVar[int] = 401


class AuthService:
    """`ui_token` None: no UI may trade one. All work on secrets happens off the event loop."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        randomness: Randomness,
        *,
        sessions: SessionBook,
        secrets: Secrets,
        launch: LaunchFile,
        ui_token: str | None,
    ) -> None:
        self.people = People(store, clock, randomness, secrets)
        self.sessions = sessions
        self.launch = launch
        self._store = store
        self._ui_token_hash = sha256(ui_token.encode()).digest() if ui_token else None

    async def login(self, name: str, secret: str) -> Tokens:
        """Raises what `People.verified` raises."""
        return await self._start(await self.people.verified(name, secret))

    async def ui_session(self, token: str) -> Tokens:
        digest = sha256(token.encode()).digest()
        if self._ui_token_hash is None or not hmac.compare_digest(digest, self._ui_token_hash):
            raise UiTokenInvalid("This is not the configured UI token.")
        return await self._start(None)

    async def launch_session(self, code: str) -> Tokens:
        self.launch.redeem(code)
        try:
            return await self._start(None)
        finally:
            await asyncio.to_thread(self.launch.renew)

    async def logout(self, caller: Caller) -> None:
        if caller.session_id is not None:
            await self.sessions.end(caller.session_id)

    async def change_own_secret(self, caller: Caller, current: str, new: str) -> Tokens:
        """All sessions of the user end; the caller gets a new one."""
        user = self.people.one(str(caller.user_id)).user
        check_secret(new, user.name)
        await self.people.verified(user.name, current)
        await self.change(user.id, None, new, actor=caller.actor)
        return await self._start(self.people.one(user.id).user)

    async def change(self, user_id: str, role: Role | None, secret: str | None, *, actor: str) -> None:
        """As `People.change`; the user's sessions end."""
        await self.people.change(user_id, role, secret, actor=actor)
        self.sessions.forget_user(user_id)

    async def remove(self, user_id: str, *, actor: str) -> None:
        await self.people.remove(user_id, actor=actor)
        self.sessions.forget_user(user_id)

    async def _start(self, user: User | None) -> Tokens:
        """A session for a user (as it was verified: a change in between refuses), or for a UI."""
        tokens = self.sessions.prepare(user.id if user else None, user.role if user else Role.UI)

        def work(tx: Transaction) -> None:
            if user is not None and users.find(tx, user.id) != user:
                raise LoginFailed("This user was changed a moment ago; log in again.")
            self.sessions.insert(tx, tokens.session)

        await self._store.transact(work, actor="agent", trace_id=trace_id())
        self.sessions.keep(tokens.session)
        return tokens
