"""Decisions about payments, each taken on the state that its own transaction reads.

The works (`creating`, `cancelling`, …) run inside one transaction, given to the store by whoever calls (the API puts
the idempotency key into the same one). Afterwards `settle` takes the steps that follow, and runs again after every
note, doubt, device change and timer: it may be called at any time, by anyone, any number of times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from loguru import logger

from agent.api.module import Answer, Devices
from agent.domain import events as ev
from agent.domain import payments as domain
from agent.domain.chain import JournalRow
from agent.domain.clock import Clock
from agent.domain.errors import NotFound
from agent.domain.ids import Randomness, claim_code, uuid7
from agent.domain.money import Money
from agent.domain.payments import Payment, PaymentState
from agent.store.ports import Reader, Row, Store, Transaction
from modules.cash_system import errors, queries, rules
from modules.cash_system.acceptors import Acceptors
from modules.cash_system.doubts import resolution
from modules.cash_system.schemas import (
    AcceptanceOut,
    PaymentIn,
    PaymentOut,
    ReasonIn,
    ResolveIn,
    SnapshotOut,
    doubt_out,
    payment_out,
)
from modules.cash_system.settings import CashSettings
from modules.cash_system.timers import Face, Timers

ACTOR = "module:cash_system"
RETRY_S = 1.0
"""How long the timer task waits after an error, and at least between two looks."""

Work = Callable[[Transaction], Answer]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to tell the acceptor about a note in escrow."""

    keep: bool
    payment_id: str | None


class CashService:
    """One per process. `start` settles what a restart left open; `stop` leaves everything as the journal has it."""

    def __init__(
        self, store: Store, clock: Clock, randomness: Randomness, devices: Devices, settings: CashSettings
    ) -> None:
        self._store = store
        self._clock = clock
        self._randomness = randomness
        self._settings = settings
        self._acceptors = Acceptors(devices)
        self._timers = Timers(clock, settings)
        self._wake = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    # --- works: inside the caller's transaction ----------------------------------------------------------------------

    def creating(self, request: PaymentIn) -> Work:
        """A new payment, collecting. Raises `PaymentInProgress`, `AcceptanceInhibited`, `NoAcceptor`, …"""
        timeout_s = request.options.timeout_s or self._settings.timeout_s
        if request.amount_minor > self._settings.amount_max_minor:
            raise errors.AmountTooLarge(f"one payment may be at most {self._settings.amount_max_minor} minor units")
        if timeout_s > self._settings.timeout_max_s:
            raise errors.TimeoutTooLong(f"timeout_s may be at most {self._settings.timeout_max_s}")
        event = ev.PaymentCreated(
            payment_id=self._new_id(),
            amount=Money(request.amount_minor, request.currency),
            reference=request.reference,
            timeout_s=timeout_s,
            deadline_us=self._clock.now_us() + timeout_s * 1_000_000,
            allowed_minor=tuple(request.options.allowed_minor),
            max_overpay_minor=request.options.max_overpay_minor,
            allow_partial=request.options.allow_partial,
        )
        problem = self._acceptors.problem(domain.create(event))

        def work(tx: Transaction) -> Answer:
            if (other := queries.open_payment(tx)) is not None:
                raise errors.PaymentInProgress(
                    f"payment {other.id} is {other.state.value}; one payment at a time", payment_id=other.id
                )
            if problem is not None:
                raise problem
            tx.append(event)
            return 201, self._body(tx, event.payment_id)

        return work

    def cancelling(self, payment_id: str, request: ReasonIn) -> Work:
        """Stop collecting; what is in the box becomes a claim. A second cancel answers like the first."""

        def work(tx: Transaction) -> Answer:
            payment = self._existing(tx, payment_id)
            if payment.state not in (PaymentState.CANCELLING, PaymentState.CANCELLED):
                if payment.state is PaymentState.COLLECTING and payment.missing.minor == 0:
                    raise errors.AmountReached("the amount was reached first; the payment completes")
                self._append(tx, payment, ev.PaymentCancelRequested(payment_id=payment_id, reason=request.reason))
            return 200, self._body(tx, payment_id)

        return work

    def finishing(self, payment_id: str) -> Work:
        """Settle for what is in the box, where the payment allows that. Raises `PartialNotAllowed`, …"""

        def work(tx: Transaction) -> Answer:
            payment = self._existing(tx, payment_id)
            if payment.state is PaymentState.COLLECTING:
                if payment.collected.minor == 0:
                    raise errors.NothingCollected("nothing was paid yet: cancel instead")
                if payment.missing and not payment.allow_partial:
                    raise errors.PartialNotAllowed(f"{payment.missing} are missing and this payment must be paid whole")
            if payment.state not in _COMPLETION:
                partial_amount = payment.missing.minor > 0
                self._append(tx, payment, ev.PaymentCompletionStarted(payment_id=payment_id, partial=partial_amount))
            return 200, self._body(tx, payment_id)

        return work

    def extending(self, payment_id: str) -> Work:
        """Give the payment its whole time again. Raises `ExtensionLimit`."""

        def work(tx: Transaction) -> Answer:
            payment = self._existing(tx, payment_id)
            if queries.payment_row(tx, payment_id)["extensions"] >= self._settings.extensions_max:
                raise errors.ExtensionLimit(f"a payment may be extended {self._settings.extensions_max} times")
            deadline_us = self._clock.now_us() + payment.timeout_s * 1_000_000
            self._append(tx, payment, ev.PaymentExtended(payment_id=payment_id, deadline_us=deadline_us))
            return 200, self._body(tx, payment_id)

        return work

    def resolving(self, doubt_id: str, request: ResolveIn) -> Work:
        """A person's decision. For a payment that is over the money becomes a claim at once; one that still collects
        gets it as credit."""

        def work(tx: Transaction) -> Answer:
            event = resolution(tx, doubt_id, request)
            tx.append(event)
            payment = None if event.payment_id is None else queries.find_payment(tx, event.payment_id)
            if payment is not None and payment.state.final:
                now = self._situation(tx, payment, self._timers.face())
                owed = [*now.foreign, *([now.unsettled] if now.unsettled.minor > 0 else [])]
                for amount in owed:
                    tx.append(self._new_claim(tx, payment, amount, "doubt_resolved"))
            return 200, doubt_out(queries.doubt(tx, doubt_id)).model_dump(mode="json")

        return work

    # --- what follows ------------------------------------------------------------------------------------------------

    async def settle(self, payment_id: str | None, *, trace_id: str = "") -> None:
        """Take every step that this payment's money asks for now, each in a transaction of its own."""
        while payment_id is not None:
            step = partial(self._step, payment_id=payment_id, face=self._timers.face())
            moved = await self._store.transact(step, actor=ACTOR, trace_id=trace_id or payment_id)
            self.follow()
            if not moved:
                return

    def follow(self, *, restarted: bool = False) -> None:
        """Bring acceptors and timers in line with the open payment."""
        with self._store.read() as reader:
            payment = queries.open_payment(reader)
        usable = payment is None or self._acceptors.usable(payment)
        self._timers.follow(payment, usable=usable, restarted=restarted)
        self._acceptors.serve(payment)
        self._wake.set()

    def _step(self, tx: Transaction, payment_id: str, face: Face) -> bool:
        payment = queries.find_payment(tx, payment_id)
        if payment is None:
            return False
        events = rules.next_events(self._situation(tx, payment, face), partial(self._new_claim, tx))
        for event in events:
            tx.append(event)
        return bool(events)

    def _situation(self, reader: Reader, payment: Payment, face: Face) -> rules.Situation:
        return rules.Situation(
            payment=payment,
            paid=Money(queries.paid_minor(reader, payment.id), payment.amount.currency),
            notes_in_flight=len(queries.notes_in_flight(reader, payment.id)),
            foreign=queries.unsettled_foreign(reader, payment),
            overdue=face.overdue_for(payment),
            device_lost=face.device_lost_for(payment),
            waited_enough=face.waited_enough_for(payment),
        )

    # --- handlers: after the commit, at least once -------------------------------------------------------------------

    async def on_note_escrowed(self, row: JournalRow, event: ev.NoteEscrowed) -> None:
        await self._answer(event)

    async def _answer(self, event: ev.NoteEscrowed) -> None:
        """Keep the note or give it back: the intent is committed before the acceptor is told."""
        decide = partial(self._decide, event=event, face=self._timers.face(), accepting=self._acceptors.allowed())
        verdict = await self._store.transact(decide, actor=ACTOR, trace_id=event.note_id)
        acceptor = self._acceptors.get(event.device)
        if verdict is None or acceptor is None:
            return
        if verdict.keep:
            acceptor.stack(event.note_id, verdict.payment_id)
        else:
            acceptor.return_note(event.note_id)

    async def on_note_outcome(self, row: JournalRow, event: ev.NoteStacked | ev.DoubtOpened | ev.DoubtResolved) -> None:
        await self.settle(event.payment_id, trace_id=row.trace_id)

    async def on_note_returned(self, row: JournalRow, event: ev.NoteReturned) -> None:
        """A note asked into the box came back: a payment that waited for it need not any longer."""
        with self._store.read() as reader:
            note = queries.note(reader, event.note_id)
        await self.settle(None if note is None else note["payment_id"], trace_id=row.trace_id)

    async def on_device_change(self, row: JournalRow, event: ev.DeviceEvent) -> None:
        """A device came, went or changed its table."""
        self.follow()

    def _decide(self, tx: Transaction, event: ev.NoteEscrowed, face: Face, accepting: bool) -> Verdict | None:
        note = queries.note(tx, event.note_id)
        if note is None or note["state"] not in ("escrowed", "stack_requested", "return_requested"):
            return None
        if note["state"] != "escrowed":  # decided before: say it again
            return Verdict(keep=note["state"] == "stack_requested", payment_id=note["payment_id"])
        payment = queries.open_payment(tx)
        in_flight = [] if payment is None else queries.notes_in_flight(tx, payment.id)
        reason = rules.why_return(
            event.value,
            payment,
            sum(each["value_minor"] or 0 for each in in_flight),
            accepting=accepting,
            overdue=payment is not None and face.overdue_for(payment),
        )
        payment_id = None if payment is None else payment.id
        intent: ev.Event
        if reason is None:
            intent = ev.StackRequested(device=event.device, note_id=event.note_id, payment_id=payment_id)
        else:
            intent = ev.ReturnRequested(
                device=event.device, note_id=event.note_id, payment_id=payment_id, reason=reason
            )
        tx.append(intent)
        return Verdict(keep=reason is None, payment_id=payment_id)

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Go on where the journal stops: timers, acceptors, and every payment on its way to an end."""
        self.follow(restarted=True)
        with self._store.read() as reader:
            payment = queries.open_payment(reader)
            waiting = [
                event
                for device in self._acceptors.names()
                for event in reader.open_events(device)
                if isinstance(event, ev.NoteEscrowed)
            ]
        for event in waiting:
            await self._answer(event)
        if payment is not None:
            await self.settle(payment.id)
        self._watcher = asyncio.create_task(self._watch(), name="cash_system timers")

    async def stop(self) -> None:
        self._acceptors.serve(None)
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
            self._watcher = None

    async def _watch(self) -> None:
        failing = False
        while True:
            await self._until(self._timers.next_look())
            try:
                with self._store.read() as reader:
                    payment = queries.open_payment(reader)
                await self.settle(None if payment is None else payment.id)
            except Exception as error:  # noqa: BLE001 - the edge of this task: the timers must outlive any error
                if not failing:
                    logger.bind(error=type(error).__name__).error("cash timers try again: {}", error)
                failing = True
            else:
                if failing:
                    logger.info("cash timers run again")
                failing = False
            await self._clock.sleep_until(self._clock.monotonic() + RETRY_S)

    async def _until(self, moment: float) -> None:
        """Return at `moment` (monotonic), or earlier when the timers have changed."""
        self._wake.clear()
        changed = asyncio.create_task(self._wake.wait())
        due = asyncio.create_task(self._clock.sleep_until(moment))
        try:
            await asyncio.wait({changed, due}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            due.cancel()

    # --- reads -------------------------------------------------------------------------------------------------------

    def current(self) -> PaymentOut:
        """The open payment. Raises `NoCurrentPayment`."""
        with self._store.read() as reader:
            row = queries.open_payment_row(reader)
            if row is None:
                raise errors.NoCurrentPayment("no payment is open")
            return self.out(reader, row)

    def payment(self, payment_id: str) -> PaymentOut:
        with self._store.read() as reader:
            return self.out(reader, queries.payment_row(reader, payment_id))

    def payments(self, limit: int, before: str | None, state: PaymentState | None) -> list[PaymentOut]:
        with self._store.read() as reader:
            rows = queries.payments(reader, limit, before, None if state is None else state.value)
            return [self.out(reader, row) for row in rows]

    def acceptance(self) -> AcceptanceOut:
        return self._acceptors.overview()

    def snapshot(self, reader: Reader) -> SnapshotOut:
        """For a client that has just connected."""
        row = queries.open_payment_row(reader)
        return SnapshotOut(payment=None if row is None else self.out(reader, row), acceptance=self.acceptance())

    def out(self, reader: Reader, row: Row) -> PaymentOut:
        remaining_s = None
        if row["state"] == PaymentState.COLLECTING.value:
            remaining_s = self._timers.remaining_s(row["id"], row["deadline_us"])
            if remaining_s is None:  # created or extended in this very transaction
                remaining_s = min((row["deadline_us"] - self._clock.now_us()) / 1e6, row["timeout_s"])
        return payment_out(
            row,
            queries.claims_of(reader, row["id"]),
            remaining_s=remaining_s,
            warn_s=self._settings.warn_s,
            extensions_max=self._settings.extensions_max,
        )

    # --- small things ------------------------------------------------------------------------------------------------

    def _body(self, tx: Transaction, payment_id: str) -> dict[str, Any]:
        return self.out(tx, queries.payment_row(tx, payment_id)).model_dump(mode="json")

    def _existing(self, reader: Reader, payment_id: str) -> Payment:
        payment = queries.find_payment(reader, payment_id)
        if payment is None:
            raise NotFound(f"there is no payment {payment_id}", payment_id=payment_id)
        return payment

    def _append(self, tx: Transaction, payment: Payment, event: ev.PaymentEvent) -> None:
        domain.apply(payment, event)  # raises IllegalTransition
        tx.append(event)

    def _new_id(self) -> str:
        return str(uuid7(self._clock.now_us() // 1000, self._randomness(10)))

    def _new_claim(self, reader: Reader, payment: Payment, amount: Money, reason: str) -> ev.ClaimIssued:
        code = claim_code(self._randomness)
        while queries.code_taken(reader, code):
            code = claim_code(self._randomness)
        return ev.ClaimIssued(claim_id=self._new_id(), code=code, payment_id=payment.id, amount=amount, reason=reason)


_COMPLETION = frozenset({PaymentState.COMPLETING, PaymentState.DISPENSING_CHANGE, PaymentState.COMPLETED})
