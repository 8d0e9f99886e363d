"""Logging in and out, and managing people: the decisions of `/auth`."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, TypeVar

from agent.api.auth import users
from agent.api.auth.caller import Caller, Role
from agent.api.auth.launch import LaunchFile
from agent.api.auth.lockout import Lockout, attempt_key, delay_s
from agent.api.auth.secrets import Secrets, check_secret
from agent.api.auth.sessions import SessionBook, Tokens
from agent.api.auth.users import User
from agent.api.trace import trace_id
from agent.domain.clock import Clock
from agent.domain.errors import KioskError
from agent.domain.events import UserChanged, UserLockedOut
from agent.domain.ids import Randomness, uuid7
from agent.store.ports import Store, Transaction

T = TypeVar("T")


class LoginFailed(KioskError):
    """The same for an unknown name and a wrong secret."""

    code: ClassVar[str] = "login_failed"
    http_status: ClassVar[int] = 401


class UiTokenInvalid(KioskError):
    code: ClassVar[str] = "ui_token_invalid"
    http_status: ClassVar[int] = 401


@dataclass(frozen=True, slots=True)
class ListedUser:
    """A user as admins see them; `locked_s`: seconds until the next login attempt is allowed."""

    user: User
    locked_s: int


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
        self.sessions = sessions
        self.launch = launch
        self._store = store
        self._clock = clock
        self._randomness = randomness
        self._secrets = secrets
        self._lockout = Lockout(clock)
        self._ui_token_hash = sha256(ui_token.encode()).digest() if ui_token else None

    # --- sessions ----------------------------------------------------------------------------------------------------

    async def login(self, name: str, secret: str) -> Tokens:
        """Raises `LoginFailed` (same answer, same time for unknown names), `LockedOut`, `TooBusy`."""
        user = await self._verified(name, secret)
        return await self._start(user)

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
        user = self._known(str(caller.user_id))
        check_secret(new, user.name)
        await self._verified(user.name, current)
        await self.change(user.id, None, new, actor=caller.actor)
        return await self._start(self._known(user.id))

    # --- people ------------------------------------------------------------------------------------------------------

    def everybody(self) -> list[ListedUser]:
        with self._store.read() as reader:
            return [
                ListedUser(user, self._lockout.wait_s(reader, attempt_key(user.name)))
                for user in users.everybody(reader)
            ]

    def one(self, user_id: str) -> ListedUser:
        with self._store.read() as reader:
            user = users.by_id(reader, user_id)
            return ListedUser(user, self._lockout.wait_s(reader, attempt_key(user.name)))

    async def add(self, name: str, role: Role, secret: str, *, actor: str) -> User:
        user = await self._new_user(name, role, secret)
        await self._transact(lambda tx: users.add(tx, user), actor)
        return user

    async def add_first_admin(self, name: str, secret: str, *, actor: str) -> User:
        """Raises `AdminExists`."""
        with self._store.read() as reader:
            users.refuse_second_first(reader)
        user = await self._new_user(name, Role.ADMIN, secret)
        await self._transact(lambda tx: users.add_first_admin(tx, user), actor)
        return user

    async def change(self, user_id: str, role: Role | None, secret: str | None, *, actor: str) -> None:
        """Either or both, in one transaction; the user's sessions end."""
        user = self._known(user_id)
        secret_hash = None
        if secret is not None:
            check_secret(secret, user.name)
            secret_hash = await self._secrets.hash(secret)

        def work(tx: Transaction) -> None:
            if role is not None:
                users.change_role(tx, user_id, role)
            if secret_hash is not None:
                users.change_secret(tx, user_id, secret_hash, self._clock.now_us())

        await self._transact(work, actor)
        self.sessions.forget_user(user_id)

    async def remove(self, user_id: str, *, actor: str) -> None:
        await self._transact(lambda tx: users.remove(tx, user_id), actor)
        self.sessions.forget_user(user_id)

    async def unlock(self, user_id: str, *, actor: str) -> None:
        def work(tx: Transaction) -> None:
            user = users.by_id(tx, user_id)
            self._lockout.forgive(tx, attempt_key(user.name))
            tx.append(UserChanged(user_id=user.id, what="unlocked", role=user.role.value))

        await self._transact(work, actor)

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _verified(self, name: str, secret: str) -> User:
        """The user, when name and secret belong together. Counted as failed first, forgiven when right."""
        key = attempt_key(name)
        failures = await self._transact(lambda tx: self._lockout.begin(tx, key), "agent")
        with self._store.read() as reader:
            user = users.by_name(reader, name)
        if not await self._secrets.verify(secret, user.secret_hash if user else None) or user is None:
            if user is not None and delay_s(failures):
                until_us = self._clock.now_us() + delay_s(failures) * 1_000_000
                await self._store.record(
                    [UserLockedOut(user_id=user.id, until_us=until_us)], actor="agent", trace_id=trace_id()
                )
            raise LoginFailed("Name and PIN or password do not belong together.")
        await self._transact(lambda tx: self._lockout.forgive(tx, key), "agent")
        return user

    async def _start(self, user: User | None) -> Tokens:
        """A session for a user (as it was verified: a change in between refuses), or for a UI."""
        tokens = self.sessions.prepare(user.id if user else None, user.role if user else Role.UI)

        def work(tx: Transaction) -> None:
            if user is not None and users.find(tx, user.id) != user:
                raise LoginFailed("This user was changed a moment ago; log in again.")
            self.sessions.insert(tx, tokens.session)

        await self._transact(work, "agent")
        self.sessions.keep(tokens.session)
        return tokens

    async def _new_user(self, name: str, role: Role, secret: str) -> User:
        check_secret(secret, name)
        now_us = self._clock.now_us()
        return User(
            id=str(uuid7(now_us // 1000, self._randomness(10))),
            name=name.strip(),
            role=role,
            secret_hash=await self._secrets.hash(secret),
            created_us=now_us,
            changed_us=now_us,
        )

    def _known(self, user_id: str) -> User:
        with self._store.read() as reader:
            return users.by_id(reader, user_id)

    async def _transact(self, work: Callable[[Transaction], T], actor: str) -> T:
        return await self._store.transact(work, actor=actor, trace_id=trace_id())
