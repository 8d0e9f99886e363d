"""Money as integers in minor units with an ISO 4217 currency; unlike currencies never add.

Source of the exponents: ISO 4217 list one (2024); a currency that is not listed has two decimals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from agent.domain.errors import CurrencyMismatch, InvalidMoney

_NO_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DECIMALS = "BHD IQD JOD KWD LYD OMR TND"
_EXPONENTS = dict.fromkeys(_NO_DECIMALS.split(), 0) | dict.fromkeys(_THREE_DECIMALS.split(), 3)
_EXPONENT_DEFAULT = 2
MINOR_MAX = 2**53 - 1  # what a JSON number holds exactly in every reader (ECMA-262 safe integer)


def exponent_of(currency: str) -> int:
    """How many decimals the currency has: 2 for EUR, 0 for JPY, 3 for KWD."""
    return _EXPONENTS.get(currency, _EXPONENT_DEFAULT)


@lru_cache(256)  # amounts are made ten times for one note, of the same two or three currencies
def _is_code(text: str) -> bool:
    return len(text) == 3 and text.isascii() and text.isalpha() and text.isupper()


@dataclass(frozen=True, slots=True, order=False)
class Money:
    """`minor` units (cents, kopecks) of `currency` (three capital letters); negative amounts are allowed in sums.

    Raises `InvalidMoney` for anything that is not an exact integer or not a currency code.
    """

    minor: int
    currency: str

    def __post_init__(self) -> None:
        if type(self.minor) is not int or abs(self.minor) > MINOR_MAX:
            raise InvalidMoney(f"amount_minor must be a whole number up to {MINOR_MAX}, got {self.minor!r}")
        if type(self.currency) is not str or not _is_code(self.currency):
            raise InvalidMoney(f"currency must be three capital letters (ISO 4217), got {self.currency!r}")

    def __add__(self, other: Money) -> Money:
        return Money(self.minor + self._same(other).minor, self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(self.minor - self._same(other).minor, self.currency)

    def __neg__(self) -> Money:
        return Money(-self.minor, self.currency)

    def __lt__(self, other: Money) -> bool:
        return self.minor < self._same(other).minor

    def __le__(self, other: Money) -> bool:
        return self.minor <= self._same(other).minor

    def __gt__(self, other: Money) -> bool:
        return self.minor > self._same(other).minor

    def __ge__(self, other: Money) -> bool:
        return self.minor >= self._same(other).minor

    def __bool__(self) -> bool:
        return self.minor != 0

    def __str__(self) -> str:
        """For logs and people: `12.50 EUR`, `-0.05 EUR`, `700 JPY`."""
        digits = exponent_of(self.currency)
        sign, whole = "-" if self.minor < 0 else "", abs(self.minor)
        if digits == 0:
            return f"{sign}{whole} {self.currency}"
        return f"{sign}{whole // 10**digits}.{whole % 10**digits:0{digits}d} {self.currency}"

    def _same(self, other: Money) -> Money:
        if self.currency != other.currency:
            raise CurrencyMismatch(f"{self} and {other} are of different currencies and do not combine")
        return other

    @classmethod
    def zero(cls, currency: str) -> Money:
        return cls(0, currency)
