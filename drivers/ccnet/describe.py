"""Frames in words and as JSON fields, for people, traces and `kiosk decode`. Decodes Bill-to-Bill replies too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drivers.ccnet.codec import Direction, Frame
from drivers.ccnet.messages import (
    ACK,
    ADDRESS_B2B,
    ILLEGAL,
    NAK,
    TYPE_TICKET,
    TYPES,
    Command,
    Identification,
    Status,
    failure_reason,
    reject_reason,
    types_of,
)
from drivers.ccnet.table import words

Fields = dict[str, Any]

_POLL_REPLY_MAX = 3
_OPTIONS = {7: "lights_off_when_disabled", 6: "hold_bill", 5: "check_for_tape", 4: "secure_path_after_stacking"}


def meaning(direction: Direction, frame: Frame, reply_to: Command | None = Command.POLL) -> str:
    """One line for a trace: `POLL`, `ESCROW POSITION type 2`, `ACK`."""
    name, fields = describe(direction, frame, reply_to)
    for key in ("bill_type", "reason", "busy_ms", "enabled_types"):
        if key in fields and fields[key] is not None:
            return f"{name} {'type ' if key == 'bill_type' else ''}{fields[key]}"
    return name


def describe(direction: Direction, frame: Frame, reply_to: Command | None = None) -> tuple[str, Fields]:
    """(name, fields) of a sound frame. `reply_to` None: a lone reply, read as a poll reply when it can be one."""
    fields: Fields = {"address": frame.address}
    if frame.wide:
        head = 0 if direction is Direction.DEVICE else 1
        fields |= {"lng": 0, "kind": "wide", "total_length": len(frame.data) + 7}
        name = "WIDE FRAME" if direction is Direction.DEVICE else _command(frame, fields)
        subcommand = direction is Direction.HOST and frame.data[0] == Command.DOWNLOAD
        if subcommand:
            fields["subcommand"] = frame.data[1]
        fields["data_len"] = len(frame.data) - head - subcommand
        return name, fields
    fields["lng"] = len(frame.data) + 5
    if direction is Direction.HOST:
        return _command(frame, fields), fields
    if frame.control in _CONTROL_NAMES:
        kind, name = _CONTROL_NAMES[frame.control]
        fields["kind"] = kind
        return name, fields
    command = reply_to or guess_reply_to(frame)
    fields["reply_to"] = command.label
    reader = _REPLIES.get(command)
    if reader is None:
        fields["data_hex"] = frame.data.hex().upper()
        return f"REPLY TO {command.label}", fields
    return reader(frame, fields), fields


_CONTROL_NAMES = {ACK: ("ack", "ACK"), NAK: ("nak", "NAK"), ILLEGAL: ("illegal_command", "ILLEGAL COMMAND")}


def guess_reply_to(frame: Frame) -> Command:
    """A reply does not say what it answers; a lone one is a poll reply unless only another reply has its shape."""
    size = len(frame.data)
    b2b = frame.address == ADDRESS_B2B
    if size <= _POLL_REPLY_MAX:
        return Command.POLL
    if size == 4:
        return Command.GET_CRC32_OF_THE_CODE
    if size in (6, 9) and not (size == 6 and b2b) and not frame.data.isalnum():
        return Command.GET_STATUS
    if size == 34:
        return Command.IDENTIFICATION
    if 6 <= size <= 18 and frame.data.isascii() and frame.data.isalnum():
        return Command.EXTRACT_BARCODE_DATA
    if b2b and size % 2 == 0 and size <= 32:
        return Command.RECYCLING_CASSETTE_STATUS
    if size % 5 == 0 and size <= 5 * TYPES:
        return Command.GET_BILL_TABLE
    return Command.POLL


def known_command(frame: Frame) -> bool:
    """Whether a sound frame makes sense as a host's: a command of the manual with a fitting amount of data."""
    try:
        command = Command(frame.data[0])
    except ValueError:
        return False
    if frame.wide:
        return True
    sizes = _DATA_SIZES.get(command, (0,))
    return sizes is None or len(frame.data) - 1 in sizes


_DATA_SIZES: dict[Command, tuple[int, ...] | None] = {
    Command.SET_SECURITY: (3, 6),
    Command.ENABLE_BILL_TYPES: (6,),
    Command.SET_BARCODE_PARAMETERS: (2,),
    Command.DISPENSE: tuple(range(2, 33, 2)),
    Command.UNLOAD: (2,),
    Command.SET_RECYCLING_CASSETTE_TYPE: (2,),
    Command.DOWNLOAD: None,
    Command.MODULE_DOWNLOAD: None,
    Command.REQUEST_STATISTICS: None,
    Command.DIAGNOSTIC_SETTING: None,
    Command.CLOCK: (0, 7),
    Command.SET_OPTIONS: (4,),
    Command.EXTENDED_CASSETTE_STATUS: (1,),
}
"""Data bytes behind the command; commands not listed have none, None is anything."""


def _command(frame: Frame, fields: Fields) -> str:
    code, data = frame.data[0], frame.data[1:]
    try:
        command = Command(code)
    except ValueError:
        fields |= {"code": code, "data_hex": data.hex().upper()}
        return f"COMMAND {code:02X}"
    if frame.control in (ACK, NAK):
        fields["kind"] = "ack" if frame.control == ACK else "nak"
        return command.label
    fields |= {"cmd": command.label, "code": code}
    if not frame.wide:
        fields |= _command_data(command, data)
    return command.label


def _command_data(command: Command, data: bytes) -> Fields:
    match command, len(data):
        case Command.SET_SECURITY, 3 | 6:
            return {"high_security_types": types_of(data[:3])}
        case Command.ENABLE_BILL_TYPES, 6:
            return {"enabled_types": types_of(data[:3]), "escrow_types": types_of(data[3:])}
        case Command.SET_BARCODE_PARAMETERS, 2:
            return {"format": data[0], "length": data[1]}
        case Command.DISPENSE, _:
            return {"items": [list(data[at : at + 2]) for at in range(0, len(data) - 1, 2) if data[at + 1]]}
        case Command.UNLOAD, 2:
            return {"cassette": data[0], "count": data[1]}
        case Command.SET_RECYCLING_CASSETTE_TYPE, 2:
            return {"cassette": data[0], "bill_type": data[1]}
        case Command.SET_OPTIONS, 4:
            return {"options": [name for bit, name in _OPTIONS.items() if data[0] >> bit & 1]}
        case Command.EXTENDED_CASSETTE_STATUS, 1:
            return {"cassette": data[0]}
        case Command.DOWNLOAD, size if size:
            return {"subcommand": data[0], "data_hex": data[1:].hex().upper()}
        case _, 0:
            return {}
        case _:
            return {"data_hex": data.hex().upper()}


def _poll_reply(frame: Frame, fields: Fields) -> str:
    z1, rest = frame.data[0], frame.data[1:]
    fields["z1"] = z1
    z2 = rest[0] if rest else None
    try:
        status = Status(z1)
    except ValueError:
        fields |= {"state": "UNKNOWN", "data_hex": rest.hex().upper()}
        return f"UNKNOWN STATUS {z1:02X}"
    fields["state"] = status.label
    match status:
        case Status.DEVICE_BUSY:
            fields |= {"z2": z2, "busy_ms": 100 * (z2 or 0)}
        case Status.REJECTING:
            fields |= {"z2": z2, "reason": reject_reason(z2)}
        case Status.FAILURE:
            fields |= {"z2": z2, "reason": failure_reason(z2, frame.address)}
        case Status.ESCROW_POSITION | Status.BILL_STACKED | Status.BILL_RETURNED:
            _note_fields(status, z2, frame, fields)
        case Status.UNLOADED:
            fields["count"] = z2
        case _:
            if z2 is not None and (frame.address != ADDRESS_B2B or any(rest)):
                fields["z2"] = z2
    return status.label


def _note_fields(status: Status, bill_type: int | None, frame: Frame, fields: Fields) -> None:
    fields["bill_type"] = bill_type
    if bill_type == TYPE_TICKET:
        fields["barcode"] = True
    if status is Status.BILL_STACKED:
        fields["credit"] = bill_type != TYPE_TICKET  # a ticket is no money
        if len(frame.data) > 2:
            fields["destination"] = frame.data[2]


def _status_reply(frame: Frame, fields: Fields) -> str:
    fields |= {"enabled_types": types_of(frame.data[:3]), "high_security_types": types_of(frame.data[3:6])}
    if len(frame.data) >= 9:
        fields["recycling_types"] = types_of(frame.data[6:9])
    return "STATUS"


def _identification(frame: Frame, fields: Fields) -> str:
    who = Identification.parse(frame.data)
    fields |= {"part_number": who.part_number, "serial": who.serial, "asset_hex": who.asset_hex}
    return "IDENTIFICATION"


def _bill_table(frame: Frame, fields: Fields) -> str:
    found = words(frame.data)
    fields["bill_types"] = {str(word.code): [word.country, f"{word.value:f}"] for word in found}
    used = {word.code for word in found}
    fields["empty_types"] = _ranges([code for code in range(TYPES) if code not in used])
    return "BILL TABLE"


def _ranges(codes: list[int]) -> str:
    """`4..23`, `0..1,9..23`."""
    runs: list[list[int]] = []
    for code in codes:
        if runs and code == runs[-1][-1] + 1:
            runs[-1].append(code)
        else:
            runs.append([code])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)


def _crc32(frame: Frame, fields: Fields) -> str:
    fields["crc32"] = frame.data.hex()
    return "CRC32 OF THE CODE"


def _barcode(frame: Frame, fields: Fields) -> str:
    fields["barcode"] = frame.data.decode("ascii", "replace")
    return "BARCODE DATA"


def _cassettes(frame: Frame, fields: Fields) -> str:
    pairs = [frame.data[at : at + 2] for at in range(0, len(frame.data) - 1, 2)]
    fields["cassettes"] = [_cassette(state, count) for state, count in pairs]
    return "RECYCLING CASSETTE STATUS"


def _cassette(state: int, count: int) -> Fields:
    if not state & 0x80:
        return {"present": False}
    return {"present": True, "full": bool(state & 0x40), "bill_type": state & 0x1F, "count": count}


_REPLIES: dict[Command, Callable[[Frame, Fields], str]] = {
    Command.POLL: _poll_reply,
    Command.GET_STATUS: _status_reply,
    Command.IDENTIFICATION: _identification,
    Command.GET_BILL_TABLE: _bill_table,
    Command.GET_CRC32_OF_THE_CODE: _crc32,
    Command.EXTRACT_BARCODE_DATA: _barcode,
    Command.RECYCLING_CASSETTE_STATUS: _cassettes,
}
