"""The life of a session: made, refreshed, ended, across restarts and clocks that lie."""

import httpx
import pytest

from agent.api.auth import sessions
from tests.api.conftest import OWNER, PIN, UI_TOKEN, Kiosk, KioskMaker, TestClock

AUTH = "/api/v1/auth"


async def me(client: httpx.AsyncClient) -> int:
    return (await client.get(f"{AUTH}/me")).status_code


async def test_login_sets_strict_cookies_and_no_token_in_the_body(kiosk: Kiosk) -> None:
    await kiosk.first_admin("Anna")
    async with kiosk.client() as client:
        answer = await client.post(f"{AUTH}/login", json={"name": " aNNa", "secret": PIN})
        assert answer.status_code == 200
        assert answer.json() == {
            "role": "admin",
            "user_id": answer.json()["user_id"],
            "expires_in_s": 900,
            "refresh_expires_in_s": 43_200,
            "access_token": None,
            "refresh_token": None,
        }
        cookies = answer.headers.get_list("set-cookie")
        assert len(cookies) == 2
        assert all("HttpOnly" in each and "SameSite=strict" in each for each in cookies)
        who = (await client.get(f"{AUTH}/me")).json()
        assert who == {"role": "admin", "actor": f"user:{who['user_id']}", "user_id": who["user_id"], "name": "Anna"}


async def test_a_program_logs_in_with_a_bearer_token_and_needs_no_origin_from_then_on(kiosk: Kiosk) -> None:
    await kiosk.first_admin()
    async with kiosk.client() as client:
        answer = await client.post(f"{AUTH}/login", json={"name": "root", "secret": PIN, "as": "bearer"})
        assert "set-cookie" not in answer.headers
        token = answer.json()["access_token"]
        del client.headers["Origin"]
        client.headers["Authorization"] = f"Bearer {token}"
        assert await me(client) == 200
        assert (await client.post(f"{AUTH}/logout")).status_code == 204
        assert await me(client) == 401


async def test_logout_ends_the_session_for_whoever_copied_it(kiosk: Kiosk) -> None:
    client = await kiosk.as_user("technician")
    copied = dict(client.cookies)
    assert (await client.post(f"{AUTH}/logout")).status_code == 204
    async with kiosk.client() as thief:
        thief.cookies.update(copied)
        assert await me(thief) == 401
        assert (await thief.post(f"{AUTH}/refresh")).status_code == 401


async def test_a_session_ends_by_time_and_a_refresh_carries_it_on(kiosk: Kiosk) -> None:
    client = await kiosk.as_user("technician")
    for _ in range(4):
        kiosk.clock.go(800)
        assert await me(client) == 200
        assert (await client.post(f"{AUTH}/refresh")).status_code == 200
    jar = client.cookies
    client.cookies = httpx.Cookies(jar)  # the test's clock does not make httpx forget cookies
    kiosk.clock.go(901)
    assert await me(client) == 401
    assert (await client.post(f"{AUTH}/refresh")).status_code == 200
    kiosk.clock.go(43_201)
    assert (await client.post(f"{AUTH}/refresh")).status_code == 401


async def test_two_tabs_that_refresh_at_once_end_up_with_the_same_session(kiosk: Kiosk) -> None:
    """Also a page that was reloaded before it saw the answer: the old refresh token gives the same new tokens."""
    client = await kiosk.as_user("ui")
    old = dict(client.cookies)
    first = await client.post(f"{AUTH}/refresh")
    async with kiosk.client() as tab:
        tab.cookies.update(old)
        assert await me(tab) == 200, "the replaced access token works for the grace time"
        second = await tab.post(f"{AUTH}/refresh")
    assert first.headers.get_list("set-cookie") == second.headers.get_list("set-cookie")
    kiosk.clock.go(60)
    assert await me(client) == 200


async def test_a_refresh_token_that_comes_again_later_ends_the_session(kiosk: Kiosk) -> None:
    client = await kiosk.as_user("ui")
    async with kiosk.client() as thief:
        thief.cookies.update(dict(client.cookies))
        await client.post(f"{AUTH}/refresh")
        kiosk.clock.go(31)
        answer = await thief.post(f"{AUTH}/refresh")
        assert (answer.status_code, answer.json()["code"]) == (401, "session_ended")
    assert await me(client) == 401


async def test_sessions_survive_a_restart_and_are_stored_as_hashes_only(kiosk_at: KioskMaker) -> None:
    clock = TestClock()
    async with kiosk_at(clock) as kiosk:
        client = await kiosk.as_user("technician")
        cookies = dict(client.cookies)
        with kiosk.store.read() as reader:
            [row] = reader.all("SELECT * FROM sessions")
        for token in cookies.values():
            assert not any(
                token.encode() in (value if isinstance(value, bytes) else str(value).encode()) for value in row.values()
            )
    clock.go(600)
    clock.seconds = 5.0  # another boot: the monotonic clock starts anew
    async with kiosk_at(clock) as kiosk, kiosk.client() as client:
        client.cookies.update(cookies)
        assert await me(client) == 200
        clock.go(301)
        assert await me(client) == 401, "900 s in all, the restart included"
        assert (await client.post(f"{AUTH}/refresh")).status_code == 200


@pytest.mark.parametrize("jump", [-3600, 50_000], ids=["before it was made", "after it ended"])
async def test_after_a_restart_the_wall_clock_must_be_believable(kiosk_at: KioskMaker, jump: int) -> None:
    clock = TestClock()
    async with kiosk_at(clock) as kiosk:
        cookies = dict((await kiosk.as_user("technician")).cookies)
    clock.jump_wall(jump)
    async with kiosk_at(clock) as kiosk, kiosk.client() as client:
        client.cookies.update(cookies)
        assert await me(client) == 401
        await kiosk.as_user("technician")
        with kiosk.store.read() as reader:
            assert len(reader.all("SELECT id FROM sessions")) == 1, "what has ended is deleted with the next login"


@pytest.mark.parametrize("jump", [-(10**9), 10**8])
async def test_while_the_agent_runs_no_jump_of_the_wall_clock_ends_or_prolongs_a_session(
    kiosk: Kiosk, jump: int
) -> None:
    """A dead RTC that NTP puts right must not log the kiosk's page out."""
    client = await kiosk.as_user("ui")
    cookies = dict(client.cookies)
    kiosk.clock.jump_wall(jump)
    assert await me(client) == 200
    kiosk.clock.seconds += 901
    client.cookies.update(cookies)
    assert await me(client) == 401


async def test_a_changed_pin_ends_all_sessions_but_gives_the_caller_a_new_one(kiosk: Kiosk) -> None:
    here, there = await kiosk.as_user("technician", "Kim"), await kiosk.as_user("technician", "Kim")
    answer = await here.post(f"{AUTH}/password", json={"current": PIN, "new": "913377"})
    assert answer.status_code == 200
    assert (await me(here), await me(there)) == (200, 401)
    async with kiosk.client() as client:
        assert (await client.post(f"{AUTH}/login", json={"name": "kim", "secret": PIN})).status_code == 401
        assert (await client.post(f"{AUTH}/login", json={"name": "kim", "secret": "913377"})).status_code == 200
    assert kiosk.types().count("auth.user.changed") == 1


async def test_changing_the_pin_needs_the_present_one_and_a_person(kiosk: Kiosk) -> None:
    client = await kiosk.as_user("technician")
    wrong = await client.post(f"{AUTH}/password", json={"current": "555000", "new": "913377"})
    assert (wrong.status_code, wrong.json()["code"]) == (401, "login_failed")
    weak = await client.post(f"{AUTH}/password", json={"current": PIN, "new": "123456"})
    assert (weak.status_code, weak.json()["code"]) == (422, "weak_secret")
    screen = await kiosk.as_user("ui")
    assert (await screen.post(f"{AUTH}/password", json={"current": PIN, "new": "913377"})).status_code == 403
    async with kiosk.client(uid=OWNER) as owner:
        refused = await owner.post(f"{AUTH}/password", json={"current": PIN, "new": "913377"})
        assert (refused.status_code, refused.json()["code"]) == (401, "pin_required")


async def test_the_ui_token_is_traded_for_a_session_of_role_ui(kiosk: Kiosk) -> None:
    async with kiosk.client() as client:
        refused = await client.post(f"{AUTH}/ui", json={"token": UI_TOKEN[:-1] + "x"})
        assert (refused.status_code, refused.json()["code"]) == (401, "ui_token_invalid")
        assert (await client.post(f"{AUTH}/ui", json={"token": UI_TOKEN})).json()["role"] == "ui"
        assert (await client.get(f"{AUTH}/me")).json() == {"role": "ui", "actor": "ui", "user_id": None, "name": None}


async def test_without_a_configured_ui_token_none_is_right(kiosk_at: KioskMaker) -> None:
    async with kiosk_at(ui_token=None) as kiosk, kiosk.client() as client:
        for token in ("", "None", UI_TOKEN):
            assert (await client.post(f"{AUTH}/ui", json={"token": token})).status_code == 401


async def test_so_many_sessions_and_no_more(kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page in a reload loop must not fill the disk: the oldest session makes room."""
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 20)
    first = await kiosk.as_user("ui")
    async with kiosk.client() as client:
        for _ in range(20):
            client.cookies.clear()
            kiosk.clock.go(0.001)
            assert (await client.post(f"{AUTH}/ui", json={"token": UI_TOKEN})).status_code == 200
        assert await me(client) == 200
    assert await me(first) == 401
    with kiosk.store.read() as reader:
        assert len(reader.all("SELECT id FROM sessions")) == 20
