"""Signatures against AWS's own worked example, and what the test's object store enforces of a grant."""

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from sync.central.embedded import BUCKET, EmbeddedServers
from sync.central.s3 import Bucket, ObjectMissing, ObjectStoreUnavailable, Signer, digest_of

EXAMPLE = Signer("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
EXAMPLE_DAY = datetime(2013, 5, 24, tzinfo=UTC)


def test_presigned_get_of_the_aws_documentation() -> None:
    """S3 API reference, "Authenticating requests: using query parameters", the example's expected signature."""
    url = EXAMPLE.presign("GET", "https://examplebucket.s3.amazonaws.com/test.txt", {}, EXAMPLE_DAY, 86_400)
    assert url == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def test_every_header_of_a_grant_is_bound_by_the_signature() -> None:
    headers = {"content-length": "5", "if-none-match": "*", "x-amz-checksum-sha256": "c"}
    urls = {
        EXAMPLE.presign("PUT", "http://h/b/k", {**headers, name: f"{value}0"}, EXAMPLE_DAY, 300)
        for name, value in [*headers.items(), ("x", "")]
    }
    urls.add(EXAMPLE.presign("PUT", "http://h/b/k", headers, EXAMPLE_DAY, 300))
    urls.add(EXAMPLE.presign("PUT", "http://other/b/k", headers, EXAMPLE_DAY, 300))
    urls.add(EXAMPLE.presign("GET", "http://h/b/k", headers, EXAMPLE_DAY, 300))
    assert len({url.rpartition("=")[2] for url in urls}) == 7
    assert "content-length%3Bhost%3Bif-none-match%3Bx-amz-checksum-sha256" in min(urls, key=len)
    assert EXAMPLE.secret_key not in repr(EXAMPLE)


@pytest.fixture
async def bucket(servers: EmbeddedServers) -> AsyncIterator[Bucket]:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        store = servers.s3
        signer = Signer(store.access_key, store.secret_key, "us-east-1")
        yield Bucket(store.endpoint, store.endpoint, BUCKET, signer, client)


async def test_what_a_grant_allows_and_what_not(bucket: Bucket) -> None:
    """PROOFS C7 against `rclone serve s3`. It does not check the checksum's truth nor `If-None-Match`: that is why the
    office reads back; the last two assertions are here to tell when rclone learns it."""
    data, now = b"sealed" * 100, datetime.now(UTC)
    key = f"kiosk/2026/11/{now.timestamp()}.age"
    sha256 = hashlib.sha256(data).digest()
    url, headers = bucket.presigned_put(key, size_bytes=len(data), sha256=sha256, now=now, expires_in_s=300)

    async def put(content: bytes = data, to: str = url, **changed: str | None) -> int:
        sent = {**headers, **{name.replace("_", "-"): value for name, value in changed.items()}}
        kept = {name: value for name, value in sent.items() if value is not None}
        return (await bucket.client.put(to, content=content, headers=kept)).status_code

    late = now - timedelta(seconds=400)
    old, _ = bucket.presigned_put(key, size_bytes=len(data), sha256=sha256, now=late, expires_in_s=300)
    refused = {
        "longer": await put(data + b"x", content_length=str(len(data) + 1)),
        "shorter": await put(data[:-1], content_length=str(len(data) - 1)),
        "other hash": await put(x_amz_checksum_sha256="AAAA"),
        "without hash": await put(x_amz_checksum_sha256=None),
        "without precondition": await put(if_none_match=None),
        "more metadata": await put(x_amz_meta_name="x"),
        "other key": await put(to=url.replace(".age?", ".agf?")),
        "other bucket": await put(to=url.replace(f"/{BUCKET}/", "/other/")),
        "late": await put(to=old),
        "longer life": await put(to=url.replace("Expires=300", "Expires=3000")),
    }
    assert {name: status for name, status in refused.items() if status < 400} == {}
    for method in ("GET", "HEAD", "DELETE", "POST"):
        assert (await bucket.client.request(method, url)).status_code >= 400, method
    assert (await bucket.client.get(bucket.url())).status_code >= 400  # listing
    assert (await bucket.client.get(f"{bucket.url()}?{url.partition('?')[2]}")).status_code >= 400
    with pytest.raises(ObjectMissing):
        async with bucket.read(key, datetime.now(UTC)):
            pass
    assert await put() == 200
    async with bucket.read(key, datetime.now(UTC)) as pieces:
        assert await digest_of(pieces, len(data)) == (len(data), sha256)
    assert await put(b"forged" * 100) == 200
    assert await put() == 200


async def test_reading_stops_when_it_is_too_much(bucket: Bucket) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1000)

    size, _ = await digest_of(endless(), 5000)
    assert size == 6000


async def test_a_store_that_is_away_says_so(servers: EmbeddedServers, bucket: Bucket) -> None:
    servers.s3.stop()
    try:
        with pytest.raises(ObjectStoreUnavailable):
            async with bucket.read("key", datetime.now(UTC)):
                pass
        with pytest.raises(ObjectStoreUnavailable):
            await bucket.exists(datetime.now(UTC))
    finally:
        servers.s3.start()
    assert await bucket.exists(datetime.now(UTC))
    wrong = Bucket(
        bucket.endpoint, bucket.endpoint, BUCKET, Signer(bucket.signer.access_key, "x" * 40, "us-east-1"), bucket.client
    )
    assert not await wrong.exists(datetime.now(UTC))
    with pytest.raises(ObjectStoreUnavailable, match="403"):
        async with wrong.read("key", datetime.now(UTC)):
            pass
    with pytest.raises(ObjectStoreUnavailable, match="403"):
        await wrong.create(datetime.now(UTC))
    await bucket.create(datetime.now(UTC))
