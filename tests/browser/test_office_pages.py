"""The office in a real browser: logging in, seeing a note arrive, keyboard only, no request to anywhere else."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Page, async_playwright, expect

from agent.domain import events as ev
from sync.central.office import accounts
from tests.central.kiosks import Journal, Kiosk
from tests.servers import Centre, centre, database, servers

__all__ = ["centre", "database", "servers"]
pytestmark = pytest.mark.browser

PASSWORD = "correct horse battery"
PATIENCE_MS = 20_000
SIZES = {"laptop": (1366, 768), "upright": (1080, 1920)}


@asynccontextmanager
async def browsing(centre: Centre, size: str = "laptop", language: str = "en") -> AsyncIterator[tuple[Page, list[str]]]:
    """A page on its own profile, and everything that went wrong on it."""
    width, height = SIZES[size]
    wrong: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        context = await browser.new_context(viewport={"width": width, "height": height}, locale=language)
        page = await context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith(centre.url) else wrong.append(request.url))
        yield page, wrong
        await browser.close()


async def log_in(page: Page, centre: Centre) -> None:
    """With the keyboard: the first field has the focus."""
    async with centre.pool.connection() as connection:
        await accounts.add_user(connection, "ada", PASSWORD, "admin", os.urandom)
    await page.goto(centre.url)
    await expect(page).to_have_url(f"{centre.url}/login")
    await page.keyboard.type("ada")
    await page.keyboard.press("Tab")
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{centre.url}/")


async def test_a_note_is_seen_arriving(centre: Centre) -> None:
    """Within a second or so, without a reload: the row appears, grows and is completed."""
    async with centre.client() as client, browsing(centre) as (page, wrong):
        kiosk = await Kiosk.enrolled(client, await centre.code("Lobby, left"))
        journal = Journal.opened()
        await kiosk.send(journal)
        await log_in(page, centre)
        await page.get_by_role("link", name="Transactions").click()
        await expect(page.get_by_role("status")).to_contain_text("live", timeout=PATIENCE_MS)
        await expect(page.get_by_text("No payment here yet.")).to_be_visible()
        journal.pay("p1", 500, complete=False)
        await kiosk.send(journal, 2)
        row = page.get_by_role("row").filter(has_text="order p1")
        await expect(row).to_contain_text("collecting", timeout=PATIENCE_MS)
        await expect(row).to_contain_text("5.00")
        journal.stack("n2", 500, "p1")
        journal.append(ev.PaymentCompletionStarted(payment_id="p1"))
        await kiosk.send(journal, 4)
        await expect(row.get_by_role("listitem")).to_have_count(2, timeout=PATIENCE_MS)
        await expect(row).to_contain_text("completing")
        await expect(page.get_by_role("row")).to_have_count(2)  # one head, one payment
        assert wrong == []


@pytest.mark.parametrize("size, language", [("laptop", "de"), ("upright", "ru")])
async def test_pages_fit_and_can_be_walked_with_the_keyboard(centre: Centre, size: str, language: str) -> None:
    """No sideways scrolling, one main heading, every control named, the skip link first."""
    async with centre.client() as client, browsing(centre, size, language) as (page, wrong):
        kiosk = await Kiosk.enrolled(client, await centre.code("Eingangshalle links, hinter der Säule"))
        journal = Journal.opened()
        for number in range(5):
            journal.pay(f"p{number}", 500, 1000, 2000, amount=3000)
        journal.append(ev.StackerFull(device="acceptor"))
        await kiosk.send(journal)
        await kiosk.post(kiosk.packed(journal), signature=bytes(64))
        await log_in(page, centre)
        for path in ("/", "/transactions", "/alarms", "/doubts", "/claims", "/blobs", f"/kiosks/{kiosk.kiosk_id}"):
            await page.goto(centre.url + path)
            assert await page.evaluate("document.documentElement.lang") == language
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
            await expect(page.get_by_role("heading", level=1)).to_have_count(1)
            for control in await page.locator("input, select, button, a").all():
                assert await control.evaluate(NAMED), f"{path}: {await control.evaluate('e => e.outerHTML')}"
            await page.keyboard.press("Tab")
            assert await page.evaluate("document.activeElement.className") == "skip", path
        await page.goto(f"{centre.url}/alarms")
        await page.get_by_role("main").get_by_role("button").click()
        await expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)
        assert wrong == []


NAMED = """e => (e.textContent.trim() || e.getAttribute('aria-label') || e.title
               || (e.labels && e.labels.length && e.labels[0].textContent.trim()) || '').length > 0"""
