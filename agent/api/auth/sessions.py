"""Sessions: random tokens, kept as SHA-256 in SQLite so that they outlive a restart, and in memory for every request.

This process alone writes the table (one agent per state directory), so the memory is always right. A session made by
this process ends by the monotonic clock; one found at start ends by the wall clock, and is not believed when that
clock stands before its making. A refresh replaces both tokens; the replaced ones work for `GRACE_S` more (two tabs, an
answer lost in a reload), and a refresh token that turns up later than that ends its session: somebody copied it.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import ClassVar

from loguru import logger

from agent.api.auth.caller import Role
from agent.domain.clock import Clock
from agent.domain.errors import KioskError
from agent.domain.ids import Randomness, uuid7
from agent.store.ports import Row, Store, Transaction

GRACE_S = 30
SESSIONS_MAX = 256
_CLOCK_SLACK_US = 300 * 1_000_000


class SessionEnded(KioskError):
    code: ClassVar[str] = "session_ended"
    http_status: ClassVar[int] = 401


@dataclass(slots=True)
class Session:
    """`*_deadline`: seconds of the monotonic clock."""

    id: str
    user_id: str | None
    role: Role
    access_hash: bytes
    refresh_hash: bytes
    created_us: int
    access_deadline: float
    refresh_deadline: float
    previous_refresh: bytes | None = None
    previous_access: bytes | None = None
    grace_deadline: float = 0.0
    issued: Tokens | None = None  # the present tokens, for a repeated refresh within the grace time


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the client gets, once."""

    session: Session = field(repr=False)
    access: str = field(repr=False)
    refresh: str = field(repr=False)


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()


class SessionBook:
    def __init__(
        self, store: Store, clock: Clock, randomness: Randomness, *, access_ttl_s: int, refresh_ttl_s: int
    ) -> None:
        self._store = store
        self._clock = clock
        self._randomness = randomness
        self.access_ttl_s = access_ttl_s
        self.refresh_ttl_s = refresh_ttl_s
        self._live: dict[str, Session] = {}
        self._by_access: dict[bytes, Session] = {}
        self._by_refresh: dict[bytes, Session] = {}
        self._ended: list[str] = []  # rows to delete with the next insert
        with store.read() as reader:
            for row in reader.all("SELECT * FROM sessions ORDER BY created_us"):
                self._restore(row)

    def of_access(self, token: str) -> Session | None:
        """The session of an access token that is still good."""
        digest, now = _hash(token), self._clock.monotonic()
        session = self._by_access.get(digest)
        if session is None:
            return None
        deadline = session.access_deadline if digest == session.access_hash else session.grace_deadline
        return session if now < min(deadline, session.refresh_deadline) else None

    def alive(self, session_id: str) -> bool:
        """Whether the login still stands (its access token may have to be refreshed)."""
        session = self._live.get(session_id)
        return session is not None and self._clock.monotonic() < session.refresh_deadline

    def prepare(self, user_id: str | None, role: Role) -> Tokens:
        """A new session, known to nobody yet: `insert` it in a transaction, `keep` it after the commit."""
        access, refresh = self._token(), self._token()
        now, now_us = self._clock.monotonic(), self._clock.now_us()
        session = Session(
            id=str(uuid7(now_us // 1000, self._randomness(10))),
            user_id=user_id,
            role=role,
            access_hash=_hash(access),
            refresh_hash=_hash(refresh),
            created_us=now_us,
            access_deadline=now + self.access_ttl_s,
            refresh_deadline=now + self.refresh_ttl_s,
        )
        self._sweep()
        return Tokens(session, access, refresh)

    def insert(self, tx: Transaction, session: Session) -> None:
        """Also deletes rows of sessions that have ended. Runs in the writer thread: touches no memory but its own."""
        for session_id in tuple(self._ended):
            tx.execute("DELETE FROM sessions WHERE id = ?", session_id)
        tx.execute(
            "INSERT INTO sessions(id, user_id, role, access_hash, refresh_hash, previous_hash, created_us,"
            " access_until_us, refresh_until_us) VALUES (?, ?, ?, ?, ?, NULL, ?, ?, ?)",
            *(session.id, session.user_id, session.role.value, session.access_hash, session.refresh_hash),
            *(session.created_us, *self._until_us(session.created_us)),
        )

    def keep(self, session: Session) -> None:
        self._ended.clear()
        self._live[session.id] = session
        self._index(session)

    async def refresh(self, token: str) -> Tokens:
        """New tokens for the old refresh token. Raises `SessionEnded`."""
        digest, now = _hash(token), self._clock.monotonic()
        session = self._by_refresh.get(digest)
        if session is None or now >= session.refresh_deadline:
            raise SessionEnded("Log in again: there is no such session, or it has ended.")
        if digest == session.refresh_hash:
            return await self._rotate(session)
        if now >= session.grace_deadline:
            logger.warning("a used refresh token came again: session {session} is ended", session=session.id)
            await self.end(session.id)
            raise SessionEnded("Log in again: this session was ended.")
        return session.issued or await self._rotate(session)

    async def end(self, session_id: str) -> None:
        """At once; an error on the way leaves people logged out, not in."""
        self._forget([session_id])
        await self._store.transact(
            lambda tx: tx.execute("DELETE FROM sessions WHERE id = ?", session_id), actor="agent"
        )

    def forget_user(self, user_id: str) -> None:
        """After the commit that deleted the user's rows."""
        self._forget([session.id for session in self._live.values() if session.user_id == user_id])

    def _forget(self, session_ids: Iterable[str]) -> None:
        for session_id in session_ids:
            if session := self._live.pop(session_id, None):
                self._unindex(session)

    async def _rotate(self, session: Session) -> Tokens:
        access, refresh = self._token(), self._token()
        now, now_us = self._clock.monotonic(), self._clock.now_us()
        self._unindex(session)
        session.previous_access, session.previous_refresh = session.access_hash, session.refresh_hash
        session.access_hash, session.refresh_hash = _hash(access), _hash(refresh)
        session.access_deadline = now + self.access_ttl_s
        session.refresh_deadline = now + self.refresh_ttl_s
        session.grace_deadline = now + GRACE_S
        session.issued = Tokens(session, access, refresh)
        self._index(session)
        hashes = (session.access_hash, session.refresh_hash, session.previous_refresh)
        values = (*hashes, *self._until_us(now_us), session.id)
        await self._store.transact(
            lambda tx: tx.execute(
                "UPDATE sessions SET access_hash = ?, refresh_hash = ?, previous_hash = ?, access_until_us = ?,"
                " refresh_until_us = ? WHERE id = ?",
                *values,
            ),
            actor="agent",
        )
        return session.issued

    def _restore(self, row: Row) -> None:
        now, now_us = self._clock.monotonic(), self._clock.now_us()
        if now_us < row["created_us"] - _CLOCK_SLACK_US or now_us >= row["refresh_until_us"]:
            self._ended.append(row["id"])
            return
        access_s = min(max((row["access_until_us"] - now_us) / 1e6, 0), self.access_ttl_s)
        refresh_s = min((row["refresh_until_us"] - now_us) / 1e6, self.refresh_ttl_s)
        session = Session(
            id=row["id"],
            user_id=row["user_id"],
            role=Role(row["role"]),
            access_hash=bytes(row["access_hash"]),
            refresh_hash=bytes(row["refresh_hash"]),
            created_us=row["created_us"],
            access_deadline=now + access_s,
            refresh_deadline=now + refresh_s,
            previous_refresh=bytes(row["previous_hash"]) if row["previous_hash"] else None,
            grace_deadline=now + min(refresh_s, GRACE_S),
        )
        self.keep(session)

    def _sweep(self) -> None:
        """Forget what has ended, and the oldest beyond the bound."""
        now = self._clock.monotonic()
        over = [session.id for session in self._live.values() if now >= session.refresh_deadline]
        standing = sorted(
            (session for session in self._live.values() if session.id not in over), key=lambda each: each.created_us
        )
        over += [session.id for session in standing[: max(0, len(standing) - SESSIONS_MAX + 1)]]
        self._forget(over)
        self._ended += over

    def _index(self, session: Session) -> None:
        for digest in filter(None, (session.access_hash, session.previous_access)):
            self._by_access[digest] = session
        for digest in filter(None, (session.refresh_hash, session.previous_refresh)):
            self._by_refresh[digest] = session

    def _unindex(self, session: Session) -> None:
        for digest in filter(None, (session.access_hash, session.previous_access)):
            self._by_access.pop(digest, None)
        for digest in filter(None, (session.refresh_hash, session.previous_refresh)):
            self._by_refresh.pop(digest, None)

    def _until_us(self, now_us: int) -> tuple[int, int]:
        return now_us + self.access_ttl_s * 1_000_000, now_us + self.refresh_ttl_s * 1_000_000

    def _token(self) -> str:
        return urlsafe_b64encode(self._randomness(32)).decode().rstrip("=")
