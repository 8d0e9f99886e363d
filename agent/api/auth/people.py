"""Managing people, and whether somebody is who they say: for the API, and for the CLI when the agent is stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from agent.api.auth import users
from agent.api.auth.caller import Role
from agent.api.auth.lockout import Lockout, attempt_key, delay_s
from agent.api.auth.secrets import Secrets, check_secret
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


@dataclass(frozen=True, slots=True)
class ListedUser:
    """A user as admins see them; `locked_s`: seconds until the next login attempt is allowed."""

    user: User
    locked_s: int


class People:
    """Who ends a user's sessions in memory is the caller; their rows go with the change."""

    def __init__(self, store: Store, clock: Clock, randomness: Randomness, secrets: Secrets) -> None:
        self._store = store
        self._clock = clock
        self._randomness = randomness
        self._secrets = secrets
        self._lockout = Lockout(clock)

    async def verified(self, name: str, secret: str) -> User:
        """The user, when name and secret belong together. Counted as failed first, forgiven when right.

        Raises `LoginFailed` (same answer, same time for unknown names), `LockedOut`, `TooBusy`.
        """
        key = attempt_key(name)
        failures = await self._transact(lambda tx: self._lockout.begin(tx, key), "agent")
        with self._store.read() as reader:
            user = users.by_name(reader, name)
        if not await self._secrets.verify(secret, user.secret_hash if user else None) or user is None:
            if user is not None and delay_s(failures):
                until_us = self._clock.now_us() + delay_s(failures) * 1_000_000
                locked = UserLockedOut(user_id=user.id, until_us=until_us)
                await self._store.record([locked], actor="agent", trace_id=trace_id())
            raise LoginFailed("Name and PIN or password do not belong together.")
        await self._transact(lambda tx: self._lockout.forgive(tx, key), "agent")
        return user

    def everybody(self) -> list[ListedUser]:
        with self._store.read() as reader:
            return [
                ListedUser(user, self._lockout.wait_s(reader, attempt_key(user.name)))
                for user in users.everybody(reader)
            ]

    def one(self, user_id: str) -> ListedUser:
        """Raises `NotFound`."""
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
        """Either or both, in one transaction."""
        user = self.one(user_id).user
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

    async def remove(self, user_id: str, *, actor: str) -> None:
        await self._transact(lambda tx: users.remove(tx, user_id), actor)

    async def unlock(self, user_id: str, *, actor: str) -> None:
        def work(tx: Transaction) -> None:
            user = users.by_id(tx, user_id)
            self._lockout.forgive(tx, attempt_key(user.name))
            tx.append(UserChanged(user_id=user.id, what="unlocked", role=user.role.value))

        await self._transact(work, actor)

    async def _new_user(self, name: str, role: Role, secret: str) -> User:
        users.check_name(name)
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

    async def _transact(self, work: Callable[[Transaction], T], actor: str) -> T:
        return await self._store.transact(work, actor=actor, trace_id=trace_id())
