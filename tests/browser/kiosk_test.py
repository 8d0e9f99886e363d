"""The kiosk page as a customer meets it, at the sizes of a kiosk and of a laptop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.browser.kiosk_rig import LAPTOP, SCREENS, TALL, KioskProcess, Screen, chromium, running_kiosk, screen, sound

expect.set_options(timeout=15_000)
pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def kiosk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KioskProcess]:
    cash = {"timeout_s": 60, "warn_s": 55, "device_lost_s": 600}
    async with running_kiosk(tmp_path_factory.mktemp("kiosk"), **cash) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def there(kiosk: KioskProcess, browser: Browser) -> AsyncIterator[Screen]:
    """A screen that must have been quiet and at home when the test is over."""
    async with screen(kiosk, browser) as made:
        yield made
        assert made.foreign == []
        assert made.errors == []


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_left_open(kiosk: KioskProcess) -> AsyncIterator[None]:
    yield
    await kiosk.clear()


async def in_view(page: Page, view: str) -> None:
    await expect(page.locator("body")).to_have_attribute("data-view", view)


async def choose(page: Page, amount: str) -> None:
    await in_view(page, "choose")
    await page.get_by_role("button", name=amount, exact=True).click()
    await in_view(page, "pay")


async def credit(page: Page, amount: str) -> None:
    await expect(page.locator("#credit")).to_have_text(amount)


async def leave(page: Page) -> None:
    await page.locator("#done").click()
    await in_view(page, "choose")


async def picture(page: Page, name: str) -> None:
    SCREENS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=str(SCREENS / f"{name}.png"), animations="disabled")


async def test_pay_the_exact_amount(there: Screen) -> None:
    page = await there.open()
    await choose(page, "€20")
    await there.kiosk.insert("10")
    await credit(page, "€10")
    await expect(page.locator("#missing")).to_have_text("€10 to go")
    await there.kiosk.insert("10")
    await in_view(page, "result")
    await expect(page.locator("#result-title")).to_have_text("Thank you, €20 paid")
    await expect(page.locator(".claim")).to_have_count(0)
    await leave(page)


async def test_what_is_over_the_amount_is_shown_as_a_code(there: Screen) -> None:
    page = await there.open()
    await choose(page, "€5")
    await there.kiosk.insert("20")
    await in_view(page, "result")
    await expect(page.locator("#result-title")).to_have_text("Thank you, €5 paid")
    await expect(page.locator(".claim .worth")).to_have_text("€15")
    code = (await page.locator(".claim .code").inner_text()).replace(" ", "")
    claim = await page.evaluate("code => fetch(`/api/v1/cash/claims/${code}`).then((answer) => answer.json())", code)
    assert (claim["amount_minor"], claim["reason"]) == (1500, "overpaid")
    await leave(page)


async def test_cancel_in_the_middle_makes_a_claim_of_what_is_in_the_box(there: Screen) -> None:
    page = await there.open()
    await choose(page, "€50")
    await there.kiosk.insert("20")
    await credit(page, "€20")
    await page.get_by_role("button", name="Cancel").click()
    await in_view(page, "result")
    await expect(page.locator("#result-title")).to_have_text("Payment cancelled")
    await expect(page.locator(".claim .worth")).to_have_text("€20")
    await leave(page)


async def test_cancel_before_any_note_takes_nothing(there: Screen) -> None:
    page = await there.open()
    await choose(page, "€50")
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("#result-text")).to_have_text("No money was taken.")
    await leave(page)


async def test_a_reload_at_any_moment_goes_on_where_it_was(there: Screen) -> None:
    page = await there.open()
    await page.reload()
    await choose(page, "€50")
    await page.reload()
    await in_view(page, "pay")
    await there.kiosk.insert("10")
    await credit(page, "€10")
    await page.reload()
    await credit(page, "€10")
    await there.kiosk.simulator.command("set stack_ms=48000")
    await there.kiosk.insert("5")
    await there.kiosk.until("STACKING")
    await page.get_by_role("button", name="Cancel").click()
    await in_view(page, "working")
    await expect(page.locator("#working-title")).to_have_text("Cancelling your payment")
    await picture(page, "working")
    assert await sound(page) == []
    await page.reload()
    await in_view(page, "working")
    await there.kiosk.simulator.command("set stack_ms=900")
    await in_view(page, "result")
    await expect(page.locator(".claim .worth")).to_have_text("€15")
    await page.reload()
    await expect(page.locator(".claim .worth")).to_have_text("€15")
    await leave(page)
    await page.reload()
    await in_view(page, "choose")


async def test_a_double_click_starts_one_payment_and_cancels_it_once(there: Screen) -> None:
    page = await there.open()
    await in_view(page, "choose")
    await page.get_by_role("button", name="€10", exact=True).dblclick()
    await in_view(page, "pay")
    await there.kiosk.insert("5")
    await credit(page, "€5")
    await page.get_by_role("button", name="Cancel").dblclick()
    await in_view(page, "result")
    await expect(page.locator(".claim")).to_have_count(1)
    await leave(page)


async def test_two_tabs_show_one_payment(kiosk: KioskProcess, browser: Browser) -> None:
    """Both tabs tap at the same moment: one payment, and both go along with it."""
    async with screen(kiosk, browser) as there:
        first = await there.open()
        second = await there.tab()
        await in_view(first, "choose")
        await in_view(second, "choose")
        press = "(selector) => document.querySelector(selector).click()"
        await asyncio.gather(
            first.evaluate(press, "#tiles button:nth-child(3)"), second.evaluate(press, "#tiles button:nth-child(4)")
        )
        await in_view(first, "pay")
        await in_view(second, "pay")
        assert await first.locator("#of").inner_text() == await second.locator("#of").inner_text()
        await kiosk.insert("5")
        await credit(first, "€5")
        await credit(second, "€5")
        await asyncio.gather(*(tab.evaluate(press, "#cancel") for tab in (first, second)))
        await in_view(first, "result")
        await in_view(second, "result")
        assert await first.locator(".code").inner_text() == await second.locator(".code").inner_text()
        for tab in (first, second):
            await tab.bring_to_front()
            await leave(tab)
        assert there.foreign == []
        assert [each for each in there.errors if "409" not in each] == []  # the loser of the race was told so


async def test_everything_can_be_done_from_a_keyboard(there: Screen) -> None:
    page = await there.open()
    await in_view(page, "choose")
    await reach(page, "other")
    await page.keyboard.press("Enter")
    await in_view(page, "keypad")
    await page.keyboard.type("127")
    await page.keyboard.press("Backspace")
    await expect(page.locator("#typed")).to_have_text("€12")
    await picture(page, "keypad")
    await page.keyboard.press("Escape")
    await in_view(page, "choose")
    await reach(page, "other")
    await page.keyboard.press("Enter")
    await page.keyboard.type("25")
    await reach(page, "keypad-ok")
    await page.keyboard.press("Enter")
    await in_view(page, "pay")
    assert await page.evaluate("document.activeElement.textContent") == "Please insert your notes"
    await there.kiosk.insert("20")
    await credit(page, "€20")
    await expect(page.locator("#credit-spoken")).to_have_text("Received €20 of €25.")
    await reach(page, "cancel")
    await page.keyboard.press("Space")
    await in_view(page, "result")
    await reach(page, "done")
    await page.keyboard.press("Enter")
    await in_view(page, "choose")


async def reach(page: Page, control: str) -> None:
    """Tab to a control; its focus must be visible."""
    for _ in range(40):
        if await page.evaluate("document.activeElement.id") == control:
            width = await page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
            assert width >= 3
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"{control} cannot be reached with Tab")


async def test_more_time_is_offered_before_the_end_and_given(there: Screen) -> None:
    page = await there.open()
    await choose(page, "€50")
    more = page.get_by_role("button", name="I need more time")
    await expect(more).to_be_hidden()
    await expect(more).to_be_visible(timeout=10_000)
    await expect(page.locator("#time-spoken")).to_contain_text("nearly up")
    await more.click()
    await expect(more).to_be_hidden()
    await page.get_by_role("button", name="Cancel").click()
    await leave(page)


async def api_payment(page: Page, body: dict[str, object]) -> None:
    """A payment that another client starts; the page must follow it."""
    await page.evaluate(
        """body => fetch("/api/v1/cash/payments", {method: "POST", body: JSON.stringify(body), headers:
            {"Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID()}})""",
        body,
    )
    await in_view(page, "pay")


async def test_the_time_runs_out(there: Screen) -> None:
    page = await there.open()
    await in_view(page, "choose")
    await api_payment(page, {"amount_minor": 5000, "currency": "EUR", "options": {"timeout_s": 6}})
    await there.kiosk.insert("10")
    await credit(page, "€10")
    await in_view(page, "result")
    await expect(page.locator("#result-title")).to_have_text("The time ran out")
    await expect(page.locator(".claim .worth")).to_have_text("€10")
    await leave(page)


async def test_a_part_can_be_settled_where_that_is_allowed(there: Screen) -> None:
    page = await there.open()
    await in_view(page, "choose")
    await api_payment(page, {"amount_minor": 5000, "currency": "EUR", "options": {"allow_partial": True}})
    await there.kiosk.insert("20")
    await page.get_by_role("button", name="Finish with €20").click()
    await expect(page.locator("#result-title")).to_have_text("Thank you, €20 paid")
    await leave(page)


async def test_a_note_that_comes_back_is_explained(there: Screen) -> None:
    page = await there.open()
    await in_view(page, "choose")
    await api_payment(page, {"amount_minor": 2000, "currency": "EUR", "options": {"allowed_minor": [500, 1000]}})
    await expect(page.locator("#pay-lead")).to_contain_text("€5, €10")
    await there.kiosk.insert("50")
    await expect(page.locator("#notice")).to_contain_text("The note was returned. This note is not accepted")
    await picture(page, "note-returned")
    await page.get_by_role("button", name="Cancel").click()
    await leave(page)


async def test_out_of_service_says_so_and_heals_by_itself(there: Screen) -> None:
    page = await there.open()
    await in_view(page, "choose")
    await there.kiosk.simulator.command("remove stacker")
    await in_view(page, "closed")
    await expect(page.locator("#closed-title")).to_have_text("Out of service")
    assert await sound(page) == []
    await picture(page, "closed")
    await there.kiosk.simulator.command("insert stacker")
    await in_view(page, "choose")


async def test_money_in_doubt_is_told_and_kept(there: Screen) -> None:
    """The validator drops a note into the box while nobody hears it, loses power and remembers nothing."""
    page = await there.open()
    await choose(page, "€50")
    simulator = there.kiosk.simulator
    await simulator.command("set remembers_event=false")
    await simulator.command("set stack_ms=4000")
    await there.kiosk.insert("20")
    await there.kiosk.until("STACKING")
    await simulator.command("fault silence 3000ms")
    await there.kiosk.until("BILL STACKED")
    await simulator.command("power-cut")
    for command in ("fault off", "set remembers_event=true", "set stack_ms=900", "power-on"):
        await simulator.command(command)
    await expect(page.locator("#doubt")).to_contain_text("€20 are being checked")
    assert await sound(page) == []
    await picture(page, "doubt")
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("#result-doubt")).to_contain_text("€20")
    await leave(page)


async def test_a_break_of_the_line_is_told_and_the_payment_goes_on(kiosk: KioskProcess, browser: Browser) -> None:
    """The agent dies with a note in the box and starts again: the page says so, waits, and goes on."""
    async with screen(kiosk, browser) as there:
        page = await there.open()
        await choose(page, "€50")
        await kiosk.insert("20")
        await credit(page, "€20")
        await kiosk.kill()
        await expect(page.locator("#lost")).to_be_visible()
        await expect(page.locator("#lost")).to_contain_text("Your money is safe")
        await picture(page, "lost")
        await kiosk.start()
        await expect(page.locator("#lost")).to_be_hidden()
        await credit(page, "€20")
        await kiosk.insert("50")
        await in_view(page, "result")
        await expect(page.locator(".claim .worth")).to_have_text("€20")
        await leave(page)
        assert there.foreign == []


async def test_a_screen_without_a_session_says_so(kiosk: KioskProcess, browser: Browser) -> None:
    async with screen(kiosk, browser) as there:
        page = await there.tab()
        await expect(page.locator("#closed-title")).to_have_text("This screen is not signed in")


@pytest.mark.parametrize(("size", "kind"), [(TALL, "tall"), (LAPTOP, "laptop")])
async def test_every_view_is_sound_in_every_language(
    kiosk: KioskProcess, browser: Browser, size: dict[str, int], kind: str
) -> None:
    async with screen(kiosk, browser, size, reduced_motion="reduce") as there:
        page = await there.open()
        await in_view(page, "choose")
        await _look(page, f"choose-{kind}")
        await page.locator("#other").click()
        await page.keyboard.type("85")
        await _look(page, f"keypad-{kind}")
        await page.locator("#keypad-ok").click()
        await in_view(page, "pay")
        await _look(page, f"pay-{kind}")
        await kiosk.insert("50")
        await expect(page.locator("#missing")).to_contain_text("35")
        await expect(page.locator("#extend")).to_be_visible()
        await _look(page, f"paid-part-{kind}")
        await page.reload()  # the language stays
        assert await page.evaluate("document.documentElement.lang") == LANGUAGES[-1]
        await kiosk.insert("50")
        await in_view(page, "result")
        await _look(page, f"result-{kind}")
        await page.locator("#done").click()
        await in_view(page, "choose")
        assert (there.foreign, there.errors) == ([], [])


LANGUAGES = ("en", "de", "fr", "ru")


async def _look(page: Page, name: str) -> None:
    """One view in every language."""
    for lang in LANGUAGES:
        await page.locator(f"[data-lang={lang}]").click()
        assert await page.evaluate("document.documentElement.lang") == lang
        assert await sound(page) == [], (name, lang)
        await picture(page, f"{name}-{lang}")


async def test_who_wants_no_movement_gets_none(kiosk: KioskProcess, browser: Browser) -> None:
    async with screen(kiosk, browser, reduced_motion="reduce") as there:
        page = await there.open()
        await in_view(page, "choose")
        running = await page.evaluate(
            "document.getAnimations().filter((each) => each.effect.getComputedTiming().duration > 1).length"
        )
        assert running == 0
