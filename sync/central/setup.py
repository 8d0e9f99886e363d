"""What is done once, by a person or the demo: secrets, age keys, schema, bucket, first admin, enrolment codes."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pyrage
from psycopg import AsyncConnection

from agent.domain.errors import KioskError
from sync.central import enrolment, migrate
from sync.central.database import Connection
from sync.central.office import accounts
from sync.central.s3 import ObjectStoreUnavailable
from sync.central.services import make_bucket, object_client
from sync.central.settings import CentralSettings


class SetupFailed(KioskError):
    """Something that set-up needs is not there; the message says what to do."""

    code = "setup_failed"


def write_private(path: Path, text: str) -> None:
    """A new file that only its owner may read. Raises `SetupFailed` when it exists: keys are never overwritten."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise SetupFailed(f"{path} exists and is left as it is") from error
    except OSError as error:
        raise SetupFailed(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def make_secret(settings: CentralSettings) -> Path | None:
    """The file that tokens are made from; None when there is a secret already."""
    path = settings.auth.secret_file
    if settings.auth.secret is not None or path is None or path.exists():
        return None
    write_private(path, secrets.token_urlsafe(48) + "\n")
    return path


def make_keys(settings: CentralSettings) -> list[str] | None:
    """Two age identities in the files that the settings name, and their recipients; None when there are some."""
    keys = settings.keys
    if keys.recipients or keys.office_identity_file.exists():
        return None
    recipients = []
    for path in (keys.office_identity_file, keys.recovery_identity_file):
        identity = pyrage.x25519.Identity.generate()
        recipients.append(str(identity.to_public()))
        write_private(path, f"# public key: {recipients[-1]}\n{identity}\n")
    if keys.recipients_file is not None:
        keys.recipients_file.write_text("".join(f"{each}\n" for each in recipients), "utf-8")
    return recipients


@dataclass(frozen=True, slots=True)
class Initialised:
    """What `initialise` made; None or False: it was there already."""

    secret: Path | None
    recipients: list[str] | None
    revision: str
    bucket: bool
    admin: bool


async def initialise(settings: CentralSettings, admin: str, password: str) -> Initialised:
    """Everything the office needs to start, as far as it is missing. Safe to repeat."""
    secret, recipients = make_secret(settings), make_keys(settings)
    _, revision = await asyncio.to_thread(migrate.migrate, settings.database.url())
    made = await ensure_bucket(settings)
    async with connected(settings) as connection:
        first = not await accounts.has_admin(connection)
        if first:
            await accounts.add_user(connection, admin, password, "admin", os.urandom)
    return Initialised(secret, recipients, revision, made, first)


async def ensure_bucket(settings: CentralSettings) -> bool:
    """True when it was made. Raises `ObjectStoreUnavailable`."""
    async with object_client(settings) as client:
        bucket = make_bucket(settings, client)
        if await bucket.exists(datetime.now(UTC)):
            return False
        await bucket.create(datetime.now(UTC))
        return True


async def make_code(settings: CentralSettings, name: str, kiosk_id: UUID | None = None) -> tuple[str, UUID, datetime]:
    """(one-time code, kiosk it is for, end of its life)."""
    ttl = timedelta(hours=settings.auth.code_ttl_h)
    async with connected(settings) as connection:
        return await enrolment.make_code(connection, name, ttl, os.urandom, kiosk_id)


@asynccontextmanager
async def connected(settings: CentralSettings) -> AsyncIterator[Connection]:
    """One connection; what the block did is committed when it ends well. Raises `SetupFailed`."""
    try:
        async with await AsyncConnection.connect(settings.database.url(), connect_timeout=5) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise SetupFailed(f"Postgres does not answer: {error}".strip()) from error


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `kiosk central doctor`; `state` is ok, warn or fail, `cure` what to do about it."""

    what: str
    state: str
    found: str
    cure: str = ""


async def doctor(settings: CentralSettings) -> list[Check]:
    return [
        await _check_database(settings),
        await _check_redis(settings),
        await _check_bucket(settings),
        _check_secret(settings),
        _check_recipients(settings),
        *(_check_private(path) for path in (settings.keys.office_identity_file, settings.keys.recovery_identity_file)),
    ]


async def _check_database(settings: CentralSettings) -> Check:
    try:
        async with connected(settings):
            found = await asyncio.to_thread(migrate.current, settings.database.url())
    except KioskError as error:
        return Check("database", "fail", error.message, "start Postgres, or correct database.dsn")
    if found != migrate.newest():
        return Check("database", "fail", f"schema {found}, needed {migrate.newest()}", "kiosk central migrate")
    return Check("database", "ok", f"schema {found}")


async def _check_redis(settings: CentralSettings) -> Check:
    import redis.asyncio as redis
    from redis.exceptions import RedisError

    try:
        address = settings.redis.address()
        if address is None:
            return Check("redis", "warn", "not configured", "set redis.url for presence and quick live views")
        async with redis.from_url(address, socket_timeout=2, socket_connect_timeout=2) as client:
            await client.ping()
    except (KioskError, RedisError, OSError) as error:
        return Check("redis", "warn", f"does not answer: {error}", "start Redis; the office works without it")
    return Check("redis", "ok", "answers")


async def _check_bucket(settings: CentralSettings) -> Check:
    try:
        async with object_client(settings) as client:
            there = await make_bucket(settings, client).exists(datetime.now(UTC))
    except (KioskError, ObjectStoreUnavailable) as error:
        return Check("bucket", "fail", error.message, "start the object store, or correct [s3]")
    if not there:
        return Check("bucket", "fail", f"{settings.s3.bucket} is not there or not ours", "kiosk central init")
    return Check("bucket", "ok", settings.s3.bucket)


def _check_secret(settings: CentralSettings) -> Check:
    try:
        settings.auth.key()
    except KioskError as error:
        return Check("secret", "fail", error.message, "kiosk central init")
    return Check("secret", "ok", "is there")


def _check_recipients(settings: CentralSettings) -> Check:
    try:
        found = settings.keys.public()
    except KioskError as error:
        return Check("recipients", "fail", error.message, "kiosk central keys")
    return Check("recipients", "ok", ", ".join(found))


def _check_private(path: Path) -> Check:
    what = f"identity {path.name}"
    if not path.exists():
        return Check(what, "warn", f"{path} is not on this machine", "restore needs it; keep it in a safe place")
    if path.stat().st_mode & 0o077:
        return Check(what, "fail", f"{path} can be read by others", f"chmod 600 {path}")
    return Check(what, "ok", str(path))
