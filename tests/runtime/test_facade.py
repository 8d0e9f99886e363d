"""The acceptor that modules hold outlives every driver and obeys the guard."""

from __future__ import annotations

from agent.domain.money import Money
from agent.runtime.facade import VERBS_KEPT_MAX, Acceptor
from tests.runtime.fakes import FakeDriver, FakeLink

TEN = frozenset({Money(1000, "EUR")})


async def nothing(events: object) -> None:
    return None


def driver() -> FakeDriver:
    return FakeDriver("validator", FakeLink(), nothing, [])


def test_a_new_driver_starts_inhibited_until_someone_wants_money() -> None:
    acceptor, first = Acceptor(lambda: True), driver()
    acceptor.attach(first)
    assert first.verbs == [("inhibit",)]


def test_what_is_wanted_reaches_the_driver_after_a_reconnect() -> None:
    """A validator that comes back in the middle of a payment goes on taking the same notes."""
    acceptor, first, second = Acceptor(lambda: True), driver(), driver()
    acceptor.attach(first)
    acceptor.enable(TEN)
    acceptor.detach()
    acceptor.attach(second)
    assert first.verbs[-1] == second.verbs[-1] == ("enable", TEN)


def test_the_guard_inhibits_and_gives_back_what_was_wanted() -> None:
    allowed = True
    acceptor, present = Acceptor(lambda: allowed), driver()
    acceptor.attach(present)
    acceptor.enable()
    allowed = False
    acceptor.apply()
    acceptor.enable(TEN)
    allowed = True
    acceptor.apply()
    acceptor.inhibit()
    acceptor.apply()
    assert present.verbs == [
        ("inhibit",),
        ("enable", None),
        ("inhibit",),
        ("inhibit",),  # enabling has no effect while the guard forbids it
        ("enable", TEN),
        ("inhibit",),
        ("inhibit",),
    ]


def test_verbs_about_a_note_wait_for_the_next_driver() -> None:
    """Their intents are committed: one that comes between two drivers must not be lost, nor told twice."""
    acceptor, first, second = Acceptor(lambda: False), driver(), driver()
    acceptor.stack("note-1", "payment-1")
    acceptor.return_note("note-2")
    acceptor.hold("note-3")
    acceptor.attach(first)
    assert first.verbs[1:] == [("stack", "note-1", "payment-1"), ("return", "note-2"), ("hold", "note-3")]
    acceptor.detach()
    acceptor.attach(second)
    assert second.verbs == [("inhibit",)]


def test_waiting_verbs_are_bounded() -> None:
    acceptor, present = Acceptor(lambda: True), driver()
    for number in range(VERBS_KEPT_MAX + 5):
        acceptor.hold(str(number))
    acceptor.attach(present)
    assert len(present.verbs) == 1 + VERBS_KEPT_MAX


def test_the_step_is_named_after_the_driver_knows() -> None:
    steps: list[str] = []
    acceptor, present = Acceptor(lambda: True, steps.append), driver()
    acceptor.attach(present)
    acceptor.stack("note-1", None)
    assert steps == ["stack_requested"]
