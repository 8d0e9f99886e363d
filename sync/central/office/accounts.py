"""People of the office: passwords (argon2, off the loop), lock-out, sessions whose tokens are stored hashed."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from uuid import UUID

import psycopg
from pwdlib import PasswordHash

from agent.domain.errors import DomainError
from agent.domain.ids import Randomness, uuid7
from sync.central.database import Connection, Pool

ROLES = ("viewer", "admin")
PASSWORD_CHARACTERS_MIN = 12
PASSWORD_CHARACTERS_MAX = 256
NAME_CHARACTERS_MAX = 64
_AT_ONCE = asyncio.Semaphore(2)  # argon2 takes 64 MiB and a core each time


class AccountRefused(DomainError):
    """A name or password that cannot be used; the message says why."""

    code = "account_refused"
    http_status = 422


@dataclass(frozen=True, slots=True)
class User:
    user_id: UUID
    name: str
    role: str

    @property
    def admin(self) -> bool:
        return self.role == "admin"


@cache
def hasher() -> PasswordHash:
    return PasswordHash.recommended()


@cache
def _nobody() -> str:
    """What an unknown name's password is compared with, so that names cannot be told by time."""
    return hasher().hash(secrets.token_urlsafe())


async def add_user(connection: Connection, name: str, password: str, role: str, randomness: Randomness) -> UUID:
    """Raises `AccountRefused`."""
    name = name.strip()
    if not name or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
        raise AccountRefused(f"a name has 1 to {NAME_CHARACTERS_MAX} printable characters")
    if not PASSWORD_CHARACTERS_MIN <= len(password) <= PASSWORD_CHARACTERS_MAX:
        raise AccountRefused(f"a password has {PASSWORD_CHARACTERS_MIN} to {PASSWORD_CHARACTERS_MAX} characters")
    if role not in ROLES:
        raise AccountRefused(f"a role is one of {', '.join(ROLES)}")
    user_id = uuid7(time.time_ns() // 1_000_000, randomness(10))
    hashed = await asyncio.to_thread(hasher().hash, password)
    try:
        await connection.execute(
            "INSERT INTO office_users (user_id, name, password_hash, role) VALUES (%s, %s, %s, %s)",
            (user_id, name, hashed, role),
        )
    except psycopg.errors.UniqueViolation as error:
        raise AccountRefused(f"there is a user {name} already") from error
    return user_id


async def has_admin(connection: Connection) -> bool:
    cursor = await connection.execute("SELECT 1 FROM office_users WHERE role = 'admin' LIMIT 1")
    return await cursor.fetchone() is not None


_TRY = """
UPDATE office_users SET failed = failed + 1,
    locked_until = CASE WHEN (failed + 1) %% %(after)s = 0 THEN now() + %(lock)s ELSE locked_until END
WHERE name = %(name)s AND (locked_until IS NULL OR locked_until <= now())
RETURNING user_id, name, role, password_hash"""


class Accounts:
    """Logins of one process. A wrong password is counted before it is checked, so that many at once do not help."""

    def __init__(self, pool: Pool, *, session: timedelta, lockout_after: int, lockout: timedelta) -> None:
        self._pool = pool
        self._session = session
        self._lockout_after = lockout_after
        self._lockout = lockout

    async def login(self, name: str, password: str) -> str | None:
        """A new session's token; None when the name, the password, or the moment (locked out) is wrong."""
        parameters = {"name": name.replace("\x00", ""), "after": self._lockout_after, "lock": self._lockout}
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_TRY, parameters)
            row = await cursor.fetchone()
        async with _AT_ONCE:
            given = password[:PASSWORD_CHARACTERS_MAX]
            right = await asyncio.to_thread(hasher().verify, given, _nobody() if row is None else row[3])
        if row is None or not right:
            return None
        token = secrets.token_urlsafe(32)
        async with self._pool.connection() as connection:
            await connection.execute(
                "UPDATE office_users SET failed = 0, locked_until = NULL WHERE user_id = %s", (row[0],)
            )
            await connection.execute("DELETE FROM office_sessions WHERE expires_at <= now()")
            await connection.execute(
                "INSERT INTO office_sessions (token_hash, user_id, expires_at) VALUES (%s, %s, %s)",
                (_hash(token), row[0], datetime.now(UTC) + self._session),
            )
        return token

    async def user_of(self, token: str) -> User | None:
        """Whose session it is; None when it is over."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT u.user_id, u.name, u.role FROM office_sessions s JOIN office_users u USING (user_id) "
                "WHERE s.token_hash = %s AND s.expires_at > now()",
                (_hash(token),),
            )
            row = await cursor.fetchone()
        return None if row is None else User(*row)

    async def logout(self, token: str) -> None:
        async with self._pool.connection() as connection:
            await connection.execute("DELETE FROM office_sessions WHERE token_hash = %s", (_hash(token),))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
