"""The disk-space guard's rules on a disk whose free space the test says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.store.disk import RealDisk
from agent.store.space import RESERVE_NAME, Space, SpaceGuard, SpaceMarks

MARKS = SpaceMarks(low=100, resume=150, critical=20, reserve=30)


class FakeFree(RealDisk):
    """Real files, told free space; `files` is what they take away."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.broken = False
        self.full = False

    def free_bytes(self, folder: Path) -> int:
        if self.broken:
            raise OSError("no answer")
        return self.free

    def extend(self, path: Path, size_bytes: int) -> None:
        super().extend(path, size_bytes)
        if self.full:
            raise OSError("no space left")

    def remove(self, path: Path) -> None:
        if self.broken:
            raise OSError("read-only")
        super().remove(path)


def guard(disk: FakeFree, folder: Path, marks: SpaceMarks = MARKS) -> tuple[SpaceGuard, list[tuple[Space, int]]]:
    heard: list[tuple[Space, int]] = []
    return SpaceGuard(disk, folder, marks, lambda state, free: heard.append((state, free))), heard


def test_money_stops_at_the_low_mark_and_resumes_only_well_above_it(tmp_path: Path) -> None:
    disk = FakeFree(1000)
    watch, heard = guard(disk, tmp_path)
    seen = []
    for free in (1000, 100, 99, 120, 149, 150, 101, 99):
        disk.free = free
        seen.append(watch.look())
    assert seen == [Space.AMPLE, Space.AMPLE, Space.LOW, Space.LOW, Space.LOW, Space.AMPLE, Space.AMPLE, Space.LOW]
    assert heard == [(Space.LOW, 99), (Space.AMPLE, 150), (Space.LOW, 99)]


def test_the_reserve_is_given_up_once_at_the_critical_mark_and_made_again_when_there_is_room(tmp_path: Path) -> None:
    disk, reserve = FakeFree(1000), tmp_path / RESERVE_NAME
    watch, heard = guard(disk, tmp_path)
    watch.look()
    assert reserve.stat().st_size == 30
    disk.free = 19
    assert watch.look() is Space.CRITICAL
    assert not reserve.exists()
    disk.free = 49  # what the reserve gave back is for facts, not for taking money
    assert watch.look() is Space.CRITICAL
    disk.free = 150
    assert watch.look() is Space.CRITICAL  # making the reserve would push it below the mark again
    disk.free = 180
    assert watch.look() is Space.AMPLE
    assert reserve.exists()
    assert [state for state, _ in heard] == [Space.CRITICAL, Space.AMPLE]


def test_a_file_system_that_gives_no_answer_counts_as_full(tmp_path: Path) -> None:
    disk = FakeFree(1000)
    watch, _ = guard(disk, tmp_path)
    watch.look()
    disk.broken = True
    assert watch.look() is Space.CRITICAL
    assert (tmp_path / RESERVE_NAME).exists()  # it could not be deleted; tried again at the next look
    disk.broken, disk.free = False, 10
    watch.look()
    assert not (tmp_path / RESERVE_NAME).exists()


def test_a_reserve_that_does_not_fit_leaves_nothing_half_made(tmp_path: Path) -> None:
    disk = FakeFree(1000)
    disk.full = True
    watch, _ = guard(disk, tmp_path)
    assert watch.look() is Space.AMPLE
    assert not (tmp_path / RESERVE_NAME).exists()
    disk.full, disk.free = False, 129  # there, but making it would leave less than the low mark
    assert watch.look() is Space.AMPLE
    assert not (tmp_path / RESERVE_NAME).exists()


def test_a_reserve_of_nothing_is_no_file(tmp_path: Path) -> None:
    watch, _ = guard(FakeFree(1000), tmp_path, SpaceMarks(low=100, resume=150, critical=20, reserve=0))
    watch.look()
    assert not (tmp_path / RESERVE_NAME).exists()


class NoFiles(FakeFree):
    def extend(self, path: Path, size_bytes: int) -> None:
        """Writes nothing: the property below is about the answers alone."""


@given(st.lists(st.integers(0, 300), max_size=30))
def test_money_is_never_taken_below_the_low_mark(frees: list[int]) -> None:
    disk = NoFiles(1000)
    watch, heard = guard(disk, Path("/nonexistent"))
    for free in frees:
        disk.free = free
        state = watch.look()
        assert (free >= MARKS.low) or state is not Space.AMPLE
        assert (free < MARKS.resume + MARKS.reserve) or state is Space.AMPLE
        assert (free >= MARKS.critical) or state is Space.CRITICAL
    assert all(one != other for (one, _), (other, _) in pairwise(heard))
