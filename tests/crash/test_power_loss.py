"""Power may fail between any two bytes: what was acknowledged is there, dense, chained and summed; nothing is torn."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.domain.errors import StoreError
from agent.store.disk import RealDisk
from agent.store.migrate import migrations
from agent.store.opening import OpenFile
from agent.store.reader import reading
from agent.store.verify import verify
from agent.store.witness import read_witness
from tests.crash.images import Image, images
from tests.crash.vfs import Op
from tests.crash.workload import Recorded, appends, failing_syncs, forking, rebuilding, recorded
from tests.store.helpers import StepClock, seeded, small_settings
from tests.store.projections import TakingsProjection

Scale = Callable[[int, int], int]
SEED = 20_251_122
KNOWN = migrations()
HISTORY_IDS = """
    SELECT id FROM journal UNION ALL
    SELECT id FROM journal_past JOIN journals USING (epoch) WHERE journal_past.seq <= journals.continued_seq
"""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory: images are opened by the thousand."""
    root = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="kiosk-crash-", dir=root if os.access(root, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@dataclass
class Tally:
    states: int = 0
    distinct: int = 0
    violations: int = 0
    first: str = ""


def examine(log: list[Op], folder: Path, wanted: int, seed: int, first: int = 0) -> Tally:
    """Open about `wanted` images with the store's own code and count those that broke a promise."""
    tally, seen = Tally(), set[int]()
    places = sum(image.uncertain for image in images(log, 1, random.Random(0), first))
    each = -(-wanted // places)
    for image in images(log, each, random.Random(seed), first):
        tally.states += 1
        mark = zlib.crc32(repr(sorted((name, zlib.crc32(data)) for name, data in image.files.items())).encode())
        if mark in seen:
            continue
        seen.add(mark)
        tally.distinct += 1
        complaint = complaint_about(image, folder / "image")
        if complaint:
            tally.violations += 1
            tally.first = tally.first or f"cut behind entry {image.cut}, seed {seed}: {complaint}"
    return tally


def complaint_about(image: Image, folder: Path) -> str:
    """Empty when the image opens, verifies and holds everything that was acknowledged."""
    folder.mkdir(mode=0o700)
    try:
        for name, data in image.files.items():
            (folder / name).write_bytes(data)
        return _complaint(image, folder)
    finally:
        shutil.rmtree(folder)


def _complaint(image: Image, folder: Path) -> str:
    file = OpenFile(
        small_settings(folder, wal_size_mib=0.001),
        clock=StepClock(),
        randomness=seeded(9),
        projections=(TakingsProjection(),),
        disk=RealDisk(),
        vfs=None,
        synchronous="FULL",
        schema=KNOWN,
    )
    try:
        file.open()
        with reading(file.engine.connection) as reader:
            verdict = verify(reader, read_witness(folder))
            held = {row["id"] for row in reader.all(HISTORY_IDS)}
    except StoreError as error:
        return f"does not open: {error}"
    finally:
        file.close()
    missing = image.acknowledged - held
    if missing:
        return f"{len(missing)} acknowledged rows are gone"
    return "" if verdict.sound else str(verdict.damages[0])


def migrating(folder: Path) -> list[Op]:
    """A file of the first schema, with rows in it, opened by a release that knows them all."""
    first = {1: KNOWN[1]}
    with recorded(folder, schema=first) as store:
        appends(store, 6, random.Random(3))
        before = store.vfs.log
    with recorded(folder) as store:
        return before + store.vfs.log


def log_of(folder: Path, work: Callable[[Recorded], None], **options: Any) -> list[Op]:
    with recorded(folder, **options) as store:
        work(store)
        return store.vfs.log


def report(name: str, tally: Tally, seed: int) -> None:
    """For the log of a proof: pytest shows it with -s, and always when the test fails."""
    sys.stdout.write(
        f"{name}: {tally.states} states ({tally.distinct} distinct), {tally.violations} violations, seed {seed}\n"
    )


WORKLOADS: dict[str, tuple[float, Callable[[Path], list[Op]]]] = {
    "appends": (0.4, lambda folder: log_of(folder, lambda store: appends(store, 14, random.Random(1)))),
    "rebuild": (0.15, lambda folder: log_of(folder, lambda store: rebuilding(store, random.Random(2)))),
    "fork": (0.2, lambda folder: log_of(folder, lambda store: forking(store, random.Random(4)))),
    "migration": (0.1, migrating),
    "failed syncs": (0.15, lambda folder: log_of(folder, lambda store: failing_syncs(store, random.Random(5)))),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_acknowledged_row_is_lost_wherever_the_power_fails(name: str, memory: Path, scale: Scale) -> None:
    """10⁴ states in CI, 10⁵ as a proof, over all workloads together."""
    share, make = WORKLOADS[name]
    tally = examine(make(memory / "store"), memory, int(share * scale(10_000, 100_000)), SEED)
    report(name, tally, SEED)
    assert tally.violations == 0, tally.first
    assert tally.states >= int(share * scale(10_000, 100_000))


def test_the_harness_finds_rows_lost_without_full_synchronisation(memory: Path) -> None:
    """If it did not, its silence about FULL would mean nothing."""
    log = log_of(memory / "store", lambda store: appends(store, 14, random.Random(1)), synchronous="NORMAL")
    tally = examine(log, memory, 600, SEED)
    report("NORMAL", tally, SEED)
    assert tally.violations > tally.states * 0.3


def test_the_harness_finds_a_store_that_tells_before_the_commit(memory: Path) -> None:
    log = log_of(memory / "store", lambda store: appends(store, 14, random.Random(1)), early=True)
    tally = examine(log, memory, 600, SEED)
    report("told early", tally, SEED)
    assert tally.violations > 0


def test_the_harness_finds_a_store_that_trusts_pages_after_a_failed_sync(memory: Path) -> None:
    """Why the log is ended behind the last good commit: what can still be read there may be gone tomorrow."""
    for seed in range(4):
        log = log_of(memory / f"store-{seed}", lambda store: failing_syncs(store, random.Random(SEED)), forgetful=True)
        tally = examine(log, memory, 600, SEED + seed)
        report("forgetful", tally, SEED + seed)
        if tally.violations:
            return
    pytest.fail("no damage was found")
