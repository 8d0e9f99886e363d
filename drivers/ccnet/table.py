"""The bill table: 24 words of 5 bytes, `digits c1 c2 c3 scale`, to `Money`. Source: MAN_CCNET rev 2.4.3, 5.4.

Firmware writes an ASCII country or currency code; both spellings are mapped, a code that is not known here is refused:
a wrong guess would invent money.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from agent.domain.events import Denomination
from agent.domain.money import MINOR_MAX, Money, exponent_of
from drivers.ccnet.messages import TYPE_TICKET, TYPES

WORD = 5
_SPELLINGS = (
    "USA USD, RUS RUB, RUR RUB, KAZ KZT, UKR UAH, BLR BYN, BYR BYN, ARM AMD, GEO GEL, AZE AZN, UZB UZS, KGZ KGS, "
    "TJK TJS, TKM TMT, MDA MDL, MNG MNT, TUR TRY, POL PLN, CZE CZK, HUN HUF, ROM RON, ROU RON, SRB RSD, BIH BAM, "
    "MKD MKD, ALB ALL, CHE CHF, GBR GBP, SWE SEK, NOR NOK, DNK DKK, ISL ISK, CAN CAD, MEX MXN, GTM GTQ, CRI CRC, "
    "DOM DOP, BRA BRL, ARG ARS, CHL CLP, COL COP, PER PEN, URY UYU, PRY PYG, BOL BOB, ISR ILS, ARE AED, UAE AED, "
    "SAU SAR, QAT QAR, KWT KWD, BHR BHD, OMN OMR, JOR JOD, LBN LBP, IRQ IQD, IRN IRR, EGY EGP, MAR MAD, TUN TND, "
    "DZA DZD, ZAF ZAR, KEN KES, NGA NGN, GHA GHS, IND INR, PAK PKR, BGD BDT, LKA LKR, NPL NPR, CHN CNY, HKG HKD, "
    "TWN TWD, JPN JPY, KOR KRW, THA THB, VNM VND, PHL PHP, MYS MYR, SGP SGD, IDN IDR, AUS AUD, NZL NZD, EUR EUR"
)
CURRENCY_OF_COUNTRY: Mapping[str, str] = dict(pair.split() for pair in _SPELLINGS.split(", "))
"""ISO 3166 country codes, and old spellings (RUR and BYR before a redenomination, ROM, UAE), to ISO 4217. Left out on
purpose: BEL (Belgium in ISO 3166, Belarus in some firmware), BGR and HRV (before or after the euro?)."""
CURRENCIES = frozenset(CURRENCY_OF_COUNTRY.values())


@dataclass(frozen=True, slots=True)
class Word:
    """One entry as the device writes it."""

    code: int
    country: str
    value: Decimal


@dataclass(frozen=True, slots=True)
class BillTable:
    """`values`: money by bill type. `refused`: types whose word makes no known money, with the reason."""

    values: Mapping[int, Money] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, denominations: tuple[Denomination, ...]) -> BillTable:
        return cls({each.code: each.value for each in denominations})

    def denominations(self) -> tuple[Denomination, ...]:
        return tuple(Denomination(code=code, value=value) for code, value in sorted(self.values.items()))


def words(data: bytes) -> list[Word]:
    """The entries that are not empty. Bytes that were not sent count as zero; the table may have gaps."""
    found = []
    padded = data[: TYPES * WORD].ljust(-(-min(len(data), TYPES * WORD) // WORD) * WORD, b"\0")
    for code in range(len(padded) // WORD):
        digits, *letters, scale = padded[code * WORD : (code + 1) * WORD]
        if digits == 0:
            continue
        power = scale & 0x7F
        value = Decimal(digits).scaleb(-power if scale & 0x80 else power)
        found.append(Word(code, bytes(letters).decode("ascii", "replace"), value))
    return found


def parse_table(data: bytes) -> BillTable:
    """The reply of GET BILL TABLE. Type 23 is the ticket and never money, whatever its word says."""
    values: dict[int, Money] = {}
    refused: dict[int, str] = {}
    for word in words(data):
        if word.code == TYPE_TICKET:
            continue
        money = money_of(word.country, word.value)
        if isinstance(money, Money):
            values[word.code] = money
        else:
            refused[word.code] = money
    return BillTable(values, refused)


def money_of(country: str, value: Decimal) -> Money | str:
    """`value` of a country's or currency's note in minor units; a text that says why not."""
    currency = CURRENCY_OF_COUNTRY.get(country, country)
    if currency not in CURRENCIES:
        return f"unknown currency {country!r}"
    minor = value.scaleb(exponent_of(currency))
    if minor != minor.to_integral_value() or not 0 < minor <= MINOR_MAX:
        return f"{value} {currency} is no whole number of minor units"
    return Money(int(minor), currency)
