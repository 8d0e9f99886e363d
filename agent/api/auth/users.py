"""The table of people: SQL and its rules, always inside the caller's transaction. Names stay out of the journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agent.api.auth.caller import STAFF, Role
from agent.api.auth.lockout import name_key
from agent.domain.errors import DomainError, NotFound
from agent.domain.events import UserAdded, UserChanged, UserRemoved
from agent.store.ports import Reader, Row, Transaction

USERS_MAX = 200
NAME_MAX = 64


class NameTaken(DomainError):
    code: ClassVar[str] = "name_taken"


class LastAdmin(DomainError):
    """Without an admin nobody could make one again at the screen."""

    code: ClassVar[str] = "last_admin"


class AdminExists(DomainError):
    code: ClassVar[str] = "admin_exists"


class TooManyUsers(DomainError):
    code: ClassVar[str] = "too_many_users"


class InvalidName(DomainError):
    code: ClassVar[str] = "invalid_name"
    http_status: ClassVar[int] = 422


@dataclass(frozen=True, slots=True)
class User:
    id: str
    name: str
    role: Role
    secret_hash: str
    created_us: int
    changed_us: int


def is_readable(name: str) -> bool:
    return bool(name.strip()) and name.isprintable() and len(name) <= NAME_MAX


def check_name(name: str) -> None:
    if not is_readable(name):
        raise InvalidName(f"A name has 1 to {NAME_MAX} printable characters.")


def _user(row: Row) -> User:
    return User(
        id=row["id"],
        name=row["name"],
        role=Role(row["role"]),
        secret_hash=row["secret_hash"],
        created_us=row["created_us"],
        changed_us=row["changed_us"],
    )


def everybody(reader: Reader) -> list[User]:
    return [_user(row) for row in reader.all("SELECT * FROM users ORDER BY name_key")]


def by_name(reader: Reader, name: str) -> User | None:
    row = reader.one("SELECT * FROM users WHERE name_key = ?", name_key(name))
    return _user(row) if row else None


def find(reader: Reader, user_id: str) -> User | None:
    row = reader.one("SELECT * FROM users WHERE id = ?", user_id)
    return _user(row) if row else None


def by_id(reader: Reader, user_id: str) -> User:
    """Raises `NotFound`."""
    user = find(reader, user_id)
    if user is None:
        raise NotFound("There is no such user.")
    return user


def add(tx: Transaction, user: User) -> None:
    if user.role not in STAFF:
        raise ValueError(f"a person cannot have the role {user.role.value}")
    if by_name(tx, user.name) is not None:
        raise NameTaken("There is a user of this name already.")
    if len(everybody(tx)) >= USERS_MAX:
        raise TooManyUsers(f"A kiosk keeps at most {USERS_MAX} users; remove one first.")
    tx.execute(
        "INSERT INTO users(id, name, name_key, role, secret_hash, created_us, changed_us) VALUES (?, ?, ?, ?, ?, ?, ?)",
        *(user.id, user.name, name_key(user.name), user.role.value),
        *(user.secret_hash, user.created_us, user.changed_us),
    )
    tx.append(UserAdded(user_id=user.id, role=user.role.value))


def refuse_second_first(reader: Reader) -> None:
    if any(each.role is Role.ADMIN for each in everybody(reader)):
        raise AdminExists("There is an admin already; they add further users.")


def add_first_admin(tx: Transaction, user: User) -> None:
    refuse_second_first(tx)
    add(tx, user)


def change_role(tx: Transaction, user_id: str, role: Role) -> None:
    """The user's sessions end: they carry the old role."""
    user = by_id(tx, user_id)
    if user.role is Role.ADMIN and role is not Role.ADMIN:
        _keep_an_admin(tx, user)
    _end_sessions(tx, user)
    tx.execute("UPDATE users SET role = ? WHERE id = ?", role.value, user.id)
    tx.append(UserChanged(user_id=user.id, what="role", role=role.value))


def change_secret(tx: Transaction, user_id: str, secret_hash: str, now_us: int) -> None:
    user = by_id(tx, user_id)
    _end_sessions(tx, user)
    tx.execute("UPDATE users SET secret_hash = ?, changed_us = ? WHERE id = ?", secret_hash, now_us, user.id)
    tx.append(UserChanged(user_id=user.id, what="secret", role=user.role.value))


def remove(tx: Transaction, user_id: str) -> None:
    user = by_id(tx, user_id)
    if user.role is Role.ADMIN:
        _keep_an_admin(tx, user)
    _end_sessions(tx, user)
    tx.execute("DELETE FROM users WHERE id = ?", user.id)
    tx.append(UserRemoved(user_id=user.id))


def _keep_an_admin(tx: Transaction, leaving: User) -> None:
    if not any(each.role is Role.ADMIN and each.id != leaving.id for each in everybody(tx)):
        raise LastAdmin("This is the last admin; make another one first.")


def _end_sessions(tx: Transaction, user: User) -> None:
    tx.execute("DELETE FROM sessions WHERE user_id = ?", user.id)
