"""Money is exact, has a currency, and never mixes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.domain.errors import CurrencyMismatch, InvalidMoney
from agent.domain.money import MINOR_MAX, Money, exponent_of
from tests.domain.strategies import CURRENCIES, MONEY

SMALL = st.integers(-(2**40), 2**40)


@given(SMALL, SMALL, CURRENCIES)
def test_sums_are_those_of_the_integers(a: int, b: int, currency: str) -> None:
    assert Money(a, currency) + Money(b, currency) == Money(a + b, currency)
    assert Money(a, currency) - Money(b, currency) == Money(a - b, currency)
    assert -Money(a, currency) == Money(-a, currency)
    assert (Money(a, currency) < Money(b, currency)) == (a < b)
    assert (Money(a, currency) <= Money(b, currency)) == (a <= b)
    assert (Money(a, currency) > Money(b, currency)) == (a > b)
    assert (Money(a, currency) >= Money(b, currency)) == (a >= b)


@given(MONEY)
def test_zero_is_false_and_changes_nothing(money: Money) -> None:
    assert money + Money.zero(money.currency) == money
    assert bool(money) == (money.minor != 0)


def test_unlike_currencies_do_not_combine() -> None:
    euro, yen = Money(1, "EUR"), Money(1, "JPY")
    for combine in (euro.__add__, euro.__sub__, euro.__lt__, euro.__le__, euro.__gt__, euro.__ge__):
        with pytest.raises(CurrencyMismatch):
            combine(yen)


@pytest.mark.parametrize("minor", [1.0, "1", None, True, MINOR_MAX + 1, -MINOR_MAX - 1])
def test_amounts_that_are_not_exact_integers_are_refused(minor: object) -> None:
    with pytest.raises(InvalidMoney):
        Money(minor, "EUR")  # type: ignore[arg-type]


@pytest.mark.parametrize("currency", ["", "EU", "EURO", "eur", "E1R", "ÄÖÜ", None, b"EUR"])
def test_what_is_no_currency_is_refused(currency: object) -> None:
    with pytest.raises(InvalidMoney):
        Money(1, currency)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("money", "text"),
    [
        (Money(1250, "EUR"), "12.50 EUR"),
        (Money(-5, "EUR"), "-0.05 EUR"),
        (Money(700, "JPY"), "700 JPY"),
        (Money(-700, "JPY"), "-700 JPY"),
        (Money(1, "KWD"), "0.001 KWD"),
        (Money(0, "XXX"), "0.00 XXX"),
    ],
)
def test_people_read_it_with_its_decimals(money: Money, text: str) -> None:
    assert str(money) == text


def test_exponents_of_iso_4217() -> None:
    assert [exponent_of(code) for code in ("EUR", "JPY", "KWD", "QQQ")] == [2, 0, 3, 2]
