"""`kiosk decode ccnet`: every golden vector, guesses, company, and frames that are none."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.decode import app
from drivers.ccnet import describe
from drivers.ccnet.codec import Direction, Frame
from drivers.ccnet.messages import FAILURES, REJECT_REASONS, Command, Status, failure_reason, model_of, reject_reason
from drivers.ccnet.states import STATES
from drivers.registry import PROTOCOLS
from tests.drivers.golden import INVALID, VALID, VECTORS, name

COMMENTARY = {"note", "valid", "error"}


def decode_one(line: str, direction: str | None = None) -> dict[str, Any]:
    found = list(PROTOCOLS["ccnet"].decode([line], direction))
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("vector", VALID, ids=name)
def test_every_golden_vector_is_read_as_it_says(vector: dict[str, Any]) -> None:
    found = decode_one(vector["hex"], vector["direction"])
    assert found["valid"] and found["error"] is None
    assert found["protocol"] == "ccnet" and found["direction"] == vector["direction"]
    assert bytes.fromhex(found["hex"]) == bytes.fromhex(vector["hex"])
    for key, value in vector["decoded"].items():
        if key not in COMMENTARY:
            assert found["fields"][key] == value, key


@pytest.mark.parametrize("vector", INVALID, ids=name)
def test_invalid_vectors_say_why(vector: dict[str, Any]) -> None:
    found = decode_one(vector["hex"])
    assert not found["valid"]
    assert found["error"] == vector["decoded"]["error"]
    assert found["fields"]["lng"] == vector["decoded"]["lng"]


def test_all_vectors_in_one_stream_keep_their_meaning() -> None:
    """The host frame before a reply helps only where the reply has the shape of its answer."""
    lines = [f"{each['direction']}: {each['hex']}" for each in VECTORS]
    found = list(PROTOCOLS["ccnet"].decode(lines))
    assert [each["valid"] for each in found] == [each["decoded"].get("valid", True) for each in VECTORS]
    for each, vector in zip(found, VECTORS, strict=True):
        assert each["fields"].get("reply_to") == vector["decoded"].get("reply_to") or not each["valid"]


def test_a_guess_prefers_the_host_and_names_the_other_reading() -> None:
    found = decode_one("02 03 06 30 41 B3")
    assert (found["direction"], found["name"]) == ("host", "RESET")
    assert found["also"]["direction"] == "device"
    assert found["also"]["name"] == "ILLEGAL COMMAND"
    assert decode_one("02 03 06 41 4F D1")["also"]["name"] == "DROP CASSETTE FULL"
    assert "also" not in decode_one("02 03 06 33 DA 81")
    assert decode_one("02 03 07 81 02 46 09")["direction"] == "device"


def test_a_reply_is_read_by_the_question_before_it() -> None:
    lines = ["02 03 06 31 C8 A2", "device 02 03 0B 00 00 7C 00 00 00 D9 AA", "device 02 03 06 14 67 D4"]
    names = [each["name"] for each in PROTOCOLS["ccnet"].decode(lines)]
    assert names == ["GET STATUS", "STATUS", "IDLING"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("zz", "not hexadecimal bytes"),
        ("03 03 06", "does not start with 02"),
        ("02 03", "truncated"),
        ("02 03 06 33 DA", "truncated"),
        ("02 03 06 33 DA 81 00", "1 bytes after the frame"),
        ("02 00 06 33 DA 81", "address 00 is not 01..0F"),
        ("02 03 00 01 33 00", "truncated"),
    ],
)
def test_what_is_no_frame_says_why(text: str, error: str) -> None:
    found = decode_one(text)
    assert not found["valid"] and found["error"] == error


def test_unknown_host_command_is_no_host_frame() -> None:
    wire = Frame(3, b"\x14").encode().hex()
    assert decode_one(wire)["direction"] == "device"
    assert decode_one(wire, "host")["name"] == "COMMAND 14"


def test_every_status_and_sub_code_has_a_stable_name() -> None:
    assert set(STATES) == set(Status)
    names = [*REJECT_REASONS.values(), *FAILURES.values()]
    assert all(each == each.lower() and each.replace("_", "").isalnum() for each in names)
    assert len(set(REJECT_REASONS.values())) == len(REJECT_REASONS)
    assert len(set(FAILURES.values())) == len(FAILURES)
    assert reject_reason(0x6B) == "unknown_6b"
    assert failure_reason(None) == "unspecified" and failure_reason(0x57, 1) == "cassette1_motor"
    assert failure_reason(0x57) == "upper_optical_board"


@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_described(status: Status) -> None:
    label, fields = describe.describe(Direction.DEVICE, Frame(3, bytes([status, 0x05])), Command.POLL)
    assert fields["z1"] == status
    assert label == status.label
    assert describe.meaning(Direction.DEVICE, Frame(3, bytes([status])))


@pytest.mark.parametrize("command", list(Command))
def test_every_command_is_described(command: Command) -> None:
    for size in range(8):
        label, _ = describe.describe(Direction.HOST, Frame(3, bytes([command, *range(size)])))
        assert label == command.label


def test_bill_to_bill_replies() -> None:
    status = Frame(1, bytes.fromhex("00007C 000000 000004"))
    assert describe.describe(Direction.DEVICE, status)[1]["recycling_types"] == [2]
    assert describe.describe(Direction.DEVICE, Frame(1, bytes([0x26, 5, 0])))[1]["count"] == 5
    assert describe.describe(Direction.DEVICE, Frame(1, bytes(9)), Command.POWER_RECOVERY)[1]["data_hex"] == "00" * 9


def test_models_by_prefix() -> None:
    assert model_of("FL-US1701") == "CashCode MFL (FL-US1701)"
    assert model_of("FLS-1") == "CashCode FLS (FLS-1)"
    assert model_of("XYZ") == "XYZ"


def test_command_line_arguments_stdin_and_exit_status() -> None:
    run = CliRunner().invoke
    one = run(app, ["ccnet", "02", "03", "06", "33", "DA", "81"])
    assert one.exit_code == 0
    assert json.loads(one.stdout)["name"] == "POLL"
    assert set(json.loads(one.stdout)) == {"protocol", "direction", "hex", "valid", "error", "name", "fields"}
    many = run(app, ["ccnet", "--direction", "device"], input="020306144 7D4\n\n0203078102 4609\n")
    assert many.exit_code == 1
    assert [json.loads(line)["valid"] for line in many.stdout.splitlines()] == [False, True]
