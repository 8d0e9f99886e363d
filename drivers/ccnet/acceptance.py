"""Which notes the device may take: the enable mask that is wanted, the one it has, and when to send it (sheet 4, 7)."""

from __future__ import annotations

from agent.domain import events as ev
from agent.domain.money import Money
from drivers.ccnet.messages import TYPE_TICKET, Status, types_of
from drivers.ccnet.requests import Request, enable
from drivers.ccnet.states import STATES, UNKNOWN
from drivers.ccnet.table import BillTable

AGAIN_S = 2.0  # an ENABLE that the device refused or seems to have forgotten is repeated after this


class Acceptance:
    """Starts inhibited. After every power-up and RESET the device has lost its masks: `forget`."""

    def __init__(self, *, tickets: bool) -> None:
        self._tickets = tickets
        self._notes: frozenset[Money] | None = frozenset()
        self._mask: frozenset[int] | None = None
        self._sent_at = float("-inf")
        self._alarmed: frozenset[int] | None = None
        self.unverified = False

    def want(self, notes: frozenset[Money] | None) -> None:
        """These values; None: all of the table."""
        self._notes = notes

    @property
    def enabled(self) -> bool:
        return bool(self._mask)

    @property
    def asked(self) -> bool:
        """Whether anybody wants notes."""
        return self._notes is None or bool(self._notes)

    def forget(self) -> None:
        self._mask, self._sent_at, self.unverified = None, float("-inf"), False

    def types(self, table: BillTable | None) -> frozenset[int]:
        """The bill types to enable; none while no table may be trusted."""
        if table is None or not self.asked:
            return frozenset()
        money = {code for code, value in table.values.items() if self._notes is None or value in self._notes}
        return frozenset(money | {TYPE_TICKET} if money and self._tickets else money)

    def request(self, status: Status | None, types: frozenset[int], now: float) -> Request | None:
        """ENABLE BILL TYPES when the device has not, or seems to have lost, what is wanted."""
        trait = UNKNOWN if status is None else STATES.get(status, UNKNOWN)
        just_refused = self._mask is None and now - self._sent_at < AGAIN_S
        if status is None or trait is UNKNOWN or trait.fresh or just_refused:
            return None
        if trait.inside and (types or not self._mask):
            return None  # finish this note first; only switching off does not wait
        return enable(types) if self._due(status, types, now) else None

    def _due(self, status: Status, types: frozenset[int], now: float) -> bool:
        if self._mask is None:
            return bool(types) or status is not Status.UNIT_DISABLED  # a device found enabled may have any mask
        if types != self._mask:
            return True
        lost = status is (Status.UNIT_DISABLED if types else Status.IDLING)
        return lost and now - self._sent_at >= AGAIN_S

    def done(self, request: Request, now: float, *, accepted: bool) -> None:
        self._sent_at = now
        self._mask = frozenset(types_of(request.data[:3])) if accepted else None
        self.unverified = accepted

    def check(self, device: str, status_reply: bytes, table: BillTable | None) -> list[ev.Event]:
        """Compare what GET STATUS says with what was set; types that the bill table lacks stay 0 in some models."""
        self.unverified = False
        if self._mask is None or table is None:
            return []
        wanted = self._mask & (frozenset(table.values) | {TYPE_TICKET})
        missing = wanted - frozenset(types_of(status_reply[:3])) - {TYPE_TICKET}
        if not missing or self._alarmed == missing:
            return []
        self._alarmed = missing
        detail = f"the device did not enable types {sorted(missing)}"
        return [ev.DeviceAlarmed(device=device, code="enable_mask_differs", detail=detail)]
