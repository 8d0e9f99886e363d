"""Any device, however strange: credits follow the rule of the 81, restarts add none, and every event can be booked."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.domain import events as ev
from agent.domain.ledger import entries_for
from agent.domain.wire import decode, encode
from tests.drivers.talk import ONLINE, Talk

TYPES = (2, 3, 5, 9, 23)  # three notes, one that the table lacks, the ticket
PLAIN = ["10", "11", "12", "13", "14", "15", "17", "18", "19", "1a", "1b01", "1c60"]
PLAIN += ["41", "42", "43", "44", "45", "46", "4750", "30", "77"]
REPLIES = st.one_of(
    st.sampled_from(PLAIN),
    st.builds(lambda z1, code: f"{z1}{code:02x}", st.sampled_from(["80", "81", "81", "82"]), st.sampled_from(TYPES)),
    st.none(),
)
VERBS = st.sampled_from(["stack", "return", "hold", "enable", "inhibit", "nothing", "nothing"])
CONVERSATIONS = st.lists(st.tuples(REPLIES, VERBS, st.integers(0, 9)), min_size=1, max_size=60)

ALWAYS_PROVE = {"14", "15", "19", "80"}
PROVE = ALWAYS_PROVE | {"17", "18", "1a", "1c", "41", "42", "43", "44", "45", "46", "47", "82"}
FRESH = {"10", "11", "12", "13"}


def stacked_events(replies: list[str | None]) -> int:
    """The rule of the 81 in five lines, told apart from the machine: how many notes these replies put into the box."""
    count, repeated, fresh = 0, False, True
    for z1 in [reply[:2] for reply in replies if reply is not None]:
        if z1 in FRESH:
            fresh = True
        elif z1 in ALWAYS_PROVE or (z1 in PROVE and not fresh):
            repeated, fresh = False, False if z1 in ALWAYS_PROVE else fresh
        elif z1 == "81":
            count, repeated = count + (not repeated), True
    return count


def taken(events: list[ev.Event]) -> list[ev.Event]:
    """One event for each note or ticket that went into the box."""
    return [
        event
        for event in events
        if isinstance(event, ev.NoteStacked | ev.TicketStacked)
        or (isinstance(event, ev.DoubtOpened) and event.reason == "value_unknown")
    ]


def open_events(journal: list[ev.Event]) -> list[ev.Event]:
    closed = {event.record() for event in journal if event.closes_record()}
    return [ONLINE, *(event for event in journal if event.record() and event.record() not in closed)]


def converse(conversation: list[tuple[str | None, str, int]], *, restarts: bool) -> list[ev.Event]:
    """`restart` 0: the agent dies after the commit and before the ACK; a device holds 81 and 82 and says them again."""
    talk, journal = Talk([ONLINE]), []
    ids = 0
    for reply, verb, restart in conversation:
        journal += talk.poll(reply)
        if restarts and restart == 0:
            ids += 1000
            talk = Talk(open_events(journal))
            talk._count = ids
            if reply is not None and reply[:2] in ("81", "82"):
                journal += talk.poll(reply)
        waiting = talk.machine._notes.waiting
        match verb:
            case "stack" if waiting is not None:
                journal.append(ev.StackRequested(device="acceptor", note_id=waiting.note_id, payment_id="p1"))
                talk.machine.stack(waiting.note_id, "p1")
            case "return" if waiting is not None:
                talk.machine.return_note(waiting.note_id)
            case "hold" if waiting is not None:
                talk.machine.hold(waiting.note_id)
            case "enable":
                talk.machine.enable(None)
            case "inhibit":
                talk.machine.inhibit()
    return journal


def check_books(journal: list[ev.Event]) -> None:
    for event in journal:
        assert decode(event.TYPE, encode(event)) == event
        entries_for(event)
    notes = [event.note_id for event in journal if isinstance(event, ev.NoteStacked)]
    assert len(notes) == len(set(notes))
    settled: set[str] = set()
    for event in journal:
        record = event.record()
        if record is not None and isinstance(
            event, ev.NoteReturned | ev.NoteStacked | ev.DoubtOpened | ev.TicketStacked
        ):
            assert record not in settled, f"{record} is settled twice"
            settled.add(record)


def test_any_conversation_credits_by_the_rule(scale: Callable[[int, int], int]) -> None:
    @settings(max_examples=scale(150, 20_000), suppress_health_check=list(HealthCheck))
    @given(CONVERSATIONS)
    def run(conversation: list[tuple[str | None, str, int]]) -> None:
        journal = converse(conversation, restarts=False)
        check_books(journal)
        assert len(taken(journal)) == stacked_events([reply for reply, _, _ in conversation])

    run()


def test_restarts_add_no_credit(scale: Callable[[int, int], int]) -> None:
    @settings(max_examples=scale(150, 20_000), suppress_health_check=list(HealthCheck))
    @given(CONVERSATIONS)
    def run(conversation: list[tuple[str | None, str, int]]) -> None:
        journal = converse(conversation, restarts=True)
        check_books(journal)
        assert len(taken(journal)) <= stacked_events([reply for reply, _, _ in conversation])

    run()


def test_the_rule_itself() -> None:
    assert stacked_events(["8105", "8105", "14", "8105"]) == 2
    assert stacked_events(["8105", "13", "17", "8105", "19"]) == 1
