"""Section 8 of the sheet and its rulings, case by case: what is credited, what is repeated, what is in doubt."""

import pytest

from agent.domain import events as ev
from agent.domain.money import Money
from drivers.ccnet.messages import Command
from tests.drivers.talk import ONLINE, Talk, kinds

N500 = Money(50_000, "RUB")
ESCROWED = ev.NoteEscrowed(device="acceptor", note_id="n1", value=N500, note_code=5)
REQUESTED = ev.StackRequested(device="acceptor", note_id="n1", payment_id="p1")
STACKED = ev.NoteStacked(device="acceptor", note_id="n1", value=N500, note_code=5, payment_id="p1")


def test_the_first_81_is_the_credit_and_carries_the_payment() -> None:
    talk = Talk().ready()
    note_id = talk.stacking()
    assert talk.sent[-1] is Command.STACK
    assert talk.poll("17") == []
    (event,) = talk.poll("81 05")
    assert event == ev.NoteStacked(device="acceptor", note_id=note_id, value=N500, note_code=5, payment_id="p1")
    assert talk.poll("81 05", "81 05") == []
    assert talk.poll("14") == [ev.CreditAcknowledged(device="acceptor", note_id=note_id)]
    assert talk.poll("14") == []


def test_events_come_with_the_step_whose_ack_lets_the_device_forget() -> None:
    """The driver commits a step's events before it writes the step's ACK."""
    talk = Talk().ready()
    talk.stacking()
    talk.to_poll()
    events = talk.answer(bytes.fromhex("81 05"))
    assert kinds(events) == ["NoteStacked"]
    assert talk.step.events == tuple(events)
    assert talk.step.ack is not None


def test_stacking_jams_and_returns_are_no_credit() -> None:
    talk = Talk().ready()
    talk.stacking()
    talk.poll("17", "43", "44", "45", "46", "47 50", "18", "82 05", "14")
    assert not [event for event in talk.events if isinstance(event, ev.NoteStacked)]
    assert "NoteReturned" in kinds(talk.events)


def test_81_straight_after_accepting_is_credited() -> None:
    """Fast devices skip states between polls; with no record it is booked once, as nobody's, with an alarm."""
    talk = Talk().ready()
    events = talk.poll("15", "81 05")
    assert kinds(events) == ["NoteStacked", "DeviceAlarmed"]
    assert isinstance(events[0], ev.NoteStacked) and events[0].payment_id is None
    assert talk.poll("81 05") == []
    assert kinds(talk.poll("14", "15", "81 05")) == ["CreditAcknowledged", "NoteStacked", "DeviceAlarmed"]


def test_81_while_merely_escrowed_is_credited_to_its_record() -> None:
    talk = Talk().ready()
    note_id = talk.escrow()
    (event,) = talk.poll("81 05")
    assert isinstance(event, ev.NoteStacked)
    assert (event.note_id, event.payment_id) == (note_id, None)


def test_value_is_by_the_type_in_the_81() -> None:
    talk = Talk().ready()
    note_id = talk.stacking(5)
    events = talk.poll("17", "81 04")
    assert kinds(events) == ["NoteStacked", "DeviceAlarmed"]
    credit, alarm = events
    assert isinstance(credit, ev.NoteStacked) and isinstance(alarm, ev.DeviceAlarmed)
    assert (credit.note_id, credit.value, credit.note_code) == (note_id, Money(10_000, "RUB"), 4)
    assert alarm.code == "stacked_type_differs"
    assert alarm.evidence[-1].endswith("BILL STACKED type 4")


def test_another_type_while_credited_is_a_doubt_and_no_second_credit() -> None:
    talk = Talk().ready()
    talk.stacking(5)
    talk.poll("17", "81 05")
    events = talk.poll("81 04", "81 04")
    assert kinds(events) == ["DoubtOpened", "DeviceAlarmed"]
    doubt = events[0]
    assert isinstance(doubt, ev.DoubtOpened)
    assert (doubt.amount, doubt.payment_id, doubt.reason) == (Money(10_000, "RUB"), "p1", "stacked_type_changed")
    closed = talk.poll("14")
    assert kinds(closed) == ["CreditAcknowledged", "CreditAcknowledged"]
    assert {event.record() for event in closed} >= {doubt.doubt_id}


def test_another_type_after_a_new_escrow_is_a_new_note() -> None:
    talk = Talk().ready()
    talk.stacking(5)
    talk.poll("17", "81 05")
    events = talk.poll("80 04")
    assert kinds(events) == ["CreditAcknowledged", "NoteEscrowed"]
    note = events[1]
    assert isinstance(note, ev.NoteEscrowed)
    talk.stack(note.note_id, "p2")
    (credit,) = talk.poll("81 04")
    assert isinstance(credit, ev.NoteStacked)
    assert (credit.value.minor, credit.payment_id) == (10_000, "p2")


@pytest.mark.parametrize("between", ["10", "11", "12", "13", "1b 01", "30", "77"])
def test_states_that_do_not_prove_the_ack_keep_a_repetition_a_repetition(between: str) -> None:
    """A device that lost power after its event may report it again; busy and unknown answers prove nothing."""
    talk = Talk().ready()
    talk.stacking()
    talk.poll("17", "81 05", between)
    assert "NoteStacked" not in kinds(talk.poll("13", "81 05", "14"))


@pytest.mark.parametrize("proof", ["14", "15", "17", "18", "19", "1c 60", "41", "42", "43", "44", "45", "46", "47 50"])
def test_any_other_status_proves_the_ack(proof: str) -> None:
    talk = Talk().ready()
    talk.stacking()
    talk.poll("17", "81 05")
    assert "CreditAcknowledged" in kinds(talk.poll(proof))


def test_host_restart_between_credit_and_ack() -> None:
    """At restart the device still says 81: a repetition, even without a bill table."""
    talk = Talk([ESCROWED, REQUESTED, STACKED])
    assert talk.poll("81 05", "81 05") == []
    assert talk.poll("19")[:1] == [ev.CreditAcknowledged(device="acceptor", note_id="n1")]


def test_host_restart_between_stack_and_credit_uses_the_recorded_value() -> None:
    talk = Talk([ESCROWED, REQUESTED])
    (event,) = talk.poll("17", "81 05")
    assert event == STACKED
    assert Command.RESET not in talk.sent


def test_restart_of_both_with_the_note_already_credited() -> None:
    talk = Talk([ESCROWED, REQUESTED, STACKED])
    events = talk.poll("12", "13", "13", "81 05", "81 05")
    assert kinds(events) == ["NoteFoundAtPowerUp"]
    assert kinds(talk.poll("19"))[0] == "CreditAcknowledged"


def test_bill_in_stacker_at_power_up_is_credited_when_81_comes() -> None:
    talk = Talk([ESCROWED, REQUESTED])
    events = talk.poll("12", "12", "13", "81 05")
    assert kinds(events) == ["NoteFoundAtPowerUp", "NoteStacked"]
    assert talk.sent.count(Command.RESET) == 1


def test_bill_in_stacker_at_power_up_without_81_is_in_doubt() -> None:
    talk = Talk([ESCROWED, REQUESTED])
    events = talk.poll("12", "13", "19")
    doubt = next(event for event in events if isinstance(event, ev.DoubtOpened))
    assert (doubt.doubt_id, doubt.amount, doubt.payment_id) == ("n1", N500, "p1")
    assert doubt.closes_record()


def test_bill_in_stacker_at_power_up_that_nobody_knows_of_is_in_doubt_without_amount() -> None:
    talk = Talk()
    events = talk.poll("12", "13", "19")
    (doubt,) = (event for event in events if isinstance(event, ev.DoubtOpened))
    assert (doubt.amount, doubt.reason) == (None, "power_up_note_not_reported")


def test_bill_in_validator_at_power_up_goes_back() -> None:
    talk = Talk([ESCROWED, REQUESTED])
    events = talk.poll("11", "11", "13", "19")
    assert kinds(events)[:2] == ["NoteFoundAtPowerUp", "NoteReturned"]
    assert not [event for event in events if isinstance(event, ev.DoubtOpened)]


def test_power_up_with_clear_path_after_stack_is_in_doubt() -> None:
    talk = Talk([ESCROWED, REQUESTED])
    assert "DoubtOpened" in kinds(talk.poll("10", "13", "19"))


@pytest.mark.parametrize("idle", ["14", "19"])
def test_idle_after_stack_without_outcome_is_in_doubt_with_evidence(idle: str) -> None:
    talk = Talk().ready()
    note_id = talk.stacking()
    (doubt,) = (event for event in talk.poll("17", idle) if isinstance(event, ev.DoubtOpened))
    assert (doubt.doubt_id, doubt.amount, doubt.payment_id) == (note_id, N500, "p1")
    assert any(line.endswith("STACK") for line in doubt.evidence)
    assert doubt.evidence[-1].startswith("device ")


def test_late_81_after_a_doubt_is_nobodys_money_and_an_alarm_names_the_doubt() -> None:
    talk = Talk().ready()
    note_id = talk.stacking()
    talk.poll("17", "14")
    credit, alarm = talk.poll("81 05")
    assert isinstance(credit, ev.NoteStacked) and isinstance(alarm, ev.DeviceAlarmed)
    assert credit.payment_id is None and credit.note_id != note_id
    assert note_id in alarm.detail


@pytest.mark.parametrize("idle", ["14", "19", "15", "1c 60"])
def test_gone_from_escrow_without_stack_was_returned(idle: str) -> None:
    talk = Talk().ready()
    note_id = talk.escrow()
    returned = talk.poll(idle)[0]
    assert isinstance(returned, ev.NoteReturned)
    assert (returned.note_id, returned.value) == (note_id, N500)


def test_stack_wanted_but_never_sent_is_returned_not_in_doubt() -> None:
    """In one run of the agent it knows that STACK never left."""
    talk = Talk().ready()
    note_id = talk.escrow()
    talk.machine.stack(note_id, "p1")
    assert kinds(talk.poll("82 05")) == ["NoteReturned"]


def test_stack_refused_is_returned_not_in_doubt() -> None:
    talk = Talk().ready()
    talk.answers[Command.STACK] = b"\x30"
    talk.stacking()
    assert kinds(talk.poll("18", "14")) == ["NoteReturned"]


def test_stack_without_answer_may_have_been_carried_out() -> None:
    talk = Talk().ready()
    talk.answers[Command.STACK] = None
    talk.stacking()
    assert kinds(talk.poll("14")) == ["DoubtOpened"]


def test_stack_is_sent_again_only_after_a_poll_says_80() -> None:
    talk = Talk().ready()
    talk.answers[Command.STACK] = None
    talk.stacking()
    talk.answers[Command.STACK] = b"\x00"
    talk.sent.clear()
    talk.poll("80 05", "17", "81 05")
    assert talk.sent == [Command.POLL, Command.STACK, Command.POLL, Command.POLL]


def test_returned_is_told_once() -> None:
    talk = Talk().ready()
    note_id = talk.escrow()
    talk.machine.return_note(note_id)
    events = talk.poll("80 05", "18", "82 05", "82 05", "14")
    assert kinds(events) == ["NoteReturned"]
    assert talk.sent.count(Command.RETURN) == 1


def test_returned_with_another_type_is_an_alarm() -> None:
    talk = Talk().ready()
    talk.escrow()
    assert kinds(talk.poll("82 04")) == ["NoteReturned", "DeviceAlarmed"]


def test_unknown_type_in_escrow_has_no_value_and_stacked_it_is_a_doubt_until_acknowledged() -> None:
    talk = Talk().ready()
    note_id = talk.escrow(9)
    escrowed = talk.events[-1]
    assert isinstance(escrowed, ev.NoteEscrowed) and escrowed.value is None
    talk.stack(note_id)
    (doubt,) = talk.poll("81 09", "81 09")
    assert isinstance(doubt, ev.DoubtOpened)
    assert (doubt.doubt_id, doubt.amount, doubt.awaits_ack) == (note_id, None, True)
    assert talk.poll("14") == [ev.CreditAcknowledged(device="acceptor", note_id=note_id)]
    again = Talk([escrowed, doubt])
    assert again.poll("81 09") == []


def test_81_without_a_type_is_a_doubt() -> None:
    talk = Talk().ready()
    talk.stacking()
    (doubt, _) = talk.poll("81")
    assert isinstance(doubt, ev.DoubtOpened) and doubt.amount is None


def test_81_before_the_table_is_known_and_without_a_record_is_a_doubt() -> None:
    assert kinds(Talk().poll("81 05")) == ["DoubtOpened", "DeviceAlarmed"]
    assert kinds(Talk([ONLINE]).poll("81 05")) == ["NoteStacked", "DeviceAlarmed"]


def test_a_ticket_is_no_money() -> None:
    talk = Talk(ticket_digits=18).ready()
    note_id = talk.escrow(23)
    talk.stack(note_id)
    assert Command.EXTRACT_BARCODE_DATA in talk.sent
    (ticket,) = talk.poll("17", "81 17", "81 17")
    assert ticket == ev.TicketStacked(device="acceptor", note_id=note_id, barcode="012345678901234567")
    assert kinds(Talk([ticket]).poll("81 17", "19"))[0] == "CreditAcknowledged"
    assert kinds(Talk().ready().poll("81 17")) == ["TicketStacked", "DeviceAlarmed"]


def test_another_note_in_escrow_settles_the_one_before() -> None:
    talk = Talk().ready()
    first = talk.escrow(5)
    events = talk.poll("80 04")
    assert kinds(events) == ["NoteReturned", "NoteEscrowed"]
    assert events[0].record() == first
    talk.stack(str(events[1].record()))
    assert kinds(talk.poll("17", "80 04")) == ["DoubtOpened", "NoteEscrowed"]


def test_same_type_in_escrow_after_accepting_is_another_note() -> None:
    talk = Talk().ready()
    first = talk.escrow(5)
    second = talk.escrow(5)
    assert first != second
    assert "NoteReturned" in kinds(talk.events)


def test_cheated_while_stacking_waits_for_the_outcome() -> None:
    talk = Talk().ready()
    note_id = talk.stacking()
    (cheat,) = talk.poll("17", "45", "45")
    assert cheat == ev.CheatSuspected(device="acceptor", note_id=note_id)
    assert kinds(talk.poll("81 05")) == ["NoteStacked"]
    assert kinds(talk.poll("45")) == ["CreditAcknowledged", "CheatSuspected"]


def test_a_note_of_before_is_not_stacked_again_by_an_old_verb() -> None:
    talk = Talk().ready()
    note_id = talk.stacking()
    talk.poll("17", "81 05", "14")
    talk.sent.clear()
    talk.machine.stack(note_id, "p1")
    talk.machine.return_note(note_id)
    talk.machine.hold("unknown")
    talk.poll("14", "15", "80 04")
    assert Command.STACK not in talk.sent and Command.RETURN not in talk.sent


def test_stack_after_return_was_sent_is_ignored_and_return_after_stack_too() -> None:
    talk = Talk().ready()
    note_id = talk.escrow()
    talk.machine.return_note(note_id)
    talk.poll("80 05", "18")
    talk.machine.stack(note_id, "p1")
    assert kinds(talk.poll("82 05")) == ["NoteReturned"]
    assert Command.STACK not in talk.sent
    other = talk.stacking(4)
    talk.machine.return_note(other)
    talk.poll("80 04", "17", "81 04")
    assert talk.sent.count(Command.RETURN) == 1


def test_whole_history_with_closed_records_leaves_nothing_open() -> None:
    closed = [ESCROWED, REQUESTED, STACKED, ev.CreditAcknowledged(device="acceptor", note_id="n1")]
    talk = Talk([ONLINE, *closed])
    assert kinds(talk.poll("81 05")) == ["NoteStacked", "DeviceAlarmed"]
    returned = [ESCROWED, ev.NoteReturned(device="acceptor", note_id="n1", value=N500)]
    assert kinds(Talk([ONLINE, *returned]).poll("19")) == []


def test_requested_return_survives_a_restart() -> None:
    requested = ev.ReturnRequested(device="acceptor", note_id="n1", reason="cancelled")
    talk = Talk([ESCROWED, requested])
    talk.poll("80 05", "18", "82 05")
    assert talk.sent.count(Command.RETURN) == 1
    assert kinds(talk.events) == ["NoteReturned"]


def test_doubt_about_a_repetition_survives_a_restart() -> None:
    doubt = ev.DoubtOpened(
        device="acceptor",
        doubt_id="d1",
        amount=Money(10_000, "RUB"),
        payment_id="p1",
        reason="stacked_type_changed",
        evidence=(),
        awaits_ack=True,
    )
    talk = Talk([ESCROWED, REQUESTED, STACKED, doubt])
    assert talk.poll("81 04", "81 05") == []
    assert [event.record() for event in talk.poll("19")[:2]] == ["n1", "d1"]
