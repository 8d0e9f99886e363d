"""UUIDv7 as RFC 9562 lays it out; claim codes that people can read to one another."""

import random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.domain.ids import claim_code, uuid7


def test_the_example_of_the_rfc() -> None:
    """RFC 9562, appendix A.6: 2022-02-22 19:22:22 UTC, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F."""
    random_bytes = ((0xCC3 << 64) | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    assert uuid7(0x017F22E279B0, random_bytes) == UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_ids_sort_by_time(a: int, b: int, random_bytes: bytes) -> None:
    one, other = uuid7(a, random_bytes), uuid7(b, random_bytes)
    assert (one.version, one.variant) == (7, "specified in RFC 4122")
    assert (one < other) == (a < b)


def test_a_clock_beyond_all_bounds_still_gives_an_id() -> None:
    assert uuid7(-5, bytes(10)).int >> 80 == 0
    assert uuid7(2**60, bytes(10)).int >> 80 == 2**48 - 1


def test_the_wrong_number_of_random_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="10 random bytes, got 9"):
        uuid7(0, bytes(9))


def test_claim_codes_have_no_letters_that_look_alike() -> None:
    randomness = random.Random(3).randbytes
    codes = {claim_code(randomness) for _ in range(500)}
    assert len(codes) == 500
    assert {len(code) for code in codes} == {10}
    assert not set("01OIL") & set("".join(codes))


def test_claim_codes_are_drawn_without_bias() -> None:
    """Bytes of 248 and more would favour some letters: they are thrown away and drawn again."""
    answers = iter([b"\xff" * 4, b"\xf8\xf9\x00\x01", b"\x02\x03\x04\x05"])
    assert claim_code(lambda _length: next(answers), 4) == "2345"
