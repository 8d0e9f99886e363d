"""Random histories of customers, devices, staff and power cuts: no cent is lost or invented in any of them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from agent.domain import events as ev
from agent.domain.errors import KioskError
from agent.domain.money import Money
from drivers.ports import DeviceState
from modules.cash_system import queries
from tests.modules.rig import EURO, HandAcceptor, Rig

AMOUNTS = st.sampled_from((500, 700, 1500, 3000, 12_000))
NOTES = st.sampled_from((*EURO, 0))
WHICH = st.booleans()


class Kiosk(RuleBasedStateMachine):
    """`inserted`: what customers put in that has not come back out of the bezel."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="kiosk-cash-"))
        self.runner = asyncio.Runner()
        self.rig = Rig(self.folder, device_lost_s=30, settle_wait_s=20, extensions_max=2)
        self.inserted: Counter[Money] = Counter()
        self.in_box: dict[str, bool] = {}
        self.do(self.rig.open())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def try_(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What a UI may ask at any time; a refusal must leave everything as it was."""
        with suppress(KioskError):
            return self.do(work)

    def device(self, second: bool) -> HandAcceptor:
        return self.rig.second if second else self.rig.acceptor

    def open_id(self) -> str | None:
        with self.rig.store.read() as reader:
            payment = queries.open_payment(reader)
        return None if payment is None else payment.id

    @rule(
        amount=AMOUNTS,
        partial=st.booleans(),
        overpay=st.sampled_from((None, 0, 1000)),
        allowed=st.sampled_from(([], [500, 1000])),
    )
    def create(self, amount: int, partial: bool, overpay: int | None, allowed: list[int]) -> None:
        options: dict[str, Any] = {"allow_partial": partial, "max_overpay_minor": overpay, "allowed_minor": allowed}
        self.try_(self.rig.create(amount, timeout_s=60, **options))

    @rule(value=NOTES, currency=st.sampled_from(("EUR", "EUR", "EUR", "USD")), second=WHICH)
    def insert(self, value: int, currency: str, second: bool) -> None:
        device = self.device(second)
        if device.escrow is None and device.state is DeviceState.READY:
            if value:
                self.inserted[Money(value, currency)] += 1
            self.do(self.rig.insert(value, currency, device))

    @rule(second=WHICH)
    def obey(self, second: bool) -> None:
        self.do(self.rig.obey(self.device(second)))

    @rule(second=WHICH, value=st.sampled_from(EURO), currency=st.sampled_from(("EUR", "USD")))
    def stack_another_value(self, second: bool, value: int, currency: str) -> None:
        """The device says something else at the credit point than in escrow: the credit point counts."""
        device = self.device(second)
        if device.escrow is None or device.asked is None or device.asked[0] != "stack":
            return
        (note_id, seen), payment_id = device.escrow, device.asked[1]
        device.escrow = None
        assert seen is not None
        self.inserted[seen] -= 1
        self.inserted[Money(value, currency)] += 1
        self.do(self.rig.stacked(note_id, Money(value, currency), payment_id, device))

    @rule(second=WHICH, in_box=st.booleans())
    def fall_into_doubt(self, second: bool, in_box: bool) -> None:
        device = self.device(second)
        if device.escrow is None or device.asked is None or device.asked[0] != "stack":
            return
        value = device.escrow[1]
        doubt = self.do(self.rig.doubt(device, in_box=in_box))
        self.in_box[doubt] = in_box
        if not in_box and value is not None:
            device.returned[value] += 1

    @rule(value=st.sampled_from(EURO))
    def a_note_stacks_itself(self, value: int) -> None:
        self.inserted[Money(value, "EUR")] += 1
        note_id = f"stray-{sum(self.rig.acceptor.box.values())}"
        self.do(self.rig.stacked(note_id, Money(value, "EUR"), None))

    @precondition(lambda self: self.open_id() is not None)
    @rule(verb=st.sampled_from(("cancel", "finish", "extend")))
    def press(self, verb: str) -> None:
        payment_id = self.open_id()
        assert payment_id is not None
        self.try_(getattr(self.rig, verb)(payment_id))

    @precondition(lambda self: self.open_id() is not None)
    @rule()
    def press_everything_at_once(self) -> None:
        payment_id = self.open_id()
        assert payment_id is not None

        async def all_at_once() -> None:
            works = [self.rig.cancel(payment_id), self.rig.finish(payment_id), self.rig.extend(payment_id)]
            await asyncio.gather(*works, self.rig.obey(), self.rig.cancel(payment_id), return_exceptions=True)
            await self.rig.pump()

        self.do(all_at_once())

    @rule(seconds=st.sampled_from((1, 10, 25, 70)))
    def time_passes(self, seconds: int) -> None:
        self.do(self.rig.wait(seconds, step=5))

    @rule(second=WHICH, state=st.sampled_from((DeviceState.READY, DeviceState.FAULTED, DeviceState.OFFLINE)))
    def device_changes(self, second: bool, state: DeviceState) -> None:
        device = self.device(second)
        device.state = state
        self.do(self.rig.record(ev.DeviceOffline(device=device.name, reason="test"), actor="test"))

    @rule(reasons=st.sampled_from(([], ["disk_low"])))
    def guard_speaks(self, reasons: list[str]) -> None:
        self.rig.devices.reasons = reasons

    @rule(forget=st.booleans(), seconds=st.sampled_from((1, 100)), jump=st.sampled_from((0, 90_000, -90_000)))
    def power_cut(self, forget: bool, seconds: int, jump: int) -> None:
        self.rig.clock.jump(jump)
        self.do(self.rig.restart(seconds=seconds, forget_cursor=forget))

    @rule()
    def a_person_decides(self) -> None:
        self._resolve_one()

    def _resolve_one(self) -> bool:
        with self.rig.store.read() as reader:
            rows = queries.doubts(reader, 10, open_only=True)
        if not rows:
            return False
        doubt = rows[0]["id"]
        self.do(self.rig.resolve(doubt, "stacked" if self.in_box[doubt] else "returned"))
        return True

    @invariant()
    def books_are_right(self) -> None:
        self.rig.check_books()

    @invariant()
    def the_box_holds_what_the_books_say(self) -> None:
        with self.rig.store.read() as reader:
            lying = Counter[Money]()
            for row in queries.unit_contents(reader):
                lying[Money(row["value_minor"], row["currency"])] += row["count"]
            for row in queries.doubts(reader, 500, open_only=True):
                if self.in_box[row["id"]]:
                    lying[Money(row["amount_minor"], row["currency"])] += 1
        assert lying == self.rig.acceptor.box + self.rig.second.box

    @invariant()
    def acceptors_take_money_only_for_a_collecting_payment(self) -> None:
        with self.rig.store.read() as reader:
            payment = queries.open_payment(reader)
        if payment is None or payment.state.value != "collecting":
            assert self.rig.acceptor.enabled is False
            assert self.rig.second.enabled is False

    def teardown(self) -> None:
        """At the end of the day everybody has gone home: what was put in was sold, is owed, or was given back."""
        try:
            self.rig.devices.reasons = []
            for second in (False, True):
                self.do(self.rig.obey(self.device(second)))
            while self._resolve_one():
                pass
            self.do(self.rig.wait(200, step=10))
            assert self.open_id() is None
            self.rig.check_books()
            self._everything_is_accounted_for()
        finally:
            self.do(self.rig.close())
            self.runner.close()
            shutil.rmtree(self.folder)

    def _everything_is_accounted_for(self) -> None:
        came_back = self.rig.acceptor.returned + self.rig.second.returned
        balances = self.rig.balances()
        for currency in ("EUR", "USD"):
            kept = sum(note.minor * count for note, count in self.inserted.items() if note.currency == currency)
            kept -= sum(note.minor * count for note, count in came_back.items() if note.currency == currency)
            booked = -sum(balances.get((name, currency), (0, 0))[0] for name in ("sales", "owed", "unattributed"))
            assert booked == kept
            assert balances.get(("customer", currency), (0, 0)) == (0, 0)
            assert balances.get(("in_doubt", currency), (0, 0)) == (0, 0)


def test_no_history_loses_or_invents_money(scale: Callable[[int, int], int]) -> None:
    run_state_machine_as_test(
        Kiosk,
        settings=settings(
            max_examples=scale(20, 1000),
            stateful_step_count=25,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
