"""AWS Signature Version 4 for the few S3 calls the office makes, and the presigned PUT it hands to kiosks.

Source: AWS General Reference, "Signature Version 4 signing process", and S3 API Reference, "Authenticating requests:
using query parameters" (both 2024). Path-style addresses, so that MinIO and rclone need no wildcard names.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import httpx

from agent.domain.errors import SyncError

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
_UNRESERVED = "-_.~"


class ObjectStoreUnavailable(SyncError):
    """The object store did not answer, or not as it should; later again."""

    code = "object_store_unavailable"
    http_status = 503


class ObjectMissing(SyncError):
    """No object has this key."""

    code = "object_missing"
    http_status = 404


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs requests for one pair of keys. `region` must be what the server expects (MinIO: `us-east-1`)."""

    access_key: str
    secret_key: str = field(repr=False)
    region: str

    def presign(self, method: str, url: str, headers: Mapping[str, str], now: datetime, expires_in_s: int) -> str:
        """`url` with a signature in its query that binds the method, host, path and every one of `headers`."""
        parts = urlsplit(url)
        bound = {"host": parts.netloc, **{name.lower(): value for name, value in headers.items()}}
        query = {
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{self.access_key}/{self._scope(now)}",
            "X-Amz-Date": _stamp(now),
            "X-Amz-Expires": str(expires_in_s),
            "X-Amz-SignedHeaders": ";".join(sorted(bound)),
        }
        signature = self._signature(method, parts.path, query, bound=bound, digest=UNSIGNED, now=now)
        return f"{parts.scheme}://{parts.netloc}{parts.path}?{_query(query)}&X-Amz-Signature={signature}"

    def headers(self, method: str, url: str, now: datetime, body: bytes = b"") -> dict[str, str]:
        """The headers that authenticate a request of the office itself."""
        parts = urlsplit(url)
        digest = hashlib.sha256(body).hexdigest()
        bound = {"host": parts.netloc, "x-amz-content-sha256": digest, "x-amz-date": _stamp(now)}
        signature = self._signature(method, parts.path, {}, bound=bound, digest=digest, now=now)
        credential = f"{ALGORITHM} Credential={self.access_key}/{self._scope(now)}"
        bound["authorization"] = f"{credential}, SignedHeaders={';'.join(sorted(bound))}, Signature={signature}"
        return bound

    def _scope(self, now: datetime) -> str:
        return f"{now:%Y%m%d}/{self.region}/s3/aws4_request"

    def _signature(
        self, method: str, path: str, query: Mapping[str, str], *, bound: Mapping[str, str], digest: str, now: datetime
    ) -> str:
        lines = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in sorted(bound.items()))
        request = "\n".join([method, path, _query(query), lines, ";".join(sorted(bound)), digest])
        text = "\n".join([ALGORITHM, _stamp(now), self._scope(now), hashlib.sha256(request.encode()).hexdigest()])
        key = f"AWS4{self.secret_key}".encode()
        for part in (f"{now:%Y%m%d}", self.region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, text.encode(), "sha256").hex()


def _stamp(now: datetime) -> str:
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def _query(query: Mapping[str, str]) -> str:
    pairs = sorted((quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket. `endpoint` is how the office reaches it, `public_endpoint` how kiosks do."""

    endpoint: str
    public_endpoint: str
    name: str
    signer: Signer
    client: httpx.AsyncClient

    def url(self, key: str = "", *, public: bool = False) -> str:
        base = (self.public_endpoint if public else self.endpoint).rstrip("/")
        return f"{base}/{self.name}/{quote(key, safe='/' + _UNRESERVED)}" if key else f"{base}/{self.name}"

    def presigned_put(
        self, key: str, *, size_bytes: int, sha256: bytes, now: datetime, expires_in_s: int
    ) -> tuple[str, dict[str, str]]:
        """(url, headers to send exactly): bound to host, key, size, SHA-256, and to the key being free."""
        headers = {
            "content-length": str(size_bytes),
            "if-none-match": "*",
            "x-amz-checksum-sha256": base64.b64encode(sha256).decode(),
        }
        return self.signer.presign("PUT", self.url(key, public=True), headers, now, expires_in_s), headers

    async def create(self, now: datetime) -> None:
        """Make the bucket; fine when it is there already."""
        answer = await self._call("PUT", self.url(), now)
        if answer.status_code not in (200, 204, 409):
            raise ObjectStoreUnavailable(f"the bucket {self.name} could not be made: HTTP {answer.status_code}")

    async def exists(self, now: datetime) -> bool:
        answer = await self._call("HEAD", self.url(), now)
        return answer.status_code == 200

    @asynccontextmanager
    async def read(self, key: str, now: datetime) -> AsyncIterator[AsyncIterator[bytes]]:
        """The object's bytes, in pieces. Raises `ObjectMissing`, or `ObjectStoreUnavailable` also while reading."""
        url = self.url(key)
        try:
            async with self.client.stream("GET", url, headers=self.signer.headers("GET", url, now)) as answer:
                if answer.status_code == 404:
                    raise ObjectMissing(f"there is no object {key}")
                if answer.status_code != 200:
                    raise ObjectStoreUnavailable(f"reading {key} answered HTTP {answer.status_code}")
                yield answer.aiter_raw()
        except httpx.HTTPError as error:
            raise ObjectStoreUnavailable(f"reading {key} failed: {error!r}") from error

    async def _call(self, method: str, url: str, now: datetime) -> httpx.Response:
        try:
            return await self.client.request(method, url, headers=self.signer.headers(method, url, now))
        except httpx.HTTPError as error:
            raise ObjectStoreUnavailable(f"the object store does not answer: {error!r}") from error


async def digest_of(pieces: AsyncIterator[bytes], limit: int) -> tuple[int, bytes]:
    """(size, SHA-256) of what comes; stops reading behind `limit` bytes, where the size already tells."""
    size, digest = 0, hashlib.sha256()
    async for piece in pieces:
        size += len(piece)
        digest.update(piece)
        if size > limit:
            break
    return size, digest.digest()
