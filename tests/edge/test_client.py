"""What answers on the line is believed only as far as the contract goes; what does not answer costs bounded time."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from agent.domain.errors import BatchRefused, CentreUnavailable
from sync import envelope as wire
from sync.edge.client import ANSWER_BYTES_MAX, Http, ObjectStore, Office, UploadFailed, refusal_of
from sync.edge.identity import Identity
from sync.edge.settings import SyncSettings
from tests.edge import office_double as double
from tests.edge.clock import FakeClock
from tests.edge.office_double import OfficeDouble
from tests.edge.wires import Authority, Talk, answering, heard, listening

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
MARK = b'{"journal_id":"00000000-0000-0000-0000-000000000001","seq":0,"hash":""}'


def http(url: str, clock: FakeClock | None = None, **settings: Any) -> Http:
    return Http(url, SyncSettings(**settings), clock or FakeClock(), agent_version="1.2")


async def asked(client: Http) -> wire.Watermark:
    try:
        return await client.call("GET", "/x", wire.Watermark)
    finally:
        await client.close()


async def test_an_answer_of_the_contract_is_taken() -> None:
    async with listening(answering(MARK)) as port:
        assert (await asked(http(f"http://127.0.0.1:{port}"))).seq == 0


async def test_who_we_are_and_what_we_can_read() -> None:
    seen = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await heard(reader)).lower())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(MARK), MARK))

    async with listening(talk) as port:
        await asked(http(f"http://127.0.0.1:{port}"))
    assert b"user-agent: kiosk-agent/1.2\r\n" in seen[0]
    assert b"accept-encoding: identity\r\n" in seen[0]


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Slow loris: a byte now and then, for ever; each read is answered in time."""
    await heard(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await heard(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
        await writer.drain()


async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await heard(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n{")


async def noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(bytes(range(256)) * 8)
    await writer.drain()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return


@pytest.mark.parametrize("talk", [drip, mute, flood, cut, noise, hang_up], ids=lambda talk: talk.__name__)
async def test_whatever_a_socket_does_ends_in_bounded_time_as_away(talk: Talk) -> None:
    async with listening(talk) as port, asyncio.timeout(5):
        with pytest.raises(CentreUnavailable) as caught:
            await asked(http(f"http://127.0.0.1:{port}", request_timeout_s=0.4))
    assert len(caught.value.message) < 400


async def test_nobody_there() -> None:
    async with listening(mute) as port:
        pass
    with pytest.raises(CentreUnavailable, match="cannot be reached"):
        await asked(http(f"http://127.0.0.1:{port}"))


async def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that some script has set must not carry takings; one in the settings does."""
    seen = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await heard(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(MARK), MARK))

    async with listening(proxy) as proxy_port, listening(answering(MARK)) as port:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy_port}")
        await asked(http(f"http://127.0.0.1:{port}"))
        assert seen == []
        await asked(http("http://127.0.0.1:1", proxy=f"http://127.0.0.1:{proxy_port}"))
        assert seen[0].startswith(b"GET http://127.0.0.1:1/x")


async def test_tls_is_verified(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good = authority.server(NOW - DAY, NOW + DAY)
    async with listening(answering(MARK), good) as port:
        url = f"https://127.0.0.1:{port}"
        assert (await asked(http(url, ca_file=authority.ca_file))).seq == 0
        with pytest.raises(CentreUnavailable, match=r"(?i)certificate"):
            await asked(http(url))  # the public authorities do not know it
    other = authority.server(NOW - DAY, NOW + DAY, host="127.0.0.2")
    async with listening(answering(MARK), other) as port:
        with pytest.raises(CentreUnavailable, match=r"(?i)certificate"):
            await asked(http(f"https://127.0.0.1:{port}", ca_file=authority.ca_file))


@pytest.mark.parametrize("begin, end", [(-2 * DAY, -DAY), (DAY, 2 * DAY)], ids=["expired", "not yet valid"])
async def test_a_dead_clock_does_not_lock_the_kiosk_out(tmp_path: Path, begin: dt.timedelta, end: dt.timedelta) -> None:
    """Its battery is flat and it is 1970: every certificate seems wrong. Chain and name still count; with a clock that
    can be right, the dates count too."""
    authority = Authority(tmp_path)
    async with listening(answering(MARK), authority.server(NOW + begin, NOW + end)) as port:
        url, clock = f"https://127.0.0.1:{port}", FakeClock()
        with pytest.raises(CentreUnavailable, match=r"(?i)certificate"):
            await asked(http(url, clock, ca_file=authority.ca_file))
        clock.set_wall(86_400_000_000)
        assert (await asked(http(url, clock, ca_file=authority.ca_file))).seq == 0
        with pytest.raises(CentreUnavailable, match=r"(?i)certificate"):
            await asked(http(url, clock))
        healed = http(url, clock, ca_file=authority.ca_file)
        clock.set_wall(FakeClock().now_us())
        with pytest.raises(CentreUnavailable, match=r"(?i)certificate"):
            await asked(healed)


@pytest.mark.parametrize(
    "status, headers, body, expected",
    [
        (503, {"Retry-After": "12"}, b"", ("away", 12.0)),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"", ("away", None)),
        (429, {"Retry-After": "9" * 12}, b"", ("away", None)),
        (429, {"Retry-After": "-5"}, b"", ("away", None)),
        (500, double.PROBLEM, b'{"code": "database_unavailable", "detail": "later"}', ("away", None)),
        (408, {}, b"", ("away", None)),
        (404, {"Content-Type": "text/html"}, b"<html>", ("away", None)),
        (403, double.PROBLEM, b"not json", ("away", None)),
        (403, double.PROBLEM, b'{"title": "no code"}', ("away", None)),
        (409, double.PROBLEM, b'{"code": "gap", "detail": "send 7"}', ("gap", "send 7")),
        (422, {"Content-Type": "application/problem+json; charset=utf-8"}, b'{"code": "new"}', ("new", "new")),
        (413, {"Content-Type": "text/html"}, b"<html>", ("batch_too_large", None)),
        (302, {"Location": "http://portal.test"}, b"", ("away", None)),
        (200, {}, b"", ("away", None)),
    ],
)
def test_what_an_answer_means(status: int, headers: dict[str, str], body: bytes, expected: tuple[str, Any]) -> None:
    error = refusal_of(httpx.Response(status, headers=headers), body, "/x")
    kind, detail = expected
    if kind == "away":
        assert isinstance(error, CentreUnavailable)
        assert error.details.get("retry_after_s") == detail
    else:
        assert isinstance(error, BatchRefused)
        assert error.details["reason"] == kind
        assert detail in (None, error.message)


def test_a_long_text_from_the_office_is_cut() -> None:
    response = httpx.Response(422, headers=double.PROBLEM)
    error = refusal_of(response, b'{"code": "x", "detail": "' + b"y" * 10_000 + b'"}', "/x")
    assert len(error.message) == 300


def office_for(office: OfficeDouble, clock: FakeClock) -> Office:
    key = bytes(range(32))
    kiosk = Identity("k-1", "lobby", double.URL, key, ())
    office.kiosks["k-1"] = double.Kiosk(double.unpadded(kiosk.public_key))
    return Office(kiosk, SyncSettings(), clock, agent_version="1", transport=office)


async def test_a_token_that_is_never_good_is_tried_once_more_only(office: OfficeDouble, clock: FakeClock) -> None:
    client = office_for(office, clock)
    office.always = double.tokens_gone
    with pytest.raises(BatchRefused) as caught:
        await client.watermark(UUID(int=1))
    assert caught.value.details["reason"] == "token_invalid"
    assert office.requests.count(f"POST {wire.PATH_TOKEN}") == 2
    await client.close()


async def test_a_revoked_kiosk_is_told_so(office: OfficeDouble, clock: FakeClock) -> None:
    client = office_for(office, clock)
    await client.watermark(UUID(int=1))
    office.revoked.add("k-1")
    with pytest.raises(BatchRefused) as caught:
        await client.watermark(UUID(int=1))
    assert caught.value.details["reason"] == "kiosk_revoked"
    await client.close()


async def test_a_nonce_signed_with_another_key_buys_nothing(office: OfficeDouble, clock: FakeClock) -> None:
    office_for(office, clock)
    thief = Identity("k-1", "lobby", double.URL, bytes(32), ())
    client = Office(thief, SyncSettings(), clock, agent_version="1", transport=office)
    with pytest.raises(BatchRefused) as caught:
        await client.watermark(UUID(int=1))
    assert caught.value.details["reason"] == "wrong_signature"
    await client.close()


async def bodies(size: int) -> Any:
    for _ in range(size // 1000):
        yield b"x" * 1000


async def test_an_upload_sends_exactly_what_was_granted() -> None:
    seen = []

    async def store(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await heard(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    objects = ObjectStore(SyncSettings(), FakeClock(), transport=None)
    async with listening(store) as port:
        url = f"http://127.0.0.1:{port}/bucket/k/2026/11/b.age?X-Amz-Signature=a%2Fb"
        assert await objects.put(url, {"content-length": "5000", "x-amz-checksum-sha256": "q="}, bodies(5000)) == 200
    await objects.close()
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert body == b"x" * 5000
    assert head.startswith(b"PUT /bucket/k/2026/11/b.age?X-Amz-Signature=a%2Fb HTTP/1.1\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"content-type" not in head.lower()


async def test_an_upload_over_tls_is_verified_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with listening(answering(b""), authority.server(NOW - DAY, NOW + DAY)) as port:
        url = f"https://127.0.0.1:{port}/x"
        mine = ObjectStore(SyncSettings(ca_file=authority.ca_file), FakeClock(), transport=None)
        assert await mine.put(url, {"content-length": "1000"}, bodies(1000)) == 200
        await mine.close()
        public = ObjectStore(SyncSettings(), FakeClock(), transport=None)
        with pytest.raises(UploadFailed, match=r"(?i)object store.*certificate"):
            await public.put(url, {"content-length": "1000"}, bodies(1000))
        await public.close()
        await public.close()


def test_the_limits_leave_room_for_every_answer_of_the_contract() -> None:
    assert ANSWER_BYTES_MAX >= 16 << 10


def test_settings_know_the_contracts_limits() -> None:
    """They repeat two numbers so that reading settings does not import the wire contract."""
    field = SyncSettings.model_fields["batch_rows"]
    assert any(getattr(each, "le", None) == wire.ROWS_MAX for each in field.metadata)
    field = SyncSettings.model_fields["batch_kib"]
    assert any(getattr(each, "le", None) == wire.PLAIN_BYTES_MAX >> 10 for each in field.metadata)
