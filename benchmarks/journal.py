"""How close the journal comes to what the disk can do: durable events a second ÷ raw synced writes a second.

Both in the same directory, in turn. Raw: `pwrite` of 4 KiB into a preallocated file and `fdatasync`, nothing else. The
journal: the life of notes in payments (escrowed, stack requested, stacked, acknowledged; created, completed), each
event with its hash, ledger entries, open records and every projection that the agent opens the store with.

python -m benchmarks.journal [--seconds 2] [--pairs 7] [--json FILE] [--directory DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any
from uuid import UUID

import apsw

from agent.domain import events as ev
from agent.domain.ids import uuid7
from agent.domain.money import Money
from agent.runtime.clock import SystemClock
from agent.runtime.projections import PROJECTIONS
from agent.store.connection import PAGE_SIZE_BYTES
from agent.store.engine import Engine, Work
from agent.store.journal import SqliteStore
from agent.store.ports import Transaction
from agent.store.settings import StoreSettings
from agent.store.verify import verify
from benchmarks.pairs import Figure, Pair, figure, percentile
from modules.cash_system.module import MODULE as CASH
from sync.edge import PROJECTIONS as EDGE_PROJECTIONS

SINGLE_GOAL, PRODUCERS_GOAL = 0.45, 5.0
PRODUCERS = 32
TURN_S = 0.25
RAW_FILE_PAGES = 2_048
NOTES_PER_PAYMENT = 3
SYNC_CHECK_COMMITS = 200
FIVE = Money(500, "EUR")


def measure(directory: Path, seconds: float = 2.0, pairs: int = 7) -> list[Figure]:
    """The figures for `make bench`. One turn takes `seconds` for each of its four arms."""
    return _figures(_Bench(directory), seconds, pairs)


def run(seconds: float, pairs: int, json_path: Path | None, directory: Path | None = None) -> dict[str, Any]:
    """The same as a dictionary, printed line by line and kept in `json_path`."""
    with tempfile.TemporaryDirectory(prefix="kiosk-bench-", dir=directory) as place:
        figures = measure(Path(place), seconds, pairs)
    for each in figures:
        print(each.line(), flush=True)
    result = {"figures": [each.json() for each in figures]}
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _figures(bench: _Bench, seconds: float, pairs: int) -> list[Figure]:
    arms: dict[str, Callable[[float], float]] = {
        "single": bench.single,
        "asyncio": lambda wanted: bench.producers(1, wanted),
        "producers": lambda wanted: bench.producers(PRODUCERS, wanted),
    }
    found: dict[str, list[Pair]] = {name: [] for name in arms}
    try:
        bench.single(seconds / 2)  # the log has been through once, caches are warm
        for _ in range(pairs):
            for name, arm in arms.items():
                found[name].append(_pair(bench, arm, seconds))
        notes = bench.check()
    finally:
        bench.close()
    single = figure("journal, one event a commit ÷ raw", found["single"], SINGLE_GOAL, at_least=True, **notes)
    single.notes["through_asyncio"] = round(figure("", found["asyncio"], 0, at_least=True).value, 3)
    group = figure(f"journal, {PRODUCERS} producers ÷ raw", found["producers"], PRODUCERS_GOAL, at_least=True)
    group.notes.update(bench.latencies())
    return [single, group]


def _pair(bench: _Bench, arm: Callable[[float], float], seconds: float) -> Pair:
    """Arm and baseline in short turns: a disk that others use changes its mind within a second."""
    turns = max(1, round(seconds / TURN_S))
    rates, baselines = [], []
    for _ in range(turns):
        baselines.append(bench.raw(TURN_S / 2))
        rates.append(arm(TURN_S))
        baselines.append(bench.raw(TURN_S / 2))
    return Pair(fmean(rates), fmean(baselines))


class _Bench:
    """A store and a raw file in one directory, and how often each was asked to write."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / "state"
        self._randomness = random.Random(1).randbytes
        self._raw = os.open(directory / "raw", os.O_CREAT | os.O_RDWR, 0o600)
        os.pwrite(self._raw, bytes(RAW_FILE_PAGES * PAGE_SIZE_BYTES), 0)
        os.fsync(self._raw)
        self._places = itertools.cycle(range(0, RAW_FILE_PAGES * PAGE_SIZE_BYTES, PAGE_SIZE_BYTES))
        self._store = open_store(self._folder)
        self._stories = [self._story(f"validator-{number}") for number in range(PRODUCERS)]
        self._appended = 0
        self._raw_s: list[float] = []
        self._acked_s: list[float] = []

    def raw(self, seconds: float) -> float:
        """Synced 4 KiB writes a second."""
        block, count, started = b"x" * PAGE_SIZE_BYTES, 0, time.perf_counter()
        while (now := time.perf_counter()) - started < seconds:
            os.pwrite(self._raw, block, next(self._places))
            os.fdatasync(self._raw)
            count += 1
            self._raw_s.append(time.perf_counter() - now)
        return count / (time.perf_counter() - started)

    def single(self, seconds: float) -> float:
        """Events a second, one a commit, as the writer thread does them; checkpoints included."""
        story, log_pages = self._stories[0], int(StoreSettings().wal_size_mib * (1 << 20)) // (PAGE_SIZE_BYTES + 24)

        def task(engine: Engine) -> float:
            count, started = 0, time.perf_counter()
            while time.perf_counter() - started < seconds:
                event = next(story)
                (outcome,) = engine.commit([Work(_appending(event), "device:validator", "trace")])
                assert outcome.error is None, outcome.error
                if engine.wal_pages >= log_pages:
                    engine.checkpoint()
                count += 1
            self._appended += count
            return count / (time.perf_counter() - started)

        return self._store.in_writer_now(task)

    def producers(self, count: int, seconds: float) -> float:
        """Acknowledged events a second of `count` tasks that each wait for every event of theirs."""

        async def produce(story: Iterator[ev.Event], deadline: float) -> int:
            done = 0
            while (before := time.perf_counter()) < deadline:
                await self._store.record([next(story)], actor="device:validator", trace_id="trace")
                done += 1
                if count > 1:
                    self._acked_s.append(time.perf_counter() - before)
            return done

        async def together() -> float:
            started = time.perf_counter()
            done = sum(await asyncio.gather(*(produce(story, started + seconds) for story in self._stories[:count])))
            self._appended += done
            return done / (time.perf_counter() - started)

        return asyncio.run(together())

    def check(self) -> dict[str, Any]:
        """Nothing was skipped: every event is a row, the chain and the sums are sound, and commits really sync."""
        with self._store.read() as reader:
            verdict = verify(reader, None)
        assert verdict.sound, verdict.damages[0]
        assert verdict.rows == self._appended + 1, (verdict.rows, self._appended)
        return {"rows": verdict.rows, **proof_of_syncs(self._folder.parent)}

    def latencies(self) -> dict[str, float]:
        return {
            "ack_p99_ms": round(percentile(self._acked_s, 99) * 1000, 2),
            "raw_p99_ms": round(percentile(self._raw_s, 99) * 1000, 2),
            "raw_per_s": round(len(self._raw_s) / sum(self._raw_s)),
        }

    def close(self) -> None:
        self._store.close_now()
        os.close(self._raw)

    def _story(self, device: str) -> Iterator[ev.Event]:
        """Payments with their notes, one event at a time, without end."""
        while True:
            payment_id, paid = self._new_id(), Money(FIVE.minor * NOTES_PER_PAYMENT, FIVE.currency)
            yield ev.PaymentCreated(
                payment_id=payment_id, amount=paid, reference="room 12", timeout_s=120, deadline_us=1
            )
            for _ in range(NOTES_PER_PAYMENT):
                note: dict[str, Any] = {"device": device, "note_id": self._new_id()}
                yield ev.NoteEscrowed(**note, value=FIVE, note_code=3)
                yield ev.StackRequested(**note, payment_id=payment_id)
                yield ev.NoteStacked(**note, value=FIVE, note_code=3, payment_id=payment_id)
                yield ev.CreditAcknowledged(**note)
            yield ev.PaymentCompletionStarted(payment_id=payment_id)
            yield ev.PaymentCompleted(payment_id=payment_id, paid=paid)

    def _new_id(self) -> str:
        return str(uuid7(time.time_ns() // 1_000_000, self._randomness(10)))


def open_store(folder: Path, vfs: str | None = None) -> SqliteStore:
    """As the agent opens it: default sizes, every projection."""
    return SqliteStore.open(
        StoreSettings(directory=folder),
        clock=SystemClock(),
        randomness=os.urandom,
        projections=[*PROJECTIONS, *EDGE_PROJECTIONS, *CASH.projections],
        vfs=vfs,
    )


def _appending(event: ev.Event) -> Callable[[Transaction], UUID]:
    return lambda tx: tx.append(event).id


# --- does it really sync? --------------------------------------------------------------------------------------------


class _CountingVfs(apsw.VFS):
    """Counts syncs of the log."""

    def __init__(self, name: str) -> None:
        self.syncs = 0
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:
        return _CountingFile(self, name, flags)


class _CountingFile(apsw.VFSFile):
    def __init__(self, vfs: _CountingVfs, name: Any, flags: Any) -> None:
        self._vfs = vfs
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._vfs.syncs += 1


def commit_alone(folder: Path, commits: int, vfs: str | None = None) -> None:
    """So many single commits in a store of their own."""
    store = open_store(folder, vfs)
    try:
        for number in range(commits):
            store.transact_now(_appending(ev.AgentStarted(version=str(number))), actor="agent")
    finally:
        store.close_now()


def proof_of_syncs(directory: Path) -> dict[str, int]:
    """Syncs that SQLite asked for and, where strace is installed, that the kernel was asked for: one a commit or more.

    Raises `AssertionError` when there were fewer.
    """
    vfs = _CountingVfs("kiosk-bench-counting")
    try:
        commit_alone(directory / "counted", SYNC_CHECK_COMMITS, "kiosk-bench-counting")
    finally:
        vfs.unregister()
    found = {"commits": SYNC_CHECK_COMMITS, "syncs": vfs.syncs}
    if shutil.which("strace"):
        found["fdatasyncs"] = _traced(directory)
    assert min(found.values()) >= SYNC_CHECK_COMMITS, found
    return found


def _traced(directory: Path) -> int:
    log = directory / "strace.log"
    command = [sys.executable, "-m", "benchmarks.journal", "--commits", str(SYNC_CHECK_COMMITS)]
    subprocess.run(
        ["strace", "-f", "-o", str(log), "-e", "trace=fdatasync", *command, "--directory", str(directory / "traced")],
        check=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    return log.read_text().count("fdatasync(")


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.journal", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--directory", type=Path, help="on the disk that is meant; else the system's temporary one")
    parser.add_argument("--commits", type=int, help="only so many commits in --directory, for strace")
    arguments = parser.parse_args()
    if arguments.commits is not None:
        commit_alone(arguments.directory, arguments.commits)
        return
    run(arguments.seconds, arguments.pairs, arguments.json, arguments.directory)


if __name__ == "__main__":
    _main()
