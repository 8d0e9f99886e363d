"""Attacks of PROOFS C1 against the real server, and the same against a plain FastAPI app, which must look bad."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Request, Response, WebSocket
from fastapi.middleware.cors import CORSMiddleware

from agent.api.auth.caller import require
from agent.api.module import Parts
from agent.api.router_factory import Mounted
from agent.runtime.clock import SystemClock
from tests.api.attacks import BODY, HOST, OWN, PAY, SECRET, TYPED, Attack, corpus
from tests.api.conftest import OWNER, Kiosk, KioskMaker, served

MARK = "what-nobody-else-may-read"
ATTACKS = list(corpus())


@dataclass
class Target:
    """A server with a route that pays and one that tells a secret, and somebody logged in."""

    port: int
    cookie: str
    paid: list[str]
    patience_s: float

    async def answer(self, attack: Attack) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        received = b""
        try:
            writer.write(attack.wire(self.port, self.cookie))
            async with asyncio.timeout(self.patience_s):
                while chunk := await reader.read(65_536):
                    received += chunk
                    if MARK.encode() in received or b"HTTP/1.1 101" in received:
                        break
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.close()
        return received.decode("utf-8", "replace")

    async def hits(self, attack: Attack) -> list[str]:
        """What the attacker got: money moved, an answer he can read, a permission to ask more."""
        before = len(self.paid)
        answer = await self.answer(attack)
        got = []
        if len(self.paid) > before:
            got.append("state changed")
        if re.search(r"^HTTP/1\.1 (2|101)", answer, re.MULTILINE):
            got.append("answered")
        if MARK in answer:
            got.append("secret read")
        if re.search(r"^access-control-allow", answer, re.MULTILINE | re.IGNORECASE):
            got.append("permission given")
        return got


def paying(paid: list[str]) -> APIRouter:
    router = APIRouter()

    @router.post("/pay", dependencies=[Depends(require("ui"))])
    async def pay(amount_minor: Annotated[int, Body(embed=True)]) -> dict[str, int]:
        paid.append("pay")
        return {"paid": amount_minor}

    @router.get("/secret", dependencies=[Depends(require("ui"))])
    async def secret() -> dict[str, str]:
        return {"secret": MARK}

    return router


@pytest.fixture
async def target(kiosk_at: KioskMaker) -> AsyncIterator[Target]:
    paid: list[str] = []
    module = Mounted("cash_system", "cash", Parts(router=paying(paid)))
    async with kiosk_at(SystemClock(), modules=[module], body_timeout_s=0.3) as kiosk, served(kiosk.app) as port:
        browser = await kiosk.as_user("ui")
        yield Target(port, browser.cookies["kiosk_session"], paid, patience_s=5)
        await kiosk.app.state.streams.close()


@pytest.fixture
async def control() -> AsyncIterator[Target]:
    """As tutorials have it: a session cookie, CORS for everybody, JSON from whatever comes."""
    paid: list[str] = []
    app = FastAPI()
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_credentials=True, allow_methods=["*"], allow_headers=["*"]
    )

    def logged_in(request: Request) -> None:
        token = request.cookies.get("kiosk_session") or request.query_params.get("token")
        if token != "victim":
            raise ValueError("not logged in")

    @app.api_route(PAY, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def pay(request: Request) -> dict[str, str]:
        logged_in(request)
        await request.body()
        paid.append("pay")
        return {"secret": MARK}

    @app.api_route("/api/v1/auth/logout", methods=["GET", "POST"])
    async def logout() -> None:
        paid.append("logout")

    @app.get("/{path:path}")
    async def secret(request: Request) -> Response:
        logged_in(request)
        return Response(f'{{"secret": "{MARK}"}}', media_type="application/json")

    @app.websocket("/api/v1/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(MARK)

    async def quiet(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except ValueError:
            await Response(status_code=401)(scope, receive, send)

    async with served(quiet) as port:
        yield Target(port, "victim", paid, patience_s=0.4)


def test_the_corpus_is_large_and_without_repetition() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 300
    assert len({attack.wire(8005, "") + bytes([attack.cookie]) for attack in ATTACKS}) == len(ATTACKS)


async def test_no_attack_gets_anything(target: Target) -> None:
    got = {attack.name: hits for attack in ATTACKS if (hits := await target.hits(attack))}
    assert got == {}
    assert target.paid == []
    await proper_requests_work(target)


async def test_the_same_attacks_get_through_to_a_plain_app(control: Target) -> None:
    """Else the corpus proves nothing."""
    hits = [await control.hits(attack) for attack in ATTACKS]
    got = Counter(hit for each in hits for hit in each)
    assert sum(map(bool, hits)) > 150, got
    assert min(got["state changed"], got["secret read"], got["permission given"]) > 50, got


async def proper_requests_work(target: Target) -> None:
    """Our own page, with the same tool and cookie: the gate does not simply refuse everything."""
    fetch = [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty")]
    own = [("Host", HOST), ("Origin", OWN)]
    typed = [("Host", HOST), ("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
    launched = [("Host", HOST), ("Sec-Fetch-Site", "cross-site"), *typed[2:]]
    for attack, wanted in (
        (Attack("pay", "POST", PAY, [*own, *fetch, TYPED], BODY), "200"),
        (Attack("pay", "POST", PAY, [*own, ("Content-Type", "application/json; charset=UTF-8")], BODY), "200"),
        (
            Attack(
                "bearer",
                "POST",
                PAY,
                [own[0], TYPED, ("Authorization", "Bearer {cookie}")],
                BODY,
                False,
            ),
            "200",
        ),
        (Attack("read", headers=[("Host", HOST), *fetch]), "200"),
        (Attack("read", headers=[("Host", "LOCALHOST:{port}")]), "200"),
        (Attack("page", path="/", headers=typed), "200"),
        (Attack("page from the launch file", path="/", headers=launched, cookie=False), "200"),
        (Attack("page", path="/nothing.html", headers=typed), "404"),
    ):
        answer = await target.answer(attack)
        assert answer.startswith(f"HTTP/1.1 {wanted}"), (attack.name, answer[:300])
    assert target.paid == ["pay"] * 3


async def test_a_slow_body_is_given_up(target: Target) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    head = Attack("slow", "POST", PAY, [("Host", HOST), ("Origin", OWN), TYPED, ("Content-Length", "50")])
    writer.write(head.wire(target.port, target.cookie) + b"{")
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_too_slow"' in answer


async def test_only_this_machine_is_answered(kiosk: Kiosk) -> None:
    """Whoever starts the server on 0.0.0.0 by mistake still serves nobody else."""
    import httpx

    transport = httpx.ASGITransport(app=kiosk.app, client=("192.0.2.7", 1234))
    async with httpx.AsyncClient(transport=transport, base_url=kiosk.origin) as client:
        answer = await client.get("/api/v1/system/health")
    assert (answer.status_code, answer.json()["code"]) == (403, "not_local")


async def test_a_browser_on_the_control_socket_is_refused(kiosk: Kiosk) -> None:
    async with kiosk.client(uid=OWNER, Origin="http://127.0.0.1:8005") as client:
        assert (await client.get("/api/v1/auth/me")).json()["code"] == "origin_not_allowed"


UI = "http://127.0.0.1:3000"


async def test_a_configured_ui_gets_exact_cors_and_nobody_else(kiosk_at: KioskMaker) -> None:
    async with kiosk_at(ui_origins=[UI]) as kiosk:
        ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key"}
        async with kiosk.client(Origin=UI) as page:
            preflight = await page.options("/api/v1/auth/ui", headers=ask)
            assert preflight.status_code == 204
            assert preflight.headers["Access-Control-Allow-Origin"] == UI
            assert preflight.headers["Access-Control-Allow-Credentials"] == "true"
            assert "Idempotency-Key" in preflight.headers["Access-Control-Allow-Headers"]
            assert "Authorization" not in preflight.headers["Access-Control-Allow-Headers"]
            assert preflight.headers["Vary"] == "Origin"
            private = {**ask, "Access-Control-Request-Private-Network": "true"}
            assert (await page.options("/", headers=private)).headers["Access-Control-Allow-Private-Network"] == "true"
            body = {"token": "ui-token-of-the-tests-0123456789abcdef"}
            answer = await page.post("/api/v1/auth/ui", json=body, headers={"Sec-Fetch-Site": "same-site"})
            assert answer.status_code == 200
            assert answer.headers["Access-Control-Allow-Origin"] == UI
            refused = await page.get("/api/v1/nope")
            assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (404, UI)
        for origin in ("http://127.0.0.1:3001", "http://localhost:3000", "null"):
            async with kiosk.client(Origin=origin) as page:
                answer = await page.options("/api/v1/auth/ui", headers=ask)
                assert answer.status_code in {403, 405}
                assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_extra_hosts_serve_a_tunnel(kiosk_at: KioskMaker) -> None:
    async with kiosk_at(extra_hosts=["127.0.0.1:9000"]) as kiosk:
        for host, wanted in (("127.0.0.1:9000", 200), ("127.0.0.1:9001", 403)):
            async with kiosk.client(Host=host, Origin=f"http://{host}") as client:
                assert (await client.get("/api/v1/system/health")).status_code == wanted


@pytest.mark.parametrize("path", ["/", "/api/v1/auth/me", "/metrics", "/nothing"])
async def test_every_answer_wears_the_security_headers(kiosk: Kiosk, path: str) -> None:
    async with kiosk.client() as client:
        headers = (await client.get(path)).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy, "nothing is loaded from anywhere else"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "path", ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/__init__.py", "/.", "/words.js/"]
)
async def test_only_the_pages_own_files_are_served(target: Target, path: str) -> None:
    answer = await target.answer(Attack("traversal", path=path, headers=[("Host", HOST)]))
    assert answer.startswith("HTTP/1.1 404"), answer[:200]


async def test_secret_is_what_a_logged_in_ui_reads(target: Target) -> None:
    assert MARK in await target.answer(Attack("own", path=SECRET, headers=[("Host", HOST)]))
