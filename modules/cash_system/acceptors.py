"""The kiosk's note acceptors as the payment sees them: which can serve it, and which notes they should take now."""

from __future__ import annotations

from agent.api.module import Devices
from agent.domain.errors import KioskError
from agent.domain.money import Money
from agent.domain.payments import Payment
from drivers.ports import DeviceInfo, DeviceState, NoteAcceptor
from modules.cash_system.errors import AcceptanceInhibited, NoAcceptor
from modules.cash_system.rules import useful_notes
from modules.cash_system.schemas import AcceptanceOut

_WORKING = frozenset({DeviceState.READY, DeviceState.ACTIVE})


class Acceptors:
    """Enables acceptors only while a payment collects, and only for notes that help it."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._wanted: dict[str, frozenset[Money] | None] = {}

    def get(self, name: str) -> NoteAcceptor | None:
        return self._devices.note_acceptors().get(name)

    def allowed(self) -> bool:
        return self._devices.accepting_allowed()

    def names(self) -> list[str]:
        return list(self._devices.note_acceptors())

    def info(self, name: str) -> DeviceInfo:
        return self._devices.info(name)

    def usable(self, payment: Payment) -> bool:
        """True when some acceptor works and knows notes that this payment allows."""
        allowed = payment.allowed_minor
        return any(
            entry.value.currency == payment.amount.currency and (not allowed or entry.value.minor in allowed)
            for info in self._working()
            for entry in info.table
        )

    def problem(self, payment: Payment) -> KioskError | None:
        """Why this payment, a new one, cannot start now; None when it can."""
        reasons = list(self._devices.inhibit_reasons())
        if not self.allowed():
            why = ", ".join(reasons) or "unknown"
            return AcceptanceInhibited(f"the kiosk takes no money now: {why}", reasons=reasons)
        if not any(useful_notes(payment, info.table) for info in self._working() if info.table):
            states = {name: self.info(name).state.value for name in self.names()}
            return NoAcceptor(
                f"no acceptor is ready for notes that pay {payment.amount} as asked",
                currency=payment.amount.currency,
                devices=states,
            )
        return None

    def overview(self) -> AcceptanceOut:
        reasons = list(self._devices.inhibit_reasons())
        currencies = {currency: sorted(values) for currency, values in sorted(self._currencies().items())}
        if not currencies:
            reasons.append("no_acceptor")
        return AcceptanceOut(accepting=self.allowed() and bool(currencies), reasons=reasons, currencies=currencies)

    def serve(self, payment: Payment | None) -> None:
        """Tell every acceptor what this payment can use; all are inhibited when there is none. Repeats cost nothing:
        a device hears only what is new to it."""
        for name, acceptor in self._devices.note_acceptors().items():
            notes = frozenset() if payment is None else useful_notes(payment, self.info(name).table)
            if name in self._wanted and self._wanted[name] == notes:
                continue
            self._wanted[name] = notes
            if notes is not None and not notes:
                acceptor.inhibit()
            else:
                acceptor.enable(notes)

    def _working(self) -> list[DeviceInfo]:
        return [info for name in self.names() if (info := self.info(name)).state in _WORKING]

    def _currencies(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for info in self._working():
            for entry in info.table:
                found.setdefault(entry.value.currency, set()).add(entry.value.minor)
        return found
