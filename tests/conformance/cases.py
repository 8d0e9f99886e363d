"""What the suite needs to know of each protocol: fast settings, and what to type at its simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.domain.money import Money


@dataclass(frozen=True, slots=True)
class AcceptorCase:
    """`insert` offers a note of `value`, `insert_other` one of `other`. `lose_ack` makes the device repeat its credit
    event, `garble` damages its next frames."""

    protocol: str
    driver: Mapping[str, Any]
    simulator: Mapping[str, Any]
    insert: str
    value: Money
    insert_other: str
    other: Money
    lose_ack: str
    garble: str


ACCEPTORS = (
    AcceptorCase(
        protocol="ccnet",
        driver={
            "poll_interval_ms": 10,
            "poll_idle_ms": 10,
            "bus_free_ms": 1,
            "reply_timeout_ms": 80,
            "long_reply_timeout_ms": 80,
            "absent_reset_s": 0.3,
        },
        simulator={"speed": 30, "escrow_timeout_ms": 1_000_000, "ack_window_ms": 1_000},
        insert="insert 500",
        value=Money(50_000, "RUB"),
        insert_other="insert 100",
        other=Money(10_000, "RUB"),
        lose_ack="fault lost-ack 2",
        garble="fault bad-crc 2",
    ),
)
"""One line for each `note_acceptor` of the registry; a test compares the two."""
