"""What the simulated validator physically holds: notes, tickets, and where each lies. Nothing here knows the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

_EXPONENTS = {"JPY": 0, "KRW": 0}  # of the simulator's own tables; everything else has two decimals


@dataclass(frozen=True, slots=True)
class Entry:
    """One note that the simulated device knows: its bill type, how its table spells the country, and its worth."""

    code: int
    country: str
    currency: str
    value: Decimal

    @property
    def minor(self) -> int:
        return int(self.value.scaleb(_EXPONENTS.get(self.currency, 2)))

    def word(self) -> bytes:
        """Five bytes of the bill table."""
        digits, power = self.value, 0
        while digits != digits.to_integral_value():
            digits, power = digits * 10, power - 1
        while digits > 255 or (power >= 0 and digits % 10 == 0):
            digits, power = digits / 10, power + 1
        scale = power if power >= 0 else 0x80 | -power
        return bytes([int(digits)]) + self.country.encode("ascii") + bytes([scale])


def _preset(country: str, currency: str, values: Mapping[int, str]) -> tuple[Entry, ...]:
    return tuple(Entry(code, country, currency, Decimal(value)) for code, value in values.items())


PRESETS: Mapping[str, tuple[Entry, ...]] = {
    "RUB": _preset("RUS", "RUB", {2: "10", 3: "50", 4: "100", 5: "500", 6: "1000", 7: "5000", 12: "200", 13: "2000"}),
    "USD": _preset("USA", "USD", {0: "1", 1: "5", 2: "10", 3: "20", 4: "50", 5: "100"}),
    "EUR": _preset("EUR", "EUR", {0: "5", 1: "10", 2: "20", 3: "50", 4: "100", 5: "200", 6: "500"}),
    "KZT": _preset("KAZ", "KZT", {2: "200", 3: "500", 4: "1000", 5: "2000", 6: "5000", 7: "10000", 8: "20000"}),
}


def parse_entries(text: str) -> tuple[Entry, ...]:
    """A preset's name, or entries `type=value COUNTRY[/CURRENCY]`, separated by commas: `2=10 RUS/RUB, 8=0.25 EUR`.

    Raises ValueError with what is wrong.
    """
    if text.upper() in PRESETS:
        return PRESETS[text.upper()]
    return tuple(_parse_entry(part.strip()) for part in text.split(",") if part.strip())


def _parse_entry(text: str) -> Entry:
    try:
        code, _, rest = text.partition("=")
        value, country = rest.split()
        country, _, currency = country.partition("/")
        entry = Entry(int(code), country, currency or country, Decimal(value))
    except (ValueError, InvalidOperation) as error:
        presets = ", ".join(PRESETS)
        raise ValueError(f"table entry {text!r}: write type=value COUNTRY[/CURRENCY], or one of {presets}") from error
    if not (0 <= entry.code <= 22 and len(entry.country) == 3 and entry.value > 0):
        raise ValueError(f"table entry {text!r}: type 0..22, a three-letter country, a positive value")
    return entry


@dataclass(slots=True, eq=False)
class Paper:
    """One note or ticket. `code` None: nothing that the device recognises."""

    code: int | None
    minor: int | None = None
    currency: str | None = None
    ticket: str | None = None

    def as_json(self) -> dict[str, Any]:
        shown = {"code": self.code, "value_minor": self.minor, "currency": self.currency, "ticket": self.ticket}
        return {key: value for key, value in shown.items() if value is not None}


@dataclass(slots=True)
class Truth:
    """Where every piece of paper is. `path`: inside the device, neither in the box nor with the customer."""

    stacker: list[Paper] = field(default_factory=list)
    collected: list[Paper] = field(default_factory=list)
    returned: list[Paper] = field(default_factory=list)
    path: Paper | None = None

    def as_json(self) -> dict[str, Any]:
        totals: dict[str, int] = {}
        for paper in [*self.stacker, *self.collected]:
            if paper.minor is not None and paper.currency is not None:
                totals[paper.currency] = totals.get(paper.currency, 0) + paper.minor
        return {
            "stacker": [paper.as_json() for paper in self.stacker],
            "collected": [paper.as_json() for paper in self.collected],
            "returned": [paper.as_json() for paper in self.returned],
            "path": self.path.as_json() if self.path else None,
            "stacked_minor": totals,
        }
