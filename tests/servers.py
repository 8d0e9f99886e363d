"""Real Postgres, Redis and S3 for tests, and the office on them. Import the fixtures you need into a `conftest.py`:

    from tests.servers import centre, database, servers  # noqa: F401

The servers start once per worker, at the first test that asks; each test gets a database of its own (a copy of a
migrated one).
"""

import asyncio
import base64
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pyrage
import pytest
import uvicorn
from pydantic import SecretStr
from starlette.types import ASGIApp

from sync.central import enrolment, migrate
from sync.central.app import create_app
from sync.central.database import Pool, make_pool
from sync.central.embedded import BUCKET, EmbeddedServers, free_port
from sync.central.settings import (
    AuthSettings,
    CentralSettings,
    DatabaseSettings,
    KeysSettings,
    LoggingSettings,
    OfficeSettings,
    PresenceSettings,
    RedisSettings,
    S3Settings,
)

TEMPLATE = "template_central"
_SERVERS = pytest.StashKey[EmbeddedServers]()
OFFICE_KEY, RECOVERY_KEY = (pyrage.x25519.Identity.generate() for _ in range(2))


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> EmbeddedServers:
    """The same for every conftest that imports this fixture; stopped when the session ends."""
    if _SERVERS not in request.config.stash:
        directory = Path(tempfile.mkdtemp(prefix="kiosk-servers-"))
        found = EmbeddedServers(directory, {"max_connections": "200", "shared_buffers": "64MB"})
        request.config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
        request.config.add_cleanup(found.stop)
        found.start()
        migrate.migrate(found.postgres.create_database(TEMPLATE))
        request.config.stash[_SERVERS] = found
    return request.config.stash[_SERVERS]


@pytest.fixture
def database(servers: EmbeddedServers) -> Iterator[str]:
    """The DSN of a database of this test's own, at the newest schema."""
    name = f"t_{uuid4().hex}"
    yield servers.postgres.create_database(name, TEMPLATE)
    servers.postgres.start()  # a test may have left it stopped
    servers.postgres.drop_database(name)


def central_settings(servers: EmbeddedServers, dsn: str, **sections: Any) -> CentralSettings:
    """Settings for the embedded servers; `sections` replace whole sections."""
    given: dict[str, Any] = {
        "database": DatabaseSettings(dsn=SecretStr(dsn), pool_min=1, pool_max=8, connect_timeout_s=3),
        "redis": RedisSettings(url=SecretStr(servers.redis.url)),
        "s3": S3Settings(
            endpoint=servers.s3.endpoint,
            public_endpoint=servers.s3.endpoint,
            bucket=BUCKET,
            access_key=SecretStr(servers.s3.access_key),
            secret_key=SecretStr(servers.s3.secret_key),
            timeout_s=3,
            verify_interval_s=0.05,
        ),
        "auth": AuthSettings(secret=SecretStr(base64.b64encode(b"k" * 32).decode())),
        "keys": KeysSettings(recipients=[str(OFFICE_KEY.to_public()), str(RECOVERY_KEY.to_public())]),
        "presence": PresenceSettings(heartbeat_s=1, ttl_s=3),
        "office": OfficeSettings(cookie_secure=False, live_poll_s=0.2),
        "logging": LoggingSettings(level="WARNING"),
    }
    return CentralSettings(**(given | sections))


def central_environment(servers: EmbeddedServers, dsn: str) -> dict[str, str]:
    """The same settings for an office in a process of its own (`uvicorn sync.central.main:app`, `kiosk central …`)."""
    recipients = [str(OFFICE_KEY.to_public()), str(RECOVERY_KEY.to_public())]
    return {
        **servers.environment(),
        "CENTRAL_CONFIG": str(Path(__file__).parents[1] / "config" / "central.toml"),
        "CENTRAL_DATABASE__DSN": dsn,
        "CENTRAL_AUTH__SECRET": "k" * 40,
        "CENTRAL_KEYS__RECIPIENTS": json.dumps(recipients),
        "CENTRAL_OFFICE__COOKIE_SECURE": "false",
        "CENTRAL_S3__VERIFY_INTERVAL_S": "0.05",
    }


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """pytest keeps its own."""
        yield


@asynccontextmanager
async def serving(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """`app` under uvicorn in this loop; gives its base URL."""
    port = port or free_port()
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_config=None, lifespan="on", timeout_graceful_shutdown=2
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        if task.done():
            await task
            raise RuntimeError("the server stopped while starting")
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@dataclass(frozen=True, slots=True)
class Centre:
    """A running office."""

    url: str
    settings: CentralSettings
    pool: Pool

    async def code(self, name: str = "Lobby", kiosk_id: UUID | None = None) -> str:
        """A fresh enrolment code."""
        async with self.pool.connection() as connection:
            code, _, _ = await enrolment.make_code(connection, name, timedelta(hours=1), os.urandom, kiosk_id)
        return code

    async def all(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        await self.pool.check()  # Postgres may have been restarted meanwhile
        async with self.pool.connection() as connection:
            cursor = await connection.execute(sql.encode(), parameters)
            return await cursor.fetchall()

    async def one(self, sql: str, *parameters: object) -> Any:
        """The first column of the first row."""
        rows = await self.all(sql, *parameters)
        return rows[0][0] if rows else None

    def client(self) -> httpx.AsyncClient:
        """Plain http, so without the cost of a TLS context; patient, since tests share few cores."""
        return httpx.AsyncClient(base_url=self.url, trust_env=False, verify=False, timeout=20)


@asynccontextmanager
async def running_centre(settings: CentralSettings, port: int = 0) -> AsyncIterator[Centre]:
    """An office in this process, under uvicorn, with a pool for looking at its tables."""
    pool = make_pool(settings.database)
    await pool.open()
    try:
        async with serving(create_app(lambda: settings, logs=False), port) as url:
            yield Centre(url, settings, pool)
    finally:
        await pool.close()


@pytest.fixture
async def centre(servers: EmbeddedServers, database: str) -> AsyncIterator[Centre]:
    """An office on a database of its own."""
    async with running_centre(central_settings(servers, database)) as found:
        yield found
