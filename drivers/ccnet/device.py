"""The simulated validator's behaviour: states over time, notes moving, power lost anywhere. Sheet section 9.

Knows poll statuses and commands as numbers of the manual, but no frames (`wire.py`) and no faults of the line
(`simulator.py`). Time is an argument; `advance` moves everything that is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from drivers.ccnet.paper import Entry, Paper, Truth, parse_entries

POWER_UP, POWER_UP_IN_VALIDATOR, POWER_UP_IN_STACKER = 0x10, 0x11, 0x12
INITIALIZE, IDLING, ACCEPTING, STACKING, RETURNING, DISABLED = 0x13, 0x14, 0x15, 0x17, 0x18, 0x19
HOLDING, BUSY, REJECTING = 0x1A, 0x1B, 0x1C
FULL, OUT, JAM_VALIDATOR, JAM_STACKER, CHEATED, PAUSE, FAILURE = 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47
ESCROW, STACKED, RETURNED = 0x80, 0x81, 0x82
TICKET = 23
REJECT_INHIBIT, REJECT_UNKNOWN = 0x68, 0x65
AWAITS_ACK = (STACKED, RETURNED, CHEATED)
WITH_BILL_TYPE = (ESCROW, STACKED, RETURNED)
WITH_REASON = (REJECTING, FAILURE)

Tell = Callable[[dict[str, Any]], None]


class CcnetSimulatorSettings(BaseModel):
    """Times are of a slow real device; `speed` divides all of them except those of the line itself."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    address: int = Field(default=3, ge=1, le=15)
    table: str = "RUB"
    part_number: str = Field(default="SM-RU1234", max_length=15)
    serial: str = Field(default="21K038AS3419", max_length=12)
    asset_hex: str = Field(default="01020304050607", pattern=r"^[0-9a-fA-F]{14}$")
    crc32_hex: str = Field(default="12345678", pattern=r"^[0-9a-fA-F]{8}$")
    speed: float = Field(default=1.0, gt=0, le=100_000)
    accept_ms: int = Field(default=1_000, ge=0)
    stack_ms: int = Field(default=900, ge=0)
    return_ms: int = Field(default=700, ge=0)
    reject_ms: int = Field(default=1_000, ge=0)
    init_ms: int = Field(default=3_000, ge=0)
    escrow_timeout_ms: int = Field(default=10_000, ge=1)
    reset_silence_ms: int = Field(default=0, ge=0)
    no_return_percent: int = Field(default=50, ge=0, le=100, description="Of stack_ms: from here on it cannot go back.")
    ack_window_ms: int = Field(default=100, ge=1, description="A host ACK later than this counts as missing.")
    gap_ms: int = Field(default=100, ge=1, description="A gap longer than this inside a frame drops it.")
    capacity: int = Field(default=600, ge=0, description="Papers until DROP CASSETTE FULL.")
    remembers_event: bool = Field(default=True, description="An unacknowledged BILL STACKED survives a power cut.")
    table_while_initializing: bool = Field(default=True, description="Off: ILLEGAL before UNIT DISABLED, as a GX does.")
    poll_bytes: int = Field(default=1, ge=1, le=3, description="Pad poll replies to this length, as a B2B does.")
    seed: int = 0


class Device:
    """States, paper and power. Everything it does is told as a dict; `truth` is where the paper is."""

    def __init__(self, settings: CcnetSimulatorSettings, tell: Tell) -> None:
        self.settings = settings
        self.truth = Truth()
        self.powered = True
        self.state = POWER_UP
        self.code = 0  # bill type, reject reason or failure code that goes with the state
        self.enabled = self.escrow = self.security = 0
        self.last_barcode: str | None = None
        self.next_reject: int | None = None
        self._tell = tell
        self._due: float | None = None  # when the present state ends by itself
        self._started = 0.0
        self._out = self._full = False
        self._hard_fault: tuple[int, int] | None = None  # (state, code) that RESET does not cure
        self._pending: tuple[int, int] | None = None  # event to report once initialised
        self._paused: tuple[int, int, float | None] | None = None  # (state, code, time left) behind a PAUSE

    # --- power and time

    def power_cut(self, now: float) -> None:
        self.advance(now)
        if not self.powered:
            return
        self.powered = False
        if self.state == STACKED and self.settings.remembers_event:
            self._pending = (STACKED, self.code)
        if self.state == STACKING and self._beyond_return(now):
            self._pending = (STACKING, self.code)
        self._due = None
        self._tell({"event": "power_cut"})

    def power_on(self, now: float) -> None:
        if self.powered:
            return
        self.powered = True
        self._forget_masks()
        self._paused = None
        if self._pending is not None:
            self._enter(POWER_UP_IN_STACKER, now)
        else:
            self._enter(POWER_UP if self.truth.path is None else POWER_UP_IN_VALIDATOR, now)

    def advance(self, now: float) -> None:
        """Do everything that is due by `now`."""
        while self.powered and self._due is not None and now >= self._due:
            at, self._due = self._due, None
            self._end_of_state(at)

    @property
    def due(self) -> float | None:
        return self._due if self.powered else None

    # --- what the host commands

    def reset(self, now: float) -> None:
        if self.state == STACKED:
            self._pending = (STACKED, self.code)
        elif self.state == STACKING and self._beyond_return(now):
            self._pending = (STACKING, self.code)
        elif self._hard_fault is None and self.state != POWER_UP_IN_STACKER:
            self._hand_back()
        self._forget_masks()
        self._paused = None
        self._enter(INITIALIZE, now, self.settings.init_ms)

    def enable(self, enabled: int, escrow: int, now: float) -> None:
        self.enabled, self.escrow = enabled, escrow
        if self.state in (IDLING, DISABLED):
            self._rest(now)

    def stack(self, now: float) -> bool:
        return self._leave_escrow(STACKING, self.settings.stack_ms, now)

    def give_back(self, now: float) -> bool:
        return self._leave_escrow(RETURNING, self.settings.return_ms, now)

    def hold(self, now: float) -> bool:
        return self._leave_escrow(HOLDING, self.settings.escrow_timeout_ms, now)

    def acknowledged(self, now: float) -> None:
        """The host has seen the event that is being reported."""
        if self.state in AWAITS_ACK:
            self._tell({"event": "acknowledged", "state": self.state})
            self._rest(now)

    # --- what people do

    def insert(self, paper: Paper, now: float) -> str | None:
        """Offer paper at the slot; why it is not drawn in, or None."""
        if self.truth.path is not None:
            return "slot_busy"
        if not self.powered or self.state != IDLING:
            return "not_accepting"
        self.truth.path = paper
        self.last_barcode = None
        self._enter(ACCEPTING, now, self.settings.accept_ms)
        return None

    def pull(self, now: float) -> bool:
        """Tear the note out before it is in the box."""
        if self.state not in (ACCEPTING, ESCROW, HOLDING, STACKING, RETURNING):
            return False
        self._hand_back()
        self._enter(CHEATED, now)
        return True

    def break_down(self, state: int, now: float, *, code: int = 0, hard: bool) -> bool:
        """A jam or failure; `hard` ones come back after every RESET until `clear`. Not while an event waits for its
        ACK: the device goes on saying that."""
        if self.state in AWAITS_ACK or not self.powered:
            return False
        self._hard_fault = (state, code) if hard else None
        self._enter(state, now, code=code)
        return True

    def clear(self, now: float) -> None:
        """Service: take stuck paper out, end jams, failures and pauses; the device initialises by itself."""
        self._hard_fault = None
        if self._paused is not None:
            state, code, left = self._paused
            self._paused = None
            self._set(state, now, code)
            self._due = None if left is None else now + left
            return
        if self.state in (JAM_VALIDATOR, JAM_STACKER, FAILURE):
            self._hand_back()
            self._forget_masks()
            self._enter(INITIALIZE, now, self.settings.init_ms)

    def second_bill(self, now: float) -> bool:
        if self.state not in (ACCEPTING, ESCROW, HOLDING, STACKING) or self._paused is not None:
            return False
        self._paused = (self.state, self.code, None if self._due is None else self._due - now)
        self._enter(PAUSE, now)
        return True

    def remove_stacker(self, now: float) -> None:
        self._out = True
        if self.state not in AWAITS_ACK and self.powered:
            self._hand_back()
            self._enter(OUT, now)

    def insert_stacker(self, now: float) -> None:
        if self._out:
            self._out = False
            self._forget_masks()
            self._enter(INITIALIZE, now, self.settings.init_ms)

    def fill(self, now: float) -> None:
        self._full = True
        if self.state in (IDLING, DISABLED):
            self._rest(now)

    def empty_stacker(self, now: float) -> None:
        self._full = False
        self.truth.collected += self.truth.stacker
        self.truth.stacker = []
        if self.state == FULL:
            self._rest(now)

    def entries(self) -> tuple[Entry, ...]:
        return parse_entries(self.settings.table)

    # --- moving on

    def _end_of_state(self, at: float) -> None:
        match self.state:
            case 0x13:
                self._initialised(at)
            case 0x15:
                self._recognised(at)
            case 0x80 | 0x1A:
                self._enter(RETURNING, at, self.settings.return_ms, code=self.code)
            case 0x17:
                self._in_the_box(at)
            case 0x18:
                self._hand_back()
                self._enter(RETURNED, at, code=self.code)
            case 0x1C:
                self._hand_back()
                self._rest(at)

    def _initialised(self, at: float) -> None:
        if self._pending is not None:
            (state, code), self._pending = self._pending, None
            self.code = code
            if state == STACKING:
                self._in_the_box(at)
            else:
                self._enter(STACKED, at, code=code)
        elif self._hard_fault is not None:
            state, code = self._hard_fault
            self._enter(state, at, code=code)
        else:
            self._hand_back()
            self._rest(at)

    def _recognised(self, at: float) -> None:
        paper, reject = self.truth.path, self.next_reject
        self.next_reject = None
        if reject is None and (paper is None or paper.code is None):
            reject = REJECT_UNKNOWN
        code = paper.code if paper is not None and paper.code is not None else 0
        if reject is None and not self.enabled >> code & 1:
            reject = REJECT_INHIBIT
        if reject is not None:
            self._enter(REJECTING, at, self.settings.reject_ms, code=reject)
        elif self.escrow >> code & 1:
            self._enter(ESCROW, at, self.settings.escrow_timeout_ms, code=code)
        else:
            self._enter(STACKING, at, self.settings.stack_ms, code=code)
        if paper is not None and reject is None:
            self.last_barcode = paper.ticket

    def _in_the_box(self, at: float) -> None:
        paper, self.truth.path = self.truth.path, None
        if paper is not None:
            self.truth.stacker.append(paper)
            self._tell({"event": "stacked", **paper.as_json()})
        self._enter(STACKED, at, code=self.code)

    def _hand_back(self) -> None:
        paper, self.truth.path = self.truth.path, None
        if paper is not None:
            self.truth.returned.append(paper)
            self._tell({"event": "returned", **paper.as_json()})

    def _leave_escrow(self, state: int, ms: int, now: float) -> bool:
        if self.state not in (ESCROW, HOLDING):
            return False
        self._enter(state, now, ms, code=self.code)
        return True

    def _rest(self, now: float) -> None:
        """Whatever the device says when nothing moves."""
        if self._out:
            self._enter(OUT, now)
        elif self._full or len(self.truth.stacker) >= self.settings.capacity:
            self._enter(FULL, now)
        else:
            self._enter(IDLING if self.enabled else DISABLED, now)

    def _enter(self, state: int, now: float, ms: int | None = None, *, code: int = 0) -> None:
        self._set(state, now, code)
        self._due = None if ms is None else now + ms / 1000 / self.settings.speed

    def _set(self, state: int, now: float, code: int) -> None:
        if (state, code) != (self.state, self.code):
            self._tell({"event": "state", "state": state, "code": code})
        self.state, self.code, self._started = state, code, now

    def _beyond_return(self, now: float) -> bool:
        whole = self.settings.stack_ms / 1000 / self.settings.speed
        return now - self._started >= whole * self.settings.no_return_percent / 100

    def _forget_masks(self) -> None:
        self.enabled = self.escrow = self.security = 0
