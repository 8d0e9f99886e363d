"""From a log of writes and syncs to the disks that a power loss may leave behind.

What was written before the last sync of its file is there. Of everything later each write may be there, missing, torn
at 512-byte sectors, or garbage in one of them, in any order; truncations happened or did not. A deletion is certain
only after a sync of the folder. A failed sync is the worst of all: as on Linux, the kernel throws away what it could
not write and calls it clean, so that no later sync will write it, while readers still see it until the power fails.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.crash.vfs import Kind, Op

SECTOR_BYTES = 512


@dataclass(slots=True)
class _Disk:
    """One file: its synced bytes (None: no such file) and what came after."""

    synced: bytearray | None = None
    pending: list[Op] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Image:
    """What is on the disk after a power loss behind log entry `cut`, and what had been acknowledged by then."""

    cut: int
    files: Mapping[str, bytes]
    acknowledged: frozenset[bytes]
    uncertain: bool


def images(log: list[Op], each: int, chance: random.Random, first: int = 0) -> Iterator[Image]:
    """For every place in the log from `first` on: `each` random images where something was pending, else the only one
    there is."""
    disks: dict[str, _Disk] = {}
    acknowledged: set[bytes] = set()
    for cut, op in enumerate(log):
        if op.kind is Kind.ACK:
            acknowledged.update(op.ids)
        elif op.kind is Kind.SYNC and not op.file:
            _settle_names(disks.values())
        else:
            _advance(disks.setdefault(op.file, _Disk()), op)
        if cut < first:
            continue
        told, uncertain = frozenset(acknowledged), any(disk.pending for disk in disks.values())
        for _ in range(each if uncertain else 1):
            yield Image(cut, _crash(disks, chance), told, uncertain)


def _advance(disk: _Disk, op: Op) -> None:
    if op.kind is Kind.FAILED_SYNC:
        disk.pending.clear()
        return
    if op.kind is not Kind.SYNC:
        disk.pending.append(op)
        return
    for waiting in disk.pending:
        disk.synced = _apply(disk.synced, waiting, waiting.data)
    disk.pending.clear()


def _settle_names(disks: Iterable[_Disk]) -> None:
    for disk in disks:
        deletions = [place for place, op in enumerate(disk.pending) if op.kind is Kind.DELETE]
        if deletions:
            disk.synced, disk.pending = None, disk.pending[deletions[-1] + 1 :]


def _apply(content: bytearray | None, op: Op, data: bytes) -> bytearray | None:
    if op.kind is Kind.DELETE:
        return None
    content = bytearray() if content is None else content
    if op.kind is Kind.TRUNCATE:
        del content[op.at :]
        return content
    end = op.at + len(data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[op.at : end] = data
    return content


def _crash(disks: Mapping[str, _Disk], chance: random.Random) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    kept_share = chance.choice((0.0, 0.5, 0.9, 1.0))
    for name, disk in disks.items():
        content = None if disk.synced is None else bytearray(disk.synced)
        pending = list(disk.pending)
        if chance.random() < 0.5:
            chance.shuffle(pending)
        for op in pending:
            if chance.random() < kept_share:
                content = _apply(content, op, _harm(op.data, content, op.at, chance))
        if content is not None:
            found[name] = bytes(content)
    return found


def _harm(data: bytes, content: bytearray | None, at: int, chance: random.Random) -> bytes:
    """Mostly the data as they are; else torn, or with garbage in one sector."""
    fate = chance.random()
    if fate < 0.7 or not data:
        return data
    harmed = bytearray(data)
    starts = range(0, len(data), SECTOR_BYTES)
    if fate < 0.9:
        old = bytes(len(data)) if content is None else bytes(content[at : at + len(data)]).ljust(len(data), b"\0")
        for start in starts:
            if chance.random() < 0.5:
                harmed[start : start + SECTOR_BYTES] = old[start : start + SECTOR_BYTES]
        return bytes(harmed)
    start = chance.choice(starts)
    garbage = chance.randbytes(min(SECTOR_BYTES, len(data) - start))
    harmed[start : start + len(garbage)] = garbage
    return bytes(harmed)
