"""From the validator's wire to the UI's event stream, and from the commit to the row in Postgres.

The clock starts when the device's last byte of BILL STACKED has left it, and stops when the event's last byte has been
read from the SSE socket; one fdatasync, measured in turn in the same directory, is taken off. The way to Postgres
starts at the row's own time (before its commit, so the commit counts too) and ends when another connection sees it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from agent.cli.demo.customer import Customer
from agent.cli.demo.rig import Rig
from benchmarks.pairs import Figure, percentile
from drivers.ccnet.messages import Status
from drivers.ports import Link

STACKED = "cash.note.stacked"
SSE_P99_MS, ROW_P50_MS, ROW_P99_MS = 20.0, 50.0, 250.0
NOTE_MINOR = 500_00


class WatchedLink:
    """The device's end of the line; notes when a BILL STACKED frame has left."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.left_at: list[float] = []

    async def read(self, timeout_s: float) -> bytes:
        return await self._link.read(timeout_s)

    async def write(self, data: bytes) -> None:
        await self._link.write(data)
        if len(data) == 7 and data[3] == Status.BILL_STACKED:
            self.left_at.append(time.perf_counter())

    async def discard_input(self) -> None:
        await self._link.discard_input()

    async def close(self) -> None:
        await self._link.close()


@dataclass(slots=True)
class Samples:
    """Milliseconds, one of each per note."""

    sse: list[float] = field(default_factory=list)
    fdatasync: list[float] = field(default_factory=list)
    row: list[float] = field(default_factory=list)


async def measure(directory: Path, notes: int) -> list[Figure]:
    """Real processes, real polling interval of the driver's fast form; one note at a time on an idle machine."""
    watched: list[WatchedLink] = []

    def watch(link: Link) -> Link:
        watched.append(WatchedLink(link))
        return watched[-1]

    async with Rig(directory, wire=watch) as rig, Customer(rig) as customer:
        samples = Samples()
        gc.collect()
        gc.freeze()  # the device and the UI live in this process: its own collections are not the agent's
        with psycopg.connect(rig.servers.postgres.dsn(), autocommit=True) as postgres:
            async with customer.http.stream("GET", "/events", timeout=None) as stream:
                events = stream.aiter_bytes()
                payment = await customer.open_payment(NOTE_MINOR * (notes + 1), timeout_s=600)
                for _ in range(notes):
                    before = len(watched[0].left_at)
                    await customer.insert(500)
                    seq, arrived, occurred_us = await _stacked(events)
                    samples.sse.append((arrived - watched[0].left_at[before]) * 1000)
                    samples.row.append(await asyncio.to_thread(_row_ms, postgres, seq, occurred_us))
                    samples.fdatasync.append(await asyncio.to_thread(_fdatasync_ms, rig.state_dir))
                await customer.call("POST", f"/cash/payments/{payment['id']}/cancel", {}, key="end")
    return _figures(samples)


async def _stacked(events: Any) -> tuple[int, float, int]:
    """(seq, moment of its last byte, its own time in µs UTC) of the next stacked note on the stream."""
    buffer = b""
    while True:
        buffer += await anext(events)
        now = time.perf_counter()
        *whole, buffer = buffer.split(b"\n\n")
        for message in whole:
            data = b"".join(line[5:].strip() for line in message.splitlines() if line.startswith(b"data:"))
            event = json.loads(data) if data else {}
            if event.get("type") == STACKED:
                return int(str(event["id"]).rpartition(":")[2]), now, _micros(event["time"])


def _micros(text: str) -> int:
    from datetime import datetime

    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)


def _row_ms(postgres: psycopg.Connection[Any], seq: int, occurred_us: int) -> float:
    while postgres.execute("SELECT 1 FROM events WHERE seq = %s", (seq,)).fetchone() is None:
        time.sleep(0.0005)
    return (time.time_ns() / 1000 - occurred_us) / 1000


def _fdatasync_ms(folder: Path) -> float:
    """One 4 KiB overwrite of a preallocated file, synced."""
    path = folder / "fdatasync.bench"
    if not path.exists():
        path.write_bytes(bytes(1 << 20))
    descriptor = os.open(path, os.O_RDWR)
    try:
        started = time.perf_counter()
        os.pwrite(descriptor, os.urandom(4096), 4096)
        os.fdatasync(descriptor)
        return (time.perf_counter() - started) * 1000
    finally:
        os.close(descriptor)


def _figures(samples: Samples) -> list[Figure]:
    sync = median(samples.fdatasync)
    sse = [each - sync for each in samples.sse]
    notes: dict[str, Any] = {"notes": len(sse), "p50_ms": round(median(sse), 2), "fdatasync_ms": round(sync, 3)}
    row_p50, row_p99 = percentile(samples.row, 50), percentile(samples.row, 99)
    return [
        Figure(
            "stacked frame → SSE, minus one fdatasync, p99",
            percentile(sse, 99),
            max(sse),
            SSE_P99_MS,
            at_least=False,
            unit="ms",
            notes=notes,
        ),
        Figure("row's time → row in Postgres, p50", row_p50, max(samples.row), ROW_P50_MS, at_least=False, unit="ms"),
        Figure("row's time → row in Postgres, p99", row_p99, max(samples.row), ROW_P99_MS, at_least=False, unit="ms"),
    ]
