"""The stage runner: what it calls good is good, and what it cannot do it says."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests import run


def summary(lines: int, hit: int, branches: int = 0, taken: int = 0) -> dict[str, dict[str, int]]:
    figures = {"num_statements": lines, "covered_lines": hit, "num_branches": branches, "covered_branches": taken}
    return {"summary": figures}


def test_a_gate_counts_lines_and_branches_of_its_own_folder() -> None:
    files = {"sync/a.py": summary(8, 8, 4, 2), "sync/edge/b.py": summary(8, 8), "sync_other/c.py": summary(90, 0)}
    assert run.percent_covered("sync", files) == 90.0
    assert run.percent_covered("drivers", files) is None


def test_a_folder_below_its_gate_or_without_a_figure_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(*arguments: str) -> bool:
        files = {
            "agent/domain/a.py": summary(100, 90),
            "agent/store/a.py": summary(100, 89),
            "sync/a.py": summary(9, 9),
        }
        Path(arguments[-1]).write_text(json.dumps({"files": files}))
        return True

    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "_module", report)
    result = run.coverage()
    assert not result.ok
    assert "agent/store, drivers (" in result.closing
    assert capsys.readouterr().out.count("TOO LOW") == 2


def test_who_is_not_root_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda command: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = run.system()
    assert not result.ok
    assert "apt-get install chromium" in result.closing


def test_one_failed_stage_fails_the_run_and_hides_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {"tests": lambda: run.Result(True, "3 passed"), "types": lambda: run.Result(False, "no good")}
    monkeypatch.setattr(run, "STAGES", stages)
    assert run.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == ["no good", "3 passed"]
    assert run.main(["tests"]) == 0
    assert run.main(["nonsense"]) == 2
