"""What modules hold as their note acceptor: it outlives drivers, remembers what is wanted, and obeys the guard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.domain.money import Money
from agent.runtime.steps import OnStep, quiet
from drivers.ports import NoteAcceptor

Verb = Callable[[NoteAcceptor], None]
VERBS_KEPT_MAX = 16  # verbs that wait for a driver; one note is in escrow at a time, so this is never reached


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the module last asked for. `notes` None: every value of the device's table."""

    enabled: bool = False
    notes: frozenset[Money] | None = field(default=None)


class Acceptor:
    """A `NoteAcceptor` by configured name. Enabling reaches the device only while `allowed()`; verbs about a note
    that come while no driver is attached are handed to the next one, for their intents are committed already and may
    be too young for the history that driver was built from."""

    def __init__(self, allowed: Callable[[], bool], on_step: OnStep = quiet) -> None:
        self._allowed = allowed
        self._on_step = on_step
        self._wanted = _Wanted()
        self._driver: NoteAcceptor | None = None
        self._waiting: list[Verb] = []

    def enable(self, notes: frozenset[Money] | None = None) -> None:
        self._wanted = _Wanted(True, notes)
        self.apply()

    def inhibit(self) -> None:
        self._wanted = _Wanted()
        self.apply()

    def stack(self, note_id: str, payment_id: str | None) -> None:
        self._tell(lambda driver: driver.stack(note_id, payment_id))
        self._on_step("stack_requested")

    def return_note(self, note_id: str) -> None:
        self._tell(lambda driver: driver.return_note(note_id))

    def hold(self, note_id: str) -> None:
        self._tell(lambda driver: driver.hold(note_id))

    # --- the supervisor's side

    def attach(self, driver: NoteAcceptor) -> None:
        """`driver` is new: it gets what is wanted, and what could not be told to anyone."""
        self._driver = driver
        self.apply()
        waiting, self._waiting = self._waiting, []
        for verb in waiting:
            verb(driver)

    def detach(self) -> None:
        self._driver = None

    def apply(self) -> None:
        """Bring the driver to what is wanted and allowed; called on every change of the guard."""
        if self._driver is None:
            return
        if self._wanted.enabled and self._allowed():
            self._driver.enable(self._wanted.notes)
        else:
            self._driver.inhibit()

    def _tell(self, verb: Verb) -> None:
        if self._driver is not None:
            verb(self._driver)
        elif len(self._waiting) < VERBS_KEPT_MAX:
            self._waiting.append(verb)
