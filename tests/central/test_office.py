"""The office's people: who gets in, what another site's page can do, what they see while Redis or Postgres is away."""

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pwdlib import PasswordHash

from agent.domain import events as ev
from agent.domain.money import Money
from sync import envelope as wire
from sync.central.embedded import EmbeddedServers
from sync.central.office import accounts
from sync.central.office.accounts import AccountRefused
from sync.central.office.words import FOLDER, Words, choose, texts
from sync.central.settings import OfficeSettings
from tests.central.kiosks import Journal, Kiosk
from tests.servers import Centre, central_settings, running_centre

OFFICE = "/api/v1/office"
PASSWORD = "correct horse battery"


async def add(centre: Centre, name: str = "ada", role: str = "admin") -> None:
    async with centre.pool.connection() as connection:
        await accounts.add_user(connection, name, PASSWORD, role, os.urandom)


async def browser(centre: Centre, name: str = "ada") -> httpx.AsyncClient:
    """Logged in, and sending what a browser sends from our own pages."""
    client = centre.client()
    client.headers["Origin"] = centre.url
    answer = await client.post(f"{OFFICE}/login", json={"name": name, "password": PASSWORD})
    assert answer.status_code == 204, answer.text
    return client


@pytest.fixture
async def ada(centre: Centre) -> AsyncIterator[httpx.AsyncClient]:
    await add(centre)
    client = await browser(centre)
    yield client
    await client.aclose()


async def test_nothing_is_shown_without_a_login(centre: Centre, client: httpx.AsyncClient, kiosk: Kiosk) -> None:
    pages = ["/", "/transactions", "/transactions/live", "/alarms", "/doubts", "/claims", "/blobs", "/kiosks/new"]
    pages.append(f"/kiosks/{kiosk.kiosk_id}")
    for path in pages:
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
    for path in ("kiosks", "transactions", "live", "alarms", "doubts", "claims", "blobs", "me", "openapi.json"):
        answer = await client.get(f"{OFFICE}/{path}", headers=kiosk.bearer)  # a kiosk's token opens nothing here
        assert (answer.status_code, answer.json()["code"]) == (401, "not_logged_in"), path
    forged = await client.get(f"{OFFICE}/me", headers={"Cookie": "kiosk-office=guess"})
    assert forged.status_code == 401
    assert (await client.get("/docs")).status_code == 404


async def test_login_and_logout(centre: Centre, client: httpx.AsyncClient) -> None:
    await add(centre)
    body = {"name": "ada", "password": PASSWORD}
    headers = {"Origin": centre.url}
    answer = await client.post(f"{OFFICE}/login", json=body, headers=headers)
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 204
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert (await client.get(f"{OFFICE}/me")).json() == {"name": "ada", "role": "admin"}
    token = client.cookies["kiosk-office"]
    assert await centre.one("SELECT count(*) FROM office_sessions WHERE token_hash = %s", token.encode()) == 0
    assert (await client.post(f"{OFFICE}/logout", headers=headers)).status_code == 204
    again = await client.get(f"{OFFICE}/me", headers={"Cookie": f"kiosk-office={token}"})
    assert again.status_code == 401  # the session is gone, not only the cookie


async def test_a_session_ends(centre: Centre, ada: httpx.AsyncClient) -> None:
    assert (await ada.get(f"{OFFICE}/me")).status_code == 200
    async with centre.pool.connection() as connection:
        await connection.execute("UPDATE office_sessions SET expires_at = now()")
    assert (await ada.get(f"{OFFICE}/me")).status_code == 401


async def test_many_wrong_passwords_lock_the_account_and_tell_nothing(servers: EmbeddedServers, database: str) -> None:
    """Counted before they are checked, so guessing in parallel does not help; unknown names answer the same."""
    settings = central_settings(
        servers, database, office=OfficeSettings(cookie_secure=False, lockout_after=3, lockout_s=60)
    )
    async with running_centre(settings) as centre, centre.client() as client:
        await add(centre)
        headers = {"Origin": centre.url}

        async def login(name: str, password: str) -> httpx.Response:
            return await client.post(f"{OFFICE}/login", json={"name": name, "password": password}, headers=headers)

        wrong = await asyncio.gather(*(login("ada", f"guess {number}") for number in range(5)))
        unknown = await login("nobody", "guess")
        assert {(each.status_code, each.text) for each in wrong} == {(401, unknown.text)}
        assert (await login("ada", PASSWORD)).status_code == 401
        async with centre.pool.connection() as connection:
            await connection.execute("UPDATE office_users SET locked_until = now()")
        assert (await login("ada", PASSWORD)).status_code == 204
        assert await centre.all("SELECT failed, locked_until FROM office_users") == [(0, None)]


async def test_another_sites_page_changes_nothing(centre: Centre, ada: httpx.AsyncClient, kiosk: Kiosk) -> None:
    """Even with the cookie: the Origin is not ours, is missing, or is `null`."""
    attempts: list[tuple[str, dict[str, Any]]] = [
        (f"{OFFICE}/kiosks/{kiosk.kiosk_id}/revoke", {}),
        (f"/kiosks/{kiosk.kiosk_id}/revoke", {}),
        (f"{OFFICE}/codes", {"json": {"name": "x"}}),
        ("/kiosks/new", {"data": {"name": "x"}}),
        ("/logout", {}),
        ("/login", {"data": {"name": "ada", "password": PASSWORD}}),
        (f"{OFFICE}/login", {"json": {"name": "ada", "password": PASSWORD}}),
        (f"{OFFICE}/logout", {}),
    ]
    foreign = [
        "https://evil.example",
        "null",
        "",
        centre.url.replace("127.0.0.1", "localhost"),
        f"{centre.url}.evil.example",
    ]
    for path, request in attempts:
        for origin in foreign:
            answer = await ada.post(path, headers={"Origin": origin}, **request)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (path, origin)
        cross = await ada.post(path, headers={"Sec-Fetch-Site": "cross-site"}, **request)
        assert cross.status_code == 403, path
    assert await centre.one("SELECT count(*) FROM kiosks WHERE revoked_at IS NOT NULL") == 0
    assert await centre.one("SELECT count(*) FROM enrolment_codes") == 1
    answer = await ada.get("/", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


async def test_configured_origins_are_the_only_ones(servers: EmbeddedServers, database: str) -> None:
    office = OfficeSettings(cookie_secure=True, origins=["https://office.example"])
    async with running_centre(central_settings(servers, database, office=office)) as centre, centre.client() as client:
        await add(centre)
        body = {"name": "ada", "password": PASSWORD}
        refused = await client.post(f"{OFFICE}/login", json=body, headers={"Origin": centre.url})
        assert refused.status_code == 403
        answer = await client.post(f"{OFFICE}/login", json=body, headers={"Origin": "https://office.example"})
        assert answer.status_code == 204
        assert answer.headers["set-cookie"].startswith("__Host-kiosk-office=")
        assert "Secure" in answer.headers["set-cookie"]


async def test_a_viewer_looks_and_an_admin_acts(centre: Centre, ada: httpx.AsyncClient, kiosk: Kiosk) -> None:
    await add(centre, "bob", "viewer")
    bob = await browser(centre, "bob")
    assert (await bob.get(f"{OFFICE}/kiosks")).json()[0]["name"] == "Lobby"
    assert (await bob.post(f"{OFFICE}/kiosks/{kiosk.kiosk_id}/revoke")).status_code == 403
    assert (await bob.post(f"{OFFICE}/codes", json={"name": "x"})).status_code == 403
    assert (await bob.get("/kiosks/new")).status_code == 403
    assert "/revoke" not in (await bob.get(f"/kiosks/{kiosk.kiosk_id}")).text
    await bob.aclose()
    code = (await ada.post(f"{OFFICE}/codes", json={"name": "Bar"})).json()["code"]
    new = await Kiosk.enrolled(kiosk.client, code)
    assert (await ada.post(f"{OFFICE}/kiosks/{new.kiosk_id}/revoke")).status_code == 204
    assert (await ada.post(f"{OFFICE}/kiosks/{new.kiosk_id}/revoke")).status_code == 404
    assert (await new.send(Journal.opened())).json()["code"] == "kiosk_revoked"
    made = await ada.post("/kiosks/new", data={"name": "Roof & <b>bar"})
    shown = re.search(r"<code>([2-9A-Z]{4}-[2-9A-Z]{4}-[2-9A-Z]{4})</code>", made.text)
    assert shown is not None
    assert "Roof &amp; &lt;b&gt;bar" in made.text
    assert (await Kiosk.enrolled(kiosk.client, shown[1])).kiosk_id


async def test_pages_skip_and_repeat_nothing(centre: Centre, ada: httpx.AsyncClient, kiosk: Kiosk) -> None:
    """Payments of the same microsecond, and one whose first row is not understood, across the ends of pages."""
    journal = Journal.opened()
    for number in range(60):
        amount, reference = Money(100, "EUR"), f"order {number}"
        event = ev.PaymentCreated(
            payment_id=f"p{number:02}", amount=amount, reference=reference, timeout_s=60, deadline_us=1
        )
        journal.append(event, occurred_at=1_790_000_000_000_000 + number // 20)
    journal.append(ev.PaymentCompletionStarted(payment_id="orphan"))
    await kiosk.send(journal)
    seen: list[str] = []
    query: dict[str, str] = {"limit": "7"}
    while found := (await ada.get(f"{OFFICE}/transactions", params=query)).json():
        seen += [each["payment_id"] for each in found]
        if found[-1]["created_at"] is None:
            break
        created = await centre.one("SELECT created_us FROM transactions WHERE payment_id = %s", seen[-1])
        query |= {"before_us": str(created), "after_id": seen[-1]}
    assert len(seen) == len(set(seen)) == 61
    first = await ada.get("/transactions")
    older = re.search(r'href="(/transactions\?before_us=[^"]+)"', first.text)
    assert older is not None
    rest = await ada.get(older[1].replace("&amp;", "&"))
    shown = re.findall(r'<tbody id="t-[0-9a-f-]{36}-(\w+)"', first.text + rest.text)
    assert sorted(shown) == sorted(seen)


@pytest.mark.parametrize(
    "name, password, role",
    [
        ("", PASSWORD, "admin"),
        ("x" * 65, PASSWORD, "admin"),
        ("a\nb", PASSWORD, "admin"),
        ("a", "short", "admin"),
        ("a", "x" * 300, "admin"),
        ("a", PASSWORD, "god"),
    ],
    ids=str,
)
async def test_accounts_that_are_none(name: str, password: str, role: str) -> None:
    with pytest.raises(AccountRefused):
        await accounts.add_user(None, name, password, role, os.urandom)  # type: ignore[arg-type]


def test_passwords_are_argon2id() -> None:
    assert PasswordHash.recommended().hash(PASSWORD).startswith("$argon2id$v=19$m=65536,t=3,p=4$")


async def test_a_name_is_given_once(centre: Centre) -> None:
    await add(centre)
    with pytest.raises(AccountRefused, match="already"):
        await add(centre)


def history() -> Journal:
    journal = Journal.opened()
    journal.pay("p1", 500, 1000, amount=1200)
    journal.pay("p2", complete=False)
    evidence = ("host 02 03", "device <script>")
    amount = Money(700, "EUR")
    journal.append(
        ev.DoubtOpened(
            doubt_id="d1", device="acceptor", amount=amount, payment_id="p2", reason="silence", evidence=evidence
        )
    )
    journal.append(ev.DeviceOnline(device="acceptor", protocol="ccnet", model="<i>SM</i>", serial="1", firmware="2"))
    journal.append(ev.StackerFull(device="acceptor"))
    journal.append(ev.AcceptanceInhibited(reason="disk_low", detail="2 MiB left"))
    journal.append(ev.BlobCaptured(blob_id="b1", kind="snapshot", sha256="ab" * 32, size_bytes=2048))
    journal.append(ev.DeviceAlarmed(device="acceptor", code="table_changed"))
    journal.append_raw("cash.future.happened", b"{}")
    return journal


async def test_the_json_tells_all(centre: Centre, ada: httpx.AsyncClient, kiosk: Kiosk) -> None:
    journal = history()
    await kiosk.send(journal)
    beat = wire.Heartbeat(str(journal.journal_id), len(journal.rows) + 3, "0.1.0", {}, 1 << 30, 1_790_000_000_000_000)
    await kiosk.call(wire.PATH_HEARTBEAT, beat)
    (one,) = (await ada.get(f"{OFFICE}/kiosks")).json()
    assert one == (await ada.get(f"{OFFICE}/kiosks/{kiosk.kiosk_id}")).json()
    assert (one["online"], one["lag"], one["watermark_seq"], one["open_doubts"]) == (True, 3, len(journal.rows), 1)
    assert one["oldest_unsent_at"].startswith("2026-09-21T")
    assert one["troubles"] == ["acceptance:disk_low: disk_low", "acceptor: stacker_full"]
    second, first = (await ada.get(f"{OFFICE}/transactions")).json()
    assert (first["payment_id"], first["state"], first["collected_minor"], first["claimed_minor"]) == (
        "p1",
        "completed",
        1500,
        300,
    )
    assert [(note["value_minor"], note["stacked_seq"]) for note in first["notes"]] == [(500, 3), (1000, 4)]
    assert (second["in_doubt_minor"], second["state"]) == (700, "collecting")
    assert (await ada.get(f"{OFFICE}/transactions/{kiosk.kiosk_id}/p1")).json() == first
    assert (await ada.get(f"{OFFICE}/transactions/{kiosk.kiosk_id}/nope")).status_code == 404
    queries: list[dict[str, str]] = [{"state": "completed"}, {"text": "ORDER P1"}, {"text": "p1"}]
    for query in (*queries, {"kiosk_id": kiosk.kiosk_id, "limit": "1"}):
        found = (await ada.get(f"{OFFICE}/transactions", params=query)).json()
        assert [each["payment_id"] for each in found] == ["p2" if "limit" in query else "p1"], query
    before = {"before_us": str(journal.rows[5].occurred_at)}
    assert [each["payment_id"] for each in (await ada.get(f"{OFFICE}/transactions", params=before)).json()] == ["p1"]
    assert (await ada.get(f"{OFFICE}/claims")).json()[0]["amount_minor"] == 300
    assert (await ada.get(f"{OFFICE}/doubts")).json()[0]["evidence"] == ["host 02 03", "device <script>"]
    assert (await ada.get(f"{OFFICE}/blobs")).json()[0]["state"] == "captured"
    alarms = (await ada.get(f"{OFFICE}/alarms")).json()
    assert {alarm["code"] for alarm in alarms} == {"device_alarm", "event_parked"}
    path = f"{OFFICE}/alarms/{kiosk.kiosk_id}/{alarms[0]['alarm_id']}/acknowledge"
    assert (await ada.post(path)).status_code == 204
    assert (await ada.post(path)).status_code == 404
    assert len((await ada.get(f"{OFFICE}/alarms")).json()) == 1
    everything = (await ada.get(f"{OFFICE}/alarms", params={"everything": True})).json()
    assert [alarm["acknowledged_by"] for alarm in everything] == ["", "ada"]
    assert (await ada.get(f"{OFFICE}/kiosks/{'0' * 32}")).status_code == 404
    malformed = await ada.get(f"{OFFICE}/kiosks/nonsense")
    assert (malformed.status_code, malformed.json()["code"]) == (422, "malformed_request")
    described = (await ada.get(f"{OFFICE}/openapi.json")).json()
    assert f"{OFFICE}/transactions" in described["paths"]


async def test_every_page_in_every_language(centre: Centre, ada: httpx.AsyncClient, kiosk: Kiosk) -> None:
    """Nothing a kiosk wrote becomes markup, and no text is missing."""
    assert "empty" in (await ada.get("/alarms")).text
    await kiosk.send(history())
    for language in ("en", "de", "fr", "ru"):
        await look_everywhere(ada, kiosk, language)
    form = await ada.post("/login", data={"name": "ada", "password": "wrong"})
    assert texts("ru")["login.refused"] in form.text
    assert (await ada.post("/login", data={"name": "ada", "password": PASSWORD})).headers["location"] == "/"
    alarm = (await ada.get(f"{OFFICE}/alarms")).json()[0]
    done = await ada.post(f"/alarms/{kiosk.kiosk_id}/{alarm['alarm_id']}/acknowledge")
    assert done.headers["location"] == "/alarms"
    assert (await ada.post(f"/kiosks/{kiosk.kiosk_id}/revoke")).status_code == 303
    assert texts("ru")["presence.revoked"] in (await ada.get("/")).text
    assert (await ada.post("/logout")).headers["location"] == "/login"


async def look_everywhere(ada: httpx.AsyncClient, kiosk: Kiosk, language: str) -> None:
    if "kiosk-language" in ada.cookies:
        ada.cookies.delete("kiosk-language")
    t = texts(language)
    pages = {
        "/": "nav.kiosks",
        "/transactions": "nav.transactions",
        "/alarms": "nav.alarms",
        "/doubts": "nav.doubts",
        "/claims": "nav.claims",
        "/blobs": "nav.blobs",
        "/kiosks/new": "enrol.title",
        f"/kiosks/{kiosk.kiosk_id}": "kiosk.devices",
        "/transactions?text=p1": "filter.clear",
        "/doubts?everything=true": "list.open_only",
        "/alarms?everything=true": "list.open_only",
    }
    for path, key in pages.items():
        answer = await ada.get(path, headers={"Accept-Language": f"{language}-XX,en;q=0.5"})
        assert answer.status_code == 200, path
        assert f'<html lang="{language}">' in answer.text
        assert t[key] in answer.text
        assert "<script>" not in answer.text
        assert "<i>SM" not in answer.text
        assert not re.search(r"https?://", answer.text.replace("--central https://…", "")), path
    missing = await ada.get("/kiosks/00000000-0000-0000-0000-000000000000")
    assert missing.status_code == 404
    chosen = await ada.get(f"/?lang={language}")
    assert f"kiosk-language={language}" in chosen.headers["set-cookie"]
    assert f'<html lang="{language}">' in (await ada.get("/", headers={"Accept-Language": "en"})).text


def test_all_languages_have_the_same_texts_with_the_same_places() -> None:
    english = texts("en")
    for file in FOLDER.glob("*.toml"):
        other = texts(file.stem)
        assert other.keys() == english.keys(), file
        for key, text in english.items():
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", other[key])), (file, key)
            assert other[key].strip()
    templates = "".join(path.read_text() for path in (FOLDER.parent / "templates").glob("*.html"))
    used = set(re.findall(r"""\bt\("([a-z_.]+)"[,)]""", templates))
    assert used <= english.keys()


def test_amounts_and_languages_as_people_write_them() -> None:
    assert Words("en").money(123456, "EUR") == "1,234.56\u00a0EUR"
    assert Words("de").money(-123456, "EUR") == "−1.234,56\u00a0EUR"
    assert Words("ru").money(1000, "JPY") == "1\u202f000\u00a0JPY"
    assert Words("fr").money(5, "KWD") == "0,005\u00a0KWD"
    assert Words("en").money(None, "EUR") == Words("en").number(None) == Words("en").size(None) == "–"
    assert (Words("de").size(1536), Words("en").size(5), Words("en").size(200 << 40)) == (
        "1,5\u00a0KiB",
        "5\u00a0B",
        "200\u00a0TiB",
    )
    assert Words("en")("alarm.quite_new") == "quite new"
    offered = ["en", "de"]
    assert choose("de", "", offered) == "de"
    assert choose("xx", "fr,de;q=0.8,en;q=0.9", offered) == "en"
    assert choose(None, "de-AT, en;q=nonsense", offered) == "de"
    assert choose(None, "", offered) == "en"


async def live(client: httpx.AsyncClient, path: str) -> AsyncIterator[tuple[str, str]]:
    """(event, data) of an SSE stream."""
    async with client.stream("GET", path, timeout=10) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        async for line in answer.aiter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                yield name, value


async def until(stream: AsyncIterator[tuple[str, str]], event: str, wanted: Any) -> float:
    """Seconds until an event for which `wanted(data)` holds."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with asyncio.timeout(10):
        async for name, data in stream:
            if name == event and wanted(data):
                return loop.time() - started
    raise AssertionError("the stream ended")


async def test_a_payment_is_seen_live_with_its_notes(centre: Centre, ada: httpx.AsyncClient, kiosk: Kiosk) -> None:
    """On a stream of another process of the office: Redis carries the wake."""
    journal = Journal.opened()
    await kiosk.send(journal)
    async with running_centre(centre.settings) as second:
        viewer = second.client()
        viewer.cookies = ada.cookies
        stream = live(viewer, f"{OFFICE}/live?kiosk_id={kiosk.kiosk_id}")
        await until(stream, "state", lambda data: data == "live")
        await asyncio.sleep(0.3)
        journal.pay("p1", 500, complete=False)
        await kiosk.send(journal, 2)
        await until(stream, "transaction", lambda data: json.loads(data)["collected_minor"] == 500)
        journal.stack("n2", 500, "p1")
        await kiosk.send(journal, 4)
        seconds = await until(stream, "transaction", lambda data: len(json.loads(data)["notes"]) == 2)
        assert seconds < 5  # without the wake it would be IDLE_LOOK_S
        await viewer.aclose()
        with contextlib.suppress(httpx.HTTPError, RuntimeError):
            await stream.aclose()  # type: ignore[attr-defined]


async def test_live_views_and_presence_without_redis(
    servers: EmbeddedServers, database: str, centre: Centre, ada: httpx.AsyncClient, kiosk: Kiosk
) -> None:
    """Stopped while in use: views poll Postgres, presence comes from it; back again, it is used again."""
    journal = Journal.opened()
    await kiosk.send(journal)
    async with running_centre(centre.settings) as second:
        viewer = second.client()
        viewer.cookies = ada.cookies
        stream = live(viewer, "/transactions/live")
        await until(stream, "state", lambda data: data == "live")
        servers.redis.stop()
        try:
            await kiosk.call(wire.PATH_HEARTBEAT, wire.Heartbeat(str(journal.journal_id), 1, "0.1.0"))
            assert (await ada.get(f"{OFFICE}/kiosks")).json()[0]["online"]
            for _ in range(100):
                if (await viewer.get("/health")).json()["redis"] == "away":
                    break
                await asyncio.sleep(0.05)
            journal.pay("p1", 1000)
            await kiosk.send(journal, 2)
            await until(stream, "transaction", lambda data: "10.00" in json.loads(data)["html"])
        finally:
            servers.redis.start()
        for _ in range(100):
            if (await ada.get("/health")).json()["redis"] == "ok":
                break
            await asyncio.sleep(0.1)
        assert (await ada.get("/health")).json()["redis"] == "ok"
        await viewer.aclose()


async def test_a_view_says_when_postgres_is_away_and_goes_on(
    servers: EmbeddedServers, centre: Centre, ada: httpx.AsyncClient, kiosk: Kiosk
) -> None:
    journal = Journal.opened()
    await kiosk.send(journal)
    stream = live(ada, f"{OFFICE}/live")
    await until(stream, "state", lambda data: data == "live")
    servers.postgres.stop()
    try:
        journal.pay("p1", 1000)
        other = centre.client()
        other.cookies = ada.cookies
        answer = await other.get(f"{OFFICE}/kiosks")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert (await other.get("/health")).status_code == 503
        await other.aclose()
    finally:
        servers.postgres.start()
    for _ in range(100):
        if (await kiosk.send(journal)).status_code == 200:
            break
        await asyncio.sleep(0.1)
    await until(stream, "transaction", lambda data: json.loads(data)["state"] == "completed")


async def test_a_view_ends_with_its_session(
    centre: Centre, ada: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.central.office.live.CHECK_S", 0.0)
    monkeypatch.setattr("sync.central.office.live.IDLE_LOOK_S", 0.1)
    stream = live(ada, f"{OFFICE}/live")
    await until(stream, "state", lambda data: data == "live")
    async with centre.pool.connection() as connection:
        await connection.execute("DELETE FROM office_sessions")
    async with asyncio.timeout(5):
        async for _ in stream:
            pass
