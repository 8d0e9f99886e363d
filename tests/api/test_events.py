"""The event stream over a real socket: snapshot, resume, roles, slow clients, the end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
import websockets
from fastapi import APIRouter

from agent.api.events.feed import Feed, Subscription
from agent.api.events.messages import Message, parse_position
from agent.api.module import Parts
from agent.api.router_factory import Mounted
from agent.domain.events import ClaimIssued, DeviceFaulted, DeviceOffline, DoubtOpened, NoteStacked, UserRemoved
from agent.domain.money import Money
from agent.runtime.clock import SystemClock
from agent.store.errors import StorageFailed
from tests.api.conftest import Kiosk, KioskMaker, served

EVENTS = "/api/v1/events"
STACKED = NoteStacked(device="cashcode", note_id="n1", value=Money(500, "EUR"), note_code=2, payment_id="p1")
DOUBT = DoubtOpened(
    device="cashcode", doubt_id="n2", amount=None, payment_id="p1", reason="silence", evidence=("host 02",)
)
CLAIM = ClaimIssued(claim_id="c1", code="7KQ2M9XWPA", payment_id="p1", amount=Money(100, "EUR"), reason="overpaid")


class Stream:
    """The messages of one SSE connection, as a browser would see them."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.last_id = ""

    async def next(self, timeout_s: float = 10) -> dict[str, Any]:
        """The next message with data; ids of silent ones are noted too."""
        async with asyncio.timeout(timeout_s):
            async for line in self._lines:
                if line.startswith("id: "):
                    self.last_id = line[4:]
                elif line.startswith("data: "):
                    message: dict[str, Any] = json.loads(line[6:])
                    assert message["id"] == self.last_id
                    assert message["specversion"] == "1.0"
                    return message
        raise EOFError

    async def types(self, count: int) -> list[str]:
        return [str((await self.next())["type"]) for _ in range(count)]


@asynccontextmanager
async def stream(kiosk: Kiosk, client: httpx.AsyncClient, **headers: str) -> AsyncIterator[Stream]:
    real = httpx.AsyncClient(base_url=kiosk.origin, cookies=client.cookies, timeout=10)
    async with real, real.stream("GET", EVENTS, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        yield Stream(response)


async def test_first_a_snapshot_of_one_moment_then_what_happens(kiosk_at: KioskMaker) -> None:
    seen: list[int] = []

    def snapshot(reader: Any) -> dict[str, Any]:
        seen.append(reader.head()[0])
        return {"payment": None}

    module = Mounted("cash_system", "cash", Parts(router=APIRouter(), snapshot=snapshot))
    async with kiosk_at(SystemClock(), modules=[module]) as kiosk, served(kiosk.app) as port:
        kiosk.origin = f"http://127.0.0.1:{port}"
        screen = await kiosk.as_user("ui")
        seq = await kiosk.record(STACKED)
        async with stream(kiosk, screen) as events:
            first = await events.next()
            assert first["type"] == "kiosk.snapshot"
            assert first["id"] == f"{kiosk.store.journal_id}:{seq}"
            assert first["data"]["seq"] == seq == seen[0]
            assert first["data"]["modules"] == {"cash": {"payment": None}}
            assert first["data"]["devices"][0]["name"] == "cashcode"
            assert first["data"]["acceptance"] == {"allowed": True, "reasons": []}
            await kiosk.record(STACKED)
            stacked = await events.next()
            assert stacked["type"] == "cash.note.stacked"
            assert stacked["id"] == f"{kiosk.store.journal_id}:{seq + 1}"
            assert stacked["source"] == f"urn:uuid:{kiosk.store.journal_id}"
            assert (stacked["actor"], stacked["traceid"]) == ("device:cashcode", "trace-of-the-note")
            assert stacked["data"]["value"] == {"amount_minor": 500, "currency": "EUR"}
            assert stacked["time"].endswith("Z")
        await kiosk.app.state.streams.close()


async def test_a_resume_goes_on_after_the_last_id_without_gap_or_repetition(live: Kiosk) -> None:
    screen = await live.as_user("ui")
    async with stream(live, screen) as events:
        await events.next()
        await live.record(STACKED)
        await events.next()
        last = events.last_id
    missed = [await live.record(DeviceFaulted(device="cashcode", code=f"fault-{n}")) for n in range(1200)]
    async with stream(live, screen, **{"Last-Event-ID": last}) as events:
        live_task = asyncio.create_task(live.record(STACKED))
        got = [await events.next() for _ in range(1201)]
        assert [each["seq"] for each in got] == [*missed, await live_task]
    del screen.headers["Origin"]
    async with (
        httpx.AsyncClient(base_url=live.origin, cookies=screen.cookies) as real,
        real.stream("GET", EVENTS, params={"last_event_id": last}) as response,
    ):
        assert (await Stream(response).next())["seq"] == missed[0], "the query serves a first connection"


@pytest.mark.parametrize("wanted", ["foreign", "ahead", "garbage", "too far behind", "negative", ""])
async def test_what_cannot_be_resumed_gets_a_new_snapshot(kiosk_at: KioskMaker, wanted: str) -> None:
    async with kiosk_at(SystemClock(), resume_rows_max=50) as kiosk, served(kiosk.app) as port:
        kiosk.origin = f"http://127.0.0.1:{port}"
        screen = await kiosk.as_user("ui")
        seq = await kiosk.record(*[STACKED] * 60)
        here = kiosk.store.journal_id
        last = {
            "foreign": f"{uuid4()}:{seq}",
            "ahead": f"{here}:{seq + 1}",
            "too far behind": f"{here}:{seq - 51}",
            "negative": f"{here}:-1",
            "garbage": "garbage:1",
            "": "",
        }[wanted]
        async with stream(kiosk, screen, **{"Last-Event-ID": last}) as events:
            assert (await events.next())["type"] == "kiosk.snapshot"
        async with stream(kiosk, screen, **{"Last-Event-ID": f"{here}:{seq - 50}"}) as events:
            assert (await events.next())["seq"] == seq - 49, "exactly at the bound it resumes"
        await kiosk.app.state.streams.close()


async def test_roles_see_their_types_and_the_screen_no_evidence_and_no_claim_code(live: Kiosk) -> None:
    roles = {role: await live.as_user(role) for role in ("ui", "collector", "technician", "admin")}
    here = f"{live.store.journal_id}:{await live.record(STACKED)}"
    await live.record(
        *(DOUBT, CLAIM, UserRemoved(user_id="u1"), DeviceOffline(device="cashcode", reason="unplugged")),
    )
    got: dict[str, list[dict[str, Any]]] = {}
    for role, client in roles.items():
        async with stream(live, client, **{"Last-Event-ID": here}) as events:
            got[role] = [await events.next() for _ in range(4 if role == "admin" else 3)]
    cash = ["cash.doubt.opened", "cash.claim.issued"]
    assert [each["type"] for each in got["admin"]] == [*cash, "auth.user.removed", "device.went_offline"]
    for role in ("ui", "collector", "technician"):
        assert [each["type"] for each in got[role]] == [*cash, "device.went_offline"]
    assert got["technician"][0]["data"]["evidence"] == ["host 02"]
    assert "evidence" not in got["ui"][0]["data"] and "evidence" not in got["collector"][0]["data"]
    assert (got["collector"][1]["data"]["code"], "code" in got["ui"][1]["data"]) == ("7KQ2M9XWPA", False)
    assert got["ui"][1]["data"]["amount"] == {"amount_minor": 100, "currency": "EUR"}


async def test_heartbeats_carry_the_position_over_rows_that_are_not_shown(live: Kiosk) -> None:
    """Else a quiet screen would fall 10,000 hidden rows behind and be sent a snapshot for nothing."""
    screen = await live.as_user("ui")
    async with stream(live, screen) as events:
        await events.next()
        hidden = await live.record(UserRemoved(user_id="u1"))
        with pytest.raises(TimeoutError):
            await events.next(timeout_s=0.7)
        assert events.last_id.endswith(f":{hidden}")


async def test_a_slow_client_is_sent_away_with_a_last_word_and_the_others_are_not_held_up(
    kiosk_at: KioskMaker,
) -> None:
    settings = {"stream_buffer_messages": 10, "stream_stall_s": 30}
    async with kiosk_at(SystemClock(), **settings) as kiosk, served(kiosk.app) as port:
        kiosk.origin = f"http://127.0.0.1:{port}"
        technician = await kiosk.as_user("technician")
        cookie = technician.cookies["kiosk_session"]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        host = f"Host: 127.0.0.1:{port}\r\nCookie: kiosk_session={cookie}\r\n\r\n"
        writer.write(f"GET {EVENTS} HTTP/1.1\r\n{host}".encode())
        await reader.readuntil(b"kiosk.snapshot")
        async with stream(kiosk, technician) as quick:
            await quick.next()
            sent = 0
            while kiosk.app.state.streams.feed.clients == 2 and not _ended(kiosk):
                sent += 1
                await kiosk.record(DeviceFaulted(device="cashcode", code="x", detail="y" * 60_000))
                assert (await quick.next())["data"]["detail"][:2] == "yy"
            received = b""
            async with asyncio.timeout(10):
                while b'"reason":"too_slow"' not in received:
                    received = received[-100:] + await reader.read(65_536)
        assert sent < 500, "bounded by the buffer and the socket"
        writer.close()
        await kiosk.app.state.streams.close()


def _ended(kiosk: Kiosk) -> bool:
    return any(each.ended for each in kiosk.app.state.streams.feed._subscriptions)


async def test_a_client_that_does_not_read_at_all_is_cut_off(kiosk_at: KioskMaker) -> None:
    settings = {"stream_buffer_messages": 10, "stream_stall_s": 0.3}
    async with kiosk_at(SystemClock(), **settings) as kiosk, served(kiosk.app) as port:
        technician = await kiosk.as_user("technician")
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        cookie = f"Cookie: kiosk_session={technician.cookies['kiosk_session']}\r\n\r\n"
        writer.write(f"GET {EVENTS} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{cookie}".encode())
        await reader.readuntil(b"kiosk.snapshot")
        async with asyncio.timeout(20):
            while kiosk.app.state.streams.feed.clients:
                await kiosk.record(DeviceFaulted(device="cashcode", code="x", detail="y" * 60_000))
                await asyncio.sleep(0.01)
        writer.transport.abort()


async def test_a_shutdown_ends_streams_promptly_with_the_reason(live: Kiosk) -> None:
    screen = await live.as_user("ui")
    async with stream(live, screen) as events, stream(live, screen) as other:
        for each in (events, other):
            await each.next()
        await live.app.state.streams.close()
        for each in (events, other):
            last = await each.next(timeout_s=2)
            assert (last["type"], last["data"]["reason"]) == ("kiosk.stream.ended", "shutdown")
            assert last["data"]["resume_from"] == each.last_id
            with pytest.raises(EOFError):
                await each.next(timeout_s=2)
    assert live.app.state.streams.feed.clients == 0


async def test_a_stream_ends_with_its_session(live: Kiosk) -> None:
    technician = await live.as_user("technician")
    async with stream(live, technician) as events:
        await events.next()
        assert (await technician.post("/api/v1/auth/logout")).status_code == 204
        assert (await events.next(timeout_s=3))["data"]["reason"] == "session_ended"


async def test_after_a_fork_every_client_starts_from_a_snapshot_of_the_new_journal(live: Kiosk) -> None:
    screen = await live.as_user("ui")
    seq = await live.record(*[STACKED] * 5)
    async with stream(live, screen) as events:
        await events.next()
        before = events.last_id
        await live.store.fork(seq - 2)
        await live.record(STACKED)
        ended = await events.next()
        assert ended["data"]["reason"] == "journal_changed"
    async with stream(live, screen, **{"Last-Event-ID": before}) as events:
        snapshot = await events.next()
        assert snapshot["type"] == "kiosk.snapshot"
        assert snapshot["id"].startswith(str(live.store.journal_id))
        await live.record(STACKED)
        assert (await events.next())["type"] == "cash.note.stacked"


async def test_the_number_of_streams_is_bounded(kiosk_at: KioskMaker) -> None:
    async with kiosk_at(SystemClock(), streams_max=2) as kiosk, served(kiosk.app) as port:
        kiosk.origin = f"http://127.0.0.1:{port}"
        screen = await kiosk.as_user("ui")
        async with stream(kiosk, screen) as one, stream(kiosk, screen) as two:
            await one.next()
            await two.next()
            refused = await screen.get(EVENTS)
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_streams")
            await kiosk.app.state.streams.close()


async def test_a_stream_needs_a_session(kiosk: Kiosk) -> None:
    async with kiosk.client() as client:
        assert (await client.get(EVENTS)).status_code == 401


async def test_many_writers_many_readers_nothing_lost(live: Kiosk) -> None:
    screen = await live.as_user("ui")

    async def read(count: int) -> list[int]:
        async with stream(live, screen) as events:
            seen = [(await events.next())["seq"]]
            ready.set()
            return seen + [(await events.next())["seq"] for _ in range(count)]

    readers = []
    for _ in range(5):
        ready = asyncio.Event()
        readers.append(asyncio.create_task(read(300)))
        await ready.wait()
    await asyncio.gather(*(live.record(STACKED) for _ in range(300)))
    for got in await asyncio.gather(*readers):
        assert got == list(range(got[0], got[0] + 301))


# --- WebSocket -------------------------------------------------------------------------------------------------------


def connect(kiosk: Kiosk, client: httpx.AsyncClient, query: str = "", **more: Any) -> Any:
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    return websockets.connect(
        f"ws://127.0.0.1:{kiosk.port}/api/v1/ws{query}",
        additional_headers={"Cookie": cookie},
        **{"origin": kiosk.origin, "proxy": None, **more},
    )


async def test_the_websocket_carries_the_same_messages(live: Kiosk) -> None:
    screen = await live.as_user("ui")
    async with connect(live, screen) as socket:
        snapshot = json.loads(await socket.recv())
        assert snapshot["type"] == "kiosk.snapshot"
        await live.record(STACKED)
        stacked = json.loads(await socket.recv())
    async with stream(live, screen, **{"Last-Event-ID": snapshot["id"]}) as events:
        assert await events.next() == stacked
    async with connect(live, screen, f"?last_event_id={snapshot['id']}") as socket:
        assert json.loads(await socket.recv()) == stacked
        await live.app.state.streams.close()
        assert json.loads(await socket.recv())["data"]["reason"] == "shutdown"
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "shutdown")


async def test_who_talks_on_the_websocket_is_sent_away_and_nothing_is_echoed(live: Kiosk) -> None:
    screen = await live.as_user("ui")
    async with connect(live, screen) as one, connect(live, screen) as other:
        await one.recv()
        await other.recv()
        await one.send('{"type": "cash.payment.completed"}')
        assert json.loads(await one.recv())["data"]["reason"] == "client_talked"
        with pytest.raises(websockets.ConnectionClosed):
            await one.recv()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await other.recv()


async def test_a_websocket_client_that_vanishes_is_no_error_of_ours(
    live: Kiosk, caplog: pytest.LogCaptureFixture
) -> None:
    screen = await live.as_user("ui")
    for _ in range(5):
        socket = await connect(live, screen)
        await socket.recv()
        recording = asyncio.gather(*(live.record(STACKED) for _ in range(20)))
        socket.transport.abort()
        await recording
    async with asyncio.timeout(5):
        while live.app.state.streams.feed.clients:  # noqa: ASYNC110 - nothing tells when the last one is gone
            await asyncio.sleep(0.01)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_the_websocket_refuses_before_it_opens(live: Kiosk, caplog: pytest.LogCaptureFixture) -> None:
    screen = await live.as_user("ui")
    async with live.client() as nobody:
        cases: tuple[tuple[httpx.AsyncClient, dict[str, Any]], ...] = (
            *((nobody, {}), (screen, {"origin": "http://evil.example"}), (screen, {"origin": None})),
        )
        for client, more in cases:
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with connect(live, client, **more):
                    pass
            assert (refused.value.response.status_code, refused.value.response.body) == (403, b"")
    with pytest.raises(websockets.InvalidStatus):
        async with websockets.connect(f"ws://127.0.0.1:{live.port}/nothing", origin=live.origin, proxy=None):  # type: ignore[arg-type]
            pass
    assert not [record for record in caplog.records if record.levelname == "ERROR"], "a refusal is no error of ours"


# --- parts -----------------------------------------------------------------------------------------------------------


HERE = "0199c1d2-e3f4-7a5b-8c6d-7e8f90a1b2c3"
NO_IDS = [None, "", ":", "x:1", HERE, f"{HERE}:", f"{HERE}:1e3", f"{HERE}:{'9' * 30}"]


@pytest.mark.parametrize("text", NO_IDS)
def test_only_ids_of_ours_are_positions(text: str | None) -> None:
    assert parse_position(text) is None


async def test_a_full_buffer_ends_the_subscription_and_frees_it() -> None:
    subscription = Subscription(0, limit=3)
    message = Message.__new__(Message)
    for _ in range(4):
        subscription.push(message)
    assert subscription.ended == "too_slow"
    assert await subscription.take(0.01) == []
    subscription.end("shutdown")
    assert subscription.ended == "too_slow", "the first reason counts"


class FailingReads:
    """The real store, whose file cannot be read for a while."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.failing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self) -> Any:
        if self.failing:
            raise StorageFailed("the disk is gone")
        return self._store.read()


async def test_the_feed_outlives_a_store_that_fails_and_misses_nothing(kiosk: Kiosk) -> None:
    store = FailingReads(kiosk.store)
    feed = Feed(store, buffer_messages=100)
    feed.start()
    subscription = feed.subscribe()
    store.failing = True
    first = await kiosk.record(STACKED)
    assert await subscription.take(0.1) == []
    store.failing = False
    assert [each.seq for each in await subscription.take(5)] == [first]
    second = await kiosk.record(STACKED)
    assert [each.seq for each in await subscription.take(5)] == [second]
    await feed.close()
    assert subscription.ended == "shutdown"
    assert feed.subscribe().ended == "shutdown", "who comes too late is sent away at once"


async def test_a_store_that_fails_ends_a_stream_that_is_catching_up(live: Kiosk) -> None:
    screen = await live.as_user("ui")
    here = f"{live.store.journal_id}:{await live.record(*[STACKED] * 5)}"
    await live.record(*[STACKED] * 5)
    streams = live.app.state.streams
    streams._store = store = FailingReads(live.store)
    store.failing = True
    async with stream(live, screen, **{"Last-Event-ID": here}) as events:
        with pytest.raises((EOFError, httpx.RemoteProtocolError)):
            await events.next()
    store.failing = False
    async with stream(live, screen, **{"Last-Event-ID": here}) as events:
        assert len(await events.types(5)) == 5
