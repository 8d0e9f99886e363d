"""The office's parts, built once per process in the lifespan from the settings, and taken down in order."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
from loguru import logger

from sync.central import migrate
from sync.central.blobs import Verifier
from sync.central.database import Pool, make_pool
from sync.central.ingest import Ingest
from sync.central.metrics import Metrics
from sync.central.presence import Presence
from sync.central.s3 import Bucket, ObjectStoreUnavailable, Signer
from sync.central.settings import CentralSettings
from sync.central.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Services:
    settings: CentralSettings
    pool: Pool
    presence: Presence
    ingest: Ingest
    tokens: Tokens
    bucket: Bucket
    metrics: Metrics


def object_client(settings: CentralSettings) -> httpx.AsyncClient:
    """For the object store. A TLS context costs 0.1 s of CPU and is made only where there is TLS."""
    s3 = settings.s3
    return httpx.AsyncClient(timeout=s3.timeout_s, trust_env=False, verify=s3.endpoint.startswith("https:"))


def make_bucket(settings: CentralSettings, client: httpx.AsyncClient) -> Bucket:
    s3 = settings.s3
    access_key, secret_key = s3.keys()
    return Bucket(s3.endpoint, s3.public_endpoint, s3.bucket, Signer(access_key, secret_key, s3.region), client)


def make_tokens(settings: CentralSettings) -> Tokens:
    auth = settings.auth
    return Tokens(
        auth.key(),
        token_ttl_s=auth.token_ttl_s,
        nonce_ttl_s=auth.nonce_ttl_s,
        now=time.time,
        randomness=os.urandom,
    )


@asynccontextmanager
async def running(settings: CentralSettings) -> AsyncIterator[Services]:
    """Everything open, and the background work under way, until the block ends.

    Postgres, Redis and S3 may all be away at this moment: calls answer 503 until Postgres is there.
    """
    if settings.database.migrate_at_start:
        await asyncio.to_thread(migrate.migrate, settings.database.url())
    pool = make_pool(settings.database)
    presence = Presence(settings.redis.address(), settings.presence.ttl_s, settings.redis.timeout_ms)
    async with object_client(settings) as client:
        bucket = make_bucket(settings, client)
        services = Services(
            settings, pool, presence, Ingest(pool, presence.changed), make_tokens(settings), bucket, Metrics()
        )
        verifier = Verifier(pool, bucket, presence, settings.s3.verify_interval_s)
        await pool.open(wait=False)
        presence.start()
        if settings.s3.create_bucket:
            await _make_bucket(bucket)
        task = asyncio.create_task(verifier.run())
        try:
            yield services
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await presence.stop()
            await pool.close()


async def _make_bucket(bucket: Bucket) -> None:
    try:
        await bucket.create(datetime.now(UTC))
    except ObjectStoreUnavailable as error:
        logger.warning("the bucket could not be made yet: {}", error)
