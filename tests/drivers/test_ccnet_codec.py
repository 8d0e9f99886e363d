"""Frames in every chunking, company and damage; the simulator's own encoder held against the same golden bytes."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ccnet.codec import LENGTH_SEND_MAX, WIDE_MAX, Decoder, Direction, Frame, Noise, crc16
from drivers.ccnet.wire import Ear, checksum, reply_frame
from tests.drivers.golden import INVALID, VALID, name, raw


def frame_of(vector: dict[str, Any]) -> Frame:
    """The vector's frame, cut by hand from its bytes: address, data and form stand in the vector."""
    data, decoded = raw(vector), vector["decoded"]
    if decoded["lng"] != 0:
        return Frame(decoded["address"], data[3:-2])
    head = {"device": 0, "host": 2}[vector["direction"]]  # the one wide host vector has a subcommand
    return Frame(decoded["address"], data[3 : 3 + head] + data[5 + head : -2], wide=True)


def frames(items: list[Frame | Noise]) -> list[Frame]:
    return [item for item in items if isinstance(item, Frame)]


def test_crc_check_value() -> None:
    assert crc16(b"123456789") == 0x2189
    assert checksum(b"123456789") == bytes([0x89, 0x21])
    steps = [crc16(bytes.fromhex("02 03 06 33")[:n]) for n in range(1, 5)]
    assert steps == [0x2312, 0x012B, 0xFAE6, 0x81DA]


@pytest.mark.parametrize("vector", VALID, ids=name)
def test_golden_frame_in_every_chunking_and_company(vector: dict[str, Any]) -> None:
    """The wire may cut and pad at will: the meaning is the same."""
    wire, frame, direction = raw(vector), frame_of(vector), Direction(vector["direction"])
    assert frame.encode(direction) == wire
    slowly = Decoder(direction, frame.address)
    assert frames([item for byte in wire for item in slowly.feed(bytes([byte]))]) == [frame]
    for at in range(len(wire)):
        cut = Decoder(direction, frame.address)
        assert frames(cut.feed(wire[:at])) + frames(cut.feed(wire[at:])) == [frame]
    items = Decoder(direction, frame.address).feed(b"\xff\x00" + wire + wire)
    assert items == [Noise(b"\xff\x00"), frame, frame]
    assert frames(Decoder(direction, frame.address).feed(wire + b"\x02" + wire)) == [frame, frame]
    assert frames(Decoder(direction, (frame.address + 1) % 16 or 1).feed(wire)) == []


@pytest.mark.parametrize("vector", VALID, ids=name)
def test_no_flipped_bit_passes_for_the_golden_frame(vector: dict[str, Any]) -> None:
    wire, frame, direction = raw(vector), frame_of(vector), Direction(vector["direction"])
    for bit in range(8 * len(wire)):
        flipped = (int.from_bytes(wire, "big") ^ 1 << bit).to_bytes(len(wire), "big")
        assert frame not in Decoder(direction, frame.address).feed(flipped)


def test_a_credit_with_any_other_checksum_or_two_flipped_bits_is_noise() -> None:
    wire = bytes.fromhex("02 03 07 81 02 46 09")
    for crc in range(0x10000):
        candidate = wire[:-2] + crc.to_bytes(2, "little")
        assert bool(frames(Decoder(Direction.DEVICE, 3).feed(candidate))) == (candidate == wire)
    bits = [1 << bit for bit in range(8 * len(wire))]
    for first in bits:
        for second in bits:
            damaged = (int.from_bytes(wire, "big") ^ first ^ second).to_bytes(len(wire), "big")
            assert first == second or not frames(Decoder(Direction.DEVICE, 3).feed(damaged))


@pytest.mark.parametrize("vector", INVALID, ids=name)
def test_invalid_vector_is_noise(vector: dict[str, Any]) -> None:
    decoder = Decoder(Direction(vector["direction"]), vector["decoded"]["address"])
    assert frames(decoder.feed(raw(vector))) == []


def test_resync_after_an_impossible_length_and_a_false_start() -> None:
    """02 occurs inside data: after a false start one byte is dropped, never a whole frame."""
    poll = bytes.fromhex("02 03 06 14 67 D4")
    assert frames(Decoder(Direction.DEVICE, 3).feed(b"\x02\x03\x05" + poll)) == [Frame(3, b"\x14")]
    assert frames(Decoder(Direction.DEVICE, 3).feed(b"\x02\x03\x07" + poll + poll)) == [Frame(3, b"\x14")] * 2


def test_a_gap_ends_an_incomplete_frame_and_frees_what_it_swallowed() -> None:
    decoder = Decoder(Direction.DEVICE, 3)
    assert decoder.feed(b"\x02\x03\x7d\x01") == []
    assert decoder.flush() == [Noise(b"\x02\x03\x7d\x01", "incomplete")]
    assert decoder.flush() == []
    assert decoder.feed(b"\x02\x03\x55" + bytes.fromhex("02 03 07 81 02 46 09")) == []
    assert decoder.flush() == [Noise(b"\x02\x03\x55", "incomplete"), Frame(3, b"\x81\x02")]
    assert decoder.feed(b"\x02\x03") == []
    decoder.clear()
    assert decoder.buffered == 0


def test_a_longer_reply_may_start_like_a_control_frame() -> None:
    assert Frame(3, b"\x00").control == 0x00
    assert Frame(3, b"\x00\x01").control is None
    assert Frame(3, b"\x30", wide=True).control is None


def test_length_zero_is_a_wide_frame_and_bounded() -> None:
    assert (
        frames(Decoder(Direction.DEVICE, 3).feed(b"\x02\x03\x00" + (WIDE_MAX + 1).to_bytes(2, "big") + bytes(9))) == []
    )
    assert frames(Decoder(Direction.DEVICE, 3).feed(b"\x02\x03\x00\x00\x00" + bytes(9))) == []
    biggest = Frame(3, bytes(LENGTH_SEND_MAX - 5))
    assert biggest.encode()[2] == LENGTH_SEND_MAX
    assert Frame(3, bytes(LENGTH_SEND_MAX - 4)).encode(Direction.DEVICE)[2] == 0
    with pytest.raises(ValueError, match="at least one"):
        Frame(3, b"").encode()


@given(
    st.integers(1, 15),
    st.binary(min_size=1, max_size=600),
    st.sampled_from(list(Direction)),
    st.lists(st.integers(1, 40), max_size=30),
)
def test_encode_and_decode_agree(address: int, data: bytes, direction: Direction, cuts: list[int]) -> None:
    frame = Frame(address, data, wide=len(data) + 5 > LENGTH_SEND_MAX)
    if direction is Direction.HOST and frame.wide and data[0] == 0x50 and len(data) < 2:
        return
    wire, decoder, found = frame.encode(direction), Decoder(direction, address), []
    for cut in cuts:
        found += decoder.feed(wire[:cut])
        wire = wire[cut:]
    assert found + decoder.feed(wire) == [frame]


def test_random_bytes_never_raise_and_never_pile_up() -> None:
    dice = random.Random(1)
    decoder = Decoder(Direction.DEVICE, 3)
    heads = [b"\x02\x03", b"\x02\x03\x00", b"\x02\x03\x07\x81", b"\x02\x03\xff"]
    heard = 0
    for _ in range(4_000):
        piece = dice.choice([dice.randbytes(dice.randrange(1, 60)), dice.choice(heads)])
        heard += sum(isinstance(item, Noise) and len(item.raw) for item in decoder.feed(piece))
        assert decoder.buffered < WIDE_MAX
    assert heard > 50_000


@pytest.mark.parametrize("vector", [each for each in VALID if each["direction"] == "device"], ids=name)
def test_the_simulators_own_encoder_writes_golden_bytes(vector: dict[str, Any]) -> None:
    frame = frame_of(vector)
    assert reply_frame(frame.address, frame.data) == raw(vector)


@pytest.mark.parametrize("vector", [each for each in VALID if each["direction"] == "host"], ids=name)
def test_the_simulators_own_ear_reads_golden_bytes(vector: dict[str, Any]) -> None:
    frame, ear = frame_of(vector), Ear()
    heard = [item for n, byte in enumerate(raw(vector)) for item in ear.hear(bytes([byte]), n * 0.001, 0.005)]
    assert [(each.address, each.body, each.sound) for each in heard] == [(frame.address, frame.data, True)]


def test_the_simulators_ear_drops_a_frame_after_a_gap() -> None:
    ear, poll = Ear(), bytes.fromhex("02 03 06 33 DA 81")
    assert ear.hear(poll[:3], 0.0, 0.05) == []
    assert len(ear.hear(poll, 1.0, 0.05)) == 1
    assert [each.sound for each in ear.hear(poll[:-1] + b"\x00", 1.0, 0.05)] == [False]
