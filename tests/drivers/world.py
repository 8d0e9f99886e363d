"""One CCNET machine and one simulated validator in virtual time, with a journal between that survives crashes.

No asyncio: a conversation of a minute takes milliseconds, so that thousands of them can be tried. The loop below is the
driver's: commit, then ACK, then the next frame.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from agent.domain import events as ev
from agent.domain.ids import uuid7
from agent.domain.money import Money
from drivers.ccnet.codec import Decoder, Direction, Frame
from drivers.ccnet.machine import CcnetMachine
from drivers.ccnet.settings import CcnetSettings
from drivers.ccnet.simulator import CcnetSimulator, make_simulator

SETTINGS = CcnetSettings(poll_interval_ms=100, poll_idle_ms=100, bus_free_ms=10, reply_timeout_ms=100)
PAYMENT = "payment-1"

Decide = Callable[[ev.NoteEscrowed], str]


class Crash(Exception):
    """The agent dies here."""


class World:
    """`decide` answers a note in escrow with `stack`, `return` or `wait`. `crash_at` is called with `before_commit`,
    `after_commit` and `after_ack` and may raise `Crash`."""

    def __init__(
        self,
        simulator: dict[str, Any] | None = None,
        settings: CcnetSettings = SETTINGS,
        decide: Decide = lambda note: "stack",
        crash_at: Callable[[str], None] = lambda point: None,
        spoil: Callable[[bytes], bytes] = lambda raw: raw,
    ) -> None:
        self.now = 1000.0
        self.simulator: CcnetSimulator = make_simulator({"speed": 5, "ack_window_ms": 20, **(simulator or {})})
        self.settings = settings
        self.journal: list[ev.Event] = []
        self.decide = decide
        self.crash_at = crash_at
        self.spoil = spoil
        self.enabled = True
        self._ids = iter(range(1, 10**9))
        self.machine = self._fresh_machine()
        self.crashes = 0

    # --- running

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.turn()

    def until(self, holds: Callable[[], bool], seconds: float = 120.0) -> None:
        end = self.now + seconds
        while not holds():
            assert self.now < end, f"not within {seconds} s; last events {self.journal[-6:]}, {self.simulator.truth()}"
            self.turn()

    def turn(self) -> None:
        """One step of the driver's loop; a crash starts the agent anew from its journal."""
        try:
            self._turn()
        except Crash:
            self.restart()

    def restart(self) -> None:
        while True:
            self.crashes += 1
            self.now += 0.5
            try:
                self.machine = self._fresh_machine()
                return
            except Crash:
                continue  # died again while starting

    def do(self, line: str) -> bool:
        return bool(self.simulator.command(line, self.now)["ok"])

    def insert(self, line: str = "insert 500", seconds: float = 60.0) -> None:
        self.until(lambda: self.do(line), seconds)

    def settle(self) -> None:
        """Everything works again; run until the conversation is quiet."""
        self.decide = lambda note: "stack"
        self.crash_at = lambda point: None
        self.spoil = lambda raw: raw
        self.do("power-on")
        self.do("fault off")
        self.do("insert stacker")
        self.do("empty stacker")
        self.do("clear")
        self.until(self._quiet, 400.0)

    def _quiet(self) -> bool:
        """The device idles with nothing inside, and no record is open."""
        state = self.simulator.truth()
        return state["state"] == "IDLING" and state["path"] is None and not any(e.record() for e in self.open_events())

    # --- what came of it

    def of(self, kind: type[ev.Event]) -> list[Any]:
        return [event for event in self.journal if isinstance(event, kind)]

    @property
    def credited(self) -> Counter[Money]:
        return Counter(event.value for event in self.of(ev.NoteStacked))

    @property
    def doubts(self) -> Counter[Money | None]:
        return Counter(event.amount for event in self.of(ev.DoubtOpened))

    @property
    def stacked(self) -> Counter[Money]:
        truth = self.simulator.device.truth
        papers = [*truth.stacker, *truth.collected]
        return Counter(Money(each.minor, each.currency) for each in papers if each.minor and each.currency)

    def check(self) -> None:
        """Nothing invented, nothing twice; what is missing stands in a doubt that names its amount."""
        invented = self.credited - self.stacked
        assert not invented, f"credited but not in the box: {invented}\n{self.story()}"
        missing = self.stacked - self.credited
        unnamed = missing - Counter({amount: n for amount, n in self.doubts.items() if amount is not None})
        assert unnamed.total() <= self.doubts[None], (
            f"in the box, neither credited nor in doubt: {unnamed}\n{self.story()}"
        )

    def story(self) -> str:
        return "\n".join(str(event) for event in self.journal[-40:])

    # --- inside

    def _fresh_machine(self) -> CcnetMachine:
        self._step: Any = None
        self._reply: Frame | None = None
        machine = CcnetMachine("acceptor", self.settings, self._new_id, self.open_events())
        if self.enabled:
            machine.enable(None)
        for note_id in self._undecided():
            self._decision(machine, note_id)
        return machine

    def _new_id(self) -> str:
        return str(uuid7(int(self.now * 1000), next(self._ids).to_bytes(10, "big")))

    def open_events(self) -> list[ev.Event]:
        """What the store's `open_events` gives: all events of the records that no event has closed."""
        closed = {event.record() for event in self.journal if event.closes_record()}
        online = [event for event in self.journal if isinstance(event, ev.DeviceOnline)][-1:]
        return [*online, *(event for event in self.journal if event.record() and event.record() not in closed)]

    def _undecided(self) -> list[str]:
        """After a restart the module decides anew on every escrowed note without an intent."""
        noted = self.open_events()
        decided = {event.record() for event in noted if not isinstance(event, ev.NoteEscrowed)}
        return [event.note_id for event in noted if isinstance(event, ev.NoteEscrowed) and event.note_id not in decided]

    def _turn(self) -> None:
        step = self.machine.step(self._reply, self.now)
        self._reply = None
        if step.events:
            self._commit(list(step.events))
        if step.ack is not None:
            self._send(step.ack)
            self.crash_at("after_ack")
        replanned = False
        for event in step.events:
            if isinstance(event, ev.NoteEscrowed):
                replanned |= self._decision(self.machine, event.note_id)
        self.now = max(self.now, step.wake_from if replanned else step.not_before)
        if replanned:
            step = self.machine.replan(self.now)
            self.now = max(self.now, step.not_before)
        self._reply = self._exchange(step.send, step.timeout_s)

    def _commit(self, events: list[ev.Event]) -> None:
        self.crash_at("before_commit")
        self.now += 0.002
        self.journal += events
        self.crash_at("after_commit")

    def _decision(self, machine: CcnetMachine, note_id: str) -> bool:
        note = next(event for event in self.journal if isinstance(event, ev.NoteEscrowed) and event.note_id == note_id)
        match self.decide(note):
            case "stack":
                self._commit([ev.StackRequested(device="acceptor", note_id=note_id, payment_id=PAYMENT)])
                machine.stack(note_id, PAYMENT)
            case "return":
                self._commit([ev.ReturnRequested(device="acceptor", note_id=note_id, reason="test")])
                machine.return_note(note_id)
            case _:
                return False
        return True

    def _exchange(self, request: Frame, timeout_s: float) -> Frame | None:
        decoder = Decoder(Direction.DEVICE, self.settings.address)
        heard = self._send(request)
        for item in [*decoder.feed(heard), *decoder.flush()]:
            if isinstance(item, Frame) and self.machine.is_reply(item):
                return item
            if not isinstance(item, Frame):
                self.machine.noise(len(item.raw))
        self.now += timeout_s
        return None

    def _send(self, frame: Frame) -> bytes:
        self.now += 0.002
        raw = self.spoil(frame.encode(Direction.HOST))
        answers = self.simulator.receive(raw, self.now) if raw else []
        self.now += 0.002
        return self.spoil(b"".join(each.data for each in answers if each.at <= self.now + 0.05))


def spoiler(dice: random.Random, share: float) -> Callable[[bytes], bytes]:
    """A line that loses, cuts or damages `share` of what passes."""

    def spoil(raw: bytes) -> bytes:
        if not raw or dice.random() >= share:
            return raw
        match dice.randrange(4):
            case 0:
                return b""
            case 1:
                return raw[: dice.randrange(len(raw))]
            case 2:
                at = dice.randrange(len(raw))
                return raw[:at] + bytes([raw[at] ^ 1 << dice.randrange(8)]) + raw[at + 1 :]
            case _:
                return dice.randbytes(dice.randrange(1, 9)) + raw

    return spoil
