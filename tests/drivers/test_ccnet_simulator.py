"""The simulated validator by itself: section 9's state machine, byte for byte, and its physical truth."""

from typing import Any

import pytest

from agent.domain.errors import ConfigError
from drivers.ccnet.bench import HELP
from drivers.ccnet.codec import Decoder, Direction, Frame
from drivers.ccnet.paper import PRESETS, parse_entries
from drivers.ccnet.simulator import CcnetSimulator, make_simulator
from drivers.ccnet.table import parse_table
from drivers.registry import PROTOCOLS
from tests.drivers.golden import VALID

GOLDEN = {each["name"]: bytes.fromhex(each["hex"]) for each in VALID}
ALL_WITH_ESCROW, ALL_NO_ESCROW = "34 FFFFFF FFFFFF", "34 FFFFFF 000000"


class Bench:
    """A host that says one thing at a time; `ask` gives the reply's data in hex, "" for silence."""

    def __init__(self, **settings: Any) -> None:
        self.now = 50.0
        self.simulator: CcnetSimulator = make_simulator(settings)

    def ask(self, command: str, address: int = 3) -> str:
        return self.wire(Frame(address, bytes.fromhex(command)).encode())

    def wire(self, raw: bytes) -> str:
        self.now += 0.01
        out = b"".join(each.data for each in self.simulator.receive(raw, self.now))
        frames = [item for item in Decoder(Direction.DEVICE).feed(out) if isinstance(item, Frame)]
        return frames[0].data.hex() if frames else ""

    def poll(self, *, ack: bool = True) -> str:
        reply = self.ask("33")
        if ack and reply:
            assert self.ask("00") == ""
        return reply

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def do(self, line: str) -> dict[str, Any]:
        return self.simulator.command(line, self.now)

    def ready(self, masks: str = ALL_WITH_ESCROW) -> "Bench":
        assert self.ask("30") == "00"
        self.wait(4)
        assert self.ask(masks) == "00"
        assert self.poll() == "14"
        return self

    def escrowed(self, line: str = "insert 500") -> "Bench":
        assert self.do(line)["ok"]
        self.wait(1.1)
        return self

    @property
    def truth(self) -> dict[str, Any]:
        self.simulator.advance(self.now)
        return self.simulator.truth()


def test_golden_commands_get_golden_answers() -> None:
    """Whole frames from the manual in, whole frames of the manual out."""
    bench = Bench(table="2=10 RUS/RUB", part_number="FL-US1701", serial="00K038AS3419", crc32_hex="12345678")
    receive = bench.simulator.receive
    assert receive(GOLDEN["poll"], 1.0)[0].data == GOLDEN["poll_10_power_up"]
    assert receive(GOLDEN["identification"], 1.1)[0].data == GOLDEN["identification_reply"]
    assert receive(GOLDEN["get_crc32"], 1.2)[0].data == GOLDEN["crc32_reply"]
    assert receive(GOLDEN["stack"], 1.3)[0].data == GOLDEN["device_illegal_command"]
    assert receive(GOLDEN["poll"][:-1] + b"\x00", 1.4)[0].data == GOLDEN["device_nak"]
    assert receive(GOLDEN["reset"], 1.5)[0].data == GOLDEN["device_ack"]
    assert receive(GOLDEN["poll"], 1.6)[0].data == GOLDEN["poll_13_initialize"]
    assert receive(GOLDEN["poll"], 9.0)[0].data == GOLDEN["poll_19_unit_disabled"]
    assert receive(GOLDEN["enable_all_with_escrow"], 9.1)[0].data == GOLDEN["device_ack"]
    assert receive(GOLDEN["poll"], 9.2)[0].data == GOLDEN["poll_14_idling"]
    assert bench.simulator.command("insert 10", 9.3)["ok"]
    assert receive(GOLDEN["poll"], 9.4)[0].data == GOLDEN["poll_15_accepting"]
    assert receive(GOLDEN["poll"], 10.5)[0].data == GOLDEN["poll_80_escrow_type2"]
    assert receive(GOLDEN["hold"], 10.6)[0].data == GOLDEN["device_ack"]
    assert receive(GOLDEN["poll"], 10.7)[0].data == GOLDEN["poll_1A_holding"]
    assert receive(GOLDEN["stack"], 10.8)[0].data == GOLDEN["device_ack"]
    assert receive(GOLDEN["poll"], 10.9)[0].data == GOLDEN["poll_17_stacking"]
    assert receive(GOLDEN["poll"], 12.0)[0].data == GOLDEN["poll_81_stacked_type2"]
    assert receive(GOLDEN["host_ack"], 12.01) == []
    assert receive(GOLDEN["poll"], 12.2)[0].data == GOLDEN["poll_14_idling"]
    assert receive(GOLDEN["b2b_poll"], 12.3) == []


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_its_bill_table_means_what_its_notes_are_worth(preset: str) -> None:
    bench = Bench(table=preset).ready()
    bench.ask("34 000000 000000")
    table = parse_table(bytes.fromhex(bench.ask("41")))
    assert not table.refused
    entries = {entry.code: (entry.minor, entry.currency) for entry in PRESETS[preset]}
    assert {code: (value.minor, value.currency) for code, value in table.values.items()} == entries


def test_own_table_entries() -> None:
    assert parse_entries("8=0.25 EUR, 2=10 RUS/RUB")[0].word() == bytes.fromhex("19 45 55 52 82")
    for wrong in ("x", "2=10", "24=10 RUS/RUB", "2=ten RUB", "2=10 RU"):
        with pytest.raises(ValueError, match="table entry"):
            parse_entries(wrong)


@pytest.mark.parametrize(
    ("command", "states"),
    [
        ("37", "10 13 19 43"),
        ("41", "10 13 19 43"),
        ("51", "10 13 19 43"),
        ("31", "10 13 19 14 80 43"),
        ("35", "80"),
        ("36", "80"),
        ("38", "80"),
        ("50", ""),
        ("39 01 12", "10 13 19 14 80 43"),
        ("3a", ""),
        ("99", ""),
    ],
)
def test_commands_are_illegal_where_the_manual_says(command: str, states: str) -> None:
    for state in ("10", "13", "19", "14", "80", "43"):
        bench = Bench()
        if state != "10":
            bench.ask("30")
        if state not in ("10", "13"):
            bench.wait(4)
        if state in ("14", "80"):
            bench.ask(ALL_WITH_ESCROW)
        if state == "80":
            bench.escrowed()
        if state == "43":
            bench.do("jam validator")
        assert bench.poll()[:2] == state
        assert (bench.ask(command) != "30") == (state in states.split()), state


def test_escrow_returns_by_itself_after_ten_seconds_and_hold_extends() -> None:
    bench = Bench().ready().escrowed()
    bench.wait(8)
    assert bench.ask("38") == "00"
    bench.wait(8)
    assert bench.poll() == "1a"
    bench.wait(2.2)
    assert bench.poll() == "18"
    bench.wait(1)
    assert bench.poll(ack=False) == "8205" == bench.poll()
    assert bench.poll() == "14"
    assert len(bench.truth["returned"]) == 1


def test_without_escrow_it_stacks_by_itself() -> None:
    bench = Bench().ready(ALL_NO_ESCROW).escrowed()
    assert bench.poll() == "17"
    bench.wait(1)
    assert bench.poll() == "8105"
    assert bench.truth["stacked_minor"] == {"RUB": 50_000}


def test_an_event_is_repeated_until_an_ack_in_time() -> None:
    bench = Bench(ack_window_ms=50).ready(ALL_NO_ESCROW).escrowed()
    bench.wait(1)
    assert bench.poll(ack=False) == "8105"
    bench.wait(0.2)
    assert bench.ask("00") == ""
    assert bench.poll(ack=False) == "8105"
    bench.do("fault lost-ack")
    assert bench.poll() == "8105" == bench.poll(ack=False)
    assert bench.ask("ff") == ""
    assert bench.poll() == "8105"
    assert bench.poll() == "14"
    assert len(bench.truth["stacker"]) == 1


def test_rejects() -> None:
    bench = Bench().ready("34 000004 000004").escrowed()
    assert bench.poll() == "1c68"
    bench.wait(1.1)
    assert bench.poll() == "14"
    bench.escrowed("insert unknown")
    assert bench.poll() == "1c65"
    bench.wait(1.1)
    bench.poll()
    assert bench.do("reject uv")["ok"]
    bench.escrowed("insert 10")
    assert bench.poll() == "1c6d"
    assert not bench.do("reject nonsense")["ok"]
    bench.wait(1.1)
    bench.escrowed("insert type 9")
    assert bench.poll() == "1c68"


def test_power_cuts_by_where_the_note_is() -> None:
    for seconds, status in ((0.0, "11"), (0.3, "11"), (0.6, "12")):
        bench = Bench().ready().escrowed()
        if seconds:
            bench.ask("35")
            bench.wait(seconds)
        bench.do("power-cut")
        assert bench.poll() == ""
        bench.wait(100)
        assert not bench.truth["powered"] and bench.truth["path"]
        bench.do("power-on")
        assert bench.poll() == status == bench.poll()
        assert bench.ask("34 FFFFFF FFFFFF") == "00"
        bench.ask("30")
        bench.wait(4)
        assert bench.poll() == ("8105" if status == "12" else "19")
        assert len(bench.truth["returned"]) == (status == "11")


@pytest.mark.parametrize("remembers", [True, False])
def test_an_unacknowledged_event_over_a_power_cut(remembers: bool) -> None:
    bench = Bench(remembers_event=remembers).ready(ALL_NO_ESCROW).escrowed()
    bench.wait(1)
    bench.poll(ack=False)
    bench.do("power-cut")
    bench.do("power-cut")
    bench.do("power-on")
    bench.do("power-on")
    assert bench.poll() == ("12" if remembers else "10")
    bench.ask("30")
    bench.wait(4)
    assert bench.poll() == ("8105" if remembers else "19")
    assert bench.poll() == "19"
    assert len(bench.truth["stacker"]) == 1


def test_reset_while_stacking_or_unacknowledged_loses_no_note() -> None:
    for seconds, where, after in ((0.1, "returned", "19"), (0.8, "stacker", "8105"), (1.0, "stacker", "8105")):
        bench = Bench().ready().escrowed()
        bench.ask("35")
        bench.wait(seconds)
        bench.poll(ack=False)
        bench.ask("30")
        bench.wait(4)
        assert bench.poll() == after
        assert len(bench.truth[where]) == 1


def test_power_cut_at_a_byte_sent_or_heard() -> None:
    bench = Bench().ready()
    bench.do("power-cut at-byte 3")
    assert [each.data for each in bench.simulator.receive(GOLDEN["poll"], bench.now)] == [GOLDEN["poll_14_idling"][:3]]
    assert not bench.truth["powered"]
    heard = Bench().ready().escrowed()
    heard.do("power-cut at-byte 6 heard")
    assert heard.ask("35") == ""
    heard.do("power-on")
    assert heard.poll() == "11"
    later = Bench().ready()
    later.do("power-cut at-byte 100")
    later.do("power-cut at-byte 100 heard")
    assert later.poll() == "14"
    assert not later.do("power-cut soon")["ok"]


def test_jams_failures_cheats_and_pauses() -> None:
    bench = Bench().ready().escrowed()
    bench.do("jam stacker")
    assert bench.poll() == "44"
    bench.ask("30")
    bench.wait(4)
    assert bench.poll() == "44"
    bench.do("clear")
    assert bench.poll() == "13"
    bench.wait(4)
    assert bench.poll() == "19"
    assert len(bench.truth["returned"]) == 1
    bench.do("fail 5f soft")
    assert bench.poll() == "475f"
    bench.ask("30")
    bench.wait(4)
    bench.ask(ALL_WITH_ESCROW)
    bench.escrowed()
    assert bench.do("second-bill")["ok"] and not bench.do("second-bill")["ok"]
    bench.wait(60)
    assert bench.poll() == "46"
    bench.do("clear")
    assert bench.poll() == "8005"
    assert bench.do("pull")["ok"] and not bench.do("pull")["ok"]
    assert bench.poll(ack=False) == "45" == bench.poll()
    assert bench.poll() == "14"
    assert not bench.do("jam")["ok"] and not bench.do("fail xx")["ok"] and not bench.do("second-bill")["ok"]


def test_an_event_that_waits_for_its_ack_is_not_overtaken_by_faults() -> None:
    bench = Bench().ready(ALL_NO_ESCROW).escrowed()
    bench.wait(1)
    assert not bench.do("jam validator")["ok"]
    bench.do("remove stacker")
    assert bench.poll(ack=False) == "8105" == bench.poll()
    assert bench.poll() == "42"
    bench.do("insert stacker")
    bench.do("insert stacker")
    bench.wait(4)
    assert bench.poll() == "19"


def test_stacker_full_and_collected() -> None:
    bench = Bench(capacity=1).ready(ALL_NO_ESCROW).escrowed()
    bench.wait(1)
    assert bench.poll() == "8105"
    assert bench.poll() == "41"
    assert not bench.do("insert 10")["ok"]
    bench.do("empty stacker")
    assert bench.poll() == "14"
    assert bench.truth["collected"] == [{"code": 5, "value_minor": 50_000, "currency": "RUB"}]
    assert bench.truth["stacked_minor"] == {"RUB": 50_000}
    bench.do("fill stacker")
    assert bench.poll() == "41"
    assert not bench.do("fill")["ok"]


def test_tickets() -> None:
    bench = Bench().ready()
    assert bench.ask("3a") == "30"
    bench.escrowed("insert-ticket 012345678901234567")
    assert bench.poll() == "8017"
    assert bytes.fromhex(bench.ask("3a")) == b"012345678901234567"
    bench.ask("35")
    bench.wait(1)
    assert bench.poll() == "8117"
    assert bench.truth["stacker"] == [{"code": 23, "ticket": "012345678901234567"}]
    assert bench.truth["stacked_minor"] == {}
    assert not bench.do("insert-ticket 12")["ok"]


def test_faults_of_the_line() -> None:
    bench = Bench().ready()
    for fault in ("fault bad-crc", "fault silence", "fault silence 5ms"):
        assert bench.do(fault)["ok"]
        bench.now -= 0.009
        assert bench.poll(ack=False) == "", fault
        bench.wait(1)
    bench.do("fault nak 2")
    assert [bench.poll(ack=False) for _ in range(3)] == ["ff", "ff", "14"]
    bench.do("fault noise 5")
    assert len(bench.simulator.receive(GOLDEN["poll"], bench.now)[0].data) == 11
    bench.do("fault late 300")
    (late,) = bench.simulator.receive(GOLDEN["poll"], bench.now)
    assert late.at == pytest.approx(bench.now + 0.3)
    bench.do("busy 3")
    assert bench.poll(ack=False) == "1b03"
    bench.do("fault silence 9")
    bench.do("fault off")
    assert bench.poll() == "14"
    assert not bench.do("fault gremlin")["ok"] and not bench.do("fault late")["ok"]


def test_settings_help_and_words_that_make_no_sense() -> None:
    bench = Bench(poll_bytes=3, table_while_initializing=False)
    assert bench.poll() == "100000"
    bench.ask("30")
    assert bench.ask("41") == "30"
    assert bench.do("set init_ms=0") == {"ok": True, "init_ms": 0}
    assert not bench.do("set init_ms=-1")["ok"] and not bench.do("set nothing=1")["ok"]
    assert set(bench.do("help")["commands"]) == set(HELP)
    assert bench.do("truth")["state"] == "INITIALIZE"
    for line in ("", "dance", "insert", "insert 7", "insert much", "insert 10 EUR", "insert 10", "remove", "empty box"):
        assert not bench.do(line)["ok"], line
    with pytest.raises(ConfigError, match="no_such"):
        PROTOCOLS["ccnet"].simulator({"no_such": 1})


def test_insert_by_currency_and_slot_busy() -> None:
    bench = Bench().ready()
    assert bench.do("insert 10 RUB")["inserted"]["code"] == 2
    assert bench.do("insert 10")["error"] == "slot_busy"


def test_events_tell_the_story_in_order() -> None:
    bench = Bench().ready(ALL_NO_ESCROW)
    bench.simulator.drain()
    bench.escrowed()
    bench.wait(1)
    bench.poll()
    told = [each.get("state", each["event"]) for each in bench.simulator.drain()]
    assert told == ["ACCEPTING", "STACKING", "stacked", "BILL STACKED", "BILL STACKED", "IDLING"]


def test_statistics_and_silence_after_reset() -> None:
    bench = Bench(reset_silence_ms=500)
    bench.ask("30")
    assert bench.poll(ack=False) == ""
    bench.wait(4)
    assert bench.ask("60") == "00" * 8
    assert bench.ask("32 000060") == "00"
    assert bench.ask("31") == "000000000060"
