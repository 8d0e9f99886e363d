"""Two histories of one journal: nothing is overwritten, nothing is lost, people are told. DESIGN 8, PROOFS B7, B8."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from agent.domain.chain import JournalRow
from agent.domain.errors import CentreUnavailable
from agent.domain.events import JournalOpened
from agent.domain.wire import event_of
from sync.edge.fork import common_seq, spread
from sync.envelope import Refusal, Watermark
from tests.edge import office_double as double
from tests.edge.clock import FakeClock
from tests.edge.office_double import Journal, OfficeDouble
from tests.edge.rig import Rig


def opened(rig: Rig) -> JournalOpened:
    event = event_of(rig.rows()[0])
    assert isinstance(event, JournalOpened)
    return event


async def test_a_restored_image_goes_on_in_a_new_journal(rig: Rig, tmp_path: Path) -> None:
    """The disk image of an older day is put back: the office is ahead. Its rows stay, ours follow in a new journal."""
    await rig.record(10)
    await rig.converge()
    await rig.image(tmp_path / "image")
    await rig.record(7)
    await rig.converge()
    old, lost = rig.store.journal_id, rig.rows()
    await rig.put_back(tmp_path / "image")
    await rig.record(3)
    await rig.converge()
    assert rig.store.journal_id != old
    assert (opened(rig).previous_journal_id, opened(rig).previous_seq) == (str(old), 11)
    assert rig.office.kiosk.journals[old].rows == lost  # what the office had is still there
    assert rig.office.alarms == ["journal_forked"]
    assert rig.edge.status().forked_from == str(old)
    assert rig.edge.status().alarm is None  # it goes on by itself


async def test_rows_that_differ_from_the_offices_follow_again_in_the_new_journal(rig: Rig, tmp_path: Path) -> None:
    """Put back and used while offline: the same seq, other rows. None is swallowed as a duplicate."""
    await rig.record(5)
    await rig.converge()
    await rig.image(tmp_path / "image")
    await rig.record(20)
    await rig.converge()
    rig.office.always = double.away
    await rig.put_back(tmp_path / "image")
    await rig.record(30)
    mine = {row.id for row in rig.rows()[6:]}
    await rig.converge()
    there = [row.id for journal in rig.office.kiosk.journals.values() for row in journal.rows]
    assert mine <= set(there)
    assert len(there) == len(set(there))


async def test_the_same_image_put_back_twice_forks_twice(rig: Rig, tmp_path: Path) -> None:
    await rig.record(5)
    await rig.converge()
    await rig.image(tmp_path / "image")
    for count in (4, 9):
        await rig.record(count)
        await rig.converge()
        await rig.put_back(tmp_path / "image")
        await rig.record(count)
        await rig.converge()
    assert len(rig.office.kiosk.journals) == 3


async def test_a_clone_and_its_original_both_go_on_and_are_both_complete(
    make_rig: Callable[..., Rig], office: OfficeDouble, clock: FakeClock, tmp_path: Path
) -> None:
    """A cloned disk in a second cabinet: each finds the other's rows, each continues in a journal of its own."""
    first = make_rig()
    await first.start()
    await first.record(8)
    await first.converge()
    await first.image(tmp_path / "kiosk1")
    second = Rig(tmp_path / "kiosk1", office, clock)
    second.random.seed(99)
    await second.start()
    try:
        for _ in range(4):
            await first.record(3)
            await second.record(2)
            await clock.run(120)
        await clock.until(lambda: first.arrived() and second.arrived())
        assert first.store.journal_id != second.store.journal_id
        assert "journal_forked" in office.alarms
        assert first.edge.status().alarm is None and second.edge.status().alarm is None
        forked = len(office.kiosk.journals)
        await first.record(3)
        await second.record(2)
        await clock.until(lambda: first.arrived() and second.arrived())
        assert len(office.kiosk.journals) == forked <= 3  # settled: they do not fork to and fro
    finally:
        await second.stop()


async def test_an_office_put_back_to_before_the_fork_gets_the_past_journal_too(rig: Rig, tmp_path: Path) -> None:
    """Its backup lacks the end of the old journal and all of the new one: both are sent, the old one first."""
    await rig.record(5)
    await rig.converge()
    backup = rig.office.backup()
    await rig.record(25)
    await rig.converge()
    await rig.image(tmp_path / "image")
    await rig.record(5)
    await rig.converge()
    await rig.put_back(tmp_path / "image")
    await rig.record(5)
    await rig.converge()
    assert len(rig.history()) == 2
    rig.office.alarms.clear()
    rig.office.restore(backup)
    await rig.record(1)
    await rig.converge()
    assert rig.office.alarms == ["journal_forked"]  # and no gap
    rig.office.restore({name: double.Kiosk(kiosk.key) for name, kiosk in rig.office.kiosks.items()})  # nothing left
    await rig.record(1)
    await rig.converge()
    assert "journal_gap" not in rig.office.alarms


async def test_a_past_journal_that_a_clone_continued_earlier_is_left_alone(rig: Rig, tmp_path: Path) -> None:
    """Rewound office and a clone at once: the past journal's end is not taken any more; the present one goes on."""
    await rig.record(10)
    await rig.converge()
    await rig.image(tmp_path / "image")
    await rig.record(5)
    await rig.converge()
    old = rig.store.journal_id
    await rig.put_back(tmp_path / "image")
    await rig.record(5)
    await rig.converge()
    kiosk = rig.office.kiosk
    del kiosk.journals[rig.store.journal_id]
    kiosk.journals[old] = Journal(kiosk.journals[old].rows[:4], continued_at=4)
    await rig.record(1)
    await rig.clock.run(60)
    assert kiosk.journals[rig.store.journal_id].rows == rig.rows()
    assert rig.edge.status().lag_rows == 0


async def test_a_fork_found_while_another_part_works_through_old_rows_waits(rig: Rig, tmp_path: Path) -> None:
    """The store refuses to fork under a handler's feet; the uplink tries again."""
    await rig.record(10)
    await rig.converge()
    await rig.image(tmp_path / "image")
    await rig.record(5)
    await rig.converge()
    rig.office.always = double.away
    await rig.put_back(tmp_path / "image")
    await rig.store.cursor("slow handler")
    rig.office.always = None
    await rig.clock.run(30)
    assert rig.edge.status().error_code == "fork_refused"
    await rig.store.advance("slow handler", 11)
    await rig.converge()


async def test_an_office_gone_mad_does_not_make_the_kiosk_fork_for_ever(rig: Rig) -> None:
    """It calls every journal a fork: one new journal at most, then an alarm, and slow tries."""
    real = rig.office._mark

    def mad(kiosk_id: str, journal_id: UUID) -> Watermark:
        return Watermark(str(journal_id), 10_000, "00" * 32)

    rig.office._mark = mad  # type: ignore[method-assign]
    await rig.record(3)
    await rig.clock.run(3 * 3_600)
    assert len(rig.history()) == 2
    assert rig.edge.status().alarm == Refusal.FORK
    rig.office._mark = real  # type: ignore[method-assign]
    await rig.converge()


async def test_an_office_that_answers_about_another_journal_is_not_believed(rig: Rig) -> None:
    real = rig.office._mark
    rig.office._mark = lambda kiosk_id, journal_id: Watermark(str(UUID(int=1)), 1, "00" * 32)  # type: ignore[method-assign]
    rig.office.forget_tokens()
    rig.office.faults.append(double.away)
    await rig.record(3)
    await rig.clock.run(60)
    assert "another" in (rig.edge.status().error_text or "")
    rig.office._mark = real  # type: ignore[method-assign]
    await rig.converge()
    assert len(rig.history()) == 1


@pytest.mark.parametrize(
    "low, high, most", [(0, 1, 1000), (0, 5, 3), (0, 1000, 1000), (7, 8, 10), (0, 10**9, 1000), (3, 3, 5)]
)
def test_spread_asks_within_its_bounds_and_always_the_highest(low: int, high: int, most: int) -> None:
    asked = spread(low, high, most)
    assert asked == sorted(set(asked))
    assert len(asked) == min(most, high - low)
    assert all(low < seq <= high for seq in asked)
    assert asked[-1:] == ([high] if high > low else [])


class Prefix:
    """An office that shares rows up to `common`, and a journal of `head` rows, without either."""

    def __init__(self, common: int, head: int) -> None:
        self.common, self.head, self.asked = common, head, 0

    async def common_prefix(self, journal_id: UUID, hashes: list[tuple[int, str]]) -> int:
        self.asked += 1
        return max((seq for seq, _ in hashes if seq <= self.common), default=0)

    def read(self) -> Prefix:
        return self

    def __enter__(self) -> Prefix:
        return self

    def __exit__(self, *_: object) -> None: ...

    def rows(self, after: int, limit: int) -> list[JournalRow]:
        zero = UUID(int=0)
        return [JournalRow(after + 1, zero, "", 1, 0, zero, 0, "", "", "", b"", b"", b"")]


@pytest.mark.parametrize("common", [0, 1, 999, 1000, 1001, 123_456_789, 999_999_999, 10**9])
async def test_the_common_prefix_of_a_billion_rows_is_found_in_a_few_questions(common: int) -> None:
    both = Prefix(common, 10**9)
    assert await common_seq(both, both, UUID(int=1), both.head) == common  # type: ignore[arg-type]
    assert both.asked <= 4


async def test_a_common_row_that_was_not_asked_about_is_not_believed() -> None:
    both = Prefix(5, 10**6)
    both.common_prefix = lambda journal_id, hashes: asyncio.sleep(0, 123)  # type: ignore[method-assign]
    with pytest.raises(CentreUnavailable):
        await common_seq(both, both, UUID(int=1), both.head)  # type: ignore[arg-type]
