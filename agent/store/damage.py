"""What can be wrong with a journal, in words that people, logs and programs share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Damage:
    """`seq` is the first row concerned. `reason` is stable: `gap`, `broken_link`, `wrong_hash`, `wrong_start`,
    `rows_missing`, `row_changed`, `ledger_differs`, `ledger_unbalanced`, `open_records_differ`, `file_corrupt`."""

    epoch: int
    seq: int
    reason: str
    detail: str = ""
