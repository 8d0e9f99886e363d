"""Reasons inhibit at once, lift by themselves, and both stand in the journal."""

from __future__ import annotations

from collections.abc import Callable

from agent.domain.errors import StoreError
from agent.domain.events import AcceptanceInhibited, AcceptanceResumed, Event
from agent.runtime.checks import ClockJudge, CommitWatch
from agent.runtime.guard import CLOCK_ABSURD, COMMITS_SLOW, DISK_LOW, STOPPING, STORE_FAILED, Guard, recorded_troubles
from agent.store.journal import SqliteStore
from tests.runtime.fakes import START_US, FakeClock

BUILT_US = START_US - 10**12
HOUR_US = 3_600_000_000


def about_acceptance(events: list[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, AcceptanceInhibited | AcceptanceResumed)]


def test_any_reason_forbids_and_the_last_to_go_allows(clock: FakeClock) -> None:
    guard, seen = Guard(clock), []
    guard.subscribe(lambda: seen.append(guard.is_clear()))
    guard.set(DISK_LOW, "full")
    guard.set(STORE_FAILED, "EIO")
    guard.lift(DISK_LOW)
    assert not guard.is_clear()
    guard.lift(STORE_FAILED)
    assert guard.is_clear()
    assert seen == [False, False, False, True]
    assert guard.troubles() == {}


async def test_changes_reach_the_journal_once(
    store: SqliteStore, clock: FakeClock, recorded: Callable[[], list[Event]]
) -> None:
    guard = Guard(clock)
    guard.set(DISK_LOW, "full")
    guard.set(DISK_LOW, "fuller")
    await guard.record_changes(store)
    await guard.record_changes(store)
    guard.lift(DISK_LOW)
    guard.lift(DISK_LOW)
    await guard.record_changes(store)
    assert about_acceptance(recorded()) == [
        AcceptanceInhibited(reason=DISK_LOW, detail="full"),
        AcceptanceResumed(reason=DISK_LOW),
    ]


async def test_rows_wait_for_a_store_that_is_away(
    store: SqliteStore, clock: FakeClock, recorded: Callable[[], list[Event]]
) -> None:
    """The store's own failure is told to the journal when there is one again, in both directions."""

    class Away:
        async def record(self, events: object, *, actor: str) -> None:
            raise StoreError("away")

    guard = Guard(clock)
    guard.set(STORE_FAILED, "EIO")
    await guard.record_changes(Away())  # type: ignore[arg-type]
    guard.lift(STORE_FAILED)
    await guard.record_changes(store)
    assert [type(event) for event in about_acceptance(recorded())] == [AcceptanceInhibited, AcceptanceResumed]


async def test_what_an_earlier_run_left_inhibited_is_closed_or_kept(
    store: SqliteStore, clock: FakeClock, recorded: Callable[[], list[Event]]
) -> None:
    before = Guard(clock)
    before.set(DISK_LOW, "full")
    before.set(CLOCK_ABSURD, "1970", reference_us=7)
    await before.record_changes(store)
    with store.read() as reader:
        assert recorded_troubles(reader) == {DISK_LOW: None, CLOCK_ABSURD: 7}
        after = Guard(clock)
        after.restore(recorded_troubles(reader))
    after.set(CLOCK_ABSURD, "still 1970")
    after.lift(DISK_LOW)
    await after.record_changes(store)
    assert about_acceptance(recorded())[2:] == [AcceptanceResumed(reason=DISK_LOW)]


async def test_stopping_inhibits_but_is_no_row_of_its_own(store: SqliteStore, clock: FakeClock) -> None:
    guard = Guard(clock)
    guard.set(STOPPING, "SIGTERM")
    await guard.record_changes(store)
    assert not guard.is_clear()
    with store.read() as reader:
        assert recorded_troubles(reader) == {}


def judge(clock: FakeClock, reference_us: int | None) -> ClockJudge:
    return ClockJudge(clock, BUILT_US, reference_us)


def test_a_clock_before_the_build_or_far_from_the_last_record_is_absurd(clock: FakeClock) -> None:
    """Promise 5: before the build date, more than 24 h before the last row, more than a year ahead of it."""
    day = 24 * HOUR_US
    for wall_us, reference_us, believed in [
        (START_US, None, True),
        (BUILT_US - 1, None, False),
        (0, START_US, False),
        (START_US, START_US + day, True),
        (START_US, START_US + day + 1, False),
        (START_US, START_US - 365 * day, True),
        (START_US, START_US - 365 * day - 1, False),
    ]:
        clock.wall_us = wall_us
        assert (judge(clock, reference_us).objection() is None) is believed, (wall_us, reference_us)


async def test_a_clock_that_jumps_stops_money_and_comes_back_by_itself(clock: FakeClock) -> None:
    guard, watch = Guard(clock), judge(clock, None)
    watch.check(guard)
    clock.wall_us += 3 * 365 * 24 * HOUR_US
    for _ in range(3):
        await clock.advance(10)
        watch.check(guard)
        assert guard.has(CLOCK_ABSURD), "asking again does not make it right"
    assert guard.troubles()[CLOCK_ABSURD].reference_us == START_US
    clock.wall_us -= 3 * 365 * 24 * HOUR_US
    watch.check(guard)
    assert guard.is_clear()


def test_a_technician_may_say_that_the_clock_is_right(clock: FakeClock) -> None:
    guard, watch = Guard(clock), judge(clock, START_US + 900 * 24 * HOUR_US)
    watch.check(guard)
    assert guard.has(CLOCK_ABSURD)
    watch.accept()
    watch.check(guard)
    assert guard.is_clear()


def test_small_steps_back_do_not_add_up(clock: FakeClock) -> None:
    """A clock that loses 23 h at every look is caught at the second, not believed for ever."""
    guard, watch = Guard(clock), judge(clock, None)
    watch.check(guard)
    for _ in range(2):
        clock.wall_us -= 23 * HOUR_US
        watch.check(guard)
    assert guard.has(CLOCK_ABSURD)


def test_two_slow_commits_in_a_row_stop_money_and_a_quick_one_lets_it_flow(clock: FakeClock) -> None:
    guard = Guard(clock)
    watch = CommitWatch(guard, clock, slow_s=1.0)
    for seconds, clear in [(2.0, True), (0.1, True), (2.0, True), (2.0, False), (3.0, False), (0.1, True)]:
        watch.took(seconds)
        assert guard.is_clear() is clear
    assert COMMITS_SLOW not in guard.troubles()
