"""Faults of a CCNET device as events on change: full, out, jammed, failing, cheated, rejecting, unheard-of statuses."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from agent.domain import events as ev
from drivers.ccnet.messages import JAMS_B2B, Status, failure_reason, reject_reason
from drivers.ccnet.states import CLEARED_BY_RESET, STATES, UNKNOWN

RESET_WINDOW_S = 600.0
_NOT_YET_WELL = frozenset({Status.CHEATED, Status.DEVICE_BUSY, Status.ILLEGAL_COMMAND})


class Health:
    """`history` may hold `DeviceFaulted` events that still stand; their recovery is told too."""

    def __init__(self, device: str, address: int, reject_jam_s: float, history: Iterable[ev.Event] = ()) -> None:
        self._device = device
        self._address = address
        self._reject_jam_s = reject_jam_s
        self._standing = {event.code: event.detail for event in history if isinstance(event, ev.DeviceFaulted)}
        self._last: bytes = b""
        self._rejecting_since: float | None = None

    @property
    def faults(self) -> dict[str, str]:
        """What is wrong now: stable code → detail."""
        return self._standing

    def seen(self, status: Status | None, data: bytes, now: float, note_id: str | None) -> list[ev.Event]:
        """`data`: the whole reply; only a change of it, or the passing of time, makes events."""
        changed, self._last = data != self._last, data
        code = data[1] if len(data) > 1 else None
        events: list[ev.Event] = []
        if status is None:
            detail = "poll status that no manual lists"
            return [ev.UnknownDeviceEvent(device=self._device, code_hex=data.hex(), detail=detail)] if changed else []
        if status is Status.REJECTING:
            return self._rejecting(code, changed, now)
        self._rejecting_since = None
        if status is Status.CHEATED and changed:
            events.append(ev.CheatSuspected(device=self._device, note_id=note_id))
        fault = STATES[status].fault
        if fault:
            events += self._faulted(status, fault, code)
        elif status not in _NOT_YET_WELL:
            events += self._well(status)
        return events

    def raise_fault(self, code: str, detail: str = "") -> list[ev.Event]:
        """Tell a fault that is not a status (no bill table, …), once."""
        if self._standing.get(code) == detail:
            return []
        self._standing[code] = detail
        return [ev.DeviceFaulted(device=self._device, code=code, detail=detail)]

    def clear(self, code: str) -> list[ev.Event]:
        if self._standing.pop(code, None) is None:
            return []
        return [ev.DeviceRecovered(device=self._device, code=code)]

    def _rejecting(self, code: int | None, changed: bool, now: float) -> list[ev.Event]:
        events: list[ev.Event] = []
        if self._rejecting_since is None:
            self._rejecting_since = now
        if changed:
            for fault in [each for each in self._standing if _of_a_status(each) and each != "rejecting_stuck"]:
                events += self._over(fault)
            events.append(ev.NoteRejected(device=self._device, reason=reject_reason(code)))
        if now - self._rejecting_since >= self._reject_jam_s and "rejecting_stuck" not in self._standing:
            events.append(ev.Jammed(device=self._device, where="validator"))
            events += self.raise_fault("rejecting_stuck", f"rejecting for {self._reject_jam_s:g} s")
        return events

    def _faulted(self, status: Status, fault: str, code: int | None) -> list[ev.Event]:
        detail = status.label
        if status is Status.FAILURE:
            fault = f"failure_{failure_reason(code, self._address)}"
            detail = f"{status.label} {0 if code is None else code:02X}"
        events: list[ev.Event] = []
        for other in [each for each in self._standing if _of_a_status(each) and each != fault]:
            events += self._over(other)
        if fault in self._standing:
            return events
        events += self._told_as(status, code)
        return events + self.raise_fault(fault, detail)

    def _told_as(self, status: Status, code: int | None) -> list[ev.Event]:
        match status:
            case Status.DROP_CASSETTE_FULL:
                return [ev.StackerFull(device=self._device)]
            case Status.DROP_CASSETTE_OUT_OF_POSITION:
                return [ev.StackerRemoved(device=self._device)]
            case Status.VALIDATOR_JAMMED:
                return [ev.Jammed(device=self._device, where="validator")]
            case Status.DROP_CASSETTE_JAMMED:
                return [ev.Jammed(device=self._device, where="stacker")]
            case Status.UNIT_JAMMED:
                return [ev.Jammed(device=self._device, where=JAMS_B2B.get(code or 0, "unit"))]
            case _:
                return []

    def _well(self, status: Status) -> list[ev.Event]:
        """The cassette is back as soon as another status says so; a fault is over once the device works again."""
        fresh = STATES.get(status, UNKNOWN).fresh
        over = [each for each in self._standing if _of_a_status(each) and (not fresh or each == "stacker_removed")]
        return [event for fault in over for event in self._over(fault)]

    def _over(self, fault: str) -> list[ev.Event]:
        inserted = [ev.StackerInserted(device=self._device)] if fault == "stacker_removed" else []
        return [*inserted, *self.clear(fault)]


def _of_a_status(fault: str) -> bool:
    """Faults that a working device has left behind; the others are cleared by whoever raised them."""
    return fault.startswith("failure_") or fault in _STATUS_FAULTS


_STATUS_FAULTS = {trait.fault for trait in STATES.values() if trait.fault} | {"rejecting_stuck"}


class ResetBudget:
    """Bounds automatic RESETs against jams and failures: they wear the motors and seldom help twice."""

    def __init__(self, resets_max: int, every_polls: int) -> None:
        self._max = resets_max
        self._every = every_polls
        self._polls = 0
        self._spent: deque[float] = deque()

    def poll_seen(self, status: Status) -> None:
        self._polls = self._polls + 1 if status in CLEARED_BY_RESET else 0

    def allows(self, now: float) -> bool:
        while self._spent and now - self._spent[0] > RESET_WINDOW_S:
            self._spent.popleft()
        return self._polls >= self._every and len(self._spent) < self._max

    def spend(self, now: float) -> None:
        self._polls = 0
        self._spent.append(now)
