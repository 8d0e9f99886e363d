"""`kiosk replay ccnet`: recorded conversations give the credit that the sheet gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.replay import app
from drivers.ccnet.codec import Direction, Frame
from drivers.ccnet.tools import BadInput
from drivers.registry import PROTOCOLS
from tests.drivers.talk import TABLE
from tests.drivers.world import World

POLL = "33"


def line(direction: str, data: str | bytes, at_ms: int | None = None) -> str:
    body = data if isinstance(data, bytes) else bytes.fromhex(data)
    record: dict[str, Any] = {"direction": direction, "hex": Frame(3, body).encode(Direction(direction)).hex(" ")}
    return json.dumps(record if at_ms is None else {**record, "at_ms": at_ms})


def talk(*said: str) -> list[str]:
    """`>35` is the host's STACK, `81 05` a poll reply with its POLL before and its ACK after."""
    lines: list[str] = []
    for each in said:
        if each.startswith(">"):
            lines += [line("host", each[1:]), line("device", "00")]
        else:
            lines += [line("host", POLL), line("device", each), line("host", "00")]
    return lines


TABLE_EXCHANGE = [line("host", "41"), line("device", TABLE), line("host", "00")]


def replay(lines: list[str], table: str | None = None) -> list[dict[str, Any]]:
    return list(PROTOCOLS["ccnet"].replay(lines, table))


def credited(lines: list[str], table: str | None = None) -> list[tuple[int, int | None, str | None]]:
    return [
        (each["credited"], each["credited_minor"], each["currency"])
        for each in replay(lines, table)
        if "credited" in each
    ]


def test_a_session_with_several_notes() -> None:
    lines = TABLE_EXCHANGE + talk(
        *("14", "15", "80 05", "80 05", ">35", "17", "81 05", "81 05", "14"),
        *("15", "80 02", ">36", "18", "82 02", "14"),
        *("15", "1c 65", "14", "15", "80 04", ">35", "17", "81 04", "14", "19"),
    )
    found = replay(lines)
    assert found[-1] == {"credited": 2, "credited_minor": 60_000, "paid_minor": 0, "currency": "RUB"}
    assert [each["event"] for each in found[:-1]] == [
        "cash.note.escrowed",
        "cash.note.stack_requested",
        "cash.note.stacked",
        "cash.note.credit_acknowledged",
        "cash.note.escrowed",
        "cash.note.return_requested",
        "cash.note.returned",
        "cash.note.rejected",
        "cash.note.escrowed",
        "cash.note.stack_requested",
        "cash.note.stacked",
        "cash.note.credit_acknowledged",
    ]


def test_a_real_conversation_recorded_from_the_wire() -> None:
    """Everything that passed between our own driver and the simulator, replayed, credits what lies in the box."""
    lines: list[str] = []
    world = World()
    send = world._send

    def recording(frame: Frame) -> bytes:
        lines.append(json.dumps({"direction": "host", "hex": frame.encode().hex(), "at_ms": world.now * 1000}))
        heard = send(frame)
        if heard:
            lines.append(json.dumps({"direction": "device", "hex": heard.hex(), "at_ms": world.now * 1000}))
        return heard

    world._send = recording  # type: ignore[method-assign]
    for note in ("insert 500", "insert 100", "insert 500"):
        world.insert(note)
        world.do("fault lost-ack")
        world.run(2.0)
        if note == "insert 100":
            world.do("power-cut")
            world.run(5.0)
            world.do("power-on")
    world.settle()
    assert credited(lines) == [(3, 110_000, "RUB")]


@pytest.mark.parametrize(
    ("said", "count", "minor"),
    [
        (["81 05", "81 05", "81 05", "14"], 1, 50_000),
        (["80 05", ">35", "17", "10", ">30", "13", "12", ">30", "13", "81 05", "19"], 1, 50_000),
        (["80 05", ">35", "17", "81 05", "10", ">30", "13", "81 05", "19"], 1, 50_000),
        (["80 05", ">35", "81 04", "14"], 1, 10_000),
        (["80 05", ">35", "81 05", "81 04", "14"], 1, 50_000),
        (["80 05", ">35", "17", "45", "14"], 0, 0),
        (["80 05", ">35", "17", "43"], 0, 0),
        (["80 17", ">35", "17", "81 17", "14"], 0, 0),
        (["80 09", ">35", "17", "81 09", "14"], 0, 0),
        (["80 05", "82 05", "14"], 0, 0),
        (["81 05", "14", "81 05", "14"], 2, 100_000),
        (["30", "77", "1b 05", "14"], 0, 0),
    ],
)
def test_credit_is_the_first_81_of_a_note(said: list[str], count: int, minor: int) -> None:
    assert credited(TABLE_EXCHANGE + talk(*said)) == [(count, minor, "RUB")]


def test_a_damaged_81_is_never_money() -> None:
    bad = json.dumps({"direction": "device", "hex": "02 03 07 81 03 46 09"})
    assert credited([*TABLE_EXCHANGE, line("host", POLL), bad, *talk("14")]) == [(0, 0, "RUB")]


def test_without_any_table_events_count_and_values_stay_open() -> None:
    assert credited(talk("80 05", ">35", "17", "81 05", "14")) == [(1, None, None)]
    assert credited(talk("14")) == [(0, 0, None)]


def test_a_table_that_comes_late_in_the_trace_counts_from_the_start() -> None:
    assert credited(talk("81 05", "14") + TABLE_EXCHANGE) == [(1, 50_000, "RUB")]


@pytest.mark.parametrize(
    "table",
    [
        '{"5": ["RUS", "500"]}',
        '{"5": "500 RUB"}',
        '{"bill_types": {"5": {"amount_minor": 50000, "currency": "RUB"}}}',
        Frame(3, TABLE).encode(Direction.DEVICE).hex(" "),
    ],
)
def test_value_files(table: str) -> None:
    assert credited(talk("80 05", ">35", "81 05", "14"), table) == [(1, 50_000, "RUB")]


def test_two_currencies_are_two_sums() -> None:
    table = '{"5": "500 RUB", "2": "10 EUR"}'
    lines = talk("80 05", ">35", "81 05", "14", "80 02", ">35", "81 02", "14")
    assert credited(lines, table) == [(1, 50_000, "RUB"), (1, 1_000, "EUR")]


@pytest.mark.parametrize(
    "table", ["{", "{}x", "zz", "0203", '{"5": 5}', '{"5": "500 XYZ"}', '{"a": "5 EUR"}', '{"5": []}']
)
def test_a_value_file_that_cannot_be_read_says_so(table: str) -> None:
    with pytest.raises(BadInput, match=r"value file|currency"):
        replay([], table)


@pytest.mark.parametrize("bad", ["{", "[]", '{"direction": "left", "hex": "02"}', '{"direction": "host"}', '"x"'])
def test_a_trace_line_that_cannot_be_read_is_named(bad: str) -> None:
    with pytest.raises(BadInput, match="line 2"):
        replay([line("host", POLL), bad])


def test_frames_may_be_recorded_in_pieces_and_behind_noise() -> None:
    raw = Frame(3, b"\x81\x05").encode(Direction.DEVICE)
    pieces = [b"\xff\x02", raw[:3], raw[3:], b"\x02\x03\x44"]
    lines = [json.dumps({"direction": "device", "hex": piece.hex()}) for piece in pieces]
    assert credited([*TABLE_EXCHANGE, line("host", POLL), *lines, *talk("14")]) == [(1, 50_000, "RUB")]
    swallowed = json.dumps({"direction": "device", "hex": "020344" + raw.hex()})
    assert credited([*TABLE_EXCHANGE, line("host", POLL), swallowed]) == [(1, 50_000, "RUB")]


def test_bill_to_bill_traces_are_read_by_their_own_address() -> None:
    frames = [("host", "33"), ("device", "80 05 00"), ("host", "35"), ("device", "00"), ("host", "33")]
    frames += [("device", "81 05 02"), ("host", "00"), ("host", "33"), ("device", "14 00 00")]
    lines = [
        json.dumps({"direction": who, "hex": Frame(1, bytes.fromhex(data)).encode(Direction(who)).hex()})
        for who, data in frames
    ]
    assert credited(lines, '{"5": "500 RUB"}') == [(1, 50_000, "RUB")]


def test_command_line(tmp_path: Path) -> None:
    trace, table = tmp_path / "trace.jsonl", tmp_path / "table.json"
    trace.write_text("\n".join(talk("80 05", ">35", "81 05", "14")) + "\n\n")
    table.write_text('{"5": "500 RUB"}')
    run = CliRunner().invoke
    result = run(app, ["ccnet", str(trace), "--table", str(table)])
    assert result.exit_code == 0
    assert json.loads(result.stdout.splitlines()[-1])["credited_minor"] == 50_000
    piped = run(app, ["ccnet", "-"], input=trace.read_text())
    assert json.loads(piped.stdout.splitlines()[-1])["credited_minor"] is None
    assert run(app, ["ccnet", str(tmp_path / "nothing")]).exit_code != 0


def test_replay_is_repeatable() -> None:
    lines = TABLE_EXCHANGE + talk("80 05", ">35", "81 05", "14")
    assert replay(lines) == replay(lines)
