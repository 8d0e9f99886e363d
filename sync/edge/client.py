"""The office as one kiosk may use it: a verb per call of the wire contract, two errors.

`CentreUnavailable`: nobody answered, or what answered is not the office, or it asked for patience; try later.
`BatchRefused`: the office understood and said no; `details['reason']` is a code of `sync.envelope.Refusal`.
All calls but enrolment may be repeated. Imported only by an enrolled kiosk: httpx and its TLS weigh 15 MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import certifi
import httpx
import msgspec

from agent.domain.clock import Clock
from agent.domain.errors import BatchRefused, CentreUnavailable
from sync import envelope as wire
from sync.edge.identity import Identity, is_loopback, unpadded
from sync.edge.settings import SyncSettings

T = TypeVar("T")
Trace = Callable[[str, dict[str, Any]], Awaitable[None]]

ANSWER_BYTES_MAX = 64 << 10
"""The longest answer of the contract is a grant of about 2 KiB."""
KEEP_ALIVE_S = 120.0
UPLOAD_IDLE_S = 60.0
"""An upload may take as long as its budget wants, but not stand still for longer than this."""
TOKEN_MARGIN_S = 60.0
"""A token is renewed so long before it expires."""
TEXT_MAX = 300
"""So many characters of a refusal's text are kept for people."""
CLOCK_BELIEVED = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=3653))
"""Outside of this a clock is a flat battery, not a time: certificates are then checked without their dates."""
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python does not name


class Problem(msgspec.Struct, frozen=True):
    """What we read of a problem document (RFC 9457)."""

    code: str
    title: str = ""
    detail: str = ""


class Office:
    """One kiosk's session: token, connections kept alive, time-outs and size limits. `transport` is for tests."""

    def __init__(
        self,
        identity: Identity,
        settings: SyncSettings,
        clock: Clock,
        *,
        agent_version: str,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._identity, self._settings, self._clock = identity, settings, clock
        self._http = Http(identity.central_url, settings, clock, agent_version=agent_version, transport=transport)
        self._token: str | None = None
        self._token_until = 0.0

    async def close(self) -> None:
        await self._http.close()

    async def watermark(self, journal_id: UUID) -> wire.Watermark:
        return await self._call("GET", wire.PATH_WATERMARK, wire.Watermark, params={"journal_id": str(journal_id)})

    async def ingest(
        self, body: bytes, signature: bytes, *, trace_id: str, sent: Callable[[], None] | None = None
    ) -> wire.IngestAnswer:
        """`sent` is called when the last byte has left and no answer was read yet (crash tests stop there)."""
        headers = {
            "Content-Type": wire.BATCH_TYPE,
            wire.SIGNATURE_HEADER: unpadded(signature),
            wire.TRACE_HEADER: trace_id,
        }
        extensions = {"trace": _tracer(sent)} if sent else {}
        return await self._call(
            "POST", wire.PATH_INGEST, wire.IngestAnswer, content=body, headers=headers, extensions=extensions
        )

    async def common_prefix(self, journal_id: UUID, hashes: list[tuple[int, str]]) -> int:
        request = wire.CommonPrefixRequest(str(journal_id), hashes)
        answer = await self._call("POST", wire.PATH_COMMON_PREFIX, wire.CommonPrefixAnswer, **_json(request))
        return answer.seq

    async def heartbeat(self, beat: wire.Heartbeat) -> wire.HeartbeatAnswer:
        return await self._call("POST", wire.PATH_HEARTBEAT, wire.HeartbeatAnswer, **_json(beat))

    async def grant(self, blob_id: str) -> wire.GrantAnswer:
        return await self._call("POST", wire.PATH_UPLOAD_GRANT, wire.GrantAnswer, **_json(wire.GrantRequest(blob_id)))

    async def _call(self, method: str, path: str, answer: type[T], **request: Any) -> T:
        """With a token; a token the office no longer knows is renewed once."""
        headers = request.pop("headers", {})
        for attempt in (1, 2):
            token = await self._fresh_token()
            try:
                return await self._http.call(
                    method, path, answer, headers={**headers, "Authorization": f"Bearer {token}"}, **request
                )
            except BatchRefused as error:
                if error.details["reason"] != wire.Refusal.TOKEN_INVALID or attempt == 2:
                    raise
                self._token = None
        raise AssertionError("the second attempt returns or raises")

    async def _fresh_token(self) -> str:
        if self._token is None or self._clock.monotonic() >= self._token_until:
            kiosk_id = self._identity.kiosk_id
            asked = self._clock.monotonic()
            challenge = await self._http.call(
                "POST", wire.PATH_CHALLENGE, wire.ChallengeAnswer, **_json(wire.ChallengeRequest(kiosk_id))
            )
            proof = wire.TokenRequest(kiosk_id, self._identity.assertion(challenge.nonce))
            answer = await self._http.call("POST", wire.PATH_TOKEN, wire.TokenAnswer, **_json(proof))
            self._token = answer.access_token
            self._token_until = asked + max(answer.expires_in_s / 2, answer.expires_in_s - TOKEN_MARGIN_S)
        return self._token


class Http:
    """One HTTP client with our limits: whole-request time-out, bounded answers, no redirects, no proxies unasked."""

    def __init__(
        self,
        base_url: str,
        settings: SyncSettings,
        clock: Clock,
        *,
        agent_version: str,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings, self._clock = settings, clock
        self._tls = tls_context(settings) if base_url.startswith("https:") and transport is None else None
        self._client = httpx.AsyncClient(
            base_url=base_url,
            verify=self._tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # plain http here; https would trust nobody
            proxy=settings.proxy,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(settings.request_timeout_s, connect=settings.connect_timeout_s),
            limits=httpx.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=KEEP_ALIVE_S),
            headers={"User-Agent": f"kiosk-agent/{agent_version}", "Accept-Encoding": "identity"},
            transport=transport,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def call(self, method: str, path: str, answer: type[T], **request: Any) -> T:
        response, body = await self._exchange(method, path, **request)
        if response.status_code == httpx.codes.OK:
            try:
                return msgspec.json.decode(body, type=answer)
            except msgspec.MsgspecError as error:
                raise CentreUnavailable(f"{path}: the answer is not the office's ({error})") from error
        raise refusal_of(response, body, path)

    async def _exchange(self, method: str, path: str, **request: Any) -> tuple[httpx.Response, bytes]:
        if self._tls:
            self._tls.verify_flags = dated(self._tls.verify_flags, self._clock.now_us())
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                async with self._client.stream(method, path, **request) as response:
                    return response, await _limited(response)
        except TimeoutError as error:
            raise CentreUnavailable(f"no answer within {self._settings.request_timeout_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError, OSError) as error:
            raise CentreUnavailable(_reason(error)) from error


class UploadFailed(CentreUnavailable):
    """The object store did not take the file now."""

    code = "upload_failed"


class ObjectStore:
    """Presigned uploads: no token of ours, exactly the granted headers, TLS as for the office."""

    def __init__(self, settings: SyncSettings, clock: Clock, *, transport: httpx.AsyncBaseTransport | None) -> None:
        self._settings, self._clock, self._transport = settings, clock, transport
        self._tls: ssl.SSLContext | None = None
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def put(self, url: str, headers: Mapping[str, str], content: AsyncIterator[bytes]) -> int:
        """The HTTP status. Raises `UploadFailed`, also for an address in the clear."""
        parts = urlsplit(url)
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise UploadFailed("the granted address is neither https nor on this machine; see s3.public_endpoint")
        try:
            client = await asyncio.to_thread(self._opened)
            async with client.stream("PUT", url, headers=dict(headers), content=content) as response:
                return response.status_code
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
            raise UploadFailed(_reason(error, "the object store")) from error

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            self._tls = tls_context(self._settings)
            self._client = httpx.AsyncClient(
                verify=self._tls,
                proxy=self._settings.proxy,
                trust_env=False,
                timeout=httpx.Timeout(UPLOAD_IDLE_S, connect=self._settings.connect_timeout_s),
                transport=self._transport,
            )
        if self._tls:
            self._tls.verify_flags = dated(self._tls.verify_flags, self._clock.now_us())
        return self._client


async def _limited(response: httpx.Response) -> bytes:
    """The answer's bytes as they came; refuses what is longer than any answer of the contract, or compressed."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise CentreUnavailable("the answer is compressed, though we asked for it not to be")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise CentreUnavailable(f"the answer has more than {ANSWER_BYTES_MAX} bytes; this is not the office")
    return bytes(body)


def refusal_of(response: httpx.Response, body: bytes, path: str) -> BatchRefused | CentreUnavailable:
    """The error that an answer other than 200 stands for."""
    status = response.status_code
    problem: Problem | None = None
    if response.headers.get("Content-Type", "").startswith("application/problem+json"):
        with contextlib.suppress(msgspec.MsgspecError):
            problem = msgspec.json.decode(body, type=Problem)
    text = (problem.detail or problem.title)[:TEXT_MAX] if problem else ""
    if status >= 500 or status in (408, 425, 429):
        return CentreUnavailable(
            f"the office answered {status}{': ' if text else ''}{text}", retry_after_s=_retry_after_s(response)
        )
    if problem:
        return BatchRefused(text or problem.code, reason=problem.code, status=status)
    if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:  # a proxy before the office has its own limit
        return BatchRefused(
            "a proxy before the office refused the size", reason=wire.Refusal.BATCH_TOO_LARGE, status=status
        )
    return CentreUnavailable(f"{path}: answered {status}, which is not the office's way (a captive portal?)")


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds only: the form with a date would ask the kiosk's clock."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def tls_context(settings: SyncSettings) -> ssl.SSLContext:
    """Verification stays on; `ca_file` replaces the public authorities."""
    context = ssl.create_default_context(cafile=str(settings.ca_file or certifi.where()))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def dated(flags: int, now_us: int) -> ssl.VerifyFlags:
    """The verification flags for this clock. A kiosk whose battery died must reach its office to be helped: while its
    clock is absurd, chain and name are checked as ever, but not the dates."""
    low, high = (int(each.timestamp()) * 1_000_000 for each in CLOCK_BELIEVED)
    return ssl.VerifyFlags(flags & ~_NO_CHECK_TIME if low <= now_us <= high else flags | _NO_CHECK_TIME)


def _reason(error: BaseException, who: str = "the office") -> str:
    """Why nobody answered, in words: the innermost cause says more than httpx's wrapper."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{who} cannot be reached: {str(error) or type(error).__name__}"[:TEXT_MAX]


def _json(value: msgspec.Struct) -> dict[str, Any]:
    return {"content": msgspec.json.encode(value), "headers": {"Content-Type": "application/json"}}


def _tracer(sent: Callable[[], None]) -> Trace:
    async def trace(event: str, info: dict[str, Any]) -> None:
        if event == "http11.send_request_body.complete":
            sent()

    return trace
