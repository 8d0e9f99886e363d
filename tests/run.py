"""`make test`: every stage in order, the time of each, and one verdict. `python -m tests.run lint types` runs two.

A stage that fails does not hide the next; the exit status tells whether all passed. Nothing is skipped in silence:
what a stage needs and cannot get makes it fail with a line that says what to install.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GATES = {"agent/domain": 90.0, "agent/store": 90.0, "drivers": 90.0, "sync": 90.0}
SHOWN = ("agent/runtime", "agent/api", "agent/cli", "modules", "config")
SYSTEM = {  # command: Debian packages that bring it
    "chromium": ("chromium", "fonts-dejavu-core"),
    "systemd-analyze": ("systemd",),
}


@dataclass(frozen=True, slots=True)
class Result:
    """How a stage ended; `closing` is the line worth seeing again below everything else."""

    ok: bool
    closing: str = ""


def system() -> Result:
    """Debian packages that tests drive: installed when we are root, else named."""
    if not (missing := _missing()):
        return Result(True)
    packages = [package for command in missing for package in SYSTEM[command]]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", *arguments], check=False, env=quiet, stdout=subprocess.DEVNULL)
    if missing := _missing():
        return Result(False, f"missing: {', '.join(missing)}; install with: apt-get install {' '.join(packages)}")
    return Result(True)


def _missing() -> list[str]:
    return [command for command in SYSTEM if shutil.which(command) is None]


def lint() -> Result:
    """Ruff's rules and its formatting."""
    rules = _module("ruff", "check")
    return Result(_module("ruff", "format", "--check") and rules)


def types() -> Result:
    """Strict types over the whole tree, tests included."""
    return Result(_module("mypy"))


def tests() -> Result:
    """Unit, property, conformance, end to end and browser tests in one session, measured."""
    _module("coverage", "erase")
    workers = min(4, max(2, os.cpu_count() or 1))
    colour = ["--color=yes"] if sys.stdout.isatty() else []
    options = ["-n", str(workers), "--dist", "worksteal", "--cov", "--cov-report=", "--no-skips", *colour]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options], cwd=ROOT, text=True, stdout=subprocess.PIPE, errors="replace"
    )
    closing = ""
    for line in process.stdout or ():
        sys.stdout.write(line)
        sys.stdout.flush()
        closing = line.strip() or closing
    return Result(process.wait() == 0, closing)


def coverage() -> Result:
    """Lines and branches together, per part; the parts in GATES must reach their figure."""
    report = ROOT / "coverage.json"
    report.unlink(missing_ok=True)
    if not _module("coverage", "json", "--quiet", "-o", str(report)):
        return Result(False, "no coverage data: run the stage 'tests' first")
    files: dict[str, Any] = json.loads(report.read_text())["files"]
    low = []
    for part in (*GATES, *SHOWN):
        percent, gate = percent_covered(part, files), GATES.get(part)
        bad = gate is not None and (percent is None or percent < gate)
        low += [part] if bad else []
        figure = "nothing measured" if percent is None else f"{percent:5.1f} %"
        print(f"  {part:14} {figure}{'' if gate is None else f'  (at least {gate:.0f} %)'}{'  TOO LOW' if bad else ''}")
    return Result(not low, f"coverage too low: {', '.join(low)} (see: coverage report)" if low else "")


def percent_covered(part: str, files: dict[str, Any]) -> float | None:
    """Covered lines and branches of a folder in percent, from coverage's JSON report; None if it has none.

    The report leaves the branches out when not one file was measured.
    """
    summaries = [entry["summary"] for path, entry in files.items() if Path(path).is_relative_to(part)]
    total = sum(each["num_statements"] + each.get("num_branches", 0) for each in summaries)
    hit = sum(each["covered_lines"] + each.get("covered_branches", 0) for each in summaries)
    return 100 * hit / total if total else None


def _module(name: str, *arguments: str) -> bool:
    return subprocess.run([sys.executable, "-m", name, *arguments], cwd=ROOT, check=False).returncode == 0


STAGES: dict[str, Callable[[], Result]] = {each.__name__: each for each in (system, lint, types, tests, coverage)}


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in STAGES]:
        print(f"unknown stage: {', '.join(unknown)}; there are: {', '.join(STAGES)}", file=sys.stderr)
        return 2
    table = []
    for name in names or STAGES:
        print(f"\n── {name} " + "─" * (76 - len(name)), flush=True)
        start = time.monotonic()
        table.append((name, STAGES[name](), time.monotonic() - start))
    print("\n── summary " + "─" * 69)
    for name, result, seconds in table:
        print(f"  {name:10} {seconds:7.1f} s  {'ok' if result.ok else 'FAILED'}")
    print(f"  {'all':10} {sum(seconds for *_, seconds in table):7.1f} s\n")
    for _, result, _ in sorted(table, key=lambda row: row[0] == "tests"):  # pytest's own line comes last
        if result.closing:
            print(result.closing)
    return 0 if all(result.ok for _, result, _ in table) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
