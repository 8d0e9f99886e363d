"""Guessing: growing delays by name, the same for names that do not exist, across restarts and clock jumps."""

import asyncio
import time

import httpx
import pytest

from agent.api.auth.lockout import NAMES_MAX, Lockout, attempt_key, delay_s
from agent.api.auth.secrets import Cost, Secrets, TooBusy, WeakSecret, check_secret
from tests.api.conftest import PIN, Kiosk, KioskMaker, TestClock

LOGIN = "/api/v1/auth/login"


async def attempt(client: httpx.AsyncClient, name: str = "root", secret: str = "000999") -> httpx.Response:
    return await client.post(LOGIN, json={"name": name, "secret": secret})


async def test_delays_grow_and_a_right_pin_does_not_help_while_locked(kiosk: Kiosk) -> None:
    await kiosk.first_admin()
    async with kiosk.client() as client:
        for delay in (30, 60, 120, 240):
            for _ in range(5 if delay == 30 else 1):
                assert (await attempt(client)).json()["code"] == "login_failed"
            locked = await attempt(client, secret=PIN)
            assert (locked.status_code, locked.json()["code"]) == (429, "locked_out")
            assert locked.headers["Retry-After"] == str(delay)
            kiosk.clock.go(delay + 0.01)
        assert (await attempt(client, secret=PIN)).status_code == 200
        assert (await attempt(client)).status_code == 401, "forgiven: the count starts anew"
        assert (await attempt(client, secret=PIN)).status_code == 200
    assert kiosk.types().count("auth.user.locked_out") == 4


def test_the_delay_is_bounded() -> None:
    assert [delay_s(failures) for failures in (1, 4, 5, 6, 11, 12, 10**6)] == [0, 0, 30, 60, 1920, 3600, 3600]


async def test_unknown_names_are_answered_and_locked_like_known_ones(kiosk: Kiosk) -> None:
    await kiosk.first_admin()
    async with kiosk.client() as client:
        answers = {
            name: [await attempt(client, name=name) for _ in range(7)] for name in ("root", "nobody", " NoBody ")
        }
    seen = {
        name: [
            (each.status_code, each.json()["code"], each.json()["detail"], each.headers.get("Retry-After"))
            for each in got
        ]
        for name, got in answers.items()
    }
    assert seen["root"] == seen["nobody"]
    assert all(status == 429 for status, *_ in seen[" NoBody "]), "the same name, whatever its case"
    assert "nobody" not in str(kiosk.types())


async def test_what_was_typed_as_a_name_is_never_stored_as_text(kiosk: Kiosk) -> None:
    """People type their PIN into the wrong field."""
    async with kiosk.client() as client:
        await attempt(client, name="27041508")
    with kiosk.store.read() as reader:
        [row] = reader.all("SELECT * FROM login_attempts")
    assert row["attempt_key"] == attempt_key("27041508")
    assert b"27041508" not in row["attempt_key"]


async def test_guesses_at_the_same_time_do_not_outrun_the_lock(kiosk: Kiosk) -> None:
    await kiosk.first_admin()
    async with kiosk.client() as client:
        answers = await asyncio.gather(*(attempt(client, secret=f"9{n:05}") for n in range(40)))
    assert sum(each.status_code == 401 for each in answers) <= 5
    assert {each.status_code for each in answers} <= {401, 429, 503}


async def test_the_lock_survives_a_restart_and_no_longer_than_it_was(kiosk_at: KioskMaker) -> None:
    clock = TestClock()
    async with kiosk_at(clock) as kiosk:
        await kiosk.first_admin()
        async with kiosk.client() as client:
            for _ in range(5):
                await attempt(client)
    clock.go(10)
    async with kiosk_at(clock) as kiosk, kiosk.client() as client:
        assert (await attempt(client, secret=PIN)).headers["Retry-After"] == "20"
        clock.go(20.1)
        assert (await attempt(client, secret=PIN)).status_code == 200


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("jump", [-10 * 365 * 86_400, 3600])
async def test_a_clock_jump_neither_frees_nor_locks_for_ever(kiosk_at: KioskMaker, jump: int, restart: bool) -> None:
    """Back ten years: waits what the failures earned, at most. Forward while we run: waits on."""
    clock = TestClock()
    async with kiosk_at(clock) as kiosk:
        await kiosk.first_admin()
        async with kiosk.client() as client:
            for _ in range(5):
                await attempt(client)
            clock.jump_wall(jump)
            if not restart:
                assert (await attempt(client, secret=PIN)).headers["Retry-After"] == "30"
                clock.go(30.1)
                assert (await attempt(client, secret=PIN)).status_code == 200
    if restart:
        async with kiosk_at(clock) as kiosk, kiosk.client() as client:
            await attempt(client, secret=PIN)
            clock.go(30.1)
            assert (await attempt(client, secret=PIN)).status_code == 200


async def test_an_admin_unlocks(kiosk: Kiosk) -> None:
    admin = await kiosk.as_user("admin")
    technician = await kiosk.as_user("technician", "Kim")
    kim = (await technician.get("/api/v1/auth/me")).json()["user_id"]
    async with kiosk.client() as client:
        for _ in range(5):
            await attempt(client, name="kim")
        assert (await attempt(client, name="kim", secret=PIN)).status_code == 429
        listed = {each["name"]: each for each in (await admin.get("/api/v1/auth/users")).json()["users"]}
        assert (listed["Kim"]["locked_for_s"], listed["the admin"]["locked_for_s"]) == (30, 0)
        assert (await admin.post(f"/api/v1/auth/users/{kim}/unlock")).status_code == 204
        assert (await attempt(client, name="kim", secret=PIN)).status_code == 200


async def test_made_up_names_neither_fill_the_table_nor_push_out_a_users_lock(kiosk: Kiosk) -> None:
    await kiosk.first_admin("root")
    lockout = Lockout(kiosk.clock)

    def guesses(tx: object) -> None:
        for _ in range(5):
            lockout.begin(tx, attempt_key("root"))  # type: ignore[arg-type]

    await kiosk.store.transact(guesses, actor="test")
    kiosk.clock.go(1)

    def strangers(tx: object) -> None:
        for number in range(NAMES_MAX + 50):
            lockout.begin(tx, attempt_key(f"nobody {number}"))  # type: ignore[arg-type]

    await kiosk.store.transact(strangers, actor="test")
    with kiosk.store.read() as reader:
        assert len(reader.all("SELECT attempt_key FROM login_attempts")) == NAMES_MAX + 1
    async with kiosk.client() as client:
        assert (await attempt(client, secret=PIN)).status_code == 429


@pytest.mark.serial
async def test_verifying_takes_the_same_time_for_nobody() -> None:
    """Real argon2 costs: else a stopwatch lists the names. Processor time, the least of many."""
    secrets = Secrets(Cost(memory_kib=8192, passes=2))
    stored = await secrets.hash(PIN)
    times: dict[bool, list[float]] = {True: [], False: []}
    for known in (True, False) * 15:
        start = time.process_time()
        assert not await secrets.verify("555000", stored if known else None)
        times[known].append(time.process_time() - start)
    secrets.close()
    known_s, nobody_s = min(times[True]), min(times[False])
    assert 0.5 < known_s / nobody_s < 2, (known_s, nobody_s)


async def test_the_queue_of_hashes_is_bounded_and_the_loop_stays_free() -> None:
    secrets = Secrets(Cost(memory_kib=8192, passes=2), threads=1, waiting_max=3)
    answers = await asyncio.gather(*(secrets.hash(PIN) for _ in range(6)), return_exceptions=True)
    secrets.close()
    assert [isinstance(each, TooBusy) for each in answers] == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    "secret", ["12345", "123456", "890123", "654321", "000000", "112211", "annaanna", "short", "hunter2", "x" * 129]
)
def test_weak_secrets_are_refused(secret: str) -> None:
    with pytest.raises(WeakSecret):
        check_secret(secret, "Anna")


@pytest.mark.parametrize("secret", ["270415", "0099887766", "correct horse", "пароль-кассы"])
def test_good_secrets_pass(secret: str) -> None:
    check_secret(secret, "Anna")
