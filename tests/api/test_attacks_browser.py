"""The attacks of PROOFS C1 by a real browser: pages of another port (same site: they get the cookie), of another site,
of a rebound name and of no origin, against the kiosk and against a plain app."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from playwright.async_api import BrowserContext, Page

from tests.api.attacks import PAY, SECRET
from tests.api.conftest import served
from tests.api.test_attacks import MARK, Target, control, target
from tests.browser.kiosk_rig import chromium

__all__ = ["control", "target"]
pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

# Each tries one thing and tells what it could read; what it could do is counted by the server.
SCRIPT = """
async ([base, pay, secret]) => {
  const read = [];
  const patience = (promise) => Promise.race([promise, new Promise((done) => setTimeout(done, 1500))]);
  const attempt = async (name, work) => {
    try { const got = await patience(work()); if (got) read.push(`${name}: ${got}`); } catch (error) { /* refused */ }
  };
  const text = async (response) => (await response).text();
  const body = '{"amount_minor": 100}';
  const json = {"Content-Type": "application/json"};
  const plain = {"Content-Type": "text/plain"};
  const form = {"Content-Type": "application/x-www-form-urlencoded"};
  const with_cookie = {credentials: "include"};
  await attempt("fetch", () => text(fetch(base + secret, with_cookie)));
  await attempt("fetch no-cors", () => text(fetch(base + secret, {...with_cookie, mode: "no-cors"})));
  await attempt("fetch same-origin", () => text(fetch(base + secret, {mode: "same-origin", ...with_cookie})));
  for (const [kind, headers] of Object.entries({json, plain, form})) {
    for (const mode of ["cors", "no-cors"]) {
      const options = {method: "POST", body, headers, mode, ...with_cookie};
      await attempt(`POST ${kind} ${mode}`, () => text(fetch(base + pay, options)));
      await attempt(`keepalive ${kind} ${mode}`, () => text(fetch(base + pay, {...options, keepalive: true})));
    }
  }
  for (const method of ["PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
    await attempt(method, () => text(fetch(base + pay, {method, headers: json, ...with_cookie})));
  await attempt("xhr", () => new Promise((done) => {
    const xhr = new XMLHttpRequest();
    xhr.onload = () => done(xhr.responseText);
    xhr.onerror = () => done("");
    xhr.open("GET", base + secret);
    xhr.withCredentials = true;
    xhr.send();
  }));
  for (const type of ["text/plain", "application/json"])
    await attempt(`beacon ${type}`, () => { navigator.sendBeacon(base + pay, new Blob([body], {type})); });
  await attempt("WebSocket", () => new Promise((done) => {
    const socket = new WebSocket(base.replace("http", "ws") + "/api/v1/ws");
    socket.onmessage = (message) => done(message.data);
    socket.onerror = () => done("");
  }));
  await attempt("EventSource", () => new Promise((done) => {
    const source = new EventSource(base + "/api/v1/events", {withCredentials: true});
    source.onmessage = (message) => { source.close(); done(message.data); };
    source.onerror = () => { source.close(); done(""); };
  }));
  const element = (tag, attributes) => new Promise((done) => {
    const made = Object.assign(document.createElement(tag), attributes);
    made.onload = () => done("loaded");
    made.onerror = () => done("");
    document.body.append(made);
  });
  await attempt("img", () => element("img", {src: base + secret}));
  await attempt("script", () => element("script", {src: base + secret}));
  await attempt("style", () => element("link", {rel: "stylesheet", href: base + secret}));
  await attempt("video", () => element("video", {src: base + secret}).then(() => ""));
  await attempt("import", () => import(base + secret).then(() => "imported"));
  await attempt("frame", async () => {
    const frame = document.createElement("iframe");
    frame.src = base + secret;
    document.body.append(frame);
    await new Promise((done) => { frame.onload = done; });
    return frame.contentDocument ? frame.contentDocument.body.innerText : "";
  });
  for (const [method, enctype] of [["POST", "text/plain"], ["POST", form["Content-Type"]], ["GET", ""]]) {
    await attempt(`form ${method} ${enctype}`, async () => {
      const sink = Object.assign(document.createElement("iframe"), {name: `sink-${Math.random()}`});
      document.body.append(sink);
      const goal = {method, enctype, action: base + pay, target: sink.name};
      const sent = Object.assign(document.createElement("form"), goal);
      const field = Object.assign(document.createElement("input"), {name: '{"amount_minor": 100, "x": "', value: '"}'});
      sent.append(field);
      document.body.append(sent);
      sent.submit();
      await new Promise((done) => { sink.onload = done; });
    });
  }
  return read;
}
"""


@asynccontextmanager
async def foreign_site() -> AsyncIterator[int]:
    """A site that belongs to somebody else, on this machine so that no network is needed."""
    app = FastAPI()

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return "<!doctype html><title>free games</title><body></body>"

    @app.get("/sandbox", response_class=HTMLResponse)
    def sandbox() -> HTMLResponse:
        return HTMLResponse("<body></body>", headers={"Content-Security-Policy": "sandbox allow-scripts allow-forms"})

    async with served(app) as port:
        yield port


async def context_with_cookie(browser: Any, target: Target) -> BrowserContext:
    context: BrowserContext = await browser.new_context()
    for host in ("127.0.0.1", "evil.localhost"):
        cookie: Any = {"name": "kiosk_session", "value": target.cookie, "domain": host, "path": "/"}
        cookie |= {"httpOnly": True, "sameSite": "Strict"}
        await context.add_cookies([cookie])
    return context


async def attack(page: Page, at: str, base: str) -> list[str]:
    await page.goto(at)
    got: list[str] = await page.evaluate(SCRIPT, [base, PAY, SECRET])
    return [f"{at}: {each[:300]}" for each in got]


async def everything_from_everywhere(target: Target) -> list[str]:
    """What foreign pages could read."""
    kiosk = f"http://127.0.0.1:{target.port}"
    rebound = f"http://evil.localhost:{target.port}"
    async with foreign_site() as port, chromium() as browser:
        context = await context_with_cookie(browser, target)
        read = []
        for at, base in (
            (f"http://127.0.0.1:{port}/", kiosk),
            (f"http://evil.localhost:{port}/", kiosk),
            (f"http://127.0.0.1:{port}/sandbox", kiosk),
            (f"{rebound}/api/v1/system/health", rebound),
        ):
            page = await context.new_page()
            read += await attack(page, at, base)
            await page.close()
        popup = await context.new_page()
        await popup.goto(f"http://evil.localhost:{port}/")
        await popup.evaluate("address => { location.href = address }", kiosk + SECRET)
        await asyncio.sleep(0.5)
        if MARK in await popup.content():
            read.append("navigated to the secret")
        await context.close()
    return read


async def test_a_browser_gets_nothing_for_a_foreign_page(target: Target) -> None:
    assert await everything_from_everywhere(target) == []
    assert target.paid == []
    await our_own_page_can(target)


async def our_own_page_can(target: Target) -> None:
    """The same script, from our own origin: it reads and pays, so the script works and so does the kiosk."""
    kiosk = f"http://127.0.0.1:{target.port}"
    async with chromium() as browser:
        context = await context_with_cookie(browser, target)
        page = await context.new_page()
        read = await attack(page, f"{kiosk}/", kiosk)
        await context.close()
    ways = {each.split(": ")[1] for each in read if MARK in each or "kiosk.snapshot" in each or '"paid"' in each}
    assert {"fetch", "xhr", "WebSocket", "EventSource", "POST json cors"} <= ways, read
    assert 0 < len(target.paid) < 10


async def test_a_plain_app_gives_itself_away_to_the_same_pages(control: Target) -> None:
    read = await everything_from_everywhere(control)
    assert len([each for each in read if MARK in each]) > 10, read
    assert len(control.paid) > 20
