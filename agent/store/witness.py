"""A small second memory of how far the journal had come: 512 bytes beside the file, written without haste.

It is synced at most once a second, so it says nothing about the last second. What it does say: rows up to its seq were
acknowledged, and the row at its seq had this hash. Together with the chain, any change or cut at or before that row is
found at the next start or `kiosk journal verify`; a cut behind it is found by the centre, whose watermark holds every
row it has confirmed. Whoever rewrites both files consistently is found by the centre only.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import UUID

NAME = "journal.head"
_SLOT_BYTES = 512
_SLOTS = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """Row `seq` of this journal was on the disk and had this hash."""

    journal_id: UUID
    seq: int
    hash: bytes


def read_witness(folder: Path) -> Seen | None:
    """The newer of the two slots that is whole; None when there is no file or neither is."""
    path = folder / NAME
    if not path.exists():
        return None
    raw = path.read_bytes()
    slots = (_parse(raw[at : at + _SLOT_BYTES]) for at in range(0, _SLOTS * _SLOT_BYTES, _SLOT_BYTES))
    return max((slot for slot in slots if slot is not None), key=lambda slot: slot[0], default=(0, None))[1]


def _parse(slot: bytes) -> tuple[int, Seen] | None:
    text, mark, _ = slot.partition(b"\n")
    if not mark or sha256(text[65:]).hexdigest().encode() != text[:64]:
        return None
    count, journal_id, seq, hash_ = json.loads(text[65:])
    return count, Seen(UUID(journal_id), seq, bytes.fromhex(hash_))


class Witness:
    """Writes the two slots in turn, so that a torn write costs only the newer one. For the writer thread."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder / NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        raw = os.pread(self._descriptor, _SLOTS * _SLOT_BYTES, 0)
        slots = [_parse(raw[at : at + _SLOT_BYTES]) for at in range(0, _SLOTS * _SLOT_BYTES, _SLOT_BYTES)]
        self._count = max((slot[0] for slot in slots if slot is not None), default=0)
        self.seq = -1

    def write(self, seen: Seen) -> None:
        """Raises `OSError`; the journal does not depend on it."""
        self._count += 1
        text = json.dumps([self._count, str(seen.journal_id), seen.seq, seen.hash.hex()]).encode()
        slot = sha256(text).hexdigest().encode() + b" " + text + b"\n"
        os.pwrite(self._descriptor, slot.ljust(_SLOT_BYTES, b"\0"), self._count % _SLOTS * _SLOT_BYTES)
        os.fdatasync(self._descriptor)
        self.seq = seen.seq

    def close(self) -> None:
        os.close(self._descriptor)
