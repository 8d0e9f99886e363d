"""The bill table: both spellings of a currency, decimals, gaps; what is not known is refused."""

from decimal import Decimal

import pytest

from agent.domain.events import Denomination
from agent.domain.money import Money
from drivers.ccnet.table import CURRENCIES, CURRENCY_OF_COUNTRY, BillTable, money_of, parse_table, words
from tests.drivers.golden import VECTORS

TABLES = {each["name"]: bytes.fromhex(each["hex"])[3:-2] for each in VECTORS if each["name"].startswith("bill_table")}


def word(digits: int, letters: str, scale: int) -> bytes:
    return bytes([digits]) + letters.encode() + bytes([scale])


def test_golden_tables_in_minor_units() -> None:
    usa = parse_table(TABLES["bill_table_usa_example"])
    assert {code: value.minor for code, value in usa.values.items()} == {0: 100, 1: 500, 2: 1_000, 3: 2_000}
    assert {value.currency for value in usa.values.values()} == {"USD"}
    sparse = parse_table(TABLES["bill_table_sparse_and_decimal"])
    assert sparse.values[8] == Money(25, "EUR")
    assert sparse.values[7] == Money(500_000, "RUB")
    assert set(sparse.values) == set(range(2, 9))


@pytest.mark.parametrize(
    ("spelling", "currency"),
    [("USA", "USD"), ("USD", "USD"), ("RUS", "RUB"), ("RUB", "RUB"), ("RUR", "RUB"), ("EUR", "EUR"), ("KAZ", "KZT")],
)
def test_country_and_currency_spellings(spelling: str, currency: str) -> None:
    assert parse_table(word(5, spelling, 1)).values == {0: Money(5_000, currency)}


def test_the_currencys_own_exponent_counts() -> None:
    assert parse_table(word(1, "JPN", 3)).values == {0: Money(1_000, "JPY")}
    assert parse_table(word(5, "KOR", 3)).values == {0: Money(5_000, "KRW")}


@pytest.mark.parametrize(
    "entry", [word(5, "XYZ", 0), word(5, "us ", 0), word(5, "BEL", 0), b"\x05\xff\xff\xff\x00", word(1, "EUR", 0x83)]
)
def test_what_makes_no_known_money_is_refused(entry: bytes) -> None:
    table = parse_table(entry)
    assert not table.values and set(table.refused) == {0}


def test_absurd_scales_are_refused() -> None:
    for scale in (0x7F, 0xFF):
        assert parse_table(word(255, "EUR", scale)).refused


def test_short_long_and_empty_tables() -> None:
    assert parse_table(b"") == BillTable()
    assert words(bytes(120)) == []
    assert parse_table(word(5, "EUR", 0) + b"\x0a\x45").values == {0: Money(500, "EUR")}
    assert len(parse_table(word(5, "EUR", 0) * 30).values) == 23  # 24 types, of which 23 is the ticket


def test_two_types_of_equal_value_stay_two() -> None:
    table = parse_table(word(5, "EUR", 0) * 2)
    assert table.denominations() == (
        Denomination(code=0, value=Money(500, "EUR")),
        Denomination(code=1, value=Money(500, "EUR")),
    )
    assert BillTable.of(table.denominations()) == BillTable(table.values)


def test_every_mapping_leads_to_an_iso_code() -> None:
    assert all(len(each) == 3 and each.isupper() for each in CURRENCIES)
    assert all(country not in CURRENCIES or CURRENCY_OF_COUNTRY[country] == country for country in CURRENCY_OF_COUNTRY)
    assert money_of("EUR", Decimal("0.001")) == "0.001 EUR is no whole number of minor units"
