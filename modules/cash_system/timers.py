"""The open payment's timers on the monotonic clock. The journal keeps the deadline for a restart; here it runs."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from agent.domain.clock import Clock
from agent.domain.payments import Payment, PaymentState
from modules.cash_system.rules import remaining_after_restart
from modules.cash_system.settings import CashSettings

LOOK_AGAIN_S = 5.0
"""While a payment is open its devices are looked at this often, whether or not an event tells of them."""
IDLE_LOOK_S = 600.0


@dataclass(frozen=True, slots=True)
class Face:
    """What the timers said at one moment, for a decision in the writer thread. It speaks only for the payment and the
    deadline that it names: a payment extended meanwhile is not overdue."""

    payment_id: str | None
    deadline_us: int
    overdue: bool
    device_lost: bool
    waited_enough: bool

    def overdue_for(self, payment: Payment) -> bool:
        return self.overdue and self._is_for(payment) and payment.deadline_us == self.deadline_us

    def device_lost_for(self, payment: Payment) -> bool:
        return self.device_lost and self._is_for(payment)

    def waited_enough_for(self, payment: Payment) -> bool:
        return self.waited_enough and self._is_for(payment)

    def _is_for(self, payment: Payment) -> bool:
        return payment.id == self.payment_id


class Timers:
    """At most one payment is open, so there is one of each timer. Used on the event loop only."""

    def __init__(self, clock: Clock, settings: CashSettings) -> None:
        self._clock = clock
        self._settings = settings
        self._payment_id: str | None = None
        self._deadline_us = 0
        self._pay_by = self._lost_by = self._settle_by = inf

    def follow(self, payment: Payment | None, *, usable: bool, restarted: bool = False) -> None:
        """Start, keep or stop the timers to fit the open payment. `usable`: some acceptor works for it."""
        if payment is None or payment.id != self._payment_id:
            self._forget(payment)
        if payment is None:
            return
        now = self._clock.monotonic()
        if payment.state is PaymentState.COLLECTING:
            if payment.deadline_us != self._deadline_us:
                grace_s = self._settings.restart_grace_s if restarted else 0.0
                self._deadline_us = payment.deadline_us
                self._pay_by = now + remaining_after_restart(payment, self._clock.now_us(), grace_s)
            self._lost_by = inf if usable else min(self._lost_by, now + self._settings.device_lost_s)
        else:
            self._pay_by = self._lost_by = inf
            self._settle_by = min(self._settle_by, now + self._settings.settle_wait_s)

    def face(self) -> Face:
        now = self._clock.monotonic()
        return Face(
            payment_id=self._payment_id,
            deadline_us=self._deadline_us,
            overdue=now >= self._pay_by,
            device_lost=now >= self._lost_by,
            waited_enough=now >= self._settle_by,
        )

    def remaining_s(self, payment_id: str, deadline_us: int) -> float | None:
        """Seconds left to pay; None when these timers do not run for this payment and deadline."""
        if payment_id != self._payment_id or deadline_us != self._deadline_us or self._pay_by == inf:
            return None
        return max(0.0, self._pay_by - self._clock.monotonic())

    def next_look(self) -> float:
        """When (monotonic) the service should look again."""
        now = self._clock.monotonic()
        if self._payment_id is None:
            return now + IDLE_LOOK_S
        return min(self._pay_by, self._lost_by, self._settle_by, now + LOOK_AGAIN_S)

    def _forget(self, payment: Payment | None) -> None:
        self._payment_id = None if payment is None else payment.id
        self._deadline_us = 0
        self._pay_by = self._lost_by = self._settle_by = inf
