"""`decode` and `replay` for the command line: frames and recorded conversations as JSON-able objects."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from agent.domain import events as ev
from agent.domain import wire
from agent.domain.errors import DomainError
from agent.domain.ids import uuid7
from agent.domain.money import Money
from drivers.ccnet.codec import LENGTH_MIN, SYNC, Decoder, Direction, Frame, Noise, crc16
from drivers.ccnet.describe import describe, known_command
from drivers.ccnet.machine import CcnetMachine
from drivers.ccnet.messages import Command
from drivers.ccnet.requests import Request, answers_with_data
from drivers.ccnet.settings import CcnetSettings
from drivers.ccnet.table import money_of, parse_table

PROTOCOL = "ccnet"
_WIDE_MAX = 0xFFFF


class BadInput(DomainError):
    """A trace or a value file cannot be read; the message names the line."""

    code = "bad_input"
    http_status = 422


# --- decode


def decode(lines: Iterable[str], direction: str | None = None) -> Iterator[dict[str, Any]]:
    """One object per line of hex. A line may begin with `host` or `device`; else `direction`, else host wins a guess.

    After a host frame a reply is read as the answer to it; a lone reply as a poll reply.
    """
    asked: Command | None = None
    for line in lines:
        words = line.replace(",", " ").split()
        if not words:
            continue
        said = direction
        if words[0].rstrip(":").lower() in ("host", "device"):
            said = words.pop(0).rstrip(":").lower()
        result, asked = _decode_one("".join(words), said, asked)
        yield result


def _decode_one(text: str, said: str | None, asked: Command | None) -> tuple[dict[str, Any], Command | None]:
    shown = text.upper()
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return _invalid(shown, said or "host", "not hexadecimal bytes", {}), asked
    shown = raw.hex(" ").upper()
    readings = {each: _read(raw, each) for each in Direction if said in (None, each.value)}
    sound = {each: frame for each, frame in readings.items() if isinstance(frame, Frame)}
    if not sound:
        where, problem = next(iter(readings.items()))
        fields = {"address": raw[1], "lng": raw[2]} if len(raw) > 2 else {}
        where = where if said else _likely(raw)
        return _invalid(shown, where.value, str(problem), fields), asked
    if said is None and Direction.HOST in sound and not known_command(sound[Direction.HOST]):
        del sound[Direction.HOST]
    if not sound:
        return _invalid(shown, "host", "no command of the manual", {"address": raw[1], "lng": raw[2]}), asked
    (where, frame), *others = sound.items()
    answers = where is Direction.DEVICE and asked is not None and Request(asked).fits(frame)
    name, fields = describe(where, frame, asked if answers else None)
    result = _result(shown, where.value, name, fields)
    for other, other_frame in others:
        also_name, also_fields = describe(other, other_frame)
        if also_fields.get("state") != "UNKNOWN":
            result["also"] = {"direction": other.value, "name": also_name, "fields": also_fields}
    if frame.control in (Command.ACK, Command.NAK):
        return result, asked
    asks = where is Direction.HOST and known_command(frame)
    command = Command(frame.data[0]) if asks else None
    return result, command if command is not None and answers_with_data(command) else None


def _read(raw: bytes, direction: Direction) -> Frame | str:
    """The one frame that `raw` is, or why it is none."""
    if not raw or raw[0] != SYNC:
        return "does not start with 02"
    if len(raw) < 3:
        return "truncated"
    length = raw[2]
    if 0 < length < LENGTH_MIN:
        return f"length below {LENGTH_MIN}"
    found = Decoder(direction, wide_max=_WIDE_MAX).feed(raw)
    if len(found) == 1 and isinstance(found[0], Frame):
        return found[0]
    if not 0x01 <= raw[1] <= 0x0F:
        return f"address {raw[1]:02X} is not 01..0F"
    if length == 0:
        return "truncated" if not found else "crc"
    if len(raw) < length:
        return "truncated"
    if crc16(raw[:length]) != 0:
        return "crc"
    return f"{len(raw) - length} bytes after the frame"


def _likely(raw: bytes) -> Direction:
    """For a damaged frame: whose it would have been."""
    return Direction.HOST if len(raw) > 5 and known_command(Frame(raw[1], raw[3:-2])) else Direction.DEVICE


def _invalid(shown: str, direction: str, error: str, fields: dict[str, Any]) -> dict[str, Any]:
    return _result(shown, direction, "INVALID", fields, error)


def _result(shown: str, direction: str, name: str, fields: dict[str, Any], error: str | None = None) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "direction": direction,
        "hex": shown,
        "valid": error is None,
        "error": error,
        "name": name,
        "fields": fields,
    }


# --- replay


@dataclass(frozen=True, slots=True)
class _Line:
    direction: Direction
    raw: bytes
    at_s: float | None


def replay(lines: Iterable[str], table: str | None = None) -> Iterator[dict[str, Any]]:
    """Domain events of a recorded conversation, then what was credited per currency. Raises `BadInput`."""
    trace = [_parse_line(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    frames = list(_frames(trace))
    address = next((frame.address for _, frame, _ in frames), 3)
    settings = CcnetSettings.model_construct(**{**CcnetSettings().model_dump(), "address": address})
    machine = CcnetMachine("replay", settings, _numbered_ids())
    known = _table_of(table) if table is not None else _table_in(frames)
    if known:
        online = ev.DeviceOnline(device="replay", protocol=PROTOCOL, table=known)
        machine.know(online)
    credited: dict[str | None, list[int]] = defaultdict(list)
    for direction, frame, now in frames:
        for event in machine.observe(direction, frame, now):
            yield _event(event, now)
            _count(event, credited, values_known=bool(known))
    yield from _sums(credited, known)


def _count(event: ev.Event, credited: dict[str | None, list[int]], *, values_known: bool) -> None:
    match event:
        case ev.NoteStacked():
            credited[event.value.currency].append(event.value.minor)
        case ev.DoubtOpened(reason="value_unknown") if not values_known:
            credited[None].append(0)  # a credit; only its value is not in the trace
        case _:
            pass


def _sums(credited: dict[str | None, list[int]], known: tuple[ev.Denomination, ...]) -> Iterator[dict[str, Any]]:
    if not credited:
        credited[known[0].value.currency if known else None] = []
    for currency, amounts in credited.items():
        unknown = currency is None and bool(amounts)
        minor = None if unknown else sum(amounts)
        yield {"credited": len(amounts), "credited_minor": minor, "paid_minor": 0, "currency": currency}


def _event(event: ev.Event, now: float) -> dict[str, Any]:
    return {"event": event.TYPE, "at_ms": round(now * 1000), **json.loads(wire.encode(event))}


def _parse_line(number: int, line: str) -> _Line:
    try:
        plain = json.loads(line)
        direction = Direction(plain["direction"])
        raw = bytes.fromhex(plain["hex"])
        at_ms = plain.get("at_ms")
        return _Line(direction, raw, None if at_ms is None else float(at_ms) / 1000)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f'line {number}: want {{"direction": "host" or "device", "hex": "02 03 …", "at_ms": number or absent}}'
            f" ({error})"
        ) from error


def _frames(trace: list[_Line]) -> Iterator[tuple[Direction, Frame, float]]:
    """Sound frames in order, whatever pieces they were recorded in. Damaged ones never count, as on the wire."""
    decoders = {each: Decoder(each, wide_max=_WIDE_MAX) for each in Direction}
    now = 0.0
    last: Direction | None = None
    for line in trace:
        items: list[tuple[Direction, Frame | Noise]] = []
        if last is not None and last is not line.direction:
            items += [(last, each) for each in decoders[last].flush()]  # the other side speaks: no more will come
        last = line.direction
        items += [(last, each) for each in decoders[last].feed(line.raw)]
        now = now if line.at_s is None else max(now, line.at_s)
        yield from _sound(items, now)
    if last is not None:
        yield from _sound([(last, each) for each in decoders[last].flush()], now)


def _sound(items: Iterable[tuple[Direction, Frame | Noise]], now: float) -> Iterator[tuple[Direction, Frame, float]]:
    for direction, item in items:
        if isinstance(item, Frame):
            yield direction, item, now


def _table_in(frames: list[tuple[Direction, Frame, float]]) -> tuple[ev.Denomination, ...]:
    """The first bill table that the recorded host asked for and got."""
    asked = False
    for direction, frame, _ in frames:
        if direction is Direction.HOST:
            asked = frame.data[0] == Command.GET_BILL_TABLE and len(frame.data) == 1
        elif asked and len(frame.data) >= 5:
            return parse_table(frame.data).denominations()
    return ()


def _numbered_ids() -> Any:
    """Replays give the same ids every time."""
    count = iter(range(2**32))
    return lambda: str(uuid7(0, next(count).to_bytes(10, "big")))


def _table_of(text: str) -> tuple[ev.Denomination, ...]:
    """A value file: the hex of a bill table frame, or JSON `{"2": ["RUS", "10"]}`, `{"2": "10 RUB"}`,
    `{"2": {"amount_minor": 1000, "currency": "RUB"}}`, also inside `{"bill_types": …}`."""
    stripped = text.strip()
    if not stripped.startswith("{"):
        try:
            frames = Decoder(Direction.DEVICE).feed(bytes.fromhex(stripped))
        except ValueError as error:
            raise BadInput(f"the value file is neither JSON nor hex: {error}") from error
        tables = [parse_table(frame.data).denominations() for frame in frames if isinstance(frame, Frame)]
        if not tables:
            raise BadInput("the value file holds no sound bill table frame")
        return tables[0]
    try:
        plain = json.loads(stripped)
        entries: Mapping[str, Any] = plain.get("bill_types", plain)
        return tuple(ev.Denomination(code=int(code), value=_value(raw)) for code, raw in entries.items())
    except (ValueError, KeyError, TypeError, AttributeError, InvalidOperation, DomainError) as error:
        raise BadInput(f"the value file cannot be read: {error}") from error


def _value(raw: Any) -> Money:
    if isinstance(raw, Mapping):
        return Money(raw["amount_minor"], raw["currency"])
    if isinstance(raw, str):
        value, country = raw.split()
    else:
        country, value = raw
    money = money_of(country, Decimal(value))
    if isinstance(money, str):
        raise BadInput(money)
    return money
