"""The conversation around the money: initialisation, enabling, escrow time-outs, faults, silence, RESET, identity."""

import pytest

from agent.domain import events as ev
from agent.domain.money import Money
from drivers.ccnet.codec import Frame
from drivers.ccnet.messages import Command, types_of
from drivers.ports import DeviceState
from tests.drivers.talk import ACK, ILLEGAL, NAK, ONLINE, RUB, TABLE, Talk, kinds

SETUP = [Command.GET_STATUS, Command.GET_BILL_TABLE, Command.IDENTIFICATION, Command.GET_CRC32_OF_THE_CODE]


def masks(talk: Talk) -> list[tuple[list[int], list[int]]]:
    """(enabled, escrow) of every ENABLE BILL TYPES sent."""
    enables = [frame.data for frame in talk.frames if frame.data[0] == Command.ENABLE_BILL_TYPES]
    return [(types_of(data[1:4]), types_of(data[4:7])) for data in enables]


# --- initialisation


def test_power_up_is_looked_at_then_reset_set_up_and_enabled() -> None:
    talk = Talk()
    talk.machine.enable(None)
    assert talk.asks is Command.POLL
    assert talk.poll("10", "13", "13", "13", "19") == [ONLINE]
    assert [each for each in talk.sent if each is not Command.POLL][:5] == [Command.RESET, *SETUP]
    talk.poll("19", "14")
    assert masks(talk) == [(sorted(RUB), sorted(RUB))]
    assert talk.machine.info().state is DeviceState.ACTIVE
    assert talk.machine.info().table == ONLINE.table


def test_found_initialised_it_is_not_reset_but_asked_and_enabled_explicitly() -> None:
    talk = Talk()
    talk.machine.enable(None)
    talk.poll("14", "19", "19", "19", "19", "14")
    assert Command.RESET not in talk.sent
    assert masks(talk) == [([], []), (sorted(RUB), sorted(RUB))]
    assert ONLINE in talk.events


def test_reset_at_start_if_wanted() -> None:
    talk = Talk(reset_at_start=True)
    talk.poll("14", "19", "13", "19")
    assert talk.sent.count(Command.RESET) == 1
    note = ev.NoteEscrowed(device="acceptor", note_id="n1", value=None, note_code=5)
    busy = Talk([note], reset_at_start=True)
    busy.poll("80 05", "80 05")
    assert Command.RESET not in busy.sent


@pytest.mark.parametrize("state", ["15", "17", "18", "1a", "80 05", "81 05"])
def test_a_note_in_progress_is_finished_before_anything_else(state: str) -> None:
    talk = Talk()
    talk.poll(state, state)
    assert not {Command.RESET, Command.GET_BILL_TABLE, Command.ENABLE_BILL_TYPES} & set(talk.sent)


def test_reset_without_effect_is_repeated_with_growing_pauses() -> None:
    talk = Talk()
    talk.poll(*["10"] * 150)
    gaps = [at for at, command in enumerate(talk.sent) if command is Command.RESET]
    assert 4 <= len(gaps) <= 8


def test_illegal_while_initialising_is_asked_again_once_disabled() -> None:
    """A GX answers ILLEGAL before UNIT DISABLED."""
    talk = Talk()
    talk.answers[Command.GET_BILL_TABLE] = ILLEGAL
    talk.poll("10", "13", "13", "13")
    talk.answers[Command.GET_BILL_TABLE] = TABLE
    talk.poll("19", "19", "19")
    assert ONLINE in talk.events


def test_optional_questions_that_stay_unanswered_are_dropped() -> None:
    talk = Talk(high_security_types=(5,))
    for command in (Command.IDENTIFICATION, Command.GET_CRC32_OF_THE_CODE, Command.SET_SECURITY, Command.GET_STATUS):
        talk.answers[command] = ILLEGAL
    talk.poll(*["19"] * 30)
    (online,) = (event for event in talk.events if isinstance(event, ev.DeviceOnline))
    assert (online.model, online.serial, online.table) == ("", "", ONLINE.table)


def test_without_a_bill_table_nothing_is_enabled_and_the_fault_is_told_once() -> None:
    talk = Talk()
    talk.machine.enable(None)
    talk.answers[Command.GET_BILL_TABLE] = None
    talk.poll(*["19"] * 40)
    assert [event.code for event in talk.events if isinstance(event, ev.DeviceFaulted)] == ["no_bill_table"]
    assert masks(talk) == []
    talk.answers[Command.GET_BILL_TABLE] = TABLE
    talk.poll(*["19"] * 40)
    assert ev.DeviceRecovered(device="acceptor", code="no_bill_table") in talk.events
    assert masks(talk)[-1][0] == sorted(RUB)


def test_unknown_currency_is_refused_with_an_alarm() -> None:
    talk = Talk()
    talk.machine.enable(None)
    strange = bytes.fromhex("05 58 59 5A 01")
    talk.answers[Command.GET_BILL_TABLE] = strange + TABLE[5:]
    talk.poll("19", "19", "19", "19", "14")
    (alarm,) = (event for event in talk.events if isinstance(event, ev.DeviceAlarmed))
    assert alarm.code == "bill_table_refused" and "type 0" in alarm.detail and "XYZ" in alarm.detail
    assert masks(talk) == [(sorted(RUB), sorted(RUB))]
    only = Talk()
    only.answers[Command.GET_BILL_TABLE] = strange.ljust(120, b"\0")
    only.poll("19", "19", "19")
    assert "DeviceFaulted" in kinds(only.events)


def test_another_table_while_a_note_is_unresolved_stops_and_alarms() -> None:
    escrowed = ev.NoteEscrowed(device="acceptor", note_id="n1", value=Money(50_000, "RUB"), note_code=5)
    requested = ev.StackRequested(device="acceptor", note_id="n1", payment_id="p1")
    talk = Talk([ONLINE, escrowed, requested])
    talk.machine.enable(None)
    talk.answers[Command.GET_BILL_TABLE] = bytes(15) + TABLE[15:]
    talk.poll("12", "13", "13", "13", "13")
    assert "bill_table_changed" in {event.code for event in talk.events if isinstance(event, ev.DeviceAlarmed)}
    assert talk.machine.info().state is DeviceState.FAULTED
    (credit,) = talk.poll("81 05")
    assert isinstance(credit, ev.NoteStacked) and credit.value == Money(50_000, "RUB")
    events = talk.poll("19", "19", "14")
    assert ev.DeviceRecovered(device="acceptor", code="bill_table_changed") in events
    assert [event for event in events if isinstance(event, ev.DeviceOnline)]
    assert masks(talk) == [([3, 4, 5, 6], [3, 4, 5, 6])]


def test_another_device_in_its_place_is_told() -> None:
    other = ev.DeviceOnline(device="acceptor", protocol="ccnet", model="X", serial="OTHER", table=ONLINE.table)
    talk = Talk([other])
    talk.poll("19", "19", "19")
    (alarm,) = (event for event in talk.events if isinstance(event, ev.DeviceAlarmed))
    assert alarm.code == "device_replaced" and "OTHER" in alarm.detail


# --- enabling


def test_only_wanted_values_are_enabled_and_inhibit_sends_zeros() -> None:
    talk = Talk().ready()
    talk.frames.clear()
    talk.machine.enable(frozenset({Money(50_000, "RUB"), Money(1_000, "RUB"), Money(500, "EUR")}))
    talk.poll("14")
    talk.machine.inhibit()
    talk.poll("14", "19")
    assert masks(talk) == [([2, 5], [2, 5]), ([], [])]
    assert talk.machine.info().state is DeviceState.READY


def test_inhibit_does_not_wait_for_the_note_inside() -> None:
    talk = Talk().ready()
    talk.frames.clear()
    talk.poll("15")
    talk.machine.inhibit()
    talk.poll("15", "15", "19")
    assert masks(talk) == [([], [])]


def test_an_enable_that_was_lost_or_forgotten_is_repeated() -> None:
    talk = Talk().ready()
    talk.frames.clear()
    talk.poll(*["19"] * 15)
    assert masks(talk) == [(sorted(RUB), sorted(RUB))]
    talk.machine.inhibit()
    talk.answers[Command.ENABLE_BILL_TYPES] = ILLEGAL
    talk.poll(*["14"] * 8)
    refused = len(masks(talk))
    talk.answers[Command.ENABLE_BILL_TYPES] = ACK
    talk.poll(*["14"] * 20, "19")
    assert masks(talk)[-1] == ([], []) and len(masks(talk)) > refused


def test_a_device_that_did_not_enable_what_was_set_is_an_alarm_once() -> None:
    talk = Talk()
    talk.machine.enable(None)
    talk.answers[Command.GET_STATUS] = bytes.fromhex("00001C 000000")
    talk.poll("19", "19", "19", "14", "14", "14")
    (alarm,) = (event for event in talk.events if isinstance(event, ev.DeviceAlarmed))
    assert alarm.code == "enable_mask_differs" and "[5, 6]" in alarm.detail


def test_masks_are_sent_again_after_every_reset_of_the_device() -> None:
    talk = Talk().ready()
    talk.frames.clear()
    talk.poll("10", "13", "13", "19", "19", "19", "14")
    assert masks(talk) == [(sorted(RUB), sorted(RUB))]


def test_tickets_are_enabled_only_when_configured() -> None:
    talk = Talk(ticket_digits=18, high_security_types=(5, 6)).ready()
    assert masks(talk)[-1][0] == [*RUB, 23]
    sent = {frame.data for frame in talk.frames}
    assert b"\x39\x01\x12" in sent and b"\x32\x00\x00\x60" in sent


# --- the note in escrow


def test_an_undecided_note_is_held_and_goes_back_after_the_limit() -> None:
    talk = Talk(hold_limit_s=20).ready()
    note_id = talk.escrow()
    talk.poll(*["80 05"] * 160)
    assert talk.sent.count(Command.HOLD) == 3
    requested = [event for event in talk.events if isinstance(event, ev.ReturnRequested)]
    assert requested == [ev.ReturnRequested(device="acceptor", note_id=note_id, reason="undecided")]
    assert Command.RETURN in talk.sent


def test_hold_starts_the_limit_anew() -> None:
    talk = Talk(hold_limit_s=8).ready()
    note_id = talk.escrow()
    for _ in range(6):
        talk.poll(*["1a"] * 20)
        talk.machine.hold(note_id)
    assert Command.RETURN not in talk.sent


def test_a_note_found_in_escrow_at_restart_is_held_at_once() -> None:
    escrowed = ev.NoteEscrowed(device="acceptor", note_id="n1", value=Money(50_000, "RUB"), note_code=5)
    talk = Talk([escrowed])
    talk.poll("80 05", "1a")
    assert talk.sent == [Command.POLL, Command.HOLD, Command.POLL]
    talk.stack("n1")
    assert talk.sent[-1] is Command.STACK


def test_a_verb_cuts_the_pause_short() -> None:
    talk = Talk().ready()
    note_id = talk.escrow()
    assert talk.step.not_before - talk.now > 0.1
    talk.machine.stack(note_id, "p1")
    step = talk.machine.replan(talk.now + 0.02)
    assert step.send == Frame(3, bytes([Command.STACK]))
    assert step.not_before <= talk.now + 0.02


def test_no_outcome_for_long_is_an_alarm_and_no_reset() -> None:
    talk = Talk().ready()
    talk.stacking()
    talk.poll(*["17"] * 170)
    (alarm,) = (event for event in talk.events if isinstance(event, ev.DeviceAlarmed))
    assert alarm.code == "stack_timeout" and alarm.evidence
    assert Command.RESET not in talk.sent
    other = Talk().ready()
    note_id = other.escrow()
    other.machine.return_note(note_id)
    other.poll("80 05", *["18"] * 170)
    assert "return_timeout" in {event.code for event in other.events if isinstance(event, ev.DeviceAlarmed)}


def test_an_acknowledged_stack_without_effect_is_repeated_slowly() -> None:
    talk = Talk().ready()
    talk.stacking()
    talk.poll(*["80 05"] * 4)
    assert talk.sent.count(Command.STACK) == 1
    talk.poll(*["80 05"] * 4)
    assert talk.sent.count(Command.STACK) == 2


# --- faults


@pytest.mark.parametrize(
    ("status", "events", "after"),
    [
        ("41", ["StackerFull", "DeviceFaulted"], ["DeviceRecovered"]),
        ("42", ["StackerRemoved", "DeviceFaulted"], ["StackerInserted", "DeviceRecovered"]),
        ("43", ["Jammed", "DeviceFaulted"], ["DeviceRecovered"]),
        ("44", ["Jammed", "DeviceFaulted"], ["DeviceRecovered"]),
        ("46", ["DeviceFaulted"], ["DeviceRecovered"]),
        ("47 50", ["DeviceFaulted"], ["DeviceRecovered"]),
        ("48 70", ["Jammed", "DeviceFaulted"], ["DeviceRecovered"]),
        ("45", ["CheatSuspected"], []),
        ("1c 68", ["NoteRejected"], []),
        ("77", ["UnknownDeviceEvent"], []),
    ],
)
def test_faults_are_told_on_change_only(status: str, events: list[str], after: list[str]) -> None:
    talk = Talk().ready()
    assert kinds(talk.poll(status, status, status)) == events
    assert kinds(talk.poll("14", "14")) == after


def test_fault_codes_are_stable_names() -> None:
    talk = Talk().ready()
    talk.poll("41", "42", "43", "44", "46", "47 5f", "47 01", "48 99", "14")
    codes = [event.code for event in talk.events if isinstance(event, ev.DeviceFaulted)]
    assert codes == [
        "stacker_full",
        "stacker_removed",
        "validator_jammed",
        "stacker_jammed",
        "paused_second_note",
        "failure_capacitance_canal",
        "failure_unknown_01",
        "unit_jammed",
    ]
    assert kinds(talk.events).count("StackerInserted") == 1


def test_a_fault_lasts_through_initialisation_but_the_cassette_is_back_at_once() -> None:
    talk = Talk().ready()
    talk.poll("43")
    assert kinds(talk.poll("13", "13")) == []
    assert "DeviceRecovered" in kinds(talk.poll("19"))
    talk.poll("42")
    assert kinds(talk.poll("13")) == ["StackerInserted", "DeviceRecovered"]


def test_a_standing_fault_of_an_earlier_run_is_told_to_be_over() -> None:
    talk = Talk([ev.DeviceFaulted(device="acceptor", code="validator_jammed", detail="VALIDATOR JAMMED")])
    assert talk.machine.info().fault == "validator_jammed"
    assert kinds(talk.poll("43")) == []
    assert kinds(talk.poll("19"))[:1] == ["DeviceRecovered"]


def test_rejecting_for_minutes_is_a_jam() -> None:
    talk = Talk(reject_jam_s=30).ready()
    events = talk.poll(*["1c 60"] * 200)
    assert kinds(events) == ["NoteRejected", "Jammed", "DeviceFaulted"]
    assert kinds(talk.poll("14")) == ["DeviceRecovered"]
    assert kinds(talk.poll("1c 60", "1c 64")) == ["NoteRejected", "NoteRejected"]


def test_resets_against_jams_are_few_and_far_between() -> None:
    talk = Talk(fault_reset_polls=20, fault_resets_max=3).ready()
    talk.poll(*["43"] * 19)
    assert Command.RESET not in talk.sent
    talk.poll(*["43"] * 200)
    assert talk.sent.count(Command.RESET) == 3


def test_a_pause_is_not_reset_while_a_note_is_on_record() -> None:
    talk = Talk(fault_reset_polls=5).ready()
    talk.stacking()
    talk.poll(*["46"] * 30)
    assert Command.RESET not in talk.sent


def test_busy_is_waited_for() -> None:
    talk = Talk().ready()
    talk.poll("1b 0a")
    assert talk.step.not_before >= talk.now + 0.99
    assert talk.poll("14") == []


def test_illegal_polls_are_a_fault_when_they_last() -> None:
    talk = Talk().ready()
    assert talk.poll(*["30"] * 9) == []
    assert kinds(talk.poll("30", "30")) == ["DeviceFaulted"]
    assert kinds(talk.poll("14")) == ["DeviceRecovered"]


# --- the line


def test_four_silent_polls_mean_offline_once_and_the_return_is_told_once() -> None:
    talk = Talk().ready()
    assert talk.poll(None, None, None) == []
    assert talk.poll(None, None, None) == [ev.DeviceOffline(device="acceptor", reason="no_answer")]
    assert talk.machine.info().state is DeviceState.OFFLINE
    assert talk.poll("19", "19", "19", "14") == [ONLINE]


def test_noise_only_is_told_as_garbled() -> None:
    talk = Talk()
    talk.machine.noise(12)
    assert talk.poll(None, None, None, None) == [ev.DeviceOffline(device="acceptor", reason="garbled")]
    assert talk.machine.counters["noise_bytes"] == 12


def test_an_absent_device_is_probed_with_reset_only_when_no_note_is_on_record() -> None:
    talk = Talk(absent_reset_s=8).ready()
    talk.answers[Command.RESET] = None
    start = talk.now
    talk.poll(*[None] * 40)
    assert 2 <= talk.sent.count(Command.RESET) <= (talk.now - start) / 8 + 1
    holding = Talk(absent_reset_s=8).ready()
    holding.escrow()
    holding.poll(*[None] * 40)
    assert Command.RESET not in holding.sent


def test_silence_after_reset_is_patience() -> None:
    talk = Talk(reset_timeout_s=20)
    talk.poll("10")
    assert Command.RESET in talk.sent
    talk.poll(*[None] * 30)
    assert "DeviceOffline" not in kinds(talk.events)
    talk.poll(*[None] * 60)
    assert "DeviceOffline" in kinds(talk.events)


def test_nak_repeats_the_same_command_a_few_times() -> None:
    talk = Talk().ready()
    talk.machine.inhibit()
    talk.answers[Command.ENABLE_BILL_TYPES] = NAK
    talk.sent.clear()
    talk.poll("14")
    talk.poll("14")
    assert talk.sent[1:4] == [Command.ENABLE_BILL_TYPES] * 3
    assert talk.machine.counters["naks"] >= 3


def test_only_our_device_and_fitting_shapes_are_replies() -> None:
    talk = Talk().ready()
    talk.to_poll()
    is_reply = talk.machine.is_reply
    assert is_reply(Frame(3, b"\x14"))
    assert not is_reply(Frame(1, b"\x14"))
    assert not is_reply(Frame(3, b"\x33"))  # our own echo
    assert not is_reply(Frame(3, b"\x00"))  # a late ACK
    assert not is_reply(Frame(3, TABLE))
    talk.machine.inhibit()
    talk.answer(b"\x14")
    assert talk.asks is Command.ENABLE_BILL_TYPES
    assert not is_reply(Frame(3, b"\x81\x05")) and is_reply(Frame(3, ACK))


def test_every_status_is_acknowledged_and_control_frames_are_not() -> None:
    talk = Talk().ready()
    for reply in ("1c 60", "45", "47 50", "77 01 02", "81 05"):
        talk.to_poll()
        talk.answer(bytes.fromhex(reply))
        assert talk.step.ack == Frame(3, ACK), reply
    for control in (NAK, ILLEGAL):
        talk.to_poll()
        talk.answer(control)
        assert talk.step.ack is None
    talk.to_poll()
    talk.answer(None)
    assert talk.step.ack is None


def test_poll_interval_is_kept_and_slower_while_disabled() -> None:
    talk = Talk(poll_interval_ms=200, poll_idle_ms=800).ready()
    before = talk.now
    talk.poll("14")
    assert talk.step.not_before - before >= 0.2
    talk.machine.inhibit()
    talk.poll("14", "19", "19")
    assert talk.step.not_before - talk.now == pytest.approx(0.8)


def test_lost_is_told_once() -> None:
    talk = Talk().ready()
    assert kinds(talk.machine.lost("port_lost")) == ["DeviceOffline"]
    assert talk.machine.lost("port_lost") == []
