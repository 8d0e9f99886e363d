"""kill -9 of a busy process at random moments, on a real disk, again and again on the same file."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from agent.store.inspect import inspecting
from agent.store.reader import reading
from agent.store.verify import verify
from agent.store.witness import read_witness

ROOT = Path(__file__).resolve().parents[2]
SEED = 11


def test_what_a_killed_process_was_told_is_there(tmp_path: Path, scale: Callable[[int, int], int]) -> None:
    chance = random.Random(SEED)
    told: dict[int, str] = {}
    for _ in range(scale(4, 60)):
        told |= _run_until_killed(tmp_path, lines=chance.randrange(1, 120))
        with inspecting(tmp_path) as connection, reading(connection) as reader:
            verdict = verify(reader, read_witness(tmp_path))
            assert verdict.damages == (), f"seed {SEED}"
            held = {row.seq: row.hash.hex() for row in reader.rows(0, 1_000_000)}
        assert told.items() <= held.items(), f"seed {SEED}"
    assert len(told) > 4


def _run_until_killed(folder: Path, lines: int) -> dict[int, str]:
    """Seq and hash of every row that the process named before it died; the last line may be half."""
    command = [sys.executable, "-m", "tests.crash.appender", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        found += process.stdout.readlines()
    whole = [line.split() for line in found if line.endswith("\n")]
    return {int(seq): hash_ for seq, hash_ in whole}
