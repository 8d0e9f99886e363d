"""The benchmark itself: it counts its rows, verifies its journal and proves that commits sync."""

from pathlib import Path

from benchmarks.journal import SYNC_CHECK_COMMITS, measure


def test_the_benchmark_runs_and_checks_itself(tmp_path: Path) -> None:
    single, group = measure(tmp_path, seconds=0.1, pairs=1)
    assert single.notes["syncs"] >= SYNC_CHECK_COMMITS
    assert single.notes["rows"] > 1
    assert 0 < single.value < 2
    assert group.value > 0
