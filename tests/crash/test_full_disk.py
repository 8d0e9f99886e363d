"""A disk that fills up for real, a tmpfs in a mount namespace of its own: stop taking money first, then come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SIZE_MIB = 16
ROOT = Path(__file__).resolve().parents[2]


def test_acceptors_stop_before_the_journal_must_refuse_and_resume_by_themselves(tmp_path: Path) -> None:
    """Low is heard before any write fails, facts go on into the reserve, and space that returns is enough."""
    disk = tmp_path / "disk"
    disk.mkdir()
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]
    script = 'mount -t tmpfs -o size="$1"m kiosk-test "$2" || exit 77; exec "$3" -m tests.crash.full_disk "$2"'
    arguments = ["sh", "-c", script, "sh", str(SIZE_MIB), str(disk), sys.executable]
    done = subprocess.run([*namespace, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.fail(f"a tmpfs could not be mounted in a namespace of its own: {done.stderr.strip()}", pytrace=False)
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)
    assert steps["reserve_made"] == 3 << 20
    assert steps["low_before_any_failure"] == ["low"]
    assert steps["reserve_released"]
    assert steps["rows_on_a_full_disk"] > 100
    assert steps["heard"][0] == "low"
    assert "ample" in steps["heard"]
    assert steps["heard"].count("failed") == steps["heard"].count("recovered")
