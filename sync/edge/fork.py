"""Up to where two histories of one journal agree: a search over hashes, a thousand at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from agent.domain.errors import CentreUnavailable
from agent.store.ports import Store
from sync.edge.client import Office
from sync.envelope import COMMON_PREFIX_MAX


async def common_seq(store: Store, office: Office, journal_id: UUID, highest: int) -> int:
    """The highest seq ≤ `highest` at which this journal and the office's copy of it agree; 0 when there is none.

    Agreement is that of a chain: where it holds, it holds for everything before. So each round asks evenly spread rows
    of what is left, and the space shrinks a thousandfold.
    """
    low, high = 0, highest
    while low < high:
        asked = spread(low, high, COMMON_PREFIX_MAX)
        hashes = await asyncio.to_thread(_hashes, store, asked)
        agreed = await office.common_prefix(journal_id, hashes)
        if agreed and agreed not in asked:
            raise CentreUnavailable(f"the office names row {agreed} as common, which it was not asked about")
        if agreed:
            low = agreed
        later = [seq for seq in asked if seq > agreed]
        high = later[0] - 1 if later else low
    return low


def spread(low: int, high: int, most: int) -> list[int]:
    """At most `most` numbers of low+1 … high, ascending, evenly spaced, `high` among them."""
    count = min(most, high - low)
    return [low + (high - low) * (step + 1) // count for step in range(count)]


def _hashes(store: Store, seqs: Sequence[int]) -> list[tuple[int, str]]:
    with store.read() as reader:
        return [(row.seq, row.hash.hex()) for seq in seqs for row in reader.rows(seq - 1, 1)]
