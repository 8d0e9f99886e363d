"""CCNET in the manual's own words: commands, poll statuses, sub-codes, and what replies hold.

Source: CashCode NET Document 1, MAN_CCNET rev 2.4.3 (Apr 2006), sections 3.4 (Bill-to-Bill) and 5.4 (validator); names
of sub-codes are ours, stable, and part of journal rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, unique

ADDRESS_B2B = 0x01
ADDRESS_VALIDATOR = 0x03

ACK, NAK, ILLEGAL = 0x00, 0xFF, 0x30
"""One-byte answers; only a frame of the shortest length may be read as one."""

TYPES = 24
TYPE_TICKET = 23
TYPE_ESCROW_CASSETTE = 24


@unique
class Command(IntEnum):
    """Host to device. `label` is the manual's name."""

    ACK = 0x00
    RESET = 0x30
    GET_STATUS = 0x31
    SET_SECURITY = 0x32
    POLL = 0x33
    ENABLE_BILL_TYPES = 0x34
    STACK = 0x35
    RETURN = 0x36
    IDENTIFICATION = 0x37
    HOLD = 0x38
    SET_BARCODE_PARAMETERS = 0x39
    EXTRACT_BARCODE_DATA = 0x3A
    RECYCLING_CASSETTE_STATUS = 0x3B
    DISPENSE = 0x3C
    UNLOAD = 0x3D
    EXTENDED_IDENTIFICATION = 0x3E
    ESCROW_CASSETTE_UNLOAD = 0x3F  # rev 2.3 only
    SET_RECYCLING_CASSETTE_TYPE = 0x40
    GET_BILL_TABLE = 0x41
    DOWNLOAD = 0x50
    GET_CRC32_OF_THE_CODE = 0x51
    MODULE_DOWNLOAD = 0x52
    MODULE_IDENTIFICATION = 0x53
    VALIDATION_MODULE_IDENTIFICATION = 0x54
    REQUEST_STATISTICS = 0x60
    CLOCK = 0x62
    POWER_RECOVERY = 0x66
    EMPTY_DISPENSER = 0x67
    SET_OPTIONS = 0x68
    GET_OPTIONS = 0x69
    EXTENDED_CASSETTE_STATUS = 0x70
    DIAGNOSTIC_SETTING = 0xF0
    NAK = 0xFF

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")


@unique
class Status(IntEnum):
    """First byte of a POLL reply (Z1)."""

    POWER_UP = 0x10
    POWER_UP_WITH_BILL_IN_VALIDATOR = 0x11
    POWER_UP_WITH_BILL_IN_STACKER = 0x12
    INITIALIZE = 0x13
    IDLING = 0x14
    ACCEPTING = 0x15
    STACKING = 0x17
    RETURNING = 0x18
    UNIT_DISABLED = 0x19
    HOLDING = 0x1A
    DEVICE_BUSY = 0x1B
    REJECTING = 0x1C
    DISPENSING = 0x1D
    UNLOADING = 0x1E
    CUSTOM_RETURNING = 0x1F
    RECYCLING_UNLOADING = 0x20
    SETTING_CASSETTE_TYPE = 0x21
    DISPENSED = 0x25
    UNLOADED = 0x26
    CUSTOM_BILLS_RETURNED = 0x27
    INVALID_BILL_NUMBER = 0x28
    CASSETTE_TYPE_SET = 0x29
    ILLEGAL_COMMAND = 0x30
    DROP_CASSETTE_FULL = 0x41
    DROP_CASSETTE_OUT_OF_POSITION = 0x42
    VALIDATOR_JAMMED = 0x43
    DROP_CASSETTE_JAMMED = 0x44
    CHEATED = 0x45
    PAUSE = 0x46
    FAILURE = 0x47
    UNIT_JAMMED = 0x48
    ESCROW_POSITION = 0x80
    BILL_STACKED = 0x81
    BILL_RETURNED = 0x82

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")


REJECT_REASONS = {
    0x60: "insertion",
    0x61: "magnetic",  # some validator texts say dielectric
    0x62: "previous_bill_in_head",
    0x63: "multiplying",
    0x64: "conveying",
    0x65: "identification1",
    0x66: "verification",
    0x67: "optic",
    0x68: "inhibit",
    0x69: "capacitance",
    0x6A: "operation",
    0x6C: "length",
    0x6D: "uv",
    0x92: "barcode_unreadable",
    0x93: "barcode_length",
    0x94: "barcode_start",
    0x95: "barcode_stop",
}
"""REJECTING, second byte. There is no 6B."""

FAILURES = {
    0x10: "internal_software_10",
    0x11: "internal_software_11",
    0x12: "internal_software_12",
    0x13: "internal_software_13",
    0x14: "internal_software_14",
    0x15: "memory",
    0x22: "recovery_mode",
    0x23: "calibration",
    0x30: "boot",
    0x50: "stack_motor",
    0x51: "transport_motor_speed",
    0x52: "transport_motor",
    0x53: "aligning_motor",
    0x54: "initial_cassette_status",
    0x55: "optic_canal",
    0x56: "magnetic_canal",
    0x57: "upper_optical_board",
    0x58: "lower_optical_board",
    0x59: "upper_peripheral_board",
    0x5F: "capacitance_canal",
    0x60: "lower_peripheral_board",
    0xF4: "unknown_stacker_failure",
    0xFE: "cover_open",
}
"""FAILURE of a validator, second byte. 50-5F from the manual; 10-30, 57-60, F4, FE: newer firmware, one source."""

FAILURES_B2B = {
    0x57: "cassette1_motor",
    0x58: "cassette2_motor",
    0x59: "cassette3_motor",
    0x5A: "b2b_transport_motor",
    0x5B: "switch1_motor",
    0x5C: "switch2_motor",
    0x5D: "dispenser1_motor",
    0x5E: "dispenser2_motor",
    0x9F: "transport_channel_blocked",
}
"""FAILURE of a Bill-to-Bill unit (address 01), rev 2.3, beside the validator's own codes."""

JAMS_B2B = {
    0x70: "cassette1",
    0x71: "cassette2",
    0x72: "cassette3",
    0x73: "transport",
    0x74: "switch",
    0x75: "dispenser",
}
"""UNIT JAMMED of a Bill-to-Bill unit, rev 2.3."""


def reject_reason(code: int | None) -> str:
    """Stable name; `unknown_6b` for a code that no source lists, `unspecified` without one."""
    return "unspecified" if code is None else REJECT_REASONS.get(code, f"unknown_{code:02x}")


def failure_reason(code: int | None, address: int = ADDRESS_VALIDATOR) -> str:
    if code is None:
        return "unspecified"
    own = FAILURES_B2B.get(code) if address == ADDRESS_B2B else None
    return own or FAILURES.get(code, f"unknown_{code:02x}")


def mask_of(types: Iterable[int]) -> bytes:
    """Three bytes Y1 Y2 Y3; type n is bit n mod 8 of byte 2 - n/8 (Y3 holds types 0..7)."""
    bits = 0
    for each in types:
        if not 0 <= each < TYPES:
            raise ValueError(f"bill type must be 0..23, got {each}")
        bits |= 1 << each
    return bits.to_bytes(3, "big")


def types_of(mask: bytes) -> list[int]:
    """The bill types whose bits are set in a three-byte mask."""
    bits = int.from_bytes(mask, "big")
    return [each for each in range(TYPES) if bits >> each & 1]


@dataclass(frozen=True, slots=True)
class Identification:
    """`part_number` names the model by its prefix. Clones fill the text bytes differently: nothing here is checked."""

    part_number: str
    serial: str
    asset_hex: str

    @classmethod
    def parse(cls, data: bytes) -> Identification:
        """Sliced by position (15 + 12 + 7 bytes): the text fields touch and hold blanks."""
        return cls(_text(data[:15]), _text(data[15:27]), data[27:34].hex().upper())


def _text(raw: bytes) -> str:
    return "".join(chr(each) if 0x20 < each < 0x7F else " " for each in raw).strip()


MODELS = (  # longest prefix first
    ("ICTV77", "ICT V77E"),
    ("ICTL83", "ICT L83"),
    ("BV009", "ITL NV9"),
    ("BV200", "ITL NV200"),
    ("C100", "Creator C100"),
    ("FLS", "CashCode FLS"),
    ("V77", "ICT V77E"),
    ("SM", "CashCode SM"),
    ("GX", "CashCode GX"),
    ("BB", "CashCode Bill-to-Bill"),
    ("MS", "CashCode MSM"),
    ("VU", "CashCode MVU"),
    ("FL", "CashCode MFL"),
    ("SL", "CashCode SL"),
)


def model_of(part_number: str) -> str:
    """Model family and part number for people: `CashCode MFL (FL-US1701)`."""
    family = next((name for prefix, name in MODELS if part_number.startswith(prefix)), "")
    return f"{family} ({part_number})" if family else part_number
