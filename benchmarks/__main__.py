"""`make bench`: every figure as a ratio (or a time) of one run, median and worst, and the JSON that is kept.

python -m benchmarks [journal] [road] [footprint] [--quick] [--json FILE]; all three by default. Exit status 1 when a
goal is missed. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import footprint, journal, road
from benchmarks.pairs import Figure

RESULTS = Path(__file__).parent / "results" / "local"


def _journal(directory: Path, quick: bool) -> list[Figure]:
    return journal.measure(directory, seconds=1.0 if quick else 2.0, pairs=3 if quick else 7)


def _road(directory: Path, quick: bool) -> list[Figure]:
    return asyncio.run(road.measure(directory, notes=30 if quick else 150))


def _footprint(directory: Path, quick: bool) -> list[Figure]:
    return asyncio.run(footprint.measure(directory, pairs=3 if quick else 5))


PARTS: dict[str, Callable[[Path, bool], list[Figure]]] = {
    "journal": _journal,
    "road": _road,
    "footprint": _footprint,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="which figures; all when none is named")
    parser.add_argument("--quick", action="store_true", help="fewer pairs: to see that it works, not to compare")
    parser.add_argument("--json", type=Path, help="where to keep the result; else benchmarks/results/local/")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    for name in arguments.parts or PARTS:
        print(f"\n── {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="kiosk-bench-", ignore_cleanup_errors=True) as directory:
            found = PARTS[name](Path(directory), arguments.quick)
        for figure in found:
            print(figure.line(), flush=True)
        figures += found
    _keep(figures, arguments.json)
    return 0 if all(figure.reached for figure in figures) else 1


def _keep(figures: list[Figure], path: Path | None) -> None:
    now = datetime.now(UTC)
    if path is None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    report = {
        "taken_at_utc": now.isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "figures": [figure.json() for figure in figures],
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nkept in {path}")


if __name__ == "__main__":
    sys.exit(main())
